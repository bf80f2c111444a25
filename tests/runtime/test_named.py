"""Observations and actions by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from counting_bundle import counting_bundle
from made_bundle import made_bundle

from agentmixer.contract.manifest import AgentManifest
from agentmixer.errors import AgentMixerError
from agentmixer.export.exporter import Exported
from agentmixer.runtime import Agent
from agentmixer.runtime.bundle import read_agent
from agentmixer.runtime.golden import parse


@pytest.fixture(scope="module")
def agent(exported: Exported) -> Agent:
    return Agent.load(exported.path / "agents/agent_1")


def test_elements_and_groups_go_to_their_places(agent: Agent) -> None:
    manifest: AgentManifest = agent.manifest
    names = manifest.tensor("obs").elements
    values = np.arange(len(names), dtype=np.float32) / 100
    one, many, grouped = (agent.observation() for _ in range(3))
    for name, value in zip(names, values, strict=True):
        one[name] = value
    many.update(dict(zip(reversed(names), reversed(values.tolist()), strict=True)))
    for group, members in grouped.groups.items():
        grouped[group] = [values[names.index(name)] for name in members]
    for obs in (one, many, grouped):
        np.testing.assert_array_equal(obs.array, values)
    assert one["own.health"] == pytest.approx(values[names.index("own.health")])
    assert one["own.*"].tolist() == [values[i] for i, name in enumerate(names) if name.startswith("own.")]
    assert set(one.groups) == {
        "ally_0.*",
        *(f"ally_{i}.*" for i in (2, 3, 4)),
        *(f"enemy_{i}.*" for i in range(5)),
        "own.*",
    }


def test_decisions_are_those_of_the_array(exported: Exported) -> None:
    """Over a golden trace, by name and by position: the same actions, the same memory."""
    files = read_agent(exported.path / "agents/agent_1")
    trace = parse(files.golden, files.manifest)
    by_place, by_name = Agent(files), Agent(files)
    obs, names = by_name.observation(), files.manifest.tensor("obs").elements
    for t in range(40):
        obs.update(dict(zip(names, trace.obs[t].tolist(), strict=True)))
        action = by_name.act(obs, trace.action_mask[t])
        assert action == by_place.act(trace.obs[t], trace.action_mask[t])
        assert by_name.named(action) == files.manifest.action_names[int(action)]
    np.testing.assert_array_equal(by_name.state, by_place.state)


def test_what_is_not_set_is_refused_by_name_and_nothing_is_lost(agent: Agent) -> None:
    obs, mask = agent.observation(), np.ones(10, bool)
    values = dict.fromkeys(agent.manifest.tensor("obs").elements, 0.5)
    obs.update({name: value for name, value in values.items() if name != "enemy_2.health"})
    assert obs.unset() == ["enemy_2.health"]
    with pytest.raises(AgentMixerError, match=r"enemy_2\.health\) is nan"):
        agent.act(obs, mask)
    obs["enemy_2.health"] = 0.5  # the others are still there
    agent.act(obs, mask)
    assert len(obs.unset()) == len(values)  # a decision forgets them
    kept = agent.observation(keep=True)
    kept.update(values)
    agent.act(kept, mask)
    assert not kept.unset()
    kept["own.x"] = np.inf
    with pytest.raises(AgentMixerError, match=r"own\.x\) is inf"):
        agent.act(kept, mask)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("own.helth", 1.0, r"observes no 'own\.helth'; did you mean 'own\.health'\?"),
        ("own", 1.0, "observes no 'own'"),
        ("own.health", [1.0, 2.0], r"obs\['own\.health'\] is one number, got 2 of them"),
        ("own.health", "much", r"obs\['own\.health'\] is one number, got str 'much'"),
        ("own.*", 1.0, r"obs\['own\.\*'\] is 7 numbers in a row, got float 1\.0"),
        ("own.*", [1.0], r"obs\['own\.\*'\] is 7 numbers in a row, got 1 of them"),
        ("own.*", np.zeros((7, 2)), r"got an array of shape \[7, 2\]"),
    ],
)
def test_wrong_names_and_sizes_are_named(agent: Agent, name: str, value: object, words: str) -> None:
    obs = agent.observation()
    with pytest.raises(AgentMixerError, match=words):
        obs[name] = value
    with pytest.raises(AgentMixerError, match=words):
        obs.update({name: value})  # type: ignore[dict-item]


def test_a_whole_mapping_with_one_wrong_name_is_refused(agent: Agent) -> None:
    values = dict.fromkeys(agent.manifest.tensor("obs").elements, 0.5)
    values["own.speed"] = values.pop("own.health")
    with pytest.raises(AgentMixerError, match=r"observes no 'own\.speed'"):
        agent.observation().update(values)


def test_teams_that_name_nothing(tmp_path: Path) -> None:
    """Whole numbers and real values whose task has no names for them."""
    made_bundle(tmp_path / "discrete", ("a",), actions=4)
    discrete = Agent.load(tmp_path / "discrete/agents/a")
    assert discrete.named(np.array(2)) == "action_2"
    counting_bundle(tmp_path / "real", ("a",))
    real = Agent.load(tmp_path / "real/agents/a")
    obs = real.observation()
    obs.update({"episode": 1, "step": 2})
    assert obs.groups == {}
    assert real.named(real.act(obs)) == {"action_0": 1.0, "action_1": 2.0, "action_2": 1.0}
