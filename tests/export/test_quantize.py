"""Matrices as int8: rounded as written, the same policy everywhere, and refused where the team is another."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from agentmixer_cli.app import app
from conftest import box_spec, quiet, tiny_algorithm, tiny_spec
from onnx import numpy_helper
from test_every_task import started
from typer.testing import CliRunner

from agentmixer.contract.spec import TaskSpec
from agentmixer.errors import AgentMixerError
from agentmixer.export import quantize as quantizing
from agentmixer.export.exporter import DoesNotHold, Forms, evaluators, export
from agentmixer.export.graph import export_graph
from agentmixer.export.quantize import quantize, scales
from agentmixer.runtime.bundle import read_bundle
from agentmixer.runtime.golden import silence
from agentmixer.runtime.guard import cost
from agentmixer.runtime.onnx_graph import GraphRefused, read_graph
from agentmixer.train import trainer
from agentmixer.train.run import Run
from agentmixer.validate.deploy_sim import deploy_sim


def test_a_matrix_is_rounded_with_one_scale_an_output() -> None:
    """By hand: the greatest weight of an output becomes 127, and the others the nearest multiples of a 127th of it."""
    weight = torch.tensor([[1.27, 0.0], [-0.634, 0.0], [0.0149, 0.0]])  # [in, out]: an output of zeros stays so
    scale = scales(weight, 0)
    torch.testing.assert_close(scale, torch.tensor([[0.01, 1.0]]))
    torch.testing.assert_close((weight / scale).round(), torch.tensor([[127.0, 0.0], [-63.0, 0.0], [1.0, 0.0]]))


@pytest.mark.parametrize(("spec", "shared"), [(tiny_spec(), True), (tiny_spec(), False), (box_spec(), False)])
def test_the_graph_holds_whole_numbers_and_computes_what_the_rounded_actor_does(spec: TaskSpec, shared: bool) -> None:
    team = tiny_algorithm(spec, share_parameters=shared).team
    with torch.no_grad():
        for p in team.actor.parameters():
            torch.nn.init.normal_(p, std=0.5)
    before = team.deployed(1).linears[0].weight.clone()
    quantize(team)
    for index in range(spec.num_agents):
        actor = team.deployed(index)
        model = export_graph(actor, {}, int8=True)
        constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        matrices = {name: array for name, array in constants.items() if array.dtype == np.int8}
        assert set(matrices) == {
            f"{name}.weight" for name in ("linears.0", "linears.1", "gru_input", "gru_hidden", "head")
        }
        assert all(np.abs(matrix).max(1).min() == 127 for matrix in matrices.values())
        obs, state = (
            np.random.randn(5, actor.obs).astype(np.float32),
            np.random.randn(5, actor.memory).astype(np.float32),
        )
        mask = np.ones((5, actor.actions), bool)
        found = {kind: step(obs, mask, state, silence(5)) for kind, step in evaluators(actor, model).items()}
        for kind in ("onnxruntime", "reference"):
            for ours, theirs in zip(found[kind], found["torch"], strict=True):
                np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
    moved = (team.deployed(1).linears[0].weight - before).abs() / before.abs().amax(1, keepdim=True)
    assert 0 < moved.max() <= 0.5001 / 127


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quantizing, "WIN_EPISODES", 16)
        made = started(
            "predator_prey", "5x5", tmp_path_factory.mktemp("quantize") / "run", {}, hidden=16, total_steps=128
        )
        assert trainer.train(made, quiet())
    return made


@pytest.fixture(autouse=True)
def _brief(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantizing, "WIN_EPISODES", 16)
    monkeypatch.setattr(quantizing, "STEPS", 512)


def test_export_judges_and_deploy_sim_finds_the_rounded_actors(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantizing, "AGREEMENT", 0.5)  # a team that has learned nothing is full of near ties
    words = [
        "export",
        str(run.path),
        "--quantize",
        "int8",
        "--per-agent",
        "c",
        "--leapp",
        "--out",
        str(tmp_path / "bundle"),
    ]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert not shutil.which("cc") or "agent predator_0: 256 of 256 golden actions equal" in done.output
    assert "int8: agreement:" in done.output
    told = json.loads((tmp_path / "bundle" / "reports" / "quantization.json").read_text())
    assert told["passed"]
    assert 0.5 <= told["agreement"] <= 1
    bundle = read_bundle(tmp_path / "bundle")
    report = deploy_sim(bundle, 1, run=run, deadline_s=5.0)
    assert report.passed, report.verdict
    assert report.checks[0].name == "parity"


def test_a_team_that_is_another_is_not_exported(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantizing, "GREATEST", 1)  # two bits
    with pytest.raises(DoesNotHold, match=r"does not hold with --quantize int8: agreement: .* 99% is asked"):
        export(run, tmp_path / "bundle", forms=Forms(int8=True))
    assert not (tmp_path / "bundle").exists()
    words = ["export", str(run.path), "--quantize", "int8", "--json", "--out", str(tmp_path / "bundle")]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 1
    assert not json.loads(done.stdout)["passed"]


def test_another_type_is_one_sentence(run: Run) -> None:
    done = CliRunner().invoke(app, ["export", str(run.path), "--quantize", "int7"])
    assert isinstance(done.exception, AgentMixerError)
    assert str(done.exception) == "unknown --quantize 'int7'; did you mean 'int8'?"


def test_whole_numbers_that_do_not_fit_their_scales_are_refused() -> None:
    actor = tiny_algorithm(tiny_spec()).team.deployed(0)
    good = export_graph(actor, {}, int8=True)
    for wrong in ("axis", "length"):
        model = onnx.ModelProto.FromString(good.SerializeToString())
        if wrong == "axis":
            next(node for node in model.graph.node if node.op_type == "DequantizeLinear").attribute[0].i = 1
        else:
            short = next(tensor for tensor in model.graph.initializer if tensor.name.endswith(".scale"))
            short.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(short)[:-1], short.name))
        with pytest.raises(GraphRefused, match="gives DequantizeLinear operands or attributes that it cannot have"):
            cost(read_graph(model.SerializeToString(deterministic=True)))
