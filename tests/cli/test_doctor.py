"""`agentmixer doctor`: what this machine has, what is missing, and what mends it."""

from __future__ import annotations

import json
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from agentmixer_cli import doctor
from commands import ON_A_DEVICE, agentmixer

from agentmixer.missing import Problem
from agentmixer.runtime import sandbox
from agentmixer.tasks import registry
from agentmixer.tasks.smacv2 import sc2_install

TINY = (
    "num_envs=8",
    "rollout_length=16",
    "minibatches=2",
    "epochs=2",
    "chunk_length=4",
    "hidden=16",
    "eval_episodes=8",
    "final_episodes=8",
)


def told(cwd: Path) -> dict[str, Any]:
    """What `doctor --json` says, by name."""
    done = agentmixer("doctor", "--json", cwd=cwd)
    assert done.returncode == 0, done.stderr
    return {finding["name"]: finding for finding in json.loads(done.stdout)}


def test_every_task_backend_and_feature_is_told_of(tmp_path: Path) -> None:
    findings = told(tmp_path)
    backends = {f"task {task}, backend {name}" for task in registry.names() for name in registry.family(task).backends}
    features = {
        "Python", "run agents on a device", "train", "export", "tensorboard", "sign, and check signatures", "sandbox",
        "--device cuda", "--workers ray", "pages and plots",
    }  # fmt: skip
    assert set(findings) == backends | features
    # The tests run where these are installed.
    for name in ("Python", "train", "export", "run agents on a device", "task smacv2, backend smax"):
        assert findings[name]["ok"] and findings[name]["missing"] == [], name
    assert f"torch {doctor.version('torch')}" in findings["train"]["about"]


