"""A team exported with --sampled, through everything that judges it: what it draws repeats, and what draws otherwise is caught."""

from __future__ import annotations

import io
import shutil
import threading
from pathlib import Path

import msgspec
import numpy as np
import pytest
from conftest import quiet
from test_every_task import started

from agentmixer.contract.manifest import AGENT_FILE, TensorSpec, decode, encode
from agentmixer.contract.spec import Box, TaskSpec
from agentmixer.errors import AgentMixerError
from agentmixer.export.exporter import Forms, export
from agentmixer.host import tls_keys
from agentmixer.host.device_server import DeviceServer
from agentmixer.host.devices import Devices
from agentmixer.host.events import Events
from agentmixer.host.lock_step import Host
from agentmixer.report.live_page import live_page
from agentmixer.runtime import bundle as bundles
from agentmixer.runtime import tls
from agentmixer.runtime.audit import audit
from agentmixer.runtime.bundle import Bundle, read_bundle
from agentmixer.runtime.golden import parse
from agentmixer.runtime.log import Log
from agentmixer.runtime.probe import probe
from agentmixer.runtime.tls import Address
from agentmixer.runtime.verify import verify
from agentmixer.train import trainer
from agentmixer.train.algorithms import ALGORITHMS
from agentmixer.train.run import Run
from agentmixer.validate.deploy_sim import deploy_sim
from agentmixer.validate.ladder import climb
from agentmixer.validate.locality import locality
from agentmixer.validate.mutations import mutations


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    made = started("predator_prey", "5x5", tmp_path_factory.mktemp("drawn") / "run", {}, hidden=16, total_steps=128)
    assert trainer.train(made, quiet())
    return made


@pytest.fixture(scope="module")
def drawn(run: Run) -> Bundle:
    return read_bundle(export(run, run.path.parent / "bundle", forms=Forms(sampled=True)).path)


def test_every_agent_takes_noise_of_its_own_and_verifies(drawn: Bundle) -> None:
    assert drawn.sampled
    traces = []
    for files in drawn.agents.values():
        manifest = files.manifest
        assert [tensor.name for tensor in manifest.inputs] == ["obs", "action_mask", "noise", "state_in"]
        assert manifest.depends_on["action"] == ("obs", "action_mask", "noise", "state_in")
        assert "noise" not in manifest.depends_on["state_out"]
        traces.append(parse(files.golden, manifest).noise)
    assert traces[0].shape == (256, 5) and not (traces[0] == traces[1]).any()
    assert verify(drawn.path).passed


def test_the_deployed_agents_draw_what_the_trained_actors_draw(drawn: Bundle, run: Run) -> None:
    """No decision differs, and the returns of the same episodes are the same; drawn, for the greedy team has other returns."""
    report = deploy_sim(drawn, 2, run=run)
    assert report.passed and report.parity.different == report.parity.near_ties
    assert report.arms["deployed"] == report.arms["actors"]
    greedy = read_bundle(export(run, drawn.path.parent / "greedy").path)
    assert not greedy.sampled
    assert deploy_sim(greedy, 2, run=run).arms["actors"] != report.arms["actors"]


def test_a_team_that_draws_is_local_and_climbs_the_ladder(drawn: Bundle, run: Run) -> None:
    report = locality(drawn, 24, run)
    assert report.passed
    assert climb(drawn, run).passed


def test_what_draws_otherwise_is_caught(drawn: Bundle, run: Run) -> None:
    report = mutations(drawn, run)
    assert report.passed
    caught = {check.name: check for check in report.mutations}
    for name in ("noise ignored", "noise halved", "noise after the mask", "another seed"):
        assert caught[name].caught_by == ("deploy-sim parity" if name == "another seed" else "golden replay")


