"""Faults of wiring: what each does to an observation, what they cost a team, and what the status says of them."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from commands import agentmixer
from made_bundle import linear_bundle

from agentmixer.contract.manifest import WhenUnusual
from agentmixer.contract.spec import TaskSpec
from agentmixer.errors import AgentMixerError
from agentmixer.export.exporter import Exported
from agentmixer.runtime.bundle import Bundle, read_bundle
from agentmixer.runtime.log import Logger, read
from agentmixer.runtime.status import Outside, Status
from agentmixer.tasks.base import TaskStep
from agentmixer.validate import wiring_rehearsal
from agentmixer.validate.wiring import EXAMPLES, Wiring, parse_wiring
from agentmixer.validate.wiring_rehearsal import WiringReport, fallen, rehearse_wiring, wiring_matrix

#: Two episodes of three and two steps.
ROWS = np.float32([[1, 10, 100], [2, 20, 200], [3, 30, 300], [4, 40, 400], [5, 50, 500]])
FRESH = np.array([True, False, False, True, False])
NAMES = ("own.x", "own.y", "enemy.x")


@pytest.mark.parametrize(
    ("wiring", "expected"),
    [
        (Wiring("swap", (0, 2)), [[100, 10, 1], [200, 20, 2], [300, 30, 3], [400, 40, 4], [500, 50, 5]]),
        (Wiring("permute", (0, 1, 2)), [[10, 100, 1], [20, 200, 2], [30, 300, 3], [40, 400, 4], [50, 500, 5]]),
        (Wiring("scale", (1,), 0.5), [[1, 5, 100], [2, 10, 200], [3, 15, 300], [4, 20, 400], [5, 25, 500]]),
        (Wiring("flip", (0, 1)), [[-1, -10, 100], [-2, -20, 200], [-3, -30, 300], [-4, -40, 400], [-5, -50, 500]]),
        (Wiring("offset", (0,), 0.5), [[1.5, 10, 100], [2.5, 20, 200], [3.5, 30, 300], [4.5, 40, 400], [5.5, 50, 500]]),
        (Wiring("freeze", (0,), 1), [[1, 10, 100], [2, 20, 200], [2, 30, 300], [4, 40, 400], [5, 50, 500]]),
        (Wiring("freeze", (2,), 0), [[1, 10, 100], [2, 20, 100], [3, 30, 100], [4, 40, 400], [5, 50, 400]]),
        (Wiring("lag", (0,), 1), [[1, 10, 100], [1, 20, 200], [2, 30, 300], [4, 40, 400], [4, 50, 500]]),
        (Wiring("lag", (1,), 2), [[1, 10, 100], [2, 10, 200], [3, 10, 300], [4, 40, 400], [5, 40, 500]]),
    ],
    ids=lambda value: value.kind if isinstance(value, Wiring) else "",
)
def test_what_each_fault_does(wiring: Wiring, expected: list[list[float]]) -> None:
    before = ROWS.copy()
    for _ in range(2):  # nothing is left of what it was applied to before
        np.testing.assert_array_equal(wiring.apply_all(ROWS, FRESH), np.float32(expected))
    np.testing.assert_array_equal(ROWS, before)
    assert wiring.apply(ROWS[0], True).dtype == np.float32


class Corridor:
    """Three steps an episode, and a reward of 1 for whoever does action 0; each of the two agents sees (2, 1, 7)."""

    def __init__(self, spec: TaskSpec):
        self.spec, self.num_envs, self._step = spec, 1, 0

    def reset(self, seed: int, episodes: np.ndarray) -> TaskStep:
        self._step = 0
        return self._told(0.0)

    def step(self, actions: np.ndarray) -> TaskStep:
        self._step += 1
        return self._told(float((np.asarray(actions) == 0).sum()))

    def _told(self, reward: float) -> TaskStep:
        obs, state = np.float32([[[2, 1, 7]]] * 2), np.zeros((1, 1), np.float32)
        flags = np.zeros(1, bool)
        ended = np.array([self._step == 3])
        return TaskStep(
            obs, state, np.ones((2, 1, 2), bool), np.ones((2, 1), bool), np.float32([reward]), ended, flags, flags, obs, state
        )  # fmt: skip

    def close(self) -> None:
        pass


def team(folder: Path, when_unusual: WhenUnusual = "report") -> Bundle:
    """Agents that do action 0 where own.x is the greater, and have seen own.x and own.y from 0 to 3 and enemy.x as 7."""
    weights = np.float32([[1, 0], [0, 1], [0, 0]])
    seen = np.float32([[0, 3, 7], [3, 0, 7]] * 100)
    return read_bundle(linear_bundle(folder / "bundle", weights, seen, ("a", "b"), NAMES, when_unusual))


def rehearse(bundle: Bundle, *faults: str, loggers: tuple[Logger, ...] = ()) -> WiringReport:
    """Five episodes with these faults."""
    manifests = {name: files.manifest for name, files in bundle.agents.items()}
    task, wirings = Corridor(bundle.team.task), [parse_wiring(fault, manifests) for fault in faults]
    calm = wiring_rehearsal._play(bundle, task, 10, (), 5, 0, lambda _: None)  # type: ignore[arg-type]
    return wiring_rehearsal._rehearse(bundle, task, 10, wirings, calm, 5, 0, lambda _: None, loggers)  # type: ignore[arg-type]


def test_a_fault_that_stays_in_range_costs_and_is_not_seen(tmp_path: Path) -> None:
    """Both agents do action 0 in all three steps: 6 an episode. b sees own.x and own.y swapped, and does action 1: 3 an episode."""
    found = rehearse(team(tmp_path), "swap=b:own.x,own.y")
    assert (found.calm["return"]["value"], found.figures["return"]["value"]) == (6, 3)
    assert found.difference["return"] == {"value": -3, "low": -3, "high": -3}
    assert found.fallen == 0  # 1 less than 2 after the first step: more than a tenth of 6
    (flags,) = found.flags
    assert (flags.agent, flags.flagged, flags.first) == ("b", 0, None)
    assert flags.told == "the status says nothing in 0 of 5 episodes (without the fault 0)"
    assert found.passed and found.checks[0].sentence == "swap=b:own.x,own.y changed 15 of 15 observations"


def test_a_fault_that_leaves_the_range_is_seen_at_once(tmp_path: Path) -> None:
    """57.3 times 2 is 114.6; own.x was seen from 0 to 3, and may be 3.303: a tenth and a thousandth more."""
    found = rehearse(team(tmp_path), "scale=a:own.x:57.3")
    (flags,) = found.flags
    assert flags.episodes == (0,) * 5 and found.difference["return"]["value"] == 0 and found.fallen is None
    assert flags.first == {
        "episode": 0, "step": 0, "why": "own.x is 115, outside what was seen by 37 of its range",
    }  # fmt: skip


def test_what_agents_declare_of_the_unusual_is_held_against_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fallback action is action 0. -2 is outside, and clamped it is -0.303, so that own.y is the greater."""
    for rule, brought in (("report", 3), ("clamp", 3), ("fall back", 6), ("refuse", 6)):
        found = rehearse(team(tmp_path / rule, rule), "flip=a:own.x")  # type: ignore[arg-type]
        assert found.figures["return"]["value"] == brought and found.passed, rule
        assert (
            found.checks[-1].sentence == f"15 of 15 unusual observations were answered as the agents declare ({rule})"
        )
    assert found.flags[0].first is not None and "refuses to start" in found.flags[0].first["why"]
    bundle = team(tmp_path / "wrong", "fall back")
    monkeypatch.setattr("agentmixer.runtime.agent.Agent.step", lambda self, obs, mask: (self.act(obs), LAX))
    assert [check.name for check in rehearse(bundle, "flip=a:own.x").checks if not check.passed] == ["when unusual"]


