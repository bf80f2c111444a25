"""Locality: nothing moves that must not, everything moves that must, and a team that leaks is found out."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
import torch
from agentmixer_cli.app import app
from conftest import quiet
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from test_every_task import started
from typer.testing import CliRunner

from agentmixer.export import exporter as exporting
from agentmixer.export.exporter import Exported
from agentmixer.host.agent_process import AgentProcess
from agentmixer.runtime.agent import Agent
from agentmixer.runtime.bundle import read_bundle
from agentmixer.runtime.frames import pack, unpack
from agentmixer.tasks import make
from agentmixer.tasks.base import Probe, Probing, TaskStep
from agentmixer.train import checkpoint, trainer
from agentmixer.train import run as runs
from agentmixer.train.run import Run
from agentmixer.validate import locality as check
from agentmixer.validate import task_locality
from agentmixer.validate.arms import ActorsArm
from agentmixer.validate.bit_tally import BitCheck, Tally, bit_check
from agentmixer.validate.locality import LocalityReport
from agentmixer.validate.moments import Moment, record
from agentmixer.validate.task_locality import PROBED_ENVS, environmental
from agentmixer.validate.team_locality import one_process, running_team
from agentmixer.validate.training_locality import training


@pytest.fixture(scope="module")
def found(exported: Exported) -> LocalityReport:
    """protoss_5v5: discrete, masked, recurrent. States come from as many environments as other tests have: SMAX is compiled
    anew for every number of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(check, "PROBED_ENVS", 8)
        patch.setattr(task_locality, "PROBED_ENVS", 8)
        patch.setattr(task_locality, "PROBED_TIMES", 32)
        return check.locality(read_bundle(exported.path), 40)


