"""What the probe says of agents whose weights say what it must find."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from commands import ON_A_DEVICE, agentmixer
from counting_bundle import counting_bundle, model
from counting_bundle import seen as seen_by_counting
from made_bundle import linear_bundle

from agentmixer.contract.manifest import sha256
from agentmixer.export.exporter import Exported
from agentmixer.runtime import golden, profile
from agentmixer.runtime.actions import ranges
from agentmixer.runtime.bundle import AgentFiles, read_agent
from agentmixer.runtime.probe import Heed, Probe, probe

#: Logits: the first is 4 x0 + x3, the second x1; x2 has no weight.
WEIGHTS = np.float32([[4, 0], [0, 1], [0, 0], [1, 0]])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """It has seen x0 as 0 and 1 in turn, x1 always as 2, x2 as 0 and 10, x3 from 0 to 1 in 200 steps."""
    t = np.arange(200)
    seen = np.stack([t % 2, np.full(200, 2), 10 * (t % 2), t / 199], 1)
    return linear_bundle(tmp_path_factory.mktemp("linear") / "bundle", WEIGHTS, seen) / "agents/a"


def named(found: Probe) -> dict[str, Heed]:
    return {heed.name: heed for heed in found.elements}


def test_weights_are_what_is_found(folder: Path) -> None:
    found = probe(read_agent(folder))
    assert (
        found.decisions == 128 and found.agent == "a" and found.digest == sha256((folder / "agent.json").read_bytes())
    )
    heeds = named(found)
    # Of x0 the range is 1 and the weight 4; x1 never varied, so its size counts: 2 times 1; of x3 1 times 1.
    assert [heeds[name].slope for name in ("x0", "x1", "x2", "x3")] == pytest.approx([4, 2, 0, 1], rel=1e-3)
    # 4 + x3 against 2, and x3 against 2: always the first at x0 = 1 and never at 0. x3 alone lies between 0.05 and 0.95: never.
    assert [heeds[name].changed for name in ("x0", "x1", "x2", "x3")] == [1, 0, 0, 0]
    assert found.unheeded == ("x2",) and found.elements[0].name == "x0"
    # The first is the action in every second decision. x0 and x3 at -1e6 or 1e6 change each, x1 too, x2 none.
    assert [heeds[name].extreme for name in ("x0", "x1", "x2", "x3")] == [1, 1, 0, 1]
    assert all(heed.invalid == 0 for heed in found.elements)
    assert (found.zeros, found.refused) == (0, 4)


def test_noise_at_the_end_of_a_trace_is_left_out(folder: Path) -> None:
    """The last 20 observations are far outside the profile. With them the range of nothing changes, nor what is found."""
    files = read_agent(folder)
    trace = golden.parse(files.golden, files.manifest)
    trace.obs[180:] = 1e5
    noisy = files._replace(golden=golden.dump(trace))
    assert probe(noisy, most=180).decisions == probe(noisy, most=500).decisions == 180
    trace.obs[:] = 1e5  # nothing is inside: then all are taken
    assert probe(files._replace(golden=golden.dump(trace)), most=500).decisions == 200


def counting(folder: Path) -> AgentFiles:
    """An agent whose action is (episode, step, count), with a trace in which it forgets at every tenth step."""
    bundle = counting_bundle(folder / "bundle")
    files, steps = bundle.agents["a"], 200
    obs = np.concatenate([seen_by_counting(0, t, 1)[0][None] for t in range(steps)])
    count = np.float32(np.arange(steps) % 10 + 1)[:, None]
    action, of = np.concatenate([obs, count], 1), ranges(files.manifest.action_space)
    mean = (action - of.centre) / of.scale
    trace = golden.Golden(
        obs, np.ones((steps, 3), bool), np.arange(steps) % 10 == 0, action, mean, count, golden.silence(steps)
    )
    figures = profile.measure(obs, trace.reset, obs[trace.reset], action, files.manifest.action_space)
    return files._replace(golden=golden.dump(trace), profile=profile.dump(figures), model=model())


def test_real_values_memory_and_decisions_that_are_invalid(tmp_path: Path) -> None:
    """The space is -1 to 1e6, and a hundredth of that is 1e4: 200 steps change no action by as much, -1e6 is out of bounds. A slope is one
    of the mean, in units of half the range, 5e5."""
    found = named(probe(counting(tmp_path), most=1000))
    assert [found[name].slope for name in ("episode", "step")] == pytest.approx([0, 199 / 5e5], abs=1e-5)
    assert [found[name].changed for name in ("episode", "step")] == [0, 0]
    assert [found[name].extreme for name in ("episode", "step")] == [1, 1]
    assert [found[name].invalid for name in ("episode", "step")] == [200, 200]  # -1e6; 1e6 is the bound itself


def test_the_command_on_a_device(folder: Path, tmp_path: Path) -> None:
    told = agentmixer("probe", folder, "--json", cwd=tmp_path)
    found = json.loads(told.stdout)
    assert told.returncode == 0 and [heed["name"] for heed in found["elements"]] == ["x0", "x1", "x3", "x2"]
    assert found["elements"][0] == {
        "name": "x0", "index": 0, "slope": pytest.approx(4, rel=1e-3), "changed": 1.0, "heeded": True, "extreme": 1.0, "invalid": 0,
    }  # fmt: skip
    device = subprocess.run(
        [sys.executable, "-c", ON_A_DEVICE, "probe", folder], capture_output=True, text=True, cwd=tmp_path
    )
    assert device.returncode == 0, device.stderr
    assert "a: what it heeds, over 128 recorded decisions" in device.stdout
    assert "never heeded, 1 of 4: x2" in device.stdout
    assert "an observation of zeros: action 0; one that is infinite: refused for 4 of 4 elements" in " ".join(
        device.stdout.split()
    )
    refused = agentmixer("probe", folder.parent.parent, cwd=tmp_path)
    assert refused.returncode == 2 and "give one agent's folder, such as" in refused.stderr


def test_a_trained_recurrent_masked_agent(exported: Exported) -> None:
    """It computes what the trace says from the recorded states, and heeds something."""
    files = read_agent(exported.path / "agents/agent_1")
    found = probe(files, most=16)
    assert found.decisions == 16 and len(found.elements) == len(files.manifest.tensor("obs").elements)
    assert any(heed.changed > 0 for heed in found.elements) and len(found.unheeded) < len(found.elements)
    changes = [heed.changed for heed in found.elements]
    assert changes == sorted(changes, reverse=True) and all(heed.invalid == 0 for heed in found.elements)
