"""A decision is an action that the agent may take, or it is none: checked where it is made and where it arrives."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from counting_bundle import counting_bundle, seen
from hostile import reseal
from made_bundle import made_bundle
from strange import rewritten

from agentmixer.contract.spec import Box, Discrete
from agentmixer.errors import AgentMixerError
from agentmixer.host import agent_process as processes
from agentmixer.host.agent_link import AgentLost
from agentmixer.host.agent_process import AgentProcess
from agentmixer.host.lock_step import Host
from agentmixer.runtime import Agent
from agentmixer.runtime.agent import InvalidDecision
from agentmixer.runtime.bundle import Bundle, read_bundle
from agentmixer.runtime.certificate import certificate
from agentmixer.runtime.frames import (
    DECIDING,
    MAX_REASON,
    Kind,
    action_of,
    decision,
    pack,
    reason_of,
    unpack,
)
from agentmixer.runtime.onnx_graph import read_graph

OBS = np.array([0, 0, 0, 0, 0, 1], np.float32)
MASK = np.array([True, True, True, False])


def changed(path: Path, change: Callable[[onnx.GraphProto], object]) -> Path:
    """A team of two whose agent a has another graph, all digests and certificates made to agree."""
    bundle = made_bundle(path)
    file = bundle / "agents/a/policy.onnx"
    model = onnx.load(file)
    change(model.graph)
    used = {name for node in model.graph.node for name in node.input} | {"action", "logits"}
    for tensor in [tensor for tensor in model.graph.initializer if tensor.name not in used]:
        model.graph.initializer.remove(tensor)
    file.write_bytes(model.SerializeToString(deterministic=True))
    depends_on = certificate(read_graph(file.read_bytes()))
    rewritten(bundle, "agents/a/agent.json", lambda manifest: manifest.update(depends_on=depends_on))
    reseal(bundle)
    return bundle


def greatest_of(value: str) -> Callable[[onnx.GraphProto], object]:
    """The action is the place of the greatest element of another value than the logits."""
    return lambda graph: graph.node[-1].input.__setitem__(0, value)


def weights(value: float) -> Callable[[onnx.GraphProto], object]:
    def change(graph: onnx.GraphProto) -> None:
        (last,) = [tensor for tensor in graph.initializer if tensor.name == "last"]
        last.raw_data = np.float32(value).tobytes() * (len(last.raw_data) // 4)

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (greatest_of("obs"), "action 5, which does not exist or is masked"),
        (weights(np.nan), "not finite"),
        (weights(np.inf), "not finite"),
    ],
    ids=["out of range", "NaN", "infinite"],
)
def test_a_graph_that_decides_nonsense_is_heard_and_not_obeyed(
    change: Callable[[onnx.GraphProto], object], words: str, tmp_path: Path
) -> None:
    bundle = changed(tmp_path / "bundle", change)
    agent = Agent.load(bundle / "agents/a")
    with pytest.raises(InvalidDecision, match=words):
        agent.act(OBS, MASK)
    with Host(read_bundle(bundle), 10) as host:
        for step in range(3):
            bad, good = host.step(0, step, [OBS, OBS], [MASK, MASK])
            assert (bad.action, bad.in_time) == (0, False)
            assert bad.invalid is not None and words in bad.invalid
            assert good.in_time
    assert [(tally.invalid, tally.fallbacks, tally.late, tally.lost) for tally in host.tallies] == [
        (3, 3, 0, 3),
        (0,) * 4,
    ]


def test_a_graph_that_forgets_its_mask_is_heard_and_not_obeyed(tmp_path: Path) -> None:
    agent = Agent.load(changed(tmp_path / "bundle", greatest_of("raw")) / "agents/a")
    observations = np.random.default_rng(0).normal(size=(200, 6)).astype(np.float32)
    legal = illegal = 0
    for obs in observations:
        try:
            legal += int(MASK[agent.act(obs, MASK)])
        except InvalidDecision as error:
            assert "action 3, which does not exist or is masked" in str(error)  # noqa: PT017
            illegal += 1
    assert legal + illegal == 200
    assert min(legal, illegal) > 20


def test_real_values_out_of_bounds_are_no_decision_and_leave_the_memory_alone(tmp_path: Path) -> None:
    """The counting agent gives back what it sees, unclamped; a step it refuses does not count."""
    agent = Agent.load(counting_bundle(tmp_path).folder("a"))
    assert tuple(agent.act(np.array([7, 1], np.float32))) == (7, 1, 1)
    for value in (2e6, -2.0):
        with pytest.raises(InvalidDecision, match="out of bounds"):
            agent.act(np.array([value, 1], np.float32))
    assert tuple(agent.act(np.array([8, 1], np.float32))) == (8, 1, 2)


def test_large_finite_numbers_are_decisions_too(tmp_path: Path) -> None:
    """What overflows only when it is multiplied with itself is finite."""
    agent = Agent.load(changed(tmp_path / "bundle", weights(3e37)) / "agents/a")
    assert agent.act(OBS, MASK) in (0, 1, 2)
    assert agent.policy is not None and np.abs(agent.policy).max() > 1e30


def test_an_arriving_action_is_held_against_the_mask() -> None:
    for action, legal in ((2, True), (3, False), (4, False), (-1, False)):
        frame = unpack(pack(Kind.ACT, 0, bytes(8), decision(np.int64(action), 5)))
        if legal:
            assert action_of(frame, Discrete(4), MASK) == (2, 5)
        else:
            with pytest.raises(AgentMixerError, match="does not exist, is masked or out of bounds"):
                action_of(frame, Discrete(4), MASK)
    assert action_of(unpack(pack(Kind.ACT, 0, bytes(8), decision(np.int64(3), 5))), Discrete(4))[0] == 3


def test_an_agent_that_sends_a_masked_action_ends_the_team(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = read_bundle(made_bundle(tmp_path / "bundle"))
    real = AgentProcess.receive

    def forged(self: AgentProcess) -> bytes | None:
        data = real(self)
        if data is None or self.name != "b":
            return data
        frame = unpack(data)
        return pack(Kind.ACT, 1, frame.digest, decision(np.int64(3), 1), frame.episode, frame.step, frame.sent_ns)

    monkeypatch.setattr(AgentProcess, "receive", forged)
    with Host(bundle, 10) as host, pytest.raises(AgentLost, match="agent b sent a broken decision"):
        host.step(0, 0, [OBS, OBS], [MASK, MASK])


def test_words_have_a_longest_length() -> None:
    whole = pack(Kind.FALLBACK, 0, bytes(8), decision(np.float32([1, 2]), 9) + b"why")
    assert reason_of(unpack(whole), Box((0.0, 0.0), (9.0, 9.0))) == "why"
    assert reason_of(unpack(pack(Kind.REFUSE, 0, bytes(8), b"x" * MAX_REASON)), Discrete(2)) == "x" * MAX_REASON
    for kind in (Kind.REFUSE, Kind.READY):
        with pytest.raises(AgentMixerError, match="not what its header says"):
            unpack(pack(kind, 0, bytes(8), b"x" * (MAX_REASON + 1)))
    with pytest.raises(AgentMixerError, match="not what its header says"):
        unpack(pack(Kind.FALLBACK, 0, bytes(8), bytes(DECIDING.size)))


# --- every wait has an end

#: Processes that an agent's could be, in the place of `runtime/process.py`.
SILENT = "import sys, time; time.sleep(600)"
EMPTY = "import socket, time; socket.socket(fileno=0).send(b''); time.sleep(600)"
WORDS = "import socket, time; socket.socket(fileno=0).send(b'no frame'); time.sleep(600)"


def script(tmp_path: Path, code: str) -> Path:
    file = tmp_path / "agent.py"
    file.write_text(code)
    return file


@pytest.fixture
def team(tmp_path: Path) -> Bundle:
    return counting_bundle(tmp_path / "bundle")


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (SILENT, "did not start within"),
        (EMPTY, "hung up before it was ready; its process still runs"),
        (WORDS, "shorter than its header"),
    ],
    ids=["silent", "empty", "words"],
)
def test_who_does_not_announce_itself_does_not_hold_up_the_host(
    code: str, words: str, team: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hangs for ten minutes if the host waits for the process or for a message that will not come."""
    monkeypatch.setattr(processes, "PROCESS", script(tmp_path, code))
    monkeypatch.setattr(processes, "START_TIMEOUT_S", 1.0)
    with pytest.raises(AgentMixerError, match=words), Host(team):
        pass


