"""The verdict: it holds for what was exported, and it fails when something was lost on the way."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from conftest import make_run, tiny_algorithm, tiny_spec

from agentmixer import intervals
from agentmixer.contract.manifest import Tolerances
from agentmixer.contract.spec import ActionSpace, Box, Discrete, TaskSpec
from agentmixer.errors import AgentMixerError
from agentmixer.export.exporter import Exported
from agentmixer.runtime.bundle import read_bundle
from agentmixer.runtime.sandbox import probe
from agentmixer.tasks.base import TaskStep
from agentmixer.train.run import Run
from agentmixer.validate import recording
from agentmixer.validate.arms import ActorsArm, Played
from agentmixer.validate.deploy_sim import (
    AgentFigures,
    DeploySimReport,
    compare,
    deploy_sim,
    equivalence_check,
    quantiles,
    timing_checks,
)
from agentmixer.validate.histogram import Histogram
from agentmixer.validate.reports import ReportFile
from agentmixer.validate.source_run import source_run


@pytest.fixture(scope="module")
def verdict(exported: Exported) -> DeploySimReport:
    return deploy_sim(read_bundle(exported.path), episodes=12, deadline_s=10)


def test_deployed_actions_equal_the_actors_on_every_step(verdict: DeploySimReport) -> None:
    assert verdict.parity.episodes == 12
    assert verdict.parity.steps > 12 * 10
    assert verdict.parity.actions == 5 * verdict.parity.steps
    assert verdict.parity.different == verdict.parity.near_ties == 0
    assert verdict.passed
    assert verdict.arms["deployed"] == verdict.arms["actors"]


def test_joint_and_deployed_are_compared_on_the_same_episodes(verdict: DeploySimReport) -> None:
    arms, gap = verdict.arms, verdict.asymmetric_gap
    for measure in ("return", "win_rate"):
        assert gap[measure]["value"] == pytest.approx(
            arms["joint"][measure]["value"] - arms["deployed"][measure]["value"], abs=1e-12
        )
        assert gap[measure]["low"] <= gap[measure]["value"] <= gap[measure]["high"]
    for found in verdict.mode_agreement.values():
        assert 0 <= found["low"] <= found["value"] <= found["high"] <= 1


def test_mode_agreement_is_counted_over_those_who_can_act() -> None:
    """Eq. 12 with a PM that favours action 2 beyond what the actors prefer: agreement is known by hand."""
    algorithm = tiny_algorithm(joint="gumbel")
    torch.nn.init.zeros_(algorithm.team.actor.head.weight)
    for parameter in algorithm.team.pm.parameters():
        torch.nn.init.zeros_(parameter)
    algorithm.team.pm.head.bias.data[0, 2] = 10.0
    arm = ActorsArm(algorithm.team)
    arm.reset(0)
    mask = np.ones((3, 1, 4), bool)
    mask[0, 0, 2] = False  # agent 0 may not take it, so PM cannot lead it there
    active = np.array([[True], [True], [False]])
    step = TaskStep(
        np.zeros((3, 1, 7), np.float32), np.zeros((1, 11), np.float32), mask, active,
        *(np.zeros(1),) * 4, np.zeros((3, 1, 7)), np.zeros((1, 11)),
    )  # fmt: skip
    assert arm.act(step).tolist() == [0, 0, 0]
    assert (arm.agreed, arm.decided) == (1, 2)


def test_equivalence_decides_where_a_margin_was_asked_for(verdict: DeploySimReport) -> None:
    same = verdict.equivalence
    assert (same.mean, same.n, same.margin, same.equivalent) == (0.0, 12, 0.05, True)
    *others, last = verdict.checks
    assert (last.name, last.status) == ("equivalence", "does not apply")
    unequal = replace(same, equivalent=False)
    for found, asked, passes in ((unequal, False, True), (unequal, True, False), (same, True, True)):
        check = equivalence_check(found, wins=True, margin_asked=asked)
        assert replace(verdict, checks=(*others, check)).passed == passes


def test_every_agent_is_accounted_for(verdict: DeploySimReport) -> None:
    assert list(verdict.agents) == [f"agent_{i}" for i in range(5)]
    for agent in verdict.agents.values():
        assert 0 < agent.resident_mb <= agent.peak_mb <= 80
        assert list(agent.deciding_us) == ["p50", "p99", "p99.9", "max"]
        times = [value or 0.0 for value in agent.deciding_us.values()]
        assert times == sorted(times)
        assert times[0] > 0
        # A header of 52 bytes, 97 floats and 10 mask bytes a step.
        assert agent.bytes_to_agent == verdict.parity.steps * (52 + 97 * 4 + 10)
        assert agent.bytes_from_agent == verdict.parity.steps * (52 + 16)


@pytest.mark.skipif(not all(probe()), reason=f"this kernel offers {probe()}: no agent can reach full isolation")
def test_every_agent_is_fully_isolated(verdict: DeploySimReport) -> None:
    assert [agent.isolation for agent in verdict.agents.values()] == ["full"] * 5


def test_the_report_is_json_with_the_verdict(verdict: DeploySimReport, tmp_path: Path) -> None:
    file = ReportFile(tmp_path, tmp_path / "deep" / "report.json", "deploy_sim.json")
    assert not file.path.exists()  # nothing is lost where an older verdict stands
    file.write(verdict.to_json())
    data = json.loads(file.path.read_text(), parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    assert data["passed"] is True
    assert list(data)[:3] == ["passed", "agentmixer", "bundle"]
    assert [(check["name"], check["status"]) for check in data["checks"][:3]] == [
        ("parity", "passed"), ("deadline", "passed"), ("decisions", "passed"),
    ]  # fmt: skip
    assert data["arms"]["joint"]["win_rate"]["low"] >= 0


def test_a_lost_action_is_found_and_fails(exported: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    """One decision is changed on its way back, at one step of one episode."""
    from agentmixer.validate.arms import DeployedArm

    real = DeployedArm.act

    def changed(self: DeployedArm, step: object) -> np.ndarray:
        action = real(self, step)  # type: ignore[arg-type]
        if (self._episode, self._step) == (1, 3):
            action[0] = (action[0] + 1) % 4
        return action

    monkeypatch.setattr(DeployedArm, "act", changed)
    verdict = deploy_sim(read_bundle(exported.path), episodes=2, deadline_s=10)
    assert not verdict.passed
    assert verdict.parity.first is not None
    assert (verdict.parity.first["episode"], verdict.parity.first["step"]) == (1, 2)
    assert verdict.parity.first["agent"] == "agent_0"


def test_a_deadline_nobody_can_meet_fails(exported: Exported) -> None:
    kept = recording.recorders()
    verdict = deploy_sim(read_bundle(exported.path), episodes=1, deadline_s=1e-6, recorders=kept)
    marked = [int((~kept[arm].episodes[0].decided).sum()) for arm in ("joint", "deployed")]
    assert marked == [0, verdict.parity.not_compared]
    assert verdict.parity.not_compared >= sum(agent.missed_deadlines for agent in verdict.agents.values()) > 0
    assert "deadline" in {check.name for check in verdict.checks if check.status == "failed"}
    assert not verdict.passed
    json.loads(verdict.to_json(), parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))


def test_a_report_that_cannot_be_written_is_said_before_anything_is_played(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(AgentMixerError, match="is not a regular file"):
        ReportFile(tmp_path, tmp_path, "x")
    with pytest.raises(AgentMixerError, match="no report can be written to"):
        ReportFile(tmp_path, tmp_path / "file" / "report.json", "x")


@pytest.mark.parametrize("asked", [False, True], ids=["in the bundle", "where the user says"])
def test_a_report_leaves_earlier_reports_and_every_other_file_as_they_are(asked: bool, tmp_path: Path) -> None:
    place = tmp_path / "reports" / "deploy_sim.json" if asked else None
    for text in ("PASS", "FAIL", "FAIL again"):
        ReportFile(tmp_path, place, "deploy_sim.json").write(text)
    kept = {file.name: file.read_text() for file in (tmp_path / "reports").iterdir()}
    assert kept == {"deploy_sim.json": "PASS", "deploy_sim-2.json": "FAIL", "deploy_sim-3.json": "FAIL again"}


def test_a_report_is_not_put_into_a_bundle_but_in_its_reports(exported: Exported, tmp_path: Path) -> None:
    place = tmp_path / "copy"
    shutil.copytree(exported.path, place)
    inside = (
        place / "team.json",
        place / "new.json",
        place / "agents/agent_0/policy.onnx",
        place / "agents/new/x.json",
    )
    alone = tmp_path / "agent_0"
    shutil.copytree(place / "agents/agent_0", alone)
    for asked in (*inside, alone / "x.json"):
        with pytest.raises(
            AgentMixerError, match=r"lies in the bundle .*, which no file may be added to but in reports/"
        ):
            ReportFile(place, asked, "x")
    for asked in (place / "reports/x.json", tmp_path / "x.json"):
        ReportFile(place, asked, "x").write("{}")
    read_bundle(place)


@pytest.mark.parametrize("what", ["folder", "file", "half written file", "dangling", "folder under the run's name"])
def test_no_report_is_written_through_a_link_in_a_bundle(tmp_path: Path, what: str) -> None:
    """Whoever made the bundle chose where its links lead."""
    bundle, outside = tmp_path / "bundle", tmp_path / "outside"
    bundle.mkdir()
    outside.mkdir()
    (outside / "precious").write_text("mine")
    if what == "folder":
        (bundle / "reports").symlink_to(outside)
    else:
        (bundle / "reports").mkdir()
        name = "parity.json.partial" if what == "half written file" else "parity.json"
        target = outside / ("new" if what == "dangling" else "precious")
        (bundle / "reports" / name).symlink_to(outside if what.startswith("folder") else target)
    try:
        ReportFile(bundle, None, "parity.json").write("{}")
    except AgentMixerError as error:
        assert "link" in str(error) or "not a regular file" in str(error)  # noqa: PT017
        assert what != "half written file"
    else:
        assert what == "half written file"
        assert (bundle / "reports/parity.json").read_text() == "{}"
    assert [file.name for file in outside.iterdir()] == ["precious"]
    assert (outside / "precious").read_text() == "mine"


def played(deployed: list[list[list[Any]]], shadow: list[list[list[Any]]], dtype: type = np.int32) -> Played:
    count = len(deployed)
    actions, beside = ([np.array(e, dtype) for e in arm] for arm in (deployed, shadow))
    return Played(np.zeros(count), np.zeros(count, bool), actions, beside)


def one(space: ActionSpace) -> TaskSpec:
    return msgspec.structs.replace(tiny_spec(agents=1), agents=("a",), action_spaces=(space,))


#: A team of one agent.
CHOOSING, MOVING = one(Discrete(3)), one(Box((-1.0, -1.0), (1.0, 1.0)))
MEANS = [[np.zeros((1, 2))]] * 2


def test_near_ties_are_counted_apart_from_differences() -> None:
    logits = [[np.array([[1.0, 1.0 - 5e-6, 0.0]])] * 3]
    result = compare(played([[[0], [1], [1]]], [[[0], [0], [0]]]), logits, CHOOSING, Tolerances())
    assert (result.steps, result.different, result.near_ties, result.first) == (3, 2, 2, None)
    assert result.passed
    result = compare(played([[[0], [2], [1]]], [[[0], [0], [0]]]), logits, CHOOSING, Tolerances())
    assert (result.different, result.near_ties) == (2, 1)
    assert result.first == {"episode": 0, "step": 1, "agent": "a", "actors": 0, "deployed": 2}
    assert not result.passed
    assert "1 of 3 decisions equal over 3 steps, 1 near ties; first in episode 0, step 1: a did 2, its actor 0" in (
        result.sentence
    )


def test_a_fallback_is_no_difference() -> None:
    """Of four decisions over two episodes the second was late; what the agent fell back to is not compared."""
    logits = [[np.array([[1.0, 0.0]])] * 2] * 2
    team = played([[[0], [1]], [[0], [0]]], [[[0], [0]], [[0], [0]]])
    decided = np.array([[True], [False], [True], [True]])
    result = compare(team, logits, CHOOSING, Tolerances(), decided)
    assert (result.passed, result.actions, result.not_compared, result.different) == (True, 3, 1, 0)
    assert "3 of 3 decisions equal over 4 steps, 0 near ties; 1 are not compared: fallbacks" in result.sentence
    assert not compare(team, logits, CHOOSING, Tolerances()).passed
    assert compare(team, logits, CHOOSING, Tolerances(), decided & False).status == "not run"


def test_real_valued_actions_may_differ_by_the_tolerance_and_no_more() -> None:
    ours, near, far = [[[1.0, -0.5]]], [[[1.0 + 1.5e-5, -0.5]]], [[[1.0, -0.50002]]]
    result = compare(played([near], [ours], np.float64), MEANS, MOVING, Tolerances())
    assert result.passed
    assert result.largest_error == pytest.approx(1.5e-5)
    result = compare(played([ours, far], [ours, ours], np.float64), MEANS, MOVING, Tolerances())
    assert not result.passed
    assert result.first == {"episode": 1, "step": 0, "agent": "a", "actors": [1.0, -0.5], "deployed": [1.0, -0.50002]}
    nan = compare(played([[[[float("nan"), 0.0]]]], [ours], np.float64), MEANS, MOVING, Tolerances())
    assert not nan.passed


def test_quantiles_by_hand() -> None:
    # 0 .. 1000 microseconds: the quantiles are their own names.
    assert quantiles([i * 1000 for i in range(1001)]) == {"p50": 500.0, "p99": 990.0, "p99.9": 999.0, "max": 1000.0}


def test_the_run_it_came_from_must_be_there_unchanged(exported: Exported, trained: Run, tmp_path: Path) -> None:
    bundle = read_bundle(exported.path)
    assert source_run(bundle).path == trained.path
    with pytest.raises(AgentMixerError, match="--run DIR"):
        source_run(bundle, tmp_path / "gone")
    other = make_run(tmp_path / "other")
    text = (other.path / "config.toml").read_text()
    (other.path / "config.toml").write_text(text.replace("protoss_5v5", "terran_5v5"))
    with pytest.raises(
        AgentMixerError, match=r"is a run of smacv2 terran_5v5, and .* was exported from one of smacv2 protoss"
    ):
        source_run(bundle, other.path)
    moved = Path(shutil.copytree(trained.path, tmp_path / "moved"))
    assert source_run(bundle, moved).path == moved
    file = moved / "checkpoints" / bundle.team.source.checkpoint
    file.write_bytes(file.read_bytes() + b" ")
    with pytest.raises(AgentMixerError, match="is not the checkpoint"):
        source_run(bundle, moved)
    file.unlink()
    with pytest.raises(AgentMixerError, match="no longer has"):
        source_run(bundle, moved)
    (moved / "config.toml").write_text((moved / "config.toml").read_text() + "\n")
    with pytest.raises(AgentMixerError, match=r"its config.toml differs"):
        source_run(bundle, moved)


def test_wilson_interval_against_published_figures() -> None:
    # Newcombe (1998), table I, method 3: 81 of 263 -> .2553 to .3662; 0 of 20 -> 0 to .1611.
    found = intervals.rate(np.arange(263) < 81)
    assert (round(found.low, 4), round(found.high, 4)) == (0.2553, 0.3662)
    found = intervals.rate(np.zeros(20, bool))
    assert (round(found.low, 4), round(found.high, 4)) == (0.0, 0.1611)


def test_students_interval_by_hand() -> None:
    # mean 2, s = 1, n = 3: t(.975, 2) = 4.3027, half width 4.3027 / sqrt(3) = 2.4841
    found = intervals.mean(np.array([1.0, 2.0, 3.0]))
    assert (found.value, round(found.low, 4), round(found.high, 4)) == (2.0, -0.4841, 4.4841)
    assert intervals.mean(np.full(5, 5.0)) == (5.0, 5.0, 5.0)


def test_one_value_has_no_interval_and_rates_stay_within_0_and_1() -> None:
    assert intervals.mean(np.array([5.0])) == (5.0, None, None)
    assert intervals.mean(np.full(4, 5.0)) == (5.0, None, None)
    assert intervals.paired(np.ones(2), np.zeros(2)) == (1.0, None, None)
    assert intervals.mean(np.array([5.0])).told(".1f") == "5.0 (no interval)"
    # mean 0.9, s = 0.1, n = 3: 0.9 +- 4.3027 * 0.1 / sqrt(3) = 0.6516 .. 1.1484
    seeds = np.array([0.8, 0.9, 1.0])
    assert intervals.mean_of("win_rate", seeds).told(".4f") == "0.9000 [0.6516, 1.0000]"
    assert intervals.mean_of("return", seeds).told(".4f") == "0.9000 [0.6516, 1.1484]"


@pytest.mark.parametrize(
    ("missed", "median_us", "busy"), [(3, 400.0, True), (3, 2500.0, False), (3, None, False), (0, 400.0, False)]
)
def test_late_decisions_are_laid_to_the_machine_where_deciding_takes_far_less(
    missed: int, median_us: float | None, busy: bool
) -> None:
    """Deadline 20 ms. The other agent is in time, and slow."""
    slow = AgentFigures("full", (), 0.1, 60.0, 61.0, {"p50": 9000.0}, Histogram(0, ()), 1, 1, 0, 0)
    late = replace(slow, deciding_us={"p50": median_us}, missed_deadlines=missed)
    deadline, decisions = timing_checks({"a": slow, "b": late}, 0.02, 0.02)
    assert (deadline.passed, decisions.passed) == (not missed, True)
    said = f"{missed} decisions later than 20 ms (control period 20 ms)"
    hint = "; deciding takes these agents 0.4 ms as a rule, so the machine was busy: try again when it is idle, or with a longer --deadline-ms"
    assert deadline.sentence == said + (hint if busy else "")
