"""MAPPO is AgentMixer without a Policy Modifier, and what only a Policy Modifier needs cannot be set."""

from __future__ import annotations

import pytest
import torch
from conftest import TINY, box_spec, random_rollout, tiny_algorithm, tiny_spec

from agentmixer.contract.spec import TaskSpec
from agentmixer.errors import AgentMixerError
from agentmixer.train.algorithms import MAPPO


def mappo(spec: TaskSpec, **settings: object) -> MAPPO:
    return MAPPO(spec, MAPPO.configure().replace({**TINY, **settings}), [torch.Generator().manual_seed(0)])


@pytest.mark.parametrize("spec", [tiny_spec(), box_spec()], ids=["discrete", "real-valued"])
def test_its_updates_are_those_of_agentmixer_without_a_pm_and_with_one_step_size(spec: TaskSpec) -> None:
    settings: dict[str, object] = {"share_parameters": spec.discrete}
    ours = mappo(spec, **settings)
    theirs = tiny_algorithm(spec, pm="none", ratio="agent", pm_lr=ours.config.algorithm.actor_lr, **settings)
    start = [p.clone() for p in ours.team.actor.parameters()]
    for algorithm in (ours, theirs):
        (numbers,) = algorithm.update(random_rollout(algorithm))
        assert numbers["policy_loss"] != 0
    for name in ("actor", "critic", "pm"):
        for a, b in zip(ours.modules[name].parameters(), theirs.modules[name].parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-5)
    assert any(not torch.equal(a, b) for a, b in zip(start, ours.team.actor.parameters(), strict=True))


@pytest.mark.parametrize("key", ["pm", "joint", "optimism", "ratio", "pm_lr", "signal"])
def test_it_has_no_setting_of_a_policy_modifier(key: str) -> None:
    with pytest.raises(AgentMixerError, match=f"unknown setting '{key}'"):
        MAPPO.configure("paper", "matrix").replace({key: "1"})


def test_its_file_is_short() -> None:
    """What it takes to add an algorithm (docs/architecture.md)."""
    import inspect

    from agentmixer.train.algorithms import agentmixer_ppo, mappo

    assert len(inspect.getsource(mappo).splitlines()) <= 150
    assert len(inspect.getsource(agentmixer_ppo).splitlines()) <= 350
