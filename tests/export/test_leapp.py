"""Agents described for LEAPP: leapp.yaml says what the graph is, and LEAPP's own runtime decides as the trace does."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from agentmixer_cli.app import app
from conftest import make_run, quiet
from msgspec.structs import replace
from traced_agents import KINDS, Traced, traced
from typer.testing import CliRunner

from agentmixer.contract.manifest import (
    AGENT_FILE,
    LEAPP_FILE,
    MODEL_FILE,
    AgentManifest,
    Tolerances,
    decode,
    encode,
    sha256,
)
from agentmixer.errors import AgentMixerError
from agentmixer.export.exporter import Exported
from agentmixer.runtime import golden, leapp
from agentmixer.runtime.bundle import read_agent
from agentmixer.runtime.verify import verify
from agentmixer.train import trainer


def agent_of(kind: str) -> Traced:
    spec, index, settings = KINDS[kind]
    return traced(spec, index, **settings)


def described(agent: Traced) -> Any:
    return yaml.safe_load(leapp.description(agent.model, agent.manifest))


@pytest.mark.parametrize("kind", KINDS)
def test_the_file_says_what_the_graph_is(kind: str) -> None:
    agent = agent_of(kind)
    told = described(agent)
    assert list(told) == ["models", "pipeline", "system information"]
    policy, pipeline, state = told["models"]["policy"], told["pipeline"], agent.manifest.state
    assert policy["parameters"] == {
        "model_path": MODEL_FILE,
        "md5sum": hashlib.md5(agent.model).hexdigest(),
        "sha256sum": sha256(agent.model),
        "backend": "onnx",
        "opset_version": 18,
    }
    for told_of, tensors in ((policy["inputs"], agent.manifest.inputs), (policy["outputs"], agent.manifest.outputs)):
        assert [(one["name"], one["dtype"], one["shape"]) for one in told_of] == [
            (tensor.name, tensor.dtype, [1, *tensor.shape]) for tensor in tensors
        ]
    assert policy["inputs"][0]["element_names"] == [list(agent.manifest.tensor("obs").elements)]
    assert pipeline["feedback_flow"] == ({"policy/state_out": ["policy/state_in"]} if state else {})
    masked, drawn = agent.manifest.mask_rule == "forbid", agent.manifest.noise > 0
    assert pipeline["inputs"] == {"policy": ["obs"] + ["action_mask"] * masked + ["noise"] * drawn}
    assert pipeline["outputs"] == {"policy": ["action", agent.manifest.policy]}
    assert pipeline["configs"] == {"frequency": pytest.approx(1 / agent.manifest.control_period_s)}


def test_names_and_rates_of_any_spelling_are_read_as_they_are() -> None:
    agent = agent_of("masked, no memory")
    names = tuple(f"{name}{i}" for i, name in enumerate(['"', "\\", "\n", "\x7f\x85", "é", "😀", ": #", "", "yes"]))
    obs = replace(agent.manifest.inputs[0], elements=names, shape=(len(names),))
    actions = ("no", "1", "~", "{")
    for period in (1e-4, 0.02, 1 / 3, 1e6):
        manifest = replace(
            agent.manifest, inputs=(obs, agent.manifest.inputs[1]), action_names=actions, control_period_s=period
        )
        told = described(agent._replace(manifest=manifest))
        given, returned = told["models"]["policy"]["inputs"], told["models"]["policy"]["outputs"]
        assert given[0]["element_names"] == [list(names)]
        assert given[1]["element_names"] == returned[1]["element_names"] == [list(actions)]
        assert "element_names" not in returned[0]  # one number, which counts actions
        assert told["pipeline"]["configs"]["frequency"] == 1 / period


def test_names_of_an_actions_elements_stand_with_the_action() -> None:
    for kind, policy in (("real-valued, moments", True), ("two elements", False)):
        agent = agent_of(kind)
        names = tuple(f"joint_{i}" for i in range(agent.manifest.action_space.size))
        action, scores, *_ = described(agent._replace(manifest=replace(agent.manifest, action_names=names)))["models"][
            "policy"
        ]["outputs"]
        assert action["element_names"] == [list(names)]
        assert ("element_names" in scores) == policy


def test_export_leapp_writes_the_file_and_verify_covers_it(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", hidden=8, total_steps=128)
    assert trainer.train(run, quiet())
    bundle = tmp_path / "bundle"
    done = CliRunner().invoke(app, ["export", str(run.path), "--leapp", "--out", str(bundle)])
    assert done.exit_code == 0, done.output
    for folder in (bundle / "agents").iterdir():
        files = read_agent(folder)
        assert (folder / LEAPP_FILE).read_bytes() == leapp.description(files.model, files.manifest)
    assert verify(bundle).passed

    folder = bundle / "agents" / "agent_0"
    file = folder / LEAPP_FILE
    file.write_text(file.read_text().replace(MODEL_FILE, "other.onnx"))
    failed = [check.sentence for check in verify(bundle).checks if check.status == "failed"]
    assert failed == [f"{file} is not what was exported (its SHA-256 differs); copy or export the bundle again"]
    place = folder / AGENT_FILE
    manifest = decode(place.read_bytes(), AgentManifest, place)
    place.write_bytes(encode(replace(manifest, files=manifest.files | {LEAPP_FILE: sha256(file.read_bytes())})))
    with pytest.raises(AgentMixerError, match=r"leapp\.yaml does not describe this agent"):
        read_agent(folder)
    assert not verify(folder).passed
    file.unlink()
    with pytest.raises(AgentMixerError, match=r"leapp\.yaml is missing"):
        read_agent(folder)

    again = CliRunner().invoke(app, ["export", str(run.path), "--replace", "--out", str(bundle)])
    assert again.exit_code == 0, again.output  # a bundle with leapp.yaml can be replaced, by one without
    assert not file.exists()


def test_a_file_that_the_manifest_does_not_list_is_refused(exported: Exported, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(exported.path / "agents" / "agent_0", tmp_path / "agent_0"))
    (folder / LEAPP_FILE).write_text("models: {}")
    with pytest.raises(AgentMixerError, match=r"leapp\.yaml is not listed in the manifest"):
        read_agent(folder)
    assert not verify(folder).passed


class InLeapp:
    """An agent's folder in LEAPP's own runtime, which keeps the recurrent state itself."""

    def __init__(self, folder: Path, manifest: AgentManifest):
        library = pytest.importorskip("leapp", reason="leapp is not installed: pip install leapp")
        self.manager, self.manifest = library.InferenceManager(str(folder / LEAPP_FILE)), manifest

    def step(self, obs: np.ndarray, mask: np.ndarray, state: np.ndarray, noise: np.ndarray) -> list[np.ndarray]:
        if not state.any():  # an episode starts
            self.manager.reset()
        given = {"policy/obs": obs, "policy/action_mask": mask, "policy/noise": noise}
        # A copy, because `reset` writes zeros into what was given.
        out = self.manager.run_policy({name: torch.from_numpy(given[name].copy()) for name in self.manager.inputs})
        answers = [out[f"policy/{name}"].numpy() for name in ("action", self.manifest.policy)]
        memory = self.manager.value_dict["policy"]["state_in"].numpy() if self.manifest.state else state
        return [array.copy() for array in (*answers, memory)]


@pytest.mark.parametrize("kind", KINDS)
def test_leapp_decides_as_the_trace(kind: str, tmp_path: Path) -> None:
    agent = agent_of(kind)
    (tmp_path / MODEL_FILE).write_bytes(agent.model)
    (tmp_path / LEAPP_FILE).write_bytes(leapp.description(agent.model, agent.manifest))
    loaded, space = InLeapp(tmp_path, agent.manifest), agent.manifest.action_space
    parity = golden.replay(agent.golden, loaded.step, space, Tolerances())
    assert parity.passed and parity.different_actions == parity.near_ties


def test_leapp_refuses_another_graph(tmp_path: Path) -> None:
    agent, other = agent_of("masked, memory"), agent_of("masked, no memory")
    (tmp_path / MODEL_FILE).write_bytes(other.model)
    (tmp_path / LEAPP_FILE).write_bytes(leapp.description(agent.model, agent.manifest))
    with pytest.raises(ValueError, match="SHA256 checksum mismatch"):
        InLeapp(tmp_path, agent.manifest)