#: A status that says that an observation is outside, and that it was decided on all the same.
LAX = Status(False, (Outside("own.x", 1.0, 2.0),), False, (), False, False, 0.0)


def test_a_fault_that_changes_nothing_fails(tmp_path: Path) -> None:
    found = rehearse(team(tmp_path), "freeze=a:enemy.x@1")
    assert not found.passed and "changed 0 of 15 observations; choose other elements" in found.verdict


def test_what_is_logged_is_what_the_agent_was_given(tmp_path: Path) -> None:
    bundle = team(tmp_path)
    loggers = tuple(Logger(files.manifest) for files in bundle.agents.values())
    rehearse(bundle, "swap=a:own.x,own.y", loggers=loggers)
    a, b = (logger.log() for logger in loggers)
    assert a.obs.tolist() == [[1, 2, 7]] * 15 and b.obs.tolist() == [[2, 1, 7]] * 15
    assert a.actions.tolist() == [1] * 15 and a.fresh.tolist() == [True, False, False] * 5


def test_when_a_return_has_fallen() -> None:
    """Without a fault 1 a step, 10 in all: fallen is what lies 1 below."""
    calm = [np.ones(10)] * 2
    assert fallen(calm, calm) is None
    assert fallen(calm, [np.ones(10), np.r_[np.ones(3), np.zeros(7)]]) == 5  # the mean lacks 0.5 a step, 1.5 at step 5
    assert fallen(calm, [np.ones(8)] * 2) == 9  # shorter episodes bring nothing more: 8 against 10, and 9 at step 8
    assert fallen([-np.ones(4)], [-2 * np.ones(4)]) == 0


