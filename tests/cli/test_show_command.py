"""`agentmixer show` as an engineer types it who has been given a bundle for a device."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from math import prod
from pathlib import Path

import onnx
import onnxruntime
import pytest
from commands import ON_A_DEVICE, agentmixer
from counting_bundle import counting_bundle
from hostile import reseal
from made_bundle import made_bundle
from strange import rewritten

from agentmixer.export.exporter import Exported
from agentmixer.runtime import signature

EVIL = "\x1b[2J\u202e[bold]x[/bold]:bug:\nnext"


def lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.splitlines()]


def test_the_newest_bundle_is_shown_in_80_columns(tmp_path: Path) -> None:
    bundle = made_bundle(tmp_path / "bundles" / "mine", ("a", "b" * 64), obs=12, actions=4)
    result = agentmixer("show", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    shown = lines(result.stdout)
    assert max(map(len, shown)) <= 80
    size = (bundle / "agents/a/policy.onnx").stat().st_size
    for line in (
        "bundles/mine",
        "team         made, release 1",
        "task         none, scenario none",
        "rate         5 Hz: one decision every 0.2 s",
        "run          none, seed 0, step 0",
        f"             {'0' * 64}",
        "signature    unsigned",
        "a, " + "b" * 64,
        "input        obs float32 [12], raw, in the task's units",
        "input        action_mask bool [4], True: legal",
        "output       action int64 [], number of the action",
        "output       logits float32 [4], without a unit",
        "memory       none",
        "actions      discrete, 0 to 3",
        "fallback     action 0",
        "operators    MatMul 2, Tanh 1, Where 1, ArgMax 1",
    ):
        assert line in shown, line
    # 12 * 8 + 8 * 4 weights and one constant; 8 + 8 + 4 + 4 + 1 elements; a long name takes several lines
    rows = [line.split()[1:] for line in shown if " 129 " in line]
    assert rows == [[index, f"{size:,}", "B", "129", "128", "25", "no"] for index in "01"]
    assert "0 x0" in result.stdout and "11 x11" in result.stdout


def test_bounds_memory_and_fallback_of_real_valued_actions(tmp_path: Path) -> None:
    counting_bundle(tmp_path / "bundle", ("a",))
    shown = lines(agentmixer("show", "bundle", cwd=tmp_path).stdout)
    assert "memory       1 float32; zeros when an episode starts" in shown
    assert "mask         none: every action is legal" in shown
    assert "actions      3 real-valued, each from -1 to 1e+06" in shown
    assert "fallback     -1, -1, -1" in shown
    assert "output       mean float32 [3], in units of half the action range, before" in shown
    bounds = {"type": "box", "low": [-1.0, -2.0, -1.0], "high": [1e6, 0.5, 1e6]}
    rewritten(tmp_path / "bundle", "agents/a/agent.json", lambda tree: tree.update(action_space=bounds))
    rewritten(tmp_path / "bundle", "team.json", lambda tree: tree["task"].update(action_spaces=[bounds]))
    reseal(tmp_path / "bundle")
    text = agentmixer("show", "bundle", cwd=tmp_path).stdout
    assert "[1] from -2 to 0.5" in text and "[2] from -1 to 1e+06" in text


def test_agents_that_differ_are_shown_apart(tmp_path: Path) -> None:
    bundle = counting_bundle(tmp_path / "bundle", ("a", "b", "c")).path
    assert "a, b, c" in lines(agentmixer("show", bundle, cwd=tmp_path).stdout)
    rewritten(bundle, "agents/b/agent.json", lambda tree: tree["inputs"][0].update(elements=["episode", "other"]))
    rewritten(bundle, "team.json", lambda tree: tree["task"]["obs_names"].__setitem__(1, ["episode", "other"]))
    reseal(bundle)
    text = agentmixer("show", bundle, cwd=tmp_path).stdout
    assert "a, c" in lines(text) and "b" in lines(text)
    assert text.count("elements of obs") == 2 and text.count("1 other") == 1


def test_figures_of_a_trained_agent_are_those_of_its_files(exported: Exported, tmp_path: Path) -> None:
    folder = exported.path / "agents" / "agent_2"
    manifest = json.loads((folder / "agent.json").read_text())
    result = agentmixer("show", folder, "--json", cwd=tmp_path)
    sheet = json.loads(result.stdout)
    graph = onnx.load(folder / "policy.onnx").graph
    (agent,) = sheet["agents"]
    for name in ("team_id", "release", "task", "scenario", "control_period_s", "source"):
        assert sheet[name] == manifest[name]
    assert sheet["rate_hz"] == 1 / manifest["control_period_s"]
    for name in (
        "agent",
        "index",
        "inputs",
        "outputs",
        "mask_rule",
        "action_space",
        "fallback_action",
        "multiply_adds",
    ):
        assert agent[name] == manifest[name]
    assert agent["memory"] == manifest["state"]["size"] == 16
    assert agent["operators"] == dict(Counter(node.op_type for node in graph.node))
    assert agent["parameters"] == sum(prod(tensor.dims) for tensor in graph.initializer)
    assert agent["model_bytes"] == (folder / "policy.onnx").stat().st_size
    assert (sheet["signature"], agent["signed"]) == ("unsigned", False)
    whole = json.loads(agentmixer("show", exported.path, "--json", cwd=tmp_path).stdout)
    assert [entry["agent"] for entry in whole["agents"]] == [f"agent_{i}" for i in range(5)]
    assert whole["agents"][2] == agent


def test_signatures_are_told_and_judged_where_a_key_is_given(tmp_path: Path) -> None:
    bundle = made_bundle(tmp_path / "bundle")
    mark = signature.generate(tmp_path / "key")
    refused = agentmixer("show", "bundle", "--trusted", "key.pub", cwd=tmp_path)
    assert refused.returncode == 2 and "team.json is not signed" in refused.stderr
    signature.sign(bundle, signature.private_key(tmp_path / "key"))
    unchecked = json.loads(agentmixer("show", "bundle", "--json", cwd=tmp_path).stdout)
    assert unchecked["signature"] == "signed, not checked: no --trusted key given"
    assert [agent["signed"] for agent in unchecked["agents"]] == [True, True]
    for place in ("bundle", "bundle/agents/b"):
        checked = agentmixer("show", place, "--trusted", "key.pub", "--json", cwd=tmp_path)
        assert json.loads(checked.stdout)["signature"] == f"signed by {mark}"
    (bundle / "agents/a/agent.sig").unlink()
    text = agentmixer("show", "bundle", cwd=tmp_path).stdout
    assert [line.split()[-1] for line in lines(text) if line.startswith(("a  ", "b  "))] == ["no", "yes"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "no bundle found under bundles/; export one first: agentmixer export --per-agent onnx"),
        (["."], ". is nothing to show (it holds neither team.json nor agent.json)"),
        (["nowhere"], "nowhere is nothing to show"),
        (["damaged"], "damaged/agents/a/policy.onnx is not what was exported"),
        (["damaged/agents/a"], "damaged/agents/a/policy.onnx is not what was exported"),
        (["foreign/agents/a"], "agent a: the model"),
        (["foreign"], "agent a: the model"),
    ],
)
def test_what_cannot_be_shown_is_one_sentence_and_exit_2(arguments: list[str], words: str, tmp_path: Path) -> None:
    """damaged: another model than its digest says; foreign: the digests agree, but it holds what export never writes."""
    for name in ("damaged", "foreign"):
        bundle = made_bundle(tmp_path / name)
        model = onnx.load(bundle / "agents/a/policy.onnx")
        model.graph.node[1].op_type = "Sin"
        (bundle / "agents/a/policy.onnx").write_bytes(model.SerializeToString(deterministic=True))
    reseal(tmp_path / "foreign")
    result = agentmixer("show", *arguments, cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr.startswith(f"error: {words}")
    assert len(result.stderr.splitlines()) == 1 and not result.stdout


def test_words_of_a_stranger_are_text(tmp_path: Path) -> None:
    bundle = made_bundle(tmp_path / "bundle", ("a",))
    for file in ("team.json", "agents/a/agent.json"):
        rewritten(bundle, file, lambda tree: tree["source"].update(run=EVIL, preset=EVIL, checkpoint=EVIL))
    names = [EVIL * 20, *"bcdef"]
    rewritten(bundle, "agents/a/agent.json", lambda tree: tree["inputs"][0].update(elements=names))
    rewritten(bundle, "agents/a/agent.json", lambda tree: tree.update(scenario=EVIL))
    rewritten(bundle, "team.json", lambda tree: tree["task"].update(scenario=EVIL, obs_names=[names]))
    reseal(bundle)
    text = agentmixer("show", "bundle", cwd=tmp_path).stdout
    assert all(letter.isprintable() or letter == "\n" for letter in text)
    assert max(map(len, lines(text))) <= 80
    assert r"\x1b[2J" in text and "[bold]x[/bold]:bug:" in text
    told = agentmixer("show", "bundle", "--json", cwd=tmp_path).stdout
    assert told.isascii() and json.loads(told)["scenario"] == EVIL


def test_no_session_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made_bundle(tmp_path / "bundle")
    monkeypatch.setattr(onnxruntime, "InferenceSession", None)
    assert agentmixer("show", "bundle", cwd=tmp_path).returncode == 0


def test_the_base_install_is_enough(tmp_path: Path) -> None:
    made_bundle(tmp_path / "bundle")
    result = subprocess.run(
        [sys.executable, "-c", ON_A_DEVICE, "show", "bundle"], capture_output=True, text=True, cwd=tmp_path
    )
    assert result.returncode == 0, result.stderr
    assert "operators    MatMul 2" in result.stdout


def test_help_shows_a_working_example(tmp_path: Path) -> None:
    assert "Example: agentmixer show" in agentmixer("show", "--help", cwd=tmp_path).stdout
