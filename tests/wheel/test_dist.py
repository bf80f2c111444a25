"""What `make dist` leaves, used as strangers use it: in environments that hold nothing else. Run by `make dist-check`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import agentmixer

ROOT = Path(__file__).parents[2]
WHEEL = ROOT / "dist" / f"agentmixer-{agentmixer.__version__}-py3-none-any.whl"
SOURCE = ROOT / "dist" / f"agentmixer-{agentmixer.__version__}.tar.gz"
CUT = ("--steps=512", *(f"--set={setting}" for setting in (
    "num_envs=8", "rollout_length=16", "minibatches=2", "chunk_length=4", "hidden=16", "eval_episodes=4", "final_episodes=4",
)))  # fmt: skip

pytestmark = pytest.mark.dist


def run(*command: object, cwd: Path) -> str:
    """Run it as from a shell that knows nothing of this working copy. Returns what it printed; fails unless it exits 0."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    done = subprocess.run([*map(str, command)], cwd=cwd, env=environment, capture_output=True, text=True, timeout=3600)
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}"
    return done.stdout


def environment(place: Path, extra: str) -> Path:
    """An environment of its own with the wheel in it. Returns its folder of programs."""
    run(sys.executable, "-m", "venv", place, cwd=place.parent)
    constraints = ROOT / "constraints.txt"
    run(place / "bin" / "pip", "install", "--quiet", "-c", constraints, f"{WHEEL}{extra}", cwd=place.parent)
    return place / "bin"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("dist")


@pytest.fixture(scope="module")
def bundle(folder: Path) -> Path:
    """The three commands, in an environment with the extra `train`. The environment is removed: it is large."""
    programs = environment(folder / "training", "[train]")
    work = folder / "work"
    work.mkdir()
    run(programs / "agentmixer", "train", "smacv2", "protoss_5v5", *CUT, cwd=work)
    run(programs / "agentmixer", "export", "--per-agent", "onnx", cwd=work)
    said = run(programs / "agentmixer", "deploy-sim", "--episodes=2", "--deadline-ms=10000", cwd=work)
    assert said.splitlines()[-1] == "verdict: PASS"
    shutil.rmtree(folder / "training")
    (found,) = (work / "bundles").iterdir()
    return found


def test_all_files_of_the_package_are_in_the_wheel() -> None:
    """Not only Python: what a page is made of too."""
    tracked = subprocess.check_output(["git", "ls-files", "agentmixer", "cli/agentmixer_cli"], cwd=ROOT, text=True)
    wheel = set(zipfile.ZipFile(WHEEL).namelist())
    assert {name.removeprefix("cli/") for name in tracked.split()} <= wheel
    assert {name.partition("/")[0] for name in wheel} == {
        "agentmixer", "agentmixer_cli", f"agentmixer-{agentmixer.__version__}.dist-info"
    }  # fmt: skip


def test_the_source_archive_holds_what_git_does() -> None:
    tracked = subprocess.check_output(["git", "ls-files"], cwd=ROOT, text=True).split()
    with tarfile.open(SOURCE) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    assert {name for name in tracked if not name.startswith(".")} <= held


def test_the_three_commands_run_with_the_extra_train(bundle: Path) -> None:
    assert (bundle / "team.json").is_file()


def test_the_base_install_verifies_and_acts(folder: Path, bundle: Path) -> None:
    """And it has nothing that only training needs."""
    programs = environment(folder / "device", "")
    assert "verdict: PASS" in run(programs / "agentmixer", "verify", bundle, cwd=folder)
    agent = bundle / "agents" / "agent_0"
    assert "verdict: PASS" in run(programs / "agentmixer", "verify", agent, cwd=folder)
    program = f"""
import importlib.util
import numpy as np
from agentmixer.runtime import Agent

agent = Agent.load({str(agent)!r})
agent.reset()
size, actions = (agent.manifest.tensor(name).shape[0] for name in ("obs", "action_mask"))
mask = np.zeros(actions, bool)
mask[1] = True
print(agent.act(np.zeros(size, np.float32), mask))
assert not [name for name in ("torch", "jax", "onnx", "scipy", "pettingzoo") if importlib.util.find_spec(name)]
"""
    assert run(programs / "python", "-c", program, cwd=folder).strip() == "1"


def test_one_archive_installs_on_a_device_without_a_network(bundle: Path, folder: Path) -> None:
    """pip is told to use no index; nothing else of the installation could reach a network."""
    programs, place = environment(folder / "packing", ""), folder / "offline"
    place.mkdir()
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    agent = bundle / "agents" / "agent_0"
    run(
        programs / "agentmixer",
        "pack",
        agent,
        "--python",
        python,
        "--wheel",
        WHEEL,
        "--out",
        "packed.tar.gz",
        cwd=place,
    )
    run("tar", "xzf", "packed.tar.gz", cwd=place)
    said = run("env", f"PYTHON={sys.executable}", "sh", "agent_0-device/install.sh", place / "opt", cwd=place)
    assert "verdict: PASS" in said
    words = ("--control", "golden", "--steps", 3, "--rate-hz", 100)
    assert run(place / "opt" / "bin" / "agentmixer", "agent", place / "opt" / "agent_0", *words, cwd=place).startswith(
        "applied"
    )
    unit = (place / "opt" / "agent_0.service").read_text()
    assert f"ExecStart={place}/opt/bin/agentmixer agent {place}/opt/agent_0 $AGENTMIXER_ARGUMENTS" in unit
