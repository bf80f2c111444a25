"""MAPPO_FULL: what its agents are shown, and what that is worth."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from agentmixer.tasks import make
from agentmixer.train.algorithms import MAPPO, MAPPOFull
from agentmixer.train.shown_state import ShownState


@pytest.mark.parametrize(("task", "scenario"), [("predator_prey", "5x5"), ("mamujoco", "Humanoid-9|8")])
def test_every_agent_is_shown_its_own_observation_and_the_state(task: str, scenario: str) -> None:
    """Also where agents' observations differ in size, after a step, and where an episode is put back."""
    plain, told = make(task, scenario, 3), ShownState(make(task, scenario, 3))
    spec = plain.spec
    assert told.spec.obs_sizes == tuple(size + spec.state_size for size in spec.obs_sizes)
    assert told.spec.obs_names[0][spec.obs_sizes[0] :] == tuple(f"state.{i}" for i in range(spec.state_size))
    actions = torch.zeros((spec.num_agents, 3) if spec.discrete else (spec.num_agents, 3, spec.action_size))
    actions = actions.int() if spec.discrete else actions
    seen = [(one.reset(5), one.step(actions), one.restore(one.snapshot())) for one in (plain, told)]
    for want, got in zip(*seen, strict=True):
        for name in set(want._fields) - {"obs", "final_obs"}:
            np.testing.assert_array_equal(getattr(got, name), getattr(want, name))
        for obs, state in (("obs", "state"), ("final_obs", "final_state")):
            for i, size in enumerate(spec.obs_sizes):
                shown = np.asarray(getattr(got, obs))[i]
                np.testing.assert_array_equal(shown[:, :size], np.asarray(getattr(want, obs))[i, :, :size])
                np.testing.assert_array_equal(shown[:, size : size + spec.state_size], getattr(want, state))
                assert not shown[:, size + spec.state_size :].any()
    plain.close(), told.close()


def test_it_is_mappo_in_all_else() -> None:
    own = {name for name in vars(MAPPOFull) if not name.startswith("_")}
    assert own == {"name", "source", "execution_sees", "shown"} and issubclass(MAPPOFull, MAPPO)
