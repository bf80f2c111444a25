"""Each way a bundle can be wrong fails the check that is named after it, and nothing that needs it is run."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from hostile import attribute, hostile, outside, reseal, spell, use

from agentmixer.errors import AgentMixerError
from agentmixer.export.exporter import Exported
from agentmixer.runtime import agent as agents
from agentmixer.runtime import profile
from agentmixer.runtime.bundle import AGENT_LIMITS, read_agent, read_raw
from agentmixer.runtime.golden import Golden, dump, parse
from agentmixer.runtime.inspection import Header
from agentmixer.runtime.inspector import Inspector
from agentmixer.runtime.profile import Profile
from agentmixer.runtime.verify import verify

PER_AGENT = ["read", "signature", "manifest", "pin", "files", "digests", "profile", "model", "contract", "limits", "locality", "session", "golden"]  # fmt: skip


@pytest.fixture
def copy(exported: Exported, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported.path, tmp_path / "bundle"))


def test_a_bundle_passes_every_check(exported: Exported) -> None:
    report = verify(exported.path)
    assert report.passed, report.checks
    assert [c.name for c in report.checks if c.subject == "team"] == ["read", "signature", "manifest", "pin", "files"]
    for name in exported.parity:
        assert [c.name for c in report.checks if c.subject == name and c.name != "team"] == PER_AGENT
    details = {c.name: c.sentence for c in report.checks if c.subject == "agent_3"}
    assert details["golden"].startswith("256 steps repeated")
    assert details["locality"].endswith("state_out from obs, state_in")
    assert "of 16,777,216 bytes" in details["limits"]


def test_one_agents_folder_passes_alone(copy: Path, tmp_path: Path) -> None:
    (copy / "agents" / "agent_2").rename(tmp_path / "device")
    shutil.rmtree(copy)
    report = verify(tmp_path / "device")
    assert report.passed, report.checks
    assert [c.name for c in report.checks] == PER_AGENT


def test_a_signature_is_asked_for_and_a_team_mate_is_not_taken_for_the_agent(copy: Path, tmp_path: Path) -> None:
    from agentmixer.runtime import signature

    key, other = tmp_path / "key", tmp_path / "other"
    signature.generate(key)
    signature.generate(other)
    public = Path(f"{key}.pub")
    assert not verify(copy, public).passed
    signature.sign(copy, signature.private_key(key))
    report = verify(copy, public)
    assert report.passed, report.checks
    assert all(c.sentence.startswith("signed by ") for c in report.checks if c.name == "signature")
    assert next(c.sentence for c in verify(copy).checks if c.name == "signature").startswith("signed, not checked")
    refused = verify(copy, Path(f"{other}.pub"))
    assert [(c.subject, c.name) for c in refused.checks if c.status == "failed"] == [("team", "signature")]
    device = copy / "agents" / "agent_2"
    assert verify(device, public, "agent_2").passed
    mate = verify(device, public, "agent_1")
    assert [(c.name, c.status) for c in mate.checks if c.status != "not run"] == [
        ("read", "passed"),
        ("signature", "passed"),
        ("manifest", "failed"),
    ]
    with pytest.raises(AgentMixerError, match="--agent is for one agent's folder"):
        verify(copy, public, "agent_2")


def change_model(change: Callable[[onnx.ModelProto], object]) -> Callable[[Path], None]:
    def damage(bundle: Path) -> None:
        file = bundle / "agents/agent_1/policy.onnx"
        model = onnx.load(file)
        change(model)
        file.write_bytes(model.SerializeToString(deterministic=True))
        reseal(bundle)

    return damage


def change_golden(change: Callable[[Golden], Golden]) -> Callable[[Path], None]:
    def damage(bundle: Path) -> None:
        files = read_agent(bundle / "agents/agent_1")
        (bundle / "agents/agent_1/golden.npz").write_bytes(dump(change(parse(files.golden, files.manifest))))
        reseal(bundle)

    return damage


def change_profile(change: Callable[[Profile], Profile]) -> Callable[[Path], None]:
    def damage(bundle: Path) -> None:
        files = read_agent(bundle / "agents/agent_1")
        changed = change(profile.parse(files.profile, files.manifest))
        (bundle / "agents/agent_1/profile.npz").write_bytes(profile.dump(changed))
        reseal(bundle)

    return damage


def change_manifest(change: Callable[[dict[str, object]], object]) -> Callable[[Path], None]:
    def damage(bundle: Path) -> None:
        file = bundle / "agents/agent_1/agent.json"
        manifest = json.loads(file.read_text())
        change(manifest)
        file.write_bytes(spell(manifest))
        reseal(bundle)

    return damage


def nudge(model: onnx.ModelProto) -> None:
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == "head.weight")
    weight.raw_data = (np.frombuffer(weight.raw_data, np.float32) * 1.05).tobytes()


def forget(model: onnx.ModelProto) -> None:
    """The update of the recurrent state starts from zero: state_out = new - update * new."""
    node = next(node for node in model.graph.node if node.op_type == "Sub" and "state_in" in node.input)
    node.op_type = "Neg"
    node.input[:] = [name for name in node.input if name != "state_in"]


def no_gru_state(model: onnx.ModelProto) -> None:
    forget(model)
    for node in model.graph.node:
        if node.op_type == "Gemm" and "state_in" in node.input:
            zero = onnx.helper.make_node("Sub", ["state_in", "state_in"], ["zero"])
            node.input[0] = "zero"
            model.graph.node.insert(list(model.graph.node).index(node), zero)
            return


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


DOWNSTREAM = {
    "manifest": ["team", *PER_AGENT[3:]],
    "team": PER_AGENT[4:],
    "digests": PER_AGENT[6:],
    "profile": ["session", "golden"],
    "model": PER_AGENT[8:],
    "contract": ["session", "golden"],
    "limits": ["session", "golden"],
    "locality": ["session", "golden"],
    "files": [],
    "golden": [],
}


@pytest.mark.parametrize(
    ("damage", "failed", "words"),
    [
        (lambda b: (b / "agents/agent_1/x").touch(), "files", "x is not listed"),
        (lambda b: (b / "agents/agent_1/\x1b[2J").touch(), "files", r"\\x1b\[2J is not listed"),
        (lambda b: flip(b / "agents/agent_1/policy.onnx"), "digests", "its SHA-256 differs"),
        (lambda b: os.link(b / "agents/agent_1/policy.onnx", b / "../second"), "digests", "2 names"),
        (lambda b: flip(b / "agents/agent_1/agent.json"), "manifest", "not a valid manifest|valid"),
        (change_manifest(lambda m: m.update(agent="agent_3")), "team", "its agent differs"),
        (change_manifest(lambda m: m.update(control_period_s=9.0)), "team", "its control period differs"),
        (change_manifest(lambda m: m.pop("depends_on")), "manifest", "depends_on"),
        (change_manifest(lambda m: m["depends_on"].pop("logits")), "locality", "the manifest certifies"),
        (change_manifest(lambda m: m["depends_on"].update(action=["obs"])), "locality", "the manifest certifies"),
        (change_manifest(lambda m: m["inputs"][1].update(dtype="float32")), "contract", "not the manifest's"),
        (change_model(lambda m: (m.graph.initializer.append(outside()), use(m))), "model", "external data"),
        (change_model(lambda m: m.graph.output.reverse()), "contract", "not the manifest's"),
        (change_model(lambda m: setattr(attribute(m.graph.node[-1], "axis"), "i", 0)), "limits", "gives ArgMax operands"),
        (change_model(nudge), "golden", "departs from the trace at step 0 of 256"),
        (change_model(forget), "golden", r"departs from the trace at step \d+ of 256"),
        (change_model(no_gru_state), "golden", r"departs from the trace at step \d+ of 256"),
        (change_golden(lambda g: Golden(*(array[:199] for array in g))), "golden", "199 steps, fewer than 200"),
        (change_golden(lambda g: g._replace(obs=g.obs[:, ::-1])), "golden", "departs from the trace at step 0"),
        (change_golden(lambda g: g._replace(obs=g.obs.astype(np.float64))), "golden", "obs is float64"),
        (change_golden(lambda g: g._replace(action_mask=~g.action_mask | True)), "golden", "departs"),
        (change_golden(lambda g: g._replace(action_mask=np.zeros_like(g.action_mask))), "golden", "no task has"),
        (lambda b: ((b / "agents/agent_1/golden.npz").write_bytes(b"PK"), reseal(b)), "golden", "cannot be used"),
        (lambda b: ((b / "agents/agent_1/profile.npz").write_bytes(b"PK"), reseal(b)), "profile", "cannot be used"),
        (change_profile(lambda p: p._replace(first=p.first[:, ::-1])), "profile", "quantiles fall"),
        (change_profile(lambda p: p._replace(change=p.change - np.inf)), "profile", "not finite"),
        (change_profile(lambda p: p._replace(quantiles=p.quantiles[:-1])), "profile", r"quantiles is float32 \[\d+, 9\]"),
        (change_profile(lambda p: p._replace(partners=p.partners + 10_000)), "profile", "does not exist"),
        (change_profile(lambda p: p._replace(elements=p.elements[::-1])), "profile", "do not rise"),
        (change_profile(lambda p: p._replace(counts=p.counts * 0)), "profile", "less than one step"),
    ],
)  # fmt: skip
def test_what_is_wrong_fails_its_own_check(
    copy: Path, damage: Callable[[Path], object], failed: str, words: str
) -> None:
    damage(copy)
    report = verify(copy)
    assert not report.passed
    status = {(c.subject, c.name): c.status for c in report.checks}
    (only,) = [c for c in report.checks if c.status == "failed"]
    assert (only.subject, only.name) == ("agent_1", failed)
    assert re.search(words, only.sentence), only.sentence
    assert only.sentence.isprintable()
    assert {key for key, value in status.items() if value == "not run"} == {
        ("agent_1", name) for name in DOWNSTREAM[failed]
    }


@pytest.mark.parametrize(
    ("damage", "failed"),
    [
        (lambda b: (b / "run.py").touch(), "files"),
        (lambda b: (b / "agents/x").mkdir(), "files"),
        (lambda b: (b / "team.json").write_text("{"), "manifest"),
        (lambda b: ((b / "agents").rename(b / "../x"), (b / "agents").symlink_to(b / "../x")), "read"),
    ],
)
def test_what_is_wrong_with_the_team_is_said_of_the_team(
    copy: Path, damage: Callable[[Path], object], failed: str
) -> None:
    damage(copy)
    (only,) = [c for c in verify(copy).checks if c.status == "failed"]
    assert (only.subject, only.name) == ("team", failed)


def test_without_a_team_nothing_is_said_of_its_agents(copy: Path) -> None:
    (copy / "team.json").write_text("{}")
    assert [c.status for c in verify(copy).checks][-2:] == ["not run", "not run"]


def test_no_session_is_made_of_a_model_that_failed(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Judged in this process, where it can be seen what becomes a session."""
    made: list[bytes] = []
    real = agents.make_session
    monkeypatch.setattr(agents, "make_session", lambda model: (made.append(model), real(model))[1])
    folder = copy / "agents/agent_1"
    header = Header(False, "agent", str(folder), (), {}, ())

    def passed() -> bool:
        answer = Inspector().judge(header, read_raw(folder, AGENT_LIMITS))
        return all(check.passed for check in answer.checks)

    assert passed()
    assert made == [(folder / "policy.onnx").read_bytes()]
    (folder / "policy.onnx").write_bytes(hostile(made.pop(), "external data")[0])
    reseal(copy)
    made.clear()
    assert not passed()
    assert made == []


