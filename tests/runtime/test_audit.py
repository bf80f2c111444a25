"""Audits of logs whose fault is known: each kind, on each element of an arm that a rule moves."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from commands import agentmixer
from made_bundle import linear_bundle
from test_probe import counting

from agentmixer.contract.spec import Discrete
from agentmixer.errors import AgentMixerError
from agentmixer.runtime import golden, profile, relations
from agentmixer.runtime import log as logs
from agentmixer.runtime.agent import Agent
from agentmixer.runtime.audit import audit
from agentmixer.runtime.bundle import AgentFiles, read_agent
from agentmixer.runtime.log import Log
from agentmixer.runtime.wiring_search import told
from agentmixer.validate.wiring import Wiring

NAMES = ("angle", "speed", "height", "target.x", "target.error", "gripper", "battery")
EPISODE = 50
WEIGHTS = np.random.default_rng(5).normal(size=(len(NAMES), 3))


def arm(steps: int, seed: int) -> np.ndarray:
    """[T, 7]: an arm that swings after a target. Its height and its error follow from the angle, the speed from how it changes; the
    gripper opens when the error is small, and the battery runs empty."""
    rng, rows = np.random.default_rng(seed), np.zeros((steps, len(NAMES)))
    for t in range(steps):
        if t % EPISODE == 0:
            angle, speed, target, battery = rng.uniform(-1, 1), 0.0, rng.uniform(-1, 1), rng.uniform(0.8, 1)
        rows[t] = (
            angle,
            speed,
            np.cos(angle) + rng.normal(0, 0.01),
            target,
            target - angle,
            abs(target - angle) < 0.3,
            battery,
        )
        speed = 0.8 * speed + 0.3 * (target - angle) + rng.normal(0, 0.05)
        angle, battery = angle + 0.3 * speed, battery - 0.002
    return rows.astype(np.float32)


def fresh(steps: int) -> np.ndarray:
    return np.arange(steps) % EPISODE == 0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    seen = arm(6000, 0)
    made = linear_bundle(tmp_path_factory.mktemp("arm") / "bundle", WEIGHTS, seen, elements=NAMES, fresh=fresh(6000))
    return made / "agents/a"


@pytest.fixture(scope="module")
def files(folder: Path) -> AgentFiles:
    return read_agent(folder)


def logged(files: AgentFiles, obs: np.ndarray, begins: np.ndarray | None = None) -> Log:
    """What the agent does when it is given `obs`."""
    logger, agent = logs.Logger(files.manifest), Agent(files)
    for row, first in zip(obs, fresh(len(obs)) if begins is None else begins, strict=True):
        if first:
            logger.reset()
            agent.reset()
        logger.add(row, None, agent.act(row))
    return logger.log()


FAULTS = [("scale", 180 / np.pi), ("flip", 0), ("offset", 2.0), ("freeze", 0), ("lag", 4)]


@pytest.mark.parametrize(("kind", "value"), FAULTS, ids=[kind for kind, _ in FAULTS])
def test_a_fault_of_one_element_is_named(kind: str, value: float, files: AgentFiles) -> None:
    missed = []
    for j, name in enumerate(NAMES):
        right = arm(200, 10 + j)
        wrong = Wiring(kind, [j], value).apply_all(right, fresh(200))
        found = audit(files, logged(files, wrong))
        if np.array_equal(right, wrong):
            continue  # the target stays as it is within an episode anyway
        assert found.checks[0].passed  # the agent decided on what it was given
        first = found.findings[0] if found.findings else None
        if first is None or (first.kind, first.elements) != (kind, (name,)):
            missed.append((name, first))
            continue
        assert not found.passed and name in found.verdict
        if kind in ("scale", "offset", "lag"):
            assert first.value == pytest.approx(value, rel=0.05)
    assert [name for name, _ in missed] == EXPECTED_MISSES.get(kind, []), missed


#: What 200 steps do not tell: the height is no sum of other elements, and the gripper seldom changes.
EXPECTED_MISSES: dict[str, list[str]] = {"lag": ["height", "gripper"], "freeze": ["gripper"]}


def test_two_elements_that_are_exchanged_are_named(files: AgentFiles) -> None:
    """Each element with the next, and every other element with the one after that."""
    for one in range(len(NAMES)):
        for other in {(one + 1) % len(NAMES), (one + 2) % len(NAMES)} if one % 2 == 0 else {(one + 1) % len(NAMES)}:
            found = audit(files, logged(files, Wiring("swap", [one, other]).apply_all(arm(200, 40), fresh(200))))
            assert found.findings[0].kind == "swap", (NAMES[one], NAMES[other], found.findings)
            assert set(found.findings[0].elements) == {NAMES[one], NAMES[other]}


def test_clean_logs_are_in_order(files: AgentFiles) -> None:
    for seed in range(100, 110):
        found = audit(files, logged(files, arm(200, seed)))
        assert found.passed, found.verdict
        assert found.elements == len(NAMES) and found.noticed["scale"] == len(NAMES)


def test_a_permuted_block_is_put_in_order_by_exchanges(files: AgentFiles) -> None:
    wrong = Wiring("permute", [0, 1, 2, 3]).apply_all(arm(400, 60), fresh(400))
    found = audit(files, logged(files, wrong)).findings
    assert {finding.kind for finding in found} == {"swap"} and len(found) == 3
    mended = wrong.copy()
    for finding in found:
        i, k = (NAMES.index(name) for name in finding.elements)
        mended[:, [i, k]] = mended[:, [k, i]]
    np.testing.assert_array_equal(mended, arm(400, 60))


def test_two_faults_at_once(files: AgentFiles) -> None:
    wrong = Wiring("scale", [2], 255.0).apply_all(arm(200, 70), fresh(200))
    wrong = Wiring("flip", [1]).apply_all(wrong, fresh(200))
    found = {(finding.kind, finding.elements) for finding in audit(files, logged(files, wrong)).findings}
    assert found == {("scale", ("height",)), ("flip", ("speed",))}


def test_actions_that_the_agent_would_not_take(files: AgentFiles) -> None:
    log = logged(files, arm(200, 80))
    log.actions[[3, 50]] = (log.actions[[3, 50]] + 1) % 3
    found = audit(files, log)
    wrong = int((log.actions[[3, 50]] != 0).sum())  # action 0 is the fallback, which the host may have put in place
    assert found.checks[0].passed == (wrong == 0) and not found.findings
    assert found.checks[0].sentence.startswith("198 of 200 logged actions")


def test_real_valued_actions_of_several_elements_are_decided_again(tmp_path: Path) -> None:
    """The agent's action is (episode, step, count): a logged one whose last element is another is not the agent's."""
    several = counting(tmp_path)
    obs = golden.parse(several.golden, several.manifest).obs
    log = logged(several, obs, np.arange(200) % 10 == 0)
    assert log.actions.shape == (200, 3) and audit(several, log).checks[0].passed
    log.actions[7, 2] += 1
    found = audit(several, log).checks[0]
    assert not found.passed and found.sentence.startswith("199 of 200 logged actions")


def test_another_agents_observation(files: AgentFiles) -> None:
    """The other agent sees the arm mirrored and a metre farther off."""
    mirror = np.array([-1, -1, 1, -1, -1, 1, 1], np.float32)
    seen = arm(6000, 1) * mirror + np.array([3, 0, 0, 3, 0, 0, 0], np.float32)
    figures = profile.measure(seen, fresh(6000), seen[fresh(6000)], np.zeros(6000, np.int64), Discrete(3))
    manifest = files.manifest
    other = files._replace(profile=profile.dump(figures), manifest=type(manifest)(**{
        field: "b" if field == "agent" else getattr(manifest, field) for field in manifest.__struct_fields__
    }))  # fmt: skip
    fed = arm(200, 2) * mirror + np.array([3, 0, 0, 3, 0, 0, 0], np.float32)
    found = audit(files, logged(files, fed), [other])
    assert not found.passed and found.checks[1].sentence == "the observations are those of b: feed each agent its own"
    assert audit(files, logged(files, arm(200, 2)), [other]).passed


def test_what_is_said_of_a_factor_that_has_a_name() -> None:
    assert told("scale", ["a"], 57.29) == "a is 57.29 times too large (degrees instead of radians): divide it by 57.29"
    assert "other way round: 0 to 255" in told("scale", ["a"], 1 / 255)
    assert told("scale", ["a"], 3.0) == "a is 3 times too large: divide it by 3"
    assert told("offset", ["a"], -0.5, "m") == "a is off by -0.5 m: subtract -0.5"
    assert told("lag", ["a"], 1) == "a is 1 step late: take its newest value"


def test_a_log_that_is_too_short(files: AgentFiles) -> None:
    with pytest.raises(AgentMixerError, match="holds 20 decisions; an audit needs 50"):
        audit(files, logged(files, arm(20, 0)))


def test_without_models_nothing_is_in_order(files: AgentFiles) -> None:
    figures = profile.parse(files.profile, files.manifest)
    figures = figures._replace(relations=relations.nothing(len(NAMES)))
    found = audit(files._replace(profile=profile.dump(figures)), logged(files, arm(200, 4)))
    assert not found.passed and "too few decisions; export the team again" in found.verdict and found.elements == 0


def test_the_command(folder: Path, files: AgentFiles, tmp_path: Path) -> None:
    (tmp_path / "good.npz").write_bytes(logs.dump(logged(files, arm(200, 3))))
    wrong = Wiring("flip", [1]).apply_all(arm(200, 3), fresh(200))
    (tmp_path / "bad.npz").write_bytes(logs.dump(logged(files, wrong)))
    good = agentmixer("audit", folder, "--log", "good.npz", cwd=tmp_path)
    assert good.returncode == 0 and "PASS" in good.stdout, good
    bad = agentmixer("audit", folder, "--log", "bad.npz", cwd=tmp_path)
    assert bad.returncode == 1 and "speed has the wrong sign: multiply it by -1" in bad.stdout
    report = json.loads(agentmixer("audit", folder, "--log", "bad.npz", "--json", cwd=tmp_path).stdout)
    assert not report["passed"] and report["findings"][0]["elements"] == ["speed"]
    none = agentmixer("audit", folder, "--log", "none.npz", cwd=tmp_path)
    assert none.returncode == 2 and "none.npz" in none.stderr