@pytest.mark.parametrize("code", [SILENT, EMPTY, WORDS], ids=["silent", "empty", "words"])
def test_who_comes_back_as_something_else_does_not_hold_up_a_step(
    code: str, team: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An agent is killed, and what is started in its place is no agent: the others' steps go on, it falls back, and after
    some starts in vain it is left alone."""
    with Host(team, 0.2, restart=True) as host:
        host.step(0, 0, seen(0, 0), None)
        monkeypatch.setattr(processes, "PROCESS", script(tmp_path, code))
        monkeypatch.setattr(processes, "START_TIMEOUT_S", 0.5)
        host.agents[1].process.kill()
        step = 0
        while "gone" not in [event.what for event in host.events]:
            step += 1
            assert step < 3000
            time.sleep(0.01)  # who is not awaited holds up nothing, so steps take no time
            decisions = host.step(0, step, seen(0, step), None)
            assert decisions[0].in_time and decisions[2].in_time
            if len(host.events):
                assert not decisions[1].in_time
    assert [event.what for event in host.events] == ["lost", "gone"]


def test_an_observation_fills_a_frame_or_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """240,000 bytes are more than a socket takes unasked."""
    bundle = read_bundle(made_bundle(tmp_path / "bundle", ("a",), obs=60_000, hidden=2, steps=10))
    obs = np.ones(60_000, np.float32)
    with Host(bundle, 30) as host:
        assert host.step(0, 0, [obs], [MASK])[0].in_time
    monkeypatch.setattr(processes, "_makes_room", lambda link, needed: False)
    with pytest.raises(AgentMixerError, match=r"sees 240,056 bytes a step.*sysctl net.core.wmem_max"), Host(bundle):
        pass
    monkeypatch.setattr(processes, "MAX_FRAME", 1 << 16)
    with pytest.raises(AgentMixerError, match="but a frame carries 65,536"), Host(bundle):
        pass


def test_loading_has_a_limit_of_cpu_and_acting_has_none() -> None:
    """One second of computing is allowed; the second process has loaded before it computes for longer."""
    code = """
import socket, sys, time
from agentmixer.runtime import sandbox
assert sandbox.enter(socket.socketpair()[0].fileno(), 1).limits
if sys.argv[1] == "loaded":
    sandbox.loaded()
end = time.process_time() + 3  # what importing took does not count
while time.process_time() < end:
    pass
"""

    def status(what: str) -> int:
        return subprocess.run([sys.executable, "-c", code, what], timeout=120).returncode

    assert status("loading") == -24  # SIGXCPU
    assert status("loaded") == 0


def test_a_bound_that_is_infinite_in_float32_is_no_bound(tmp_path: Path) -> None:
    """Between such bounds infinity would be a legal action."""
    bundle = counting_bundle(tmp_path).path
    for value in (1e308, 3.5e38):
        rewritten(bundle, "agents/a/agent.json", lambda tree, v=value: tree["action_space"].update(high=[v] * 3))
        with pytest.raises(AgentMixerError, match="is not a valid manifest"):
            Agent.load(bundle / "agents/a")
    rewritten(bundle, "agents/a/agent.json", lambda tree: tree["action_space"].update(high=[3e38] * 3))
    with pytest.raises(InvalidDecision):
        Agent.load(bundle / "agents/a").act(np.array([3.3e38, 1], np.float32))
