"""One agent on a device: same decisions as torch, clear refusals, nothing heavy imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from made_bundle import made_bundle

from agentmixer.errors import AgentMixerError
from agentmixer.export.exporter import Exported
from agentmixer.runtime import Agent
from agentmixer.runtime.bundle import read_agent
from agentmixer.runtime.golden import Golden, parse


@pytest.fixture
def agent(exported: Exported) -> Agent:
    return Agent.load(exported.path / "agents" / "agent_2")


@pytest.fixture
def golden(exported: Exported) -> Golden:
    files = read_agent(exported.path / "agents" / "agent_2")
    return parse(files.golden, files.manifest)


def test_the_golden_trace_is_repeated_decision_by_decision(agent: Agent, golden: Golden) -> None:
    for t in range(len(golden.reset)):
        if golden.reset[t]:
            agent.reset()
        assert agent.act(golden.obs[t], golden.action_mask[t]) == golden.action[t]
        assert agent.policy is not None
        np.testing.assert_allclose(agent.policy, golden.policy[t], atol=1e-5)


def test_reset_forgets(agent: Agent, golden: Golden) -> None:
    agent.act(golden.obs[0], golden.action_mask[0])
    first = agent.policy
    agent.act(golden.obs[0], golden.action_mask[0])
    assert agent.policy is not None
    assert first is not None
    assert not np.array_equal(agent.policy, first)
    agent.reset()
    agent.act(golden.obs[0], golden.action_mask[0])
    np.testing.assert_array_equal(agent.policy, first)


def bad(obs: np.ndarray, mask: np.ndarray, case: str) -> tuple[object, object]:
    if case in ("nan", "inf"):
        obs = obs.copy()
        obs[96] = float(case)
    return {
        "shape": (obs[:-1], mask),
        "batch": (obs[None], mask),
        "dtype": (obs.astype(np.float64), mask),
        "list": (list(obs), mask),
        "no mask": (obs, None),
        "mask dtype": (obs, mask.astype(np.uint8)),
        "mask shape": (obs, mask[:3]),
        "empty mask": (obs, np.zeros_like(mask)),
    }.get(case, (obs, mask))


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("shape", r"obs must be a numpy array float32 \[97\], got float32 \[96\]"),
        ("batch", r"got float32 \[1, 97\]"),
        ("dtype", r"got float64 \[97\]"),
        ("list", "got list"),
        ("nan", r"obs\[96\] \(own.is_colossus\) is nan"),
        ("inf", r"obs\[96\] \(own.is_colossus\) is inf"),
        ("no mask", r"action_mask must be a numpy array bool \[10\], got NoneType"),
        ("mask dtype", r"got uint8 \[10\]"),
        ("mask shape", r"got bool \[3\]"),
        ("empty mask", "action_mask allows no action"),
    ],
)
def test_bad_input_is_refused_and_changes_nothing(agent: Agent, golden: Golden, case: str, words: str) -> None:
    obs, mask = golden.obs[0], golden.action_mask[0]
    agent.act(obs, mask)
    want = Agent.act(agent, obs, mask), agent.policy
    agent.reset()
    agent.act(obs, mask)
    with pytest.raises(AgentMixerError, match=words):
        agent.act(*bad(obs, mask, case))  # type: ignore[arg-type]
    assert agent.act(obs, mask) == want[0]
    np.testing.assert_array_equal(agent.policy, want[1])  # type: ignore[arg-type]


def test_an_observation_that_overflows_the_policy_is_refused_and_changes_nothing(agent: Agent, golden: Golden) -> None:
    obs, mask = golden.obs[0], golden.action_mask[0]
    huge = np.where(np.arange(97) % 2, 3.4e38, -3.4e38).astype(np.float32)
    agent.act(obs, mask)
    with pytest.raises(AgentMixerError, match="not finite: the observation is so large that the policy overflowed"):
        agent.act(huge, mask)
    after = agent.act(obs, mask), agent.policy
    agent.reset()
    agent.act(obs, mask)
    assert agent.act(obs, mask) == after[0]
    np.testing.assert_array_equal(agent.policy, after[1])  # type: ignore[arg-type]


def test_an_agent_says_which_one_it_is(agent: Agent, tmp_path: Path) -> None:
    assert repr(agent) == (
        "Agent(agent='agent_2', task='smacv2', scenario='protoss_5v5', release=0, memory=16, rate_hz="
        f"{1 / agent.manifest.control_period_s:g})"
    )
    folder = made_bundle(tmp_path / "bundle") / "agents/b"
    file = folder / "agent.json"
    file.write_text(file.read_text().replace('"scenario": "none"', '"scenario": "two\\nlines"'))
    made = "Agent(agent='b', task='none', scenario='two\\nlines', release=1, memory=0, rate_hz=5)"
    assert repr(Agent.load(folder)) == made


def test_the_device_side_imports_no_training_library(exported: Exported) -> None:
    """In an interpreter where torch, jax, onnx, gymnasium, scipy and the tasks cannot be imported."""
    code = """
import sys
class Forbid:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "jax", "jaxlib", "jaxmarl", "onnx", "onnxscript", "gymnasium", "scipy", "rich", "typer"} \
                or name.startswith(("agentmixer.tasks", "agentmixer.train", "agentmixer.export", "agentmixer.validate")):
            raise ImportError(f"{name} must not be imported on a device")
sys.meta_path.insert(0, Forbid())
import numpy as np
import agentmixer.host.device_server, agentmixer.host.lock_step, agentmixer.runtime.control, agentmixer.runtime.process
from agentmixer.runtime import Agent
agent = Agent.load(sys.argv[1])
agent.reset()
print(agent.act(np.zeros(97, np.float32), np.ones(10, bool)))
"""
    out = subprocess.run(
        [sys.executable, "-c", code, str(exported.path / "agents" / "agent_0")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert 0 <= int(out.stdout) < 10
