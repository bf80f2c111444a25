"""Logs of what agents were given: nothing else, nothing more, the newest; and no log of a stranger does harm."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from commands import agentmixer
from counting_bundle import counting_bundle
from made_bundle import made_bundle

from agentmixer.contract.manifest import AgentManifest
from agentmixer.errors import AgentMixerError
from agentmixer.export.exporter import Exported
from agentmixer.runtime import Agent, InvalidDecision
from agentmixer.runtime.bundle import read_agent, read_bundle
from agentmixer.runtime.log import MAX_BYTES, MAX_STEPS, Log, Logger, dump, longest, parse, read

MASK = np.ones(4, bool)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Agents "a" and "b" of three elements and four actions."""
    return made_bundle(tmp_path_factory.mktemp("made") / "bundle", obs=3) / "agents"


@pytest.fixture
def manifest(folder: Path) -> AgentManifest:
    return read_agent(folder / "a").manifest


def logged(manifest: AgentManifest, steps: int = 5) -> Log:
    """Decision t of one episode: given [t, t, t], done t modulo 4."""
    logger = Logger(manifest)
    for t in range(steps):
        logger.add(np.full(3, t, np.float32), MASK, np.array(t % 4))
    return logger.log()


def test_a_log_is_what_the_agent_was_given_and_did(folder: Path, tmp_path: Path) -> None:
    agent, place = Agent.load(folder / "a"), tmp_path / "log.npz"
    rng = np.random.default_rng(0)
    given, masks = rng.normal(size=(6, 3)).astype(np.float32), rng.random((6, 4)) < 0.5
    masks[:, 0] = True
    agent.act(given[0], masks[0])  # before the block
    with agent.logging(place) as logger:
        done = [agent.act(given[0], masks[0]), agent.step(given[1], masks[1])[0]]
        agent.reset()
        by_name = agent.observation()
        for t in (2, 3):
            by_name["x0"], by_name["x1"], by_name["x2"] = given[t]
            done.append(agent.act(by_name, masks[t]) if t == 2 else agent.step(by_name, masks[t])[0])
        with pytest.raises(AgentMixerError, match="is nan"):
            agent.act(np.full(3, np.nan, np.float32), masks[4])
        assert logger.added == 4 and not place.exists()
        with pytest.raises(AgentMixerError, match="is being logged already"), agent.logging(tmp_path / "other.npz"):
            pass
    agent.act(given[5], masks[5])  # after it
    log = read(place, agent.manifest)
    np.testing.assert_array_equal(log.obs, given[:4])
    np.testing.assert_array_equal(log.mask, masks[:4])
    assert log.fresh.tolist() == [True, False, True, False] and log.actions.tolist() == [int(action) for action in done]
    assert log.agent == "a" and log.digest == read_agent(folder / "a").digest


def log_of(agent: Agent, place: Path, *given: np.ndarray) -> None:
    with agent.logging(place):
        for obs in given:
            agent.step(obs)
        agent.act(given[0])


def test_what_falls_back_is_logged_as_it_was_given(tmp_path: Path) -> None:
    """An action of 2e6 is out of bounds. The block ends by an error, and the log is there all the same."""
    counting_bundle(tmp_path / "bundle")
    agent, huge, well = Agent.load(tmp_path / "bundle/agents/b"), np.float32([2e6, 0]), np.float32([5, 6])
    with pytest.raises(InvalidDecision):
        log_of(agent, tmp_path / "log.npz", huge, well)
    log = read(tmp_path / "log.npz", agent.manifest)
    np.testing.assert_array_equal(log.obs, [huge, well, huge])
    assert log.actions.tolist() == [[-1, -1, -1], [5, 6, 1], [-1, -1, -1]]


def test_real_values_and_no_mask(tmp_path: Path) -> None:
    counting_bundle(tmp_path / "bundle")
    agent = Agent.load(tmp_path / "bundle/agents/b")
    with agent.logging(tmp_path / "log.npz"):
        for t in range(3):
            agent.act(np.float32([7, t]))
    log = read(tmp_path / "log.npz", agent.manifest)
    assert log.actions.dtype == np.float32 and log.actions.tolist() == [[7, t, t + 1] for t in range(3)]
    assert log.mask.tolist() == [[True] * 3] * 3


def test_the_newest_are_kept(manifest: AgentManifest) -> None:
    logger = Logger(manifest, steps=4)
    for t in range(10):
        if t == 8:
            logger.reset()
        logger.add(np.full(3, t, np.float32), MASK, np.array(0))
    log = logger.log()
    assert logger.added == 10 and log.obs[:, 0].tolist() == [6, 7, 8, 9]
    assert log.fresh.tolist() == [False, False, True, False]


def test_a_log_has_its_limits(manifest: AgentManifest, tmp_path: Path) -> None:
    """A decision of the small agent has 3 float32, 4 + 1 bools and an int64: 25 bytes."""
    assert longest(manifest) == MAX_STEPS
    made_bundle(tmp_path / "wide", ("a",), obs=5000)
    assert longest(read_agent(tmp_path / "wide/agents/a").manifest) == MAX_BYTES // (4 * 5000 + 4 + 1 + 8)


