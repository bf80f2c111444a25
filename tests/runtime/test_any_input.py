"""Whatever an agent is given, it decides as it would on clean arrays of the same values, or refuses."""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_bundle import made_bundle

from agentmixer.errors import AgentMixerError
from agentmixer.export.exporter import Exported
from agentmixer.runtime import Agent


class Subclass(np.ndarray):
    """As cameras and units libraries have them."""


def strange(array: np.ndarray, rng: np.random.Generator, folder: Path) -> Any:
    """The same values, or nearly, as somebody's code may hold them."""
    size, kind = array.size, array.dtype
    room = np.zeros(3 * size + 1, kind)
    room[: 3 * size : 3] = array
    raw = bytearray(1) + array.tobytes()
    choices = (
        lambda: array.copy(),
        lambda: room[: 3 * size : 3],  # a column of a larger array
        lambda: array[::-1].copy()[::-1],  # a negative stride
        lambda: np.frombuffer(raw, kind, offset=1),  # not aligned
        lambda: np.frombuffer(bytes(array.tobytes()), kind),  # not writable
        lambda: array.astype(kind.newbyteorder(">")),
        lambda: array.astype(rng.choice(["f2", "f4", "f8", "i4", "u1", "?"])),
        lambda: array.view(Subclass),
        lambda: np.ma.masked_array(array, mask=rng.random(size) < 0.1),
        lambda: np.memmap(folder / "map", kind, "w+", shape=size),
        lambda: array[None],
        lambda: array[:-1],
        lambda: array.tolist(),
        lambda: None,
    )
    return choices[rng.integers(len(choices) if rng.random() < 0.5 else 5)]()


def test_2000_inputs_are_decided_or_refused(exported: Exported, tmp_path: Path) -> None:
    folder = exported.path / "agents" / "agent_2"
    agent, clean = Agent.load(folder), Agent.load(folder)
    rng, counts = np.random.default_rng(7), Counter[str]()
    for _ in range(2000):
        obs = rng.normal(0, 10.0 ** rng.integers(-3, 4), 97).astype(np.float32)
        mask = rng.random(10) < 0.5
        if rng.random() < 0.1:
            obs[rng.integers(97)] = rng.choice([np.nan, np.inf, -np.inf, 3e38])
        if rng.random() < 0.3:  # True as cameras, shared memory and C have it
            mask = (mask * rng.choice([1, 2, 128, 255])).astype(np.uint8).view(np.bool_)
        given = strange(obs, rng, tmp_path), strange(mask, rng, tmp_path)
        before = agent.state
        try:
            action = agent.act(*given)
        except AgentMixerError as error:
            counts[str(error).partition(":")[2][:13]] += 1
            np.testing.assert_array_equal(agent.state, before)
            continue
        counts["decided"] += 1
        values = np.array(given[0], np.float32), np.array(given[1]).view(np.uint8) != 0
        assert action == clean.act(*values)
        assert values[1][action]
        np.testing.assert_array_equal(agent.state, clean.state)
    assert counts["decided"] > 200 and len(counts) > 4, counts


@pytest.mark.parametrize("byte", [2, 255])
def test_a_mask_whose_true_is_another_byte_than_1_is_refused(exported: Exported, byte: int) -> None:
    agent = Agent.load(exported.path / "agents" / "agent_2")
    mask = np.full(10, byte, np.uint8).view(np.bool_)
    assert mask.all()  # numpy sees nothing
    with pytest.raises(AgentMixerError, match="action_mask has bytes other than 0 and 1"):
        agent.act(np.zeros(97, np.float32), mask)


def test_nothing_that_is_handed_out_or_taken_in_is_shared(exported: Exported) -> None:
    agent = Agent.load(exported.path / "agents" / "agent_2")
    obs, mask = np.ones(97, np.float32), np.ones(10, bool)

    def episode(harm: bool) -> list[Any]:
        agent.reset()
        found = []
        for _ in range(3):
            mine, legal = obs.copy(), mask.copy()
            found.append((int(agent.act(mine, legal)), agent.state, agent.policy.copy()))  # type: ignore[union-attr]
            if harm:
                mine += 1e6
                legal[:] = False
                agent.state[:] = 1e6
                agent.policy[:] = 1e6  # type: ignore[index]
        return found

    agent.state[:] = 1.0  # the zeros of every episode, once
    for (action, state, policy), (again, after, changed) in zip(episode(False), episode(True), strict=True):
        assert action == again
        np.testing.assert_array_equal(state, after)
        np.testing.assert_array_equal(policy, changed)


def test_threads_do_not_get_each_others_answers(tmp_path: Path) -> None:
    """An agent without memory, called by eight threads at once with as many observations."""
    agent = Agent.load(made_bundle(tmp_path / "bundle") / "agents" / "a")
    assert agent.manifest.memory == 0
    inputs = np.random.default_rng(0).normal(size=(8, 6)).astype(np.float32)
    mask = np.ones(4, bool)
    expected = [int(agent.act(obs, mask)) for obs in inputs]
    assert len(set(expected)) > 1
    wrong: list[int] = []

    def decide(number: int) -> None:
        for _ in range(2000):
            if agent.act(inputs[number], mask) != expected[number]:
                wrong.append(number)

    threads = [threading.Thread(target=decide, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_threads_of_an_agent_with_memory_take_turns(exported: Exported) -> None:
    """The same observation 400 times, by four threads: the state is that of 400 decisions in a row."""
    shared, alone = (Agent.load(exported.path / "agents" / "agent_2") for _ in range(2))
    obs, mask = np.full(97, 0.1, np.float32), np.ones(10, bool)

    def decide() -> None:
        for _ in range(100):
            shared.act(obs, mask)

    threads = [threading.Thread(target=decide) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for _ in range(400):
        alone.act(obs, mask)
    np.testing.assert_array_equal(shared.state, alone.state)
