"""`agentmixer verify` as someone types it who has been given a bundle."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from commands import agentmixer

from agentmixer.export.exporter import Exported
from agentmixer.runtime.sandbox import probe


def test_the_newest_bundle_is_verified_and_a_changed_one_fails(exported: Exported, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(exported.path, tmp_path / "bundles" / "mine"))
    good = agentmixer("verify", cwd=tmp_path)
    assert good.returncode == 0, good.stdout + good.stderr
    lines = good.stdout.splitlines()
    assert lines[0] == "bundles/mine"
    assert lines[-1] == "verdict: PASS"
    assert all(line.startswith("ok ") for line in lines[1:-2])
    assert lines[-2] == f"checked by a process whose isolation was {'full' if all(probe()) else 'partial'}"

    (bundle / "agents/agent_2/policy.onnx").write_bytes(b"")
    bad = agentmixer("verify", bundle, cwd=tmp_path)
    assert bad.returncode == 1
    assert "FAILED   agent_2  digests" in bad.stdout
    assert "not run  agent_2  session" in bad.stdout
    assert re.search(r"^ok       agent_3  read, .*golden$", bad.stdout, re.M)
    assert "\nverdict: FAIL: digests, agent_2: " in bad.stdout

    told = agentmixer("verify", bundle / "agents/agent_2", "--json", cwd=tmp_path)
    assert told.returncode == 1
    report = json.loads(told.stdout)
    assert list(report)[:3] == ["passed", "agentmixer", "bundle"]
    assert report["passed"] is False
    assert {c["name"] for c in report["checks"] if c["status"] == "failed"} == {"digests"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "no bundle found under bundles/; export one first: agentmixer export --per-agent onnx"),
        (["."], ". is nothing to verify (it holds neither team.json nor agent.json)"),
        (["nowhere"], "nowhere is nothing to verify"),
    ],
)
def test_nothing_to_verify_is_one_sentence_and_exit_2(arguments: list[str], words: str, tmp_path: Path) -> None:
    result = agentmixer("verify", *arguments, cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr.startswith(f"error: {words}")
    assert len(result.stderr.splitlines()) == 1


def test_help_shows_a_working_example(tmp_path: Path) -> None:
    assert "Example: agentmixer verify" in agentmixer("verify", "--help", cwd=tmp_path).stdout
