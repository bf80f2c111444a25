"""A bundle that is not exactly what was exported is refused, with the file named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hostile import spell

from agentmixer.contract.manifest import TeamManifest, decode, encode
from agentmixer.errors import AgentMixerError
from agentmixer.export.exporter import Exported
from agentmixer.runtime.bundle import newest, read_agent, read_bundle
from agentmixer.runtime.golden import dump, parse


@pytest.fixture
def copy(exported: Exported, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported.path, tmp_path / "bundle"))


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def edit(file: Path, change: Callable[[dict[str, object]], object]) -> None:
    data = json.loads(file.read_text())
    change(data)
    file.write_bytes(spell(data))


def swap(bundle: Path) -> None:
    (bundle / "agents/agent_0").rename(bundle / "agents/x")
    (bundle / "agents/agent_1").rename(bundle / "agents/agent_0")
    (bundle / "agents/x").rename(bundle / "agents/agent_1")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda b: flip(b / "agents/agent_1/policy.onnx"), r"agent_1/policy\.onnx is not what was exported"),
        (lambda b: flip(b / "agents/agent_4/golden.npz"), r"agent_4/golden\.npz is not what was exported"),
        (lambda b: (b / "agents/agent_1/policy.onnx").unlink(), r"agent_1/policy\.onnx is missing"),
        (lambda b: shutil.rmtree(b / "agents/agent_3"), "agent_3 is missing"),
        (lambda b: (b / "team.json").unlink(), "holds no bundle"),
        (lambda b: (b / "agents/agent_0/weights.bin").touch(), r"weights\.bin is not listed"),
        (lambda b: (b / "run.py").touch(), r"run\.py is not listed"),
        (lambda b: (b / "agents/agent_9").mkdir(), "agent_9 is not listed"),
        (
            lambda b: edit(b / "team.json", lambda d: d.update(schema_version=5)),
            "schema version 5, .* reads 4; upgrade",
        ),
        (
            lambda b: edit(b / "team.json", lambda d: d.update(schema_version=0)),
            "schema version 0, .* export the bundle",
        ),
        (lambda b: edit(b / "team.json", lambda d: d.update(hook="os.system")), "not a valid manifest .*hook"),
        (lambda b: edit(b / "team.json", lambda d: d.pop("task")), "not a valid manifest .*task"),
        (lambda b: (b / "team.json").write_text("{"), "not a valid manifest"),
        (
            lambda b: edit(b / "agents/agent_0/agent.json", lambda d: d.update(control_period_s=9.0)),
            "is not what was exported",
        ),
        (swap, "agent_0/agent.json is not what was exported"),
        (lambda b: (b / "team.json").write_bytes(b'{"schema_version": 4, "\xff": 0}'), "not a valid manifest"),
        (lambda b: (b / "team.json").write_text("[" * 200_000), "not a valid manifest"),
        (lambda b: edit(b / "team.json", lambda d: d["tolerances"].update(near_tie=1e300)), "not a valid manifest"),
        (
            lambda b: edit(b / "team.json", lambda d: d["task"].update(fallback_actions=[2] * 5)),
            "its fallback action differs",
        ),
        (lambda b: edit(b / "team.json", lambda d: d["task"].update(scenario="x")), "its task differs"),
        (
            lambda b: edit(b / "team.json", lambda d: d["task"]["obs_names"].pop()),
            "does not say of every agent what it sees",
        ),
        (
            lambda b: edit(b / "team.json", lambda d: d["task"]["agents"].__setitem__(0, "../../outside")),
            "not a valid manifest",
        ),
        (
            lambda b: (
                (b / "agents/agent_0").rename(b.parent / "x"),
                (b / "agents/agent_0").symlink_to(b.parent / "x"),
            ),
            "agent_0 is a link",
        ),
        (
            lambda b: edit(b / "team.json", lambda d: d["agents"]["agent_0"].update(folder="../elsewhere")),
            "outside agents/",
        ),
        (
            lambda b: (
                (b / "agents/agent_0/policy.onnx").rename(b.parent / "x"),
                (b / "agents/agent_0/policy.onnx").symlink_to(b.parent / "x"),
            ),
            "is a link, which is not followed",
        ),
    ],
)
def test_damage_is_named(copy: Path, damage: Callable[[Path], object], words: str) -> None:
    read_bundle(copy)
    damage(copy)
    with pytest.raises(AgentMixerError, match=words):
        read_bundle(copy)


BOX = {"type": "box", "low": [0.0, 0.0], "high": [1.0, 1.0]}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d.update(fallback_action=10), "fallback action that does not exist"),
        (lambda d: d.update(fallback_action=-1), "fallback action that does not exist"),
        (lambda d: d.update(fallback_action="stop"), "not a valid manifest"),
        (lambda d: d["action_space"].update(n=-1), "not a valid manifest"),
        (lambda d: d["state"].update(size=-4), "not a valid manifest"),
        (lambda d: d["inputs"][0].update(elements=["x"]), "does not name every element of obs"),
        (lambda d: d["inputs"].pop(0), "contradicts itself .its inputs"),
        (lambda d: d["outputs"].reverse(), "contradicts itself .its outputs"),
        (lambda d: d.update(mask_rule="none"), "contradicts itself .its inputs"),
        (lambda d: d.update(action_scaling="graph"), "contradicts itself .its action scaling"),
        (lambda d: d["state"].update(size=15), "contradicts itself .its state"),
        (lambda d: d["action_space"].update(n=9), "contradicts itself .its policy"),
        (lambda d: d.update(action_space=BOX, fallback_action=[0.0, 0.0]), "contradicts itself .its outputs"),
        (lambda d: d.update(action_space=BOX | {"high": [1.0]}, fallback_action=[0.0, 0.0]), "does not exist"),
        (lambda d: d.update(action_space=BOX | {"low": [], "high": []}, fallback_action=[]), "does not exist"),
        (lambda d: d.update(action_space=BOX, fallback_action=[0.0, 1.5]), "does not exist"),
        (lambda d: d.update(opset=17), "not a valid manifest"),
        (
            lambda d: d["files"].update({"../x": "0"}),
            "must list policy.onnx, golden.npz, profile.npz, may list leapp.yaml, and of policy.c",
        ),
        (lambda d: d["files"].update({"policy.c": "0", "leapp.yaml": "0"}), "of policy.c, .* all or none"),
    ],
)
def test_a_manifest_that_makes_no_sense_is_refused(copy: Path, change: Callable[..., object], words: str) -> None:
    edit(copy / "agents/agent_0/agent.json", change)
    with pytest.raises(AgentMixerError, match=words):
        read_agent(copy / "agents/agent_0")


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04", b"PK" + bytes(100), b"\x93NUMPY"])
def test_a_golden_trace_that_is_none_is_refused(exported: Exported, data: bytes) -> None:
    manifest = read_agent(exported.path / "agents/agent_0").manifest
    with pytest.raises(AgentMixerError, match=r"golden\.npz cannot be used"):
        parse(data, manifest)


def test_a_golden_trace_with_actions_that_its_policy_does_not_give_is_refused(exported: Exported) -> None:
    """Every replay would be nearly tied with such a trace, and nothing of it would be compared."""
    files = read_bundle(exported.path).agents["agent_0"]
    golden = parse(files.golden, files.manifest)
    legal = golden.action_mask.copy()
    legal[np.arange(len(legal)), golden.action] = False
    other = np.where(legal.any(1), legal.argmax(1), golden.action)
    assert (other != golden.action).any()
    with pytest.raises(AgentMixerError, match="actions that its own logits or means do not give"):
        parse(dump(golden._replace(action=other)), files.manifest)


def test_reports_may_lie_in_a_bundle(copy: Path) -> None:
    (copy / "reports").mkdir(exist_ok=True)
    (copy / "reports" / "deploy_sim.json").write_text("{}")
    read_bundle(copy)


def test_one_agents_folder_is_enough_for_its_device(copy: Path, tmp_path: Path) -> None:
    alone = copy / "agents" / "agent_1"
    alone.rename(tmp_path / "device")
    shutil.rmtree(copy)
    assert read_agent(tmp_path / "device").manifest.agent == "agent_1"


def test_the_manifest_survives_a_round_trip(exported: Exported) -> None:
    file = exported.path / "team.json"
    assert encode(decode(file.read_bytes(), TeamManifest, file)) == file.read_bytes()


def test_the_newest_bundle_is_found_and_its_absence_said(copy: Path) -> None:
    assert newest(copy.parent) == copy
    with pytest.raises(AgentMixerError, match="agentmixer export --per-agent onnx"):
        newest(copy.parent / "nowhere")
