"""Collecting: what is stored is what happened, also where episodes are cut off."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import tiny_algorithm, tiny_spec

from agentmixer.contract.spec import TaskSpec
from agentmixer.errors import AgentMixerError
from agentmixer.tasks.base import TaskStep
from agentmixer.train import rollout

ENVS = 3


class Countdown:
    """Environment e's episodes last e + 2 steps. The state counts steps; odd environments are cut off, even ones end."""

    def __init__(self) -> None:
        self.spec: TaskSpec = tiny_spec()
        self.num_envs = ENVS
        self.clock = np.zeros(ENVS, int)

    def _look(self, ended: np.ndarray, final: np.ndarray) -> TaskStep:
        odd = np.arange(ENVS) % 2 == 1

        def view(clock: np.ndarray, lead: tuple[int, ...], size: int) -> np.ndarray:
            """[clock / 10, 1, 2, ...]: something that survives a LayerNorm."""
            rows = np.tile(np.arange(size, dtype=np.float32), (*lead, ENVS, 1))
            rows[..., 0] = clock / 10.0
            return rows

        return TaskStep(
            obs=view(self.clock, (3,), 7),
            state=view(self.clock, (), 11),
            action_mask=np.ones((3, ENVS, 4), bool),
            active=np.ones((3, ENVS), bool),
            reward=final.astype(np.float32),
            terminated=ended & ~odd,
            truncated=ended & odd,
            won=ended & ~odd,
            final_obs=view(final, (3,), 7),
            final_state=view(final, (), 11),
        )

    def reset(self, seed: int, episodes: np.ndarray | None = None) -> TaskStep:
        self.clock = np.zeros(ENVS, int)
        return self._look(np.zeros(ENVS, bool), self.clock)

    def step(self, actions: torch.Tensor) -> TaskStep:
        final = self.clock + 1
        ended = final >= np.arange(ENVS) + 2
        self.clock = np.where(ended, 0, final)
        return self._look(ended, final)

    def snapshot(self) -> dict[str, np.ndarray]:
        return {}

    restarts = False

    def restore(self, arrays: dict[str, np.ndarray]) -> TaskStep:
        raise NotImplementedError

    def close(self) -> None: ...


def test_what_is_stored_is_what_happened() -> None:
    algorithm = tiny_algorithm(rollout_length=8, chunk_length=1)
    task = Countdown()
    stream = rollout.start(algorithm, task, 0)
    out, (finished,) = rollout.collect(algorithm, task, stream)
    for env in range(ENVS):
        period = env + 2
        clock = np.arange(8) % period
        np.testing.assert_allclose(out["state"][0, :, env, 0], clock / 10, rtol=1e-6)
        np.testing.assert_array_equal(out["fresh"][0, :, env], clock == 0)
        np.testing.assert_array_equal(out["terminated"][0, :, env], (clock == period - 1) & (env % 2 == 0))
        np.testing.assert_array_equal(out["truncated"][0, :, env], (clock == period - 1) & (env % 2 == 1))
        np.testing.assert_array_equal(out["h_actor"][:, clock == 0, env].numpy(), 0.0)
        assert out["h_actor"][:, clock != 0, env].abs().sum() > 0
    # Episodes of 2, 3 and 4 steps with rewards 1, 2, ...: returns 3, 6 and 10.
    assert sorted(finished["return"].tolist()) == [3.0] * 4 + [6.0] * 2 + [10.0] * 2
    # Unfinished episodes carry on: environment 1 has seen rewards 1 and 2.
    assert stream.episode_return.tolist() == [0.0, 3.0, 0.0]


def test_a_cut_off_episode_is_valued_at_the_state_it_was_cut_off_at() -> None:
    algorithm = tiny_algorithm(rollout_length=8, chunk_length=1)
    out, _ = rollout.collect(algorithm, Countdown(), rollout.start(algorithm, Countdown(), 0))
    final_state = torch.arange(11.0).unsqueeze(0)
    final_state[0, 0] = 0.3  # environment 1 is cut off after its third step
    want, _ = algorithm.critic(final_state, torch.zeros(1, 1, algorithm.config.hidden))
    other, _ = algorithm.critic(torch.arange(11.0).unsqueeze(0), torch.zeros(1, 1, algorithm.config.hidden))
    assert not torch.equal(want, other)
    torch.testing.assert_close(out["final_value"][:, 2, 1], want[:, 0])
    torch.testing.assert_close(out["final_value"][:, 5, 1], want[:, 0])


@pytest.mark.parametrize("name", ["obs", "state", "reward"])
def test_a_number_that_is_not_finite_is_reported_with_its_environment_and_step(name: str) -> None:
    class Broken(Countdown):
        """Its sixth step returns a NaN in environment 2 (and agent 1)."""

        steps = 0

        def step(self, actions: torch.Tensor) -> TaskStep:
            seen, self.steps = super().step(actions), self.steps + 1
            if self.steps == 6:
                getattr(seen, name)[(1, 2, 0) if name == "obs" else (2,)] = np.nan
            return seen

    task, algorithm = Broken(), tiny_algorithm(rollout_length=8, chunk_length=1)
    # A reward belongs to the step that earned it, an observation to the one that follows.
    step, what = (5, "reward") if name == "reward" else (6, "obs of agent_1" if name == "obs" else "state")
    with pytest.raises(AgentMixerError, match=f"environment 2 returned a {what} that is not finite at step {step} "):
        rollout.collect(algorithm, task, rollout.start(algorithm, task, 0))
