"""The evidence catches what is wrong: every mutation of a real bundle, by name. And mutants are what they claim."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from agentmixer_cli.app import app
from conftest import quiet
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator
from test_every_task import started
from typer.testing import CliRunner

from agentmixer.contract.results import Check
from agentmixer.export import exporter as exporting
from agentmixer.export.exporter import Exported
from agentmixer.runtime.bundle import read_bundle
from agentmixer.runtime.golden import Golden
from agentmixer.train import run as runs
from agentmixer.train import trainer
from agentmixer.validate import bundle_checks
from agentmixer.validate import mutations as check
from agentmixer.validate.bundle_checks import CHECKS, Context, prepare
from agentmixer.validate.draft import Draft
from agentmixer.validate.mutation_check import mutation_check, not_applicable
from agentmixer.validate.mutations import MutationsReport, mutate
from agentmixer.validate.wrong_bundles import MUTATIONS
from agentmixer.validate.wrong_teams import tampered

BY_NAME = {mutation.name: mutation for mutation in MUTATIONS}

#: What catches each mutation of protoss_5v5 (discrete, masked, recurrent), the way the documentation tells it.
CAUGHT_BY = {
    "columns swapped": "golden replay",
    "normaliser dropped": "golden replay",
    "state zeroed": "golden replay",
    "state frozen": "golden replay",
    "stale logits": "golden replay",
    "mask bit flipped": "golden replay",
    "mask forgotten": "golden replay",
    "logits before the mask": "golden replay",
    "noise ignored": None,
    "noise halved": None,
    "noise after the mask": None,
    "hidden input": "contract",
    "hidden input, declared": "manifests",
    "wider observation": "golden replay",
    "graphs permuted": "golden replay",
    "folders permuted": "manifests",
    "golden of the wrong": "run replay",
    "start dropped": None,
    "scale dropped": None,
    "clamp dropped": None,
}
TAMPERED = {
    "step echo off by one": "stale-frame refusal",
    "episode echo off by one": "stale-frame refusal",
    "stale decision": "deploy-sim parity",
    "another seed": None,  # nothing is drawn
    "observations permuted": "deploy-sim parity",
}


@pytest.fixture(scope="module")
def context(exported: Exported) -> Context:
    return prepare(read_bundle(exported.path))


@pytest.fixture(scope="module")
def boxes(tmp_path_factory: pytest.TempPathFactory) -> Context:
    """Three agents with five real-valued actions in [0, 1], no mask, no memory, a running normaliser."""
    options = {"max_cycles": 10, "continuous_actions": True}
    path = tmp_path_factory.mktemp("spread")
    run = started("pettingzoo", "mpe2.simple_spread_v3:parallel_env", path / "run", options, recurrent_actor=False)
    assert trainer.train(run, quiet())
    return prepare(read_bundle(exporting.export(runs.load(run.path), path / "bundle").path))


@pytest.mark.parametrize("name", BY_NAME)
def test_a_wrong_bundle_is_caught(context: Context, name: str) -> None:
    found = mutate(BY_NAME[name], context)
    assert found.caught_by == CAUGHT_BY[name]
    assert found.status == ("passed" if found.caught_by else "does not apply")


def test_a_wrong_team_is_caught(context: Context) -> None:
    said: list[str] = []
    checks = tampered(context, said.append)
    assert said == [f"wrong team: {found.name}" for found in checks]
    caught = {found.name: found.caught_by for found in checks}
    assert caught["stale decision"] in ("deploy-sim parity", "host")  # the host notices if it is masked by then
    assert caught | {"stale decision": "deploy-sim parity"} == TAMPERED
    assert {found.name for found in checks if found.status != "passed"} == {"another seed"}


def test_wrong_bundles_with_real_valued_actions_are_caught(boxes: Context) -> None:
    checks = {name: mutate(mutation, boxes) for name, mutation in BY_NAME.items()}
    caught = {name for name, found in checks.items() if found.passed}
    without = {name for name in BY_NAME if "state" in name or "mask" in name or "noise" in name} | {
        "stale logits",
        "start dropped",
        "clamp dropped",
    }
    assert caught == set(BY_NAME) - without
    assert {found.status for found in checks.values()} == {"passed", "does not apply"}
    assert checks["scale dropped"].caught_by == "golden replay"
    # Two agents that see alike: only the run knows whose graph is whose.
    assert checks["folders permuted"].caught_by in {"manifests", "run replay"}
    assert checks["clamp dropped"].sentence == "the graph computes the same on all golden steps and 256 others"


def test_nothing_is_caught_where_nothing_is_wrong(context: Context, tmp_path: Path) -> None:
    Draft(context.bundle).write(tmp_path)
    for judge in CHECKS.values():
        judge(tmp_path, context)
    model = next(iter(context.bundle.agents.values())).model
    again = (tmp_path / "agents" / "agent_0" / "policy.onnx").read_bytes()
    assert again == model


def test_without_its_check_a_mutation_survives(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    left = {name: check for name, check in CHECKS.items() if name not in ("golden replay", "run replay")}
    monkeypatch.setattr(bundle_checks, "CHECKS", left)  # a deleted item would come back as the last one
    assert mutate(BY_NAME["columns swapped"], context).status == "failed"
    assert mutate(BY_NAME["hidden input"], context).passed


def both(context: Context, name: str) -> tuple[ReferenceEvaluator, ReferenceEvaluator, Golden]:
    """The original and the mutant in onnx's own evaluator, and the original's golden trace."""
    draft = Draft(context.bundle)
    golden = draft.golden()
    original = ReferenceEvaluator(onnx.load_from_string(context.bundle.agents[draft.name].model))
    BY_NAME[name].make(draft)
    return original, ReferenceEvaluator(draft.models[draft.name]), golden


def feed(golden: Golden, **changed: np.ndarray) -> dict[str, np.ndarray]:
    return {"obs": golden.obs, "action_mask": golden.action_mask, "state_in": golden.state_out, **changed}


def test_mutants_are_what_they_claim(context: Context) -> None:
    names = ["action", "logits", "state_out"]
    original, mutant, golden = both(context, "state zeroed")
    zeros = np.zeros_like(golden.state_out)
    for ours, theirs in zip(
        mutant.run(names, feed(golden)), original.run(names, feed(golden, state_in=zeros)), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)

    _, mutant, golden = both(context, "state frozen")
    np.testing.assert_array_equal(mutant.run(["state_out"], feed(golden))[0], golden.state_out)

    original, mutant, golden = both(context, "mask bit flipped")
    flipped = golden.action_mask.copy()
    bit = int(flipped.sum(0).argmax())
    flipped[:, bit] ^= True
    np.testing.assert_array_equal(
        mutant.run(["logits"], feed(golden))[0], original.run(["logits"], feed(golden, action_mask=flipped))[0]
    )

    original, mutant, golden = both(context, "columns swapped")
    draft = Draft(context.bundle)
    BY_NAME["columns swapped"].make(draft)
    swap = next(numpy_helper.to_array(t) for t in draft.graph.initializer if t.name == "swap")
    order = swap.argmax(0)
    assert (order != np.arange(order.size)).sum() == 2
    np.testing.assert_array_equal(
        mutant.run(["logits"], feed(golden))[0],
        original.run(["logits"], feed(golden, obs=np.ascontiguousarray(golden.obs[:, order])))[0],
    )


def test_the_scale_really_is_dropped(boxes: Context) -> None:
    _, mutant, golden = both(boxes, "scale dropped")
    action, mean = mutant.run(["action", "mean"], {"obs": golden.obs})
    np.testing.assert_array_equal(action, mean.clip(0, 1))


def test_a_team_without_memory_and_mask_says_so(boxes: Context) -> None:
    for name, reason in (("state zeroed", "no memory"), ("mask forgotten", "no mask")):
        found = mutate(BY_NAME[name], boxes)
        assert (found.status, found.sentence) == ("does not apply", reason)


CAUGHT = mutation_check("columns swapped", "two columns", ("golden replay", "departs at step 0"))
SURVIVED = mutation_check("state frozen", "", None)
FINE = Check(name="nothing wrong", status="passed", control=True)


def report(*checks: Check, control: Check = FINE) -> MutationsReport:
    return MutationsReport(bundle="x", checks=(control, *checks))


def test_the_verdict() -> None:
    assert report(CAUGHT).passed
    assert not report(CAUGHT, control=Check(name="nothing wrong", status="failed", control=True)).passed
    assert not report(CAUGHT, SURVIVED).passed
    assert not report(not_applicable("a", "b", "c")).passed


def test_the_command(exported: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    for mutation, code in ((CAUGHT, 0), (SURVIVED, 1)):
        result = report(CAUGHT, mutation)
        monkeypatch.setattr(check, "mutations", lambda *_, result=result, **__: result)
        shown = CliRunner().invoke(app, ["mutations", str(exported.path)])
        assert shown.exit_code == code
        assert f"{2 - code} caught, {code} survived" in shown.output
        assert f"verdict: {'FAIL: ' if code else 'PASS'}" in shown.output
        printed = CliRunner().invoke(app, ["mutations", str(exported.path), "--json"])
        assert json.loads(printed.stdout) == json.loads(
            max((exported.path / "reports").glob("mutations*.json"), key=os.path.getmtime).read_text()
        )