@pytest.fixture(scope="module")
def hopper(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Hopper-3x1: real-valued actions, no memory."""
    run = started("mamujoco", "Hopper-3x1", tmp_path_factory.mktemp("hopper") / "run", {})
    assert trainer.train(run, quiet())
    return exporting.export(runs.load(run.path), run.path.parent / "bundle")


@pytest.fixture(scope="module")
def moments(exported: Exported, trained: Run) -> list[Moment]:
    task = trained.make_task(1)
    return record(read_bundle(exported.path), task, 40)


def grouped(found: LocalityReport) -> dict[tuple[str, str], list[BitCheck]]:
    groups: dict[tuple[str, str], list[BitCheck]] = {}
    for one in found.checks:
        groups.setdefault((one.where, one.name), []).append(one)
    return groups


def test_not_one_bit_moves_in_a_recurrent_masked_team(found: LocalityReport) -> None:
    assert found.passed
    assert found.steps == 40
    hidden = [one for one in found.checks if not one.control]
    assert sum(one.differing for one in hidden) == 0
    groups = grouped(found)
    assert all(len(checks) == 5 for checks in groups.values())
    for change in (
        "nothing: the same again",
        "others' observations: NaN",
        "order of sending",
        "others killed half way",
    ):
        # One int64 at each of 40 steps.
        assert {(f.comparisons, f.bits) for f in groups["running team", change]} == {(40, 40 * 64)}
    # Action, 10 logits and 16 numbers of memory.
    assert {f.bits for f in groups["one process", "others' observations: noise"]} == {40 * (64 + 26 * 32)}


def test_every_control_moves(found: LocalityReport) -> None:
    controls = {(f.where, f.subject) for f in found.checks if f.control and f.differing > 0}
    assert len(controls) == 4 * 5  # where something is changed, and agents


def test_what_smax_hides_does_not_show(found: LocalityReport) -> None:
    groups = grouped(found)
    for probe in make("smacv2", "protoss_5v5", 1).probes:  # type: ignore[attr-defined]
        checks = groups["observation", probe.name if probe.hidden else f"control: {probe.name}"]
        for one in checks:
            assert one.comparisons > 100
            assert one.differing == (0 if probe.hidden else one.comparisons)


def test_not_one_bit_moves_in_a_team_with_real_valued_actions(hopper: Exported) -> None:
    said: list[str] = []
    found = check.locality(read_bundle(hopper.path), 40, progress=said.append)
    assert found.passed
    assert {"recording step 40 of 40", "agent_2, agent 3 of 3, while the others change: in one process"} <= set(said)
    assert found.observation == "not available: the states of mamujoco cannot be changed from outside"


class _Gossip:
    """Agents of one process that share a number: the sum of what the last one saw."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.heard = np.float32(0)
        act = Agent.act

        def leaky(agent: Agent, obs: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
            obs = obs + np.float32(1e-4) * self.heard
            action = act(agent, obs, mask)
            self.heard = obs.sum()
            return action

        monkeypatch.setattr(Agent, "act", leaky)


def test_agents_that_share_a_number_are_found_out(
    exported: Exported, moments: list[Moment], monkeypatch: pytest.MonkeyPatch
) -> None:
    _Gossip(monkeypatch)
    checks = one_process(read_bundle(exported.path), moments, 1)
    assert not any(f.passed for f in checks if f.name.startswith("others' observations"))


def test_a_link_that_listens_to_the_others_is_found_out(
    exported: Exported, moments: list[Moment], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frames to one agent carry the observation of whoever was served before."""
    send, last = AgentProcess.send, [b""]

    def leaky(agent: AgentProcess, data: bytes) -> bool:
        frame, theirs = unpack(data), last[0]
        last[0] = bytes(frame.payload)
        leaked = pack(frame.kind, frame.agent, frame.digest, theirs, *frame[2:8])
        return send(agent, leaked if theirs and agent.index == 1 else data)

    monkeypatch.setattr(AgentProcess, "send", leaky)
    checks = {f.name: f for f in running_team(read_bundle(exported.path), moments, 1)}
    assert not checks["others' observations: NaN"].passed
    assert not checks["nothing: the same again"].passed


def test_an_actor_that_reads_the_global_state_is_found_out(
    trained: Run, moments: list[Moment], monkeypatch: pytest.MonkeyPatch
) -> None:
    task = trained.make_task(1)
    algorithm, _ = checkpoint.load_weights(trained, task, checkpoint.latest(trained))
    assert all(one.passed for one in training(algorithm, moments))
    act = ActorsArm.act

    def leaky(arm: ActorsArm, step: TaskStep) -> np.ndarray:
        action = act(arm, step)
        arm.memory["actor"] = arm.memory["actor"] + 1e-3 * float(np.asarray(step.state).sum())
        return action

    monkeypatch.setattr(ActorsArm, "act", leaky)
    failed = {one.name for one in training(algorithm, moments) if not one.passed}
    assert failed == {"global state: noise", "global state: zeros", "global state: NaN"}


def test_an_actor_that_reads_the_policy_modifier_is_found_out(
    trained: Run, moments: list[Moment], monkeypatch: pytest.MonkeyPatch
) -> None:
    task = trained.make_task(1)
    algorithm, _ = checkpoint.load_weights(trained, task, checkpoint.latest(trained))
    weight = next(algorithm.team.pm.parameters())
    before = weight.detach().clone()
    policy = algorithm.team.joint_policy.policy
    monkeypatch.setattr(
        algorithm.team.joint_policy,
        "policy",
        lambda raw, mask: policy(raw + 10 * weight.flatten()[: raw.shape[-1]], mask),
    )
    failed = {one.name for one in training(algorithm, moments) if not one.passed}
    assert failed
    assert all(change.startswith("Policy Modifier") for change in failed)
    assert torch.equal(weight, before)


@pytest.mark.parametrize(("task", "scenario"), [("predator_prey", "7x7"), ("passage", "two_agents")])
def test_what_a_task_hides_does_not_show(task: str, scenario: str) -> None:
    _, checks = environmental(make(task, scenario, PROBED_ENVS))
    assert {one.control for one in checks} == {True, False}
    for one in checks:
        assert one.passed, one
        assert one.differing == (one.comparisons if one.control else 0)


def test_a_probe_leaves_the_episodes_alone() -> None:
    task, beside = (make("predator_prey", "7x7", PROBED_ENVS) for _ in range(2))
    task.reset(5)
    beside.reset(5)
    assert isinstance(task, Probing)
    for probe in task.probes:
        assert task.probe(probe, 2, 7).changed.shape == (PROBED_ENVS,)
    action = torch.full((4, PROBED_ENVS), 4, dtype=torch.int32)
    for ours, theirs in zip(task.step(action), beside.step(action), strict=True):
        assert np.array_equal(np.asarray(ours), np.asarray(theirs))


def test_a_task_that_shows_what_it_claims_to_hide_fails() -> None:
    task = make("passage", "two_agents", PROBED_ENVS)
    partner, own = task.probes  # type: ignore[attr-defined]
    task._game = task._game._replace(probes=(Probe("its own size", True, own.change), partner._replace(hidden=False)))  # type: ignore[attr-defined]
    _, checks = environmental(task)
    assert len(checks) == 4
    assert not any(one.passed for one in checks)


def test_a_task_without_hidden_state_says_so() -> None:
    said, checks = environmental(make("matrix", "climbing", PROBED_ENVS))
    assert (said, checks) == ("nothing to change: matrix climbing declares no hidden state", [])


@given(
    arrays.arrays(np.float32, 7, elements=st.floats(width=32)),
    st.integers(0, 6),
    st.integers(0, 31),
)
def test_a_single_bit_is_counted(array: np.ndarray, where: int, bit: int) -> None:
    """Whatever the numbers are: NaN against NaN, 0 against -0."""
    other = array.copy()
    other.view(np.uint32)[where] ^= np.uint32(1 << bit)
    tally = Tally()
    tally.compare(array, array.copy())
    assert (tally.comparisons, tally.bits, tally.differing) == (1, 224, 0)
    tally.compare(array, other)
    assert (tally.comparisons, tally.bits, tally.differing) == (2, 448, 1)


def test_an_agent_that_gives_no_answer_differs_in_every_bit() -> None:
    tally = Tally()
    tally.compare(np.int64(3), None)
    tally.compare(np.zeros(2, np.float32), np.zeros(2))
    assert (tally.bits, tally.differing) == (128, 128)
    assert not tally.check("", "", "").passed
    assert not Tally().check("", "nothing was compared", "").passed
    assert not Tally().check("", "a control that was never tried", "", control=True).passed


def test_the_command(exported: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    moved = bit_check("running team", "order of sending", "agent_1", False, 3, 192, 1)
    monkeypatch.setenv("COLUMNS", "200")
    fine = bit_check("running team", "others killed half way", "agent_1", False, 3, 192, 0)
    for one, code in ((fine, 0), (moved, 1)):
        result = LocalityReport(
            bundle=str(exported.path), steps=3, static={}, observation="not available", checks=(fine, one)
        )
        monkeypatch.setattr(check, "locality", lambda *_, result=result, **__: result)
        shown = CliRunner().invoke(app, ["locality", str(exported.path)])
        assert shown.exit_code == code
        assert ("FAIL agent_1" in shown.output) == bool(code)
        printed = CliRunner().invoke(app, ["locality", str(exported.path), "--json"])
        kept = json.loads(max((exported.path / "reports").glob("locality*.json"), key=os.path.getmtime).read_text())
        assert kept["passed"] == (not code)
        assert list(kept)[:3] == ["passed", "agentmixer", "bundle"]
        assert json.loads(printed.stdout) == kept