def test_a_trace_that_claims_to_be_enormous_costs_no_memory(exported: Exported) -> None:
    files = read_agent(exported.path / "agents" / "agent_1")
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(files.golden)) as old, zipfile.ZipFile(buffer, "w") as new:
        for name in old.namelist():
            with new.open(name, "w") as file:
                data = old.read(name)
                if name == "reset.npy":
                    data = data.replace(b"(256,), }", b"(1<<40,)}").replace(b"(1<<40,)}", b"(2560000000000,)}", 1)
                file.write(data)
    tracemalloc.start()
    with pytest.raises(AgentMixerError, match=r"golden\.npz"):
        parse(buffer.getvalue(), files.manifest)
    assert tracemalloc.get_traced_memory()[1] < 2e6
    tracemalloc.stop()


def test_what_is_neither_bundle_nor_agent_is_said(tmp_path: Path) -> None:
    with pytest.raises(AgentMixerError, match=r"is nothing to verify \(it holds neither team.json nor agent.json\)"):
        verify(tmp_path)


def test_verify_needs_nothing_but_the_base_install(exported: Exported) -> None:
    code = """
import sys
for name in ("torch", "jax", "onnx", "onnxscript", "gymnasium", "scipy", "cryptography"):
    sys.modules[name] = None
from agentmixer_cli.main import main
sys.argv = ["agentmixer", "verify", *sys.argv[1:]]
main()
"""
    command = [sys.executable, "-c", code, str(exported.path / "agents" / "agent_0")]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "verdict: PASS"