def test_a_log_is_read_back(manifest: AgentManifest) -> None:
    log = logged(manifest, MAX_STEPS)
    for name, value in parse(dump(log), manifest)._asdict().items():
        np.testing.assert_array_equal(value, getattr(log, name))


def test_the_log_of_another_agent_is_recognised(folder: Path, manifest: AgentManifest) -> None:
    other = read_agent(folder / "b").manifest
    with pytest.raises(AgentMixerError, match=r"the log is of agent 'a', whose .*, and not of 'b'"):
        parse(dump(logged(manifest)), other)


class Unpickled:
    """Says when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return pytest.fail, ("it was unpickled",)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"obs": np.zeros((5, 4), np.float32)}, "obs is float32"),
        ({"obs": np.full((5, 3), np.inf, np.float32)}, "not finite"),
        ({"obs": np.zeros((5, 3))}, "obs is float64"),
        ({"mask": np.full((5, 4), 2, np.uint8).view(bool)}, "neither true nor false"),
        ({"fresh": np.zeros(0, bool)}, "0 decisions"),
        ({"fresh": np.zeros(MAX_STEPS + 1, bool)}, "100,001 decisions"),
        ({"actions": np.full(5, 4)}, "an action that does not exist"),
        ({"actions": np.zeros(4, np.int64)}, r"actions is int64 \[4\]"),
        ({"actions": np.array([Unpickled()] * 5, object)}, "actions is object"),
        ({"digest": np.zeros(31, np.uint8)}, "digest is uint8"),
        ({"agent": np.zeros(5000, np.uint8)}, "names an agent in 5,000 bytes"),
        ({"agent": np.array([255], np.uint8)}, "can't decode"),
    ],
    ids=lambda given: "" if isinstance(given, dict) else given,
)
def test_what_no_agent_was_given_or_did_is_refused(
    manifest: AgentManifest, changes: dict[str, np.ndarray], reason: str
) -> None:
    log = logged(manifest)
    fields = log._asdict() | {
        "agent": np.frombuffer(b"a", np.uint8),
        "digest": np.frombuffer(bytes.fromhex(log.digest), np.uint8),
    }
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **(fields | changes))
    with pytest.raises(AgentMixerError, match=rf"agent a: the log cannot be used \(.*{reason}"):
        parse(buffer.getvalue(), manifest)


def test_what_is_no_archive_of_a_log_is_refused(manifest: AgentManifest, tmp_path: Path) -> None:
    data = dump(logged(manifest))
    stored = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as archive, zipfile.ZipFile(stored, "w") as copy:
        for entry in archive.infolist():
            copy.writestr(entry.filename, archive.read(entry))
    for wrong in (b"", b"PK", data[:-1], data + b"\0", stored.getvalue()):
        with pytest.raises(AgentMixerError, match="the log cannot be used"):
            parse(wrong, manifest)
    (tmp_path / "link.npz").symlink_to(tmp_path / "log.npz")
    for name, why in (("log.npz", "is missing"), ("link.npz", "is a link")):
        with pytest.raises(AgentMixerError, match=why):
            read(tmp_path / name, manifest)


def test_where_no_log_can_be_written_is_said_before_the_first_decision(folder: Path, tmp_path: Path) -> None:
    agent = Agent.load(folder / "a")
    for place, why in ((tmp_path / "missing/log.npz", "make its folder"), (tmp_path, "is not a regular file")):
        with pytest.raises(AgentMixerError, match=why), agent.logging(place):
            pytest.fail("the block was entered")
    with agent.logging(tmp_path / "log.npz"):
        pass
    assert not (tmp_path / "log.npz").exists()  # nothing was decided


def test_the_rehearsal_logs_every_agent(exported: Exported, tmp_path: Path) -> None:
    """What each process was sent decides, in this process, what it did."""
    common = ("deploy-sim", exported.path, "--episodes", "2", "--deadline-ms", "2000", "--report", tmp_path / "r.json")
    told = agentmixer(*common, "--log", tmp_path / "logs", cwd=tmp_path)
    assert told.returncode == 0 and f"logs {tmp_path / 'logs'}" in told.stdout, told.stderr
    bundle = read_bundle(exported.path)
    for name, files in bundle.agents.items():
        log, agent = read(tmp_path / f"logs/{name}.npz", files.manifest), Agent(files)
        assert log.fresh.sum() == 2 and log.fresh[0]
        for t, fresh in enumerate(log.fresh):
            if fresh:
                agent.reset()
            assert agent.act(log.obs[t], log.mask[t]) == log.actions[t]
    for extra, words in (
        (("--log", tmp_path / "logs"), "agent_0.npz exists already"),
        (("--log", exported.path / "logs"), "choose another --log FOLDER"),
        (("--log", tmp_path / "other", "--fault-matrix"), "leave one of them out"),
    ):
        refused = agentmixer(*common, *extra, cwd=tmp_path)
        assert refused.returncode == 2 and words in refused.stderr and refused.stderr.count("\n") == 1
