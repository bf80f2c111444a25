"""Collecting: what is stored is what happened, also where episodes are cut off."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import tiny_algorithm, tiny_spec

from agentmixer.contract.spec import TaskSpec
from agentmixer.errors import AgentMixerError
from agentmixer.tasks import make
from agentmixer.tasks.base import TaskStep
from agentmixer.tasks.side_by_side import joined, side_by_side
from agentmixer.train.algorithms import AgentMixerPPO
from agentmixer.train.stream import Stream, begin

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


def begun(algorithm: AgentMixerPPO, task: Countdown) -> Stream:
    return begin(algorithm.team, algorithm.memory(ENVS), task.reset(0))


def test_what_is_stored_is_what_happened() -> None:
    algorithm = tiny_algorithm(rollout_length=8, chunk_length=1)
    task = Countdown()
    stream = begun(algorithm, task)
    out, (finished,) = algorithm.collect([task], [stream])
    for env in range(ENVS):
        period = env + 2
        clock = np.arange(8) % period
        np.testing.assert_allclose(out.state[0, :, env, 0], clock / 10, rtol=1e-6)
        np.testing.assert_array_equal(out.episode_start[0, :, env], clock == 0)
        np.testing.assert_array_equal(out.terminated[0, :, env], (clock == period - 1) & (env % 2 == 0))
        np.testing.assert_array_equal(out.truncated[0, :, env], (clock == period - 1) & (env % 2 == 1))
        np.testing.assert_array_equal(out.actor_memory[:, clock == 0, env].numpy(), 0.0)
        assert out.actor_memory[:, clock != 0, env].abs().sum() > 0
    # Episodes of 2, 3 and 4 steps with rewards 1, 2, ...: returns 3, 6 and 10.
    assert sorted(finished["return"].tolist()) == [3.0] * 4 + [6.0] * 2 + [10.0] * 2
    # Unfinished episodes carry on: environment 1 has seen rewards 1 and 2.
    assert stream.episode_return.tolist() == [0.0, 3.0, 0.0]


def test_a_cut_off_episode_is_valued_at_the_state_it_was_cut_off_at() -> None:
    algorithm = tiny_algorithm(rollout_length=8, chunk_length=1)
    out, _ = algorithm.collect([Countdown()], [begun(algorithm, Countdown())])
    final_state = torch.arange(11.0).unsqueeze(0)
    final_state[0, 0] = 0.3  # environment 1 is cut off after its third step
    want, _ = algorithm.critic(final_state, torch.zeros(1, 1, algorithm.config.team.hidden))
    other, _ = algorithm.critic(torch.arange(11.0).unsqueeze(0), torch.zeros(1, 1, algorithm.config.team.hidden))
    assert not torch.equal(want, other)
    torch.testing.assert_close(out.final_value[:, 2, 1], want[:, 0])
    torch.testing.assert_close(out.final_value[:, 5, 1], want[:, 0])


@pytest.mark.parametrize(
    ("scenario", "seeds", "parts", "settings"),
    [
        # Parts alike, and as many environments as other tests have: SMAX is compiled anew for every number of them.
        (("smacv2", "protoss_5v5"), [0], (4, 4), {"recurrent_critic": True}),
        (("predator_prey", "5x5"), [0], (3, 7), {"signal": 2}),
        (("predator_prey", "5x5"), [0, 5], (3, 7), {"signal": 2, "signal_per": "episode", "team_critic": False}),
        (("mamujoco", "Hopper-3x1"), [0], (3, 7), {"share_parameters": False}),
    ],
)
def test_two_halves_of_the_environments_are_the_whole(
    scenario: tuple[str, str], seeds: list[int], parts: tuple[int, int], settings: dict[str, object]
) -> None:
    """Two rollouts of some environments, and of two parts of them: the same actions, all else to rounding."""
    teams = len(seeds)
    outs, ends, streams = [], [], []
    for sizes in ((sum(parts),), parts):
        tasks = [[make(*scenario, size) for _ in seeds] for size in sizes]
        algorithm = tiny_algorithm(tasks[0][0].spec, seeds=seeds, rollout_length=40, chunk_length=8, **settings)
        lanes = [side_by_side(same) for same in tasks]
        streams.append([
            begin(algorithm.team, algorithm.memory(size), joined([t.reset(s, np.arange(first, first + size)) for t, s in zip(same, seeds, strict=True)]))
            for same, size, first in zip(tasks, sizes, (0, parts[0]), strict=False)
        ])  # fmt: skip
        for _ in range(2):
            out, finished = algorithm.collect(lanes, streams[-1])
        outs.append(out)
        ends.append(finished)
        for lane, same in zip(lanes, tasks, strict=True):
            lane.close()
            for task in same:
                task.close()
    whole, halves = outs
    exact = scenario[0] != "mamujoco"  # real-valued actions carry rounding into the simulator
    for name, want in vars(whole).items():
        if not want.is_floating_point() or (exact and name in ("obs", "state", "reward", "signal", "episode_start")):
            assert torch.equal(getattr(halves, name), want), name
        else:
            torch.testing.assert_close(getattr(halves, name), want, rtol=1e-3, atol=1e-3, msg=name)
    for k in range(teams):
        assert len(ends[0][k]["return"]) > 0
        for name in ("return", "won"):
            torch.testing.assert_close(ends[1][k][name], ends[0][k][name], rtol=1e-3, atol=1e-3)
    for name in ("episode_start", "episode_return"):
        halves_of = [getattr(stream, name).view(teams, -1) for stream in streams[1]]
        torch.testing.assert_close(
            torch.cat(halves_of, 1).flatten(), getattr(streams[0][0], name), rtol=1e-3, atol=1e-3
        )


@pytest.mark.parametrize(("number", "words"), [(np.nan, "that is not finite"), (-1e16, r"of -1e\+16( \(element 0\))?")])
@pytest.mark.parametrize("name", ["obs", "state", "reward"])
def test_a_number_that_cannot_be_learned_from_is_reported_with_its_environment_and_step(
    name: str, number: float, words: str
) -> None:
    class Broken(Countdown):
        """Its sixth step returns that number in environment 2 (and agent 1)."""

        steps = 0

        def step(self, actions: torch.Tensor) -> TaskStep:
            seen, self.steps = super().step(actions), self.steps + 1
            if self.steps == 6:
                getattr(seen, name)[(1, 2, 0) if name == "obs" else (2,)] = number
            return seen

    task, algorithm = Broken(), tiny_algorithm(rollout_length=8, chunk_length=1)
    # A reward belongs to the step that earned it, an observation to the one that follows.
    step, what = (5, "reward") if name == "reward" else (6, "obs of agent_1" if name == "obs" else "state")
    with pytest.raises(AgentMixerError, match=f"environment 2 returned a {what} {words} at step {step} "):
        algorithm.collect([task], [begun(algorithm, task)])