def test_the_matrix_plays_what_is_heeded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """own.x and own.y are heeded alike and enemy.x is not. Offsets are half of 3. Nothing ever changes in a corridor of three steps, so
    that freezing and delaying by five steps change nothing."""
    bundle = team(tmp_path)
    names = [f"{kind}=a:own.{axis}{end}" for kind, end in (
        ("scale", ":57.2958"), ("flip", ""), ("offset", ":1.5"), ("freeze", "@5"), ("lag", ":5")
    ) for axis in "xy"]  # fmt: skip
    monkeypatch.setattr(
        wiring_rehearsal, "task_of", lambda bundle, run: contextlib.nullcontext((Corridor(bundle.team.task), 10))
    )
    found = wiring_matrix(bundle, 5, 0)
    assert (found.agent, found.elements) == ("a", ("own.x", "own.y")) and found.passed
    cells = {report.told: report for report in found.reports}
    assert list(cells) == ["swap=a:own.x,own.y", "permute=a:own.*", *names] == [check.name for check in found.checks]
    brought = [int(report.figures["return"]["value"]) for report in found.reports]
    assert brought == [3, 3, 6, 3, 3, 6, 6, 3, 6, 6, 6, 6]
    assert [check.status for check in found.checks] == ["passed"] * 8 + ["does not apply"] * 4
    # In range: the swaps, and own.y plus 1.5, which is 2.5. The others are flagged in the first step, in which the return falls.
    assert [report.step for report in found.reports] == [None, None, 0, 0, 0, 0, 0, None] + [None] * 4
    assert [report.in_time for report in found.reports] == [False, False, None, True, True, None, None, False] + [
        None
    ] * 4


def test_a_team_that_heeds_nothing_has_no_matrix(tmp_path: Path) -> None:
    blind = linear_bundle(tmp_path / "bundle", np.zeros((2, 2), np.float32), np.float32([[0, 1], [1, 0]] * 100))
    with pytest.raises(AgentMixerError, match="heeds anything that it sees"):
        wiring_matrix(read_bundle(blind), 5, 0)