def test_the_report_says_what_json_says_in_80_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SC2PATH", str(tmp_path))
    done = agentmixer("doctor", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    # A word that is longer than a line stays whole, for it may be an address or a path.
    assert [line for line in lines if len(line) > 80 and len(line.split()[-1]) < 71] == []
    text = " ".join(done.stdout.split())
    for name, finding in told(tmp_path).items():
        if finding["ok"]:
            assert f"ok {name}" in text
        for problem in finding["missing"]:
            assert f"missing {name}: {problem['what']} {problem['way_out']}" in text
    begins = {
        line[:9] for line in lines if " " in line.rstrip()
    }  # a path longer than a line stands in a line of its own
    assert begins == {"ok       ", "missing  ", "         "}


@pytest.mark.parametrize("columns", [80, 200])
def test_a_line_has_80_columns(columns: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = Problem("too little", " ".join(["yy", *"y" * 99]))  # lines of even and of odd length
    monkeypatch.setattr("agentmixer.tasks.matrix.backend_problems", lambda backend: [problem])
    shown = agentmixer("doctor", cwd=tmp_path, columns=columns).stdout.splitlines()
    assert max(len(line) for line in shown if " y y" in line) == 80
    assert sum(line.count("y") for line in shown if " y y" in line) == 101


def test_what_make_sc2_installs_can_be_copied_as_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sc2_install, "PACKAGES", ("no_such_package",))
    lines = agentmixer("doctor", cwd=tmp_path, columns=80).stdout.splitlines()
    assert "         pip install 'agentmixer[sc2]' && pip install --no-deps pysc2==4.0.0" in lines


def test_a_problem_is_told_with_what_mends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentmixer.tasks.matrix.backend_problems", lambda backend: [Problem("no dice", "buy dice")])
    assert (
        "missing  task matrix, backend jax: no dice\n         buy dice\n" in agentmixer("doctor", cwd=tmp_path).stdout
    )
    assert told(tmp_path)["task matrix, backend jax"]["missing"] == [{"what": "no dice", "way_out": "buy dice"}]


def test_a_task_that_cannot_be_loaded_hides_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(backend: str) -> list[Problem]:
        raise TypeError("it is\nbroken")

    monkeypatch.setattr("agentmixer.tasks.matrix.backend_problems", broken)
    shown = agentmixer("doctor", cwd=tmp_path).stdout
    assert "missing  task matrix: it cannot be loaded: it is broken\n" in shown
    assert "ok       task passage, backend jax\n" in shown


def test_it_runs_with_the_base_install_and_says_what_the_rest_needs(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", ON_A_DEVICE, "doctor"], capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "ok       run agents on a device: numpy " in done.stdout
    assert "missing  task matrix, backend jax: the package jax is not installed\n" in done.stdout
    assert "missing  train: the packages torch, safetensors, scipy are not installed\n" in done.stdout
    assert "         pip install 'agentmixer[train]'\n" in done.stdout
    assert "missing  sign, and check signatures: the package cryptography is not installed\n" in done.stdout
    assert "         pip install 'agentmixer[sign]'\n" in done.stdout


def test_nothing_large_is_imported_to_look(tmp_path: Path) -> None:
    code = (
        "import sys; from agentmixer_cli.app import run; code = run(['doctor', '--json'])\n"
        "large = {'torch', 'jax', 'onnx', 'mujoco', 'gymnasium', 'pettingzoo', 'ray', 'smacv2', 'pysc2'}\n"
        "sys.exit(str(large & set(sys.modules)) if large & set(sys.modules) else code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_broken_base_install_is_told_of_too(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['onnxruntime'] = None; from agentmixer_cli.app import run; sys.exit(run(['doctor']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    for name in ("run agents on a device", "sandbox"):
        assert f"missing  {name}: the package onnxruntime is not installed\n" in done.stdout


@pytest.mark.parametrize(
    ("offered", "missing"),
    [
        (sandbox.Offered(6, True), []),
        (sandbox.Offered(0, True), ["this kernel offers no Landlock"]),
        (sandbox.Offered(0, False), ["this kernel offers no Landlock", "this kernel offers no seccomp"]),
    ],
)
def test_the_sandbox_is_what_the_kernel_offers(
    offered: sandbox.Offered, missing: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox, "probe", lambda: offered)
    found = told(tmp_path)["sandbox"]
    assert [problem["what"] for problem in found["missing"]] == missing
    assert found["ok"] == (not missing)


@pytest.mark.parametrize("address", ["", "ray://head:10001"])
@pytest.mark.parametrize("there", [True, False])
def test_ray_is_a_package_and_a_cluster(
    there: bool, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setitem(sys.modules, "ray", types.ModuleType("ray") if there else None)
    found = told(tmp_path)["--workers ray"]
    missing = [problem["what"] for problem in found["missing"]]
    assert ("the package ray is not installed" in missing) == (not there)
    assert ("RAY_ADDRESS names no cluster" in missing) == (not address)
    assert found["ok"] == (missing == [])
    if found["ok"]:
        assert found["about"].endswith(f", RAY_ADDRESS is {address}")


@pytest.mark.parametrize(
    ("gpus", "built", "missing"),
    [
        (0, True, ["NVIDIA's driver shows no GPU"]),
        (0, False, ["NVIDIA's driver shows no GPU"]),
        (1, False, ["torch is built for the processor alone"]),
        (2, True, []),
    ],
)
def test_cuda_needs_a_gpu_and_a_torch_for_it(
    gpus: int, built: bool, missing: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "_gpus", lambda: gpus)
    monkeypatch.setattr(doctor, "_torch_has_cuda", lambda: built)
    found = told(tmp_path)["--device cuda"]
    assert [problem["what"] for problem in found["missing"]] == missing
    if not missing:
        assert found["about"] == "2 GPUs"


def test_torch_has_cuda_if_it_says_so_itself() -> None:
    assert doctor._torch_has_cuda() == (torch.version.cuda is not None)


def test_tasks_says_whether_the_real_game_can_be_played(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        sc2_install, "problems", lambda: [Problem("no board", "buy one"), Problem("no dice", "buy dice")]
    )
    lines = agentmixer("tasks", "smacv2", cwd=tmp_path).stdout.splitlines()
    assert lines[-3:-1] == ["backend smax: can be used here", "backend sc2: missing: no board; buy one"]
    listed = json.loads(agentmixer("tasks", "smacv2", "--json", cwd=tmp_path).stdout)["smacv2"]
    assert listed["backends"] == ["smax", "sc2"]
    assert listed["missing"] == {"smax": [], "sc2": ["no board; buy one", "no dice; buy dice"]}
    monkeypatch.setattr(sc2_install, "problems", list)
    lines = agentmixer("tasks", "smacv2", cwd=tmp_path).stdout.splitlines()
    assert lines[-3:-1] == ["backend smax: can be used here", "backend sc2: can be used here"]


@pytest.mark.parametrize("there", [True, False])
def test_train_says_in_one_line_that_the_real_game_could_be_played(
    there: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sc2_install, "problems", lambda: [] if there else [Problem("no map", "copy one")])
    monkeypatch.setattr(sc2_install, "found", lambda: "/games/StarCraftII")
    settings = [f"--set={setting}" for setting in TINY]
    done = agentmixer("train", "smacv2", "protoss_5v5", "--steps", "128", *settings, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stdout.splitlines() if "--backend sc2" in line]
    assert said == ["note: StarCraft II is in /games/StarCraftII; --backend sc2 would play the real game"] * there


def test_the_real_game_is_refused_in_one_sentence_where_it_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SC2PATH", str(tmp_path / "nowhere"))
    done = agentmixer("train", "smacv2", "protoss_5v5", "--backend", "sc2", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (2, f"error: backend 'sc2': {sc2_install.problems()[0]}\n")
    assert list(tmp_path.iterdir()) == []