def test_an_agent_says_which_seed_it_draws_by(drawn: Bundle) -> None:
    obs = [np.zeros(files.manifest.tensor("obs").shape, np.float32) for files in drawn.agents.values()]
    masks: list[np.ndarray | None] = [np.ones(5, bool) for _ in obs]
    done = []
    for seed in (3, 3, 4):
        with Host(drawn, 10.0, seed=seed) as host:
            assert [agent.seed for agent in host.agents] == [seed, seed]
            done.append([host.step(0, t, obs, masks)[0].action.item() for t in range(30)])
    assert done[0] == done[1] != done[2]


def test_a_device_draws_by_its_own_seed_and_is_held_to_it(drawn: Bundle, run: Run, tmp_path: Path) -> None:
    tls_keys.make(tmp_path / "keys", tuple(drawn.agents))
    here, lines = Address("127.0.0.1", 0), Events(io.StringIO())
    folder, own = drawn.folder("predator_0"), tmp_path / "keys" / "predator_0"
    with DeviceServer(folder, here, own, events=lines, seed=9) as server:
        serving = threading.Thread(target=server.serve)
        serving.start()
        try:
            host = tls.context(tmp_path / "keys" / "host", server=False)
            devices = Devices({"predator_0": (server.address,)}, host)
            with Host(drawn, 10.0, devices=devices) as asked:
                assert [agent.seed for agent in asked.agents] == [9, 0]
            report = deploy_sim(drawn, 1, run=run, deadline_s=10.0, devices=devices)
        finally:
            server.stop()
            serving.join()
    assert report.passed and report.parity.different == report.parity.near_ties


def test_a_log_cannot_say_what_was_drawn_and_a_probe_needs_no_noise(drawn: Bundle) -> None:
    files = next(iter(drawn.agents.values()))
    trace = parse(files.golden, files.manifest)
    log = Log(trace.obs, trace.action_mask, trace.reset, trace.action, files.manifest.agent, files.digest)
    check = next(check for check in audit(files, log).checks if check.name == "decisions")
    assert check.status == "does not apply" and "draws its actions" in check.sentence
    assert probe(files) == probe(files)


def test_what_cannot_draw_is_refused(run: Run, drawn: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AgentMixerError, match="leave out --sampled or --quantize"):
        export(run, tmp_path / "bundle", forms=Forms(sampled=True, int8=True))
    with pytest.raises(AgentMixerError, match="without --live"):
        live_page(drawn, None, lambda _: None, None)  # type: ignore[arg-type]
    with monkeypatch.context() as patch:
        patch.setattr(ALGORITHMS[run.algorithm], "stochastic", False)
        with pytest.raises(AgentMixerError, match="utilities are no probabilities"):
            export(run, tmp_path / "bundle", forms=Forms(sampled=True))
    monkeypatch.setattr(TaskSpec, "real_valued", property(lambda spec: True))
    with pytest.raises(AgentMixerError, match="no spread of their own"):
        export(run, tmp_path / "bundle", forms=Forms(sampled=True))
    assert not (tmp_path / "bundle").exists()


def test_a_manifest_whose_noise_does_not_fit_is_refused(drawn: Bundle, tmp_path: Path) -> None:
    """Of another length, and for real values."""
    folder = Path(shutil.copytree(drawn.folder("predator_0"), tmp_path / "predator_0"))
    manifest = decode((folder / AGENT_FILE).read_bytes(), type(drawn.agents["predator_0"].manifest), folder)
    shorter = tuple(TensorSpec("noise", "float32", (4,)) if t.name == "noise" else t for t in manifest.inputs)
    with pytest.raises(AgentMixerError, match=r"contradicts itself \(its noise"):
        bundles.agent_manifest(folder, encode(msgspec.structs.replace(manifest, inputs=shorter)))
    real = Box((-1.0,) * 5, (1.0,) * 5)
    with pytest.raises(AgentMixerError, match=r"contradicts itself \(its inputs"):
        bundles.agent_manifest(
            folder, encode(msgspec.structs.replace(manifest, action_space=real, fallback_action=(0.0,) * 5))
        )