def test_what_means_nothing_is_refused(tmp_path: Path) -> None:
    manifests = {name: files.manifest for name, files in team(tmp_path).agents.items()}
    assert set(EXAMPLES) == {"swap", "permute", "scale", "flip", "offset", "freeze", "lag"}
    for text, words in {
        "swap=c:own.x,own.y": "names an agent that this team lacks",
        "swap=a:own.x": "does not name two elements",
        "swap=a:own.x,own.x": "does not name two elements",
        "swap=a:own.*,own.y": "does not name two elements",
        "permute=a:own.x": "names no group",
        "flip=a:own.z": "agent a observes no 'own.z'; did you mean 'own.y'?",
        "scale=a:own.x": "does not end with a number",
        "scale=a:own.x:nan": "does not end with a number",
        "offset=a:own.x:1e7": "a number from -1e+06 to 1e+06",
        "freeze=a:own.x@1.5": "a whole number from 0 to 10,000",
        "lag=a:own.x:-1": "a whole number from 0 to 10,000; write it like lag=agent_0:own.x:3",
    }.items():
        with pytest.raises(AgentMixerError) as refused:
            parse_wiring(text, manifests)
        assert words in str(refused.value), text
    group = parse_wiring("permute=b:own.*", manifests)
    assert (group.agent, group.elements) == (1, [0, 1])


def test_names_may_hold_what_a_fault_is_written_with(tmp_path: Path) -> None:
    seen, names = np.float32([[0, 1, 2], [1, 0, 2]] * 100), ("a,b", "c:d", "e@f=g")
    bundle = read_bundle(linear_bundle(tmp_path / "bundle", np.eye(3), seen, ("a",), names))
    manifests = {"a": bundle.agents["a"].manifest}
    assert parse_wiring("swap=a:c:d,a,b", manifests).elements == [1, 0]
    assert parse_wiring("scale=a:c:d:2", manifests).elements == [1]
    assert parse_wiring("freeze=a:e@f=g@3", manifests).elements == [2]


def test_wiring_from_the_command_line(exported: Exported, tmp_path: Path) -> None:
    copy, logs = tmp_path / "bundle", tmp_path / "logs"
    shutil.copytree(exported.path, copy, ignore=shutil.ignore_patterns("reports"))
    report, common = copy / "reports/wiring.json", ("deploy-sim", copy, "--episodes", "2")
    told = agentmixer(*common, "--fault", "offset=agent_1:own.health:5", "--log", logs, cwd=tmp_path)
    assert told.returncode == 0, told.stdout + told.stderr
    assert "agent_1: the status flags 2 of 2 episodes (without the fault" in told.stdout
    found = json.loads(report.read_text())
    assert found["passed"] and found["flags"][0]["first"]["why"].startswith("own.health is 6, outside")
    assert [file.name for file in (copy / "reports").glob("*.json")] == ["wiring.json"]
    bundle = read_bundle(exported.path)
    log = read(logs / "agent_1.npz", bundle.agents["agent_1"].manifest)
    assert log.obs[0, bundle.team.task.obs_names[1].index("own.health")] == 6 and log.fresh.sum() == 2
    for arguments, words in (
        (("--fault", "swpa=agent_0:own.x,own.y"), "unknown fault 'swpa'; did you mean 'swap'?"),
        (("--fault", "flip=agent_0:own.helth"), "did you mean 'own.health'?"),
        (("--fault", "flip=agent_0:own.health", "--fault", "drop=0.1"), "are rehearsed apart"),
        (
            ("--fault", "flip=agent_0:own.health", "--require-isolation"),
            "leave out --deadline-ms, --require-isolation and --devices",
        ),
    ):
        refused = agentmixer(*common, *arguments, cwd=tmp_path)
        assert refused.returncode == 2
        assert words in refused.stderr and refused.stderr.count("\n") == 1


def test_the_same_episodes_with_nothing_wrong_differ_in_nothing(exported: Exported) -> None:
    """A sensor that lags by no step is right, and the agents in this process play what they played before."""
    bundle = read_bundle(exported.path)
    nothing = Wiring("lag", (0,), 0, 0)
    found = rehearse_wiring(bundle, [nothing], 2, seed=5)
    assert found.difference["return"]["value"] == 0 and found.calm == found.figures
    assert not found.passed
