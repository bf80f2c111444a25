"""A bundle or a run from somebody else leads to no code: whatever it names is imported only if the user repeats it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from agentmixer_cli.app import app
from conftest import quiet
from hostile import reseal, spell
from test_every_task import SMALL
from typer.testing import CliRunner

from agentmixer import provenance
from agentmixer.contract.manifest import sha256
from agentmixer.errors import AgentMixerError
from agentmixer.export import exporter as exporting
from agentmixer.export.exporter import Exported
from agentmixer.runtime import signature
from agentmixer.runtime.bundle import read_bundle
from agentmixer.tasks import check
from agentmixer.train import run as runs
from agentmixer.train import trainer
from agentmixer.train.algorithms import AgentMixerPPO
from agentmixer.train.run import Run
from agentmixer.validate.source_run import source_run

ON_BUNDLES = ["deploy-sim", "parity", "locality", "mutations"]


def hostile_run(trained: Run, place: Path, marker: Path) -> Path:
    """A run whose task is os.system: to build it is to run a command."""
    shutil.copytree(trained.path, place)
    config = (place / "config.toml").read_text()
    config = config.replace('task = "smacv2"', 'task = "pettingzoo"').replace('"protoss_5v5"', '"os:system"')
    config = config.replace('backend = "smax"', 'backend = "serial"')
    config = config.replace("[options]", f"[options]\ncommand = {json.dumps(f'touch {marker}')}")
    (place / "config.toml").write_text(config)
    return place


def hostile_bundle(exported: Exported, trained: Run, place: Path, marker: Path) -> Path:
    """A bundle that brings its run along, and says that it lies there."""
    shutil.copytree(exported.path, place)
    run = hostile_run(trained, place / "reports" / "run", marker)
    for name in ("team.json", *(f"agents/{agent}/agent.json" for agent in exported.parity)):
        manifest = json.loads((place / name).read_text())
        manifest["source"] |= {"run": str(run), "config_sha256": sha256((run / "config.toml").read_bytes())}
        (place / name).write_bytes(spell(manifest))
    reseal(place)
    return place


def told(*arguments: object) -> str:
    """What a command that must refuse says."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert isinstance(result.exception, AgentMixerError), result.output
    return str(result.exception)


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    """A file that is there once code of a stranger's choice has run."""
    return tmp_path / "code ran".replace(" ", "_")


@pytest.mark.parametrize("command", ON_BUNDLES)
def test_a_bundle_that_brings_its_run_along_is_not_followed_there(
    command: str, exported: Exported, trained: Run, tmp_path: Path, marker: Path
) -> None:
    bundle = hostile_bundle(exported, trained, tmp_path / "bundle", marker)
    assert "was not exported on this machine" in told(command, bundle)
    assert "--task-code os:system" in told(command, bundle, "--run", bundle / "reports" / "run")
    assert "--task-code os:system" in told(
        command, bundle, "--run", bundle / "reports" / "run", "--task-code", "os:wait"
    )
    assert not marker.exists()


def test_the_attack_works_on_who_repeats_it(exported: Exported, trained: Run, tmp_path: Path, marker: Path) -> None:
    """The control: said out loud, the code is run, so nothing else stood in its way."""
    bundle = hostile_bundle(exported, trained, tmp_path / "bundle", marker)
    told("deploy-sim", bundle, "--run", bundle / "reports" / "run", "--task-code", "os:system")
    assert marker.exists()


def test_a_genuine_bundle_does_not_vouch_for_a_run_that_was_changed(
    exported: Exported, trained: Run, tmp_path: Path, marker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bundle is ours and signed; only the run at the place where it was is another one now."""
    bundle = Path(shutil.copytree(exported.path, tmp_path / "bundle"))
    key = tmp_path / "key"
    signature.generate(key)
    signature.sign(bundle, signature.private_key(key))
    run = hostile_run(trained, tmp_path / "run", marker)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    provenance.remember("bundles", sha256((bundle / "team.json").read_bytes()), run)
    for command in ON_BUNDLES:
        assert "is a run of pettingzoo os:system, and" in told(command, bundle, "--trusted", f"{key}.pub")
    assert not marker.exists()


@pytest.mark.parametrize("command", [["evaluate"], ["export"]])
def test_a_run_from_somebody_else_is_not_built(
    command: list[str], trained: Run, tmp_path: Path, marker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = hostile_run(trained, tmp_path / "runs" / "x", marker)
    for arguments in ([], [run], [run, "--task-code", "os:popen"]):  # the newest, by name, and with other code
        words = told(*command, *arguments)
        assert "was not trained here" in words
        assert f"os:system(command='touch {marker}'" in words
    assert not marker.exists()


def test_an_archive_unpacked_beside_our_own_runs_brings_no_trust_along(
    exported: Exported, trained: Run, tmp_path: Path, marker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stranger may lay any file where runs and bundles are kept, also what our own index would hold."""
    bundle = hostile_bundle(exported, trained, tmp_path / "bundles" / "x", marker)
    run = bundle / "reports" / "run"
    digest = sha256((bundle / "team.json").read_bytes())
    for place in (tmp_path, tmp_path / "runs", tmp_path / "bundles", bundle / "reports"):
        entry = place / "agentmixer" / "bundles" / digest
        entry.parent.mkdir(parents=True)
        entry.write_text(str(run))
    for place in (tmp_path, bundle / "reports"):
        monkeypatch.chdir(place)
        monkeypatch.setenv("XDG_STATE_HOME", ".")  # not absolute: the specification says to ignore it
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        assert "was not exported on this machine" in told("deploy-sim", bundle)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert "--task-code" in told("evaluate", run)
    (tmp_path / "agentmixer").chmod(0o777)  # where everybody may write, nothing is ours
    assert "was not exported on this machine" in told("deploy-sim", bundle)
    assert not marker.exists()


def test_what_was_made_here_needs_no_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The three commands after one another, for a task whose scenario names code; moved away, both want to be told."""
    monkeypatch.chdir(tmp_path)
    backend, options = check("pettingzoo", "mpe2.simple_spread_v3:parallel_env", "serial", {"max_cycles": 5})
    config = AgentMixerPPO.configure().replace(SMALL)
    run = runs.create(
        "pettingzoo", "mpe2.simple_spread_v3:parallel_env", backend, "agentmixer_ppo", "default", 0, "cpu", options,
        config, tmp_path / "run",
    )  # fmt: skip
    assert trainer.train(run, quiet())
    again = runs.load(run.path)
    again.make_task(1).close()
    made = exporting.export(again, tmp_path / "bundle")
    assert made.remembered
    found = source_run(read_bundle(made.path))
    found.make_task(1).close()
    moved = Path(shutil.move(run.path, tmp_path / "moved"))
    with pytest.raises(AgentMixerError, match="--task-code"):
        runs.load(moved).make_task(1)
    runs.load(moved, runs.load(moved).scenario).make_task(1).close()
    source_run(read_bundle(made.path), moved).make_task(1).close()  # the bundle is ours, and the run is the bundle's
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another machine"))
    with pytest.raises(AgentMixerError, match="--run DIR"):
        source_run(read_bundle(made.path))
    with pytest.raises(AgentMixerError, match="--task-code"):
        source_run(read_bundle(made.path), moved).make_task(1)
