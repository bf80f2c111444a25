"""The real game: StarCraft II, played through the package smacv2, one game a worker process.

What differs from smacv2's own numbers, and nothing else does: rewards are scaled by `most_reward` instead of by what the first
team that was drawn happens to be worth; and an enemy whom nobody has seen yet, or who is dead, hides no other enemy (option
unsighted_wipe keeps smacv2's own). Teams and start positions come from the episode's seed. What happens in a battle comes from
StarCraft alone, which draws nothing from that seed."""

from __future__ import annotations

import functools
import importlib
import random
from typing import Any

import numpy as np

from agentmixer.contract.spec import Discrete, TaskSpec
from agentmixer.errors import AgentMixerError
from agentmixer.tasks.smacv2.sc2_facts import (
    CONTROL_PERIOD_S,
    EPISODE_LIMIT,
    MOVES,
    NO_OP,
    REWARD_SCALE,
    STOP,
    most_reward,
    obs_names,
    settings,
    state_size,
)
from agentmixer.tasks.smacv2.smacv2_facts import split
from agentmixer.tasks.workers.chunk import Row, episode_seed
from agentmixer.tasks.workers.foreign import check_numbers, foreign

#: Seconds that a game may take to start, or for a step. pysc2 itself waits for minutes.
PATIENCE_S = 120.0


def specification(scenario: str, unsighted_wipe: bool) -> TaskSpec:
    """What the real game promises of a scenario. Actions: 0 no-op, for the dead alone; 1 stop; 2-5 move north, south, east,
    west; 6+j attack enemy j, or, for a medivac, heal ally j."""
    _race, allies, enemies = split(scenario)
    return TaskSpec(
        name="smacv2",
        scenario=scenario,
        backend="sc2",
        options={"unsighted_wipe": unsighted_wipe},
        agents=tuple(f"agent_{i}" for i in range(allies)),
        obs_names=obs_names(scenario),
        state_size=state_size(scenario),
        action_spaces=(Discrete(len(MOVES) + enemies),) * allies,
        has_action_mask=True,
        reports_wins=True,
        episode_limit=EPISODE_LIMIT,
        control_period_s=CONTROL_PERIOD_S,
        fallback_actions=(STOP,) * allies,
        shared="reward, and which enemies anybody has seen" if unsighted_wipe else "reward",
    )


class StarCraftGame:
    """A `RowEnv`: one game of StarCraft II. An agent whose unit is dead is not active, and whatever it decides is a no-op."""

    starting = True

    def __init__(self, scenario: str, unsighted_wipe: bool, index: int, row: Row):
        """index: the environment's number in the whole task."""
        self.spec, self.scenario, self.wipe = specification(scenario, unsighted_wipe), scenario, unsighted_wipe
        self.index, self.row = index, row
        self.scale = REWARD_SCALE / most_reward(scenario)
        self.env: Any = None

    def reset(self, seed: int, stream: int, number: int) -> None:
        self.seed, self.stream, self.number = seed, stream, number
        for name in ("reward", "terminated", "truncated", "won"):
            self.row[name][...] = 0
        self._begin()
        self.row["final_obs"][:], self.row["final_state"][:] = self.row["obs"], self.row["state"]

    def step(self) -> None:
        row = self.row
        self.steps += 1
        with self._watched():
            actions = np.where(row["active"], row["actions"], NO_OP)
            restarts = self.env.env.force_restarts
            reward, ended, info = self.env.step(actions.tolist())
            self._check_alive(restarts)
            row["reward"][...] = reward * self.scale
            row["truncated"][...] = info.get("episode_limit", False)
            row["terminated"][...] = ended and not row["truncated"]
            row["won"][...] = info["battle_won"]
            self._show()
        row["final_obs"][:], row["final_state"][:] = row["obs"], row["state"]
        if ended:
            self.number += 1
            self._begin()

    def close(self) -> None:
        if self.env is not None:
            self.env.close()

    def _begin(self) -> None:
        self.steps, self.starting = 0, True
        with self._watched():
            seed = episode_seed(self.seed, self.stream, self.number)
            if self.env is None:
                self._build(seed)
            # smacv2 draws teams and places from sources of its own, and shuffles by Python's.
            random.seed(seed)
            np.random.seed(seed)
            source = np.random.default_rng(seed)
            for distribution in self.env.env_key_to_distribution_map.values():
                _draw_from(source, distribution)
            restarts = self.env.env.force_restarts
            self.env.reset()  # what it returns is None where the game had to set up units again
            self._check_alive(restarts)
            self._show()
        self.starting = False

    def _build(self, seed: int) -> None:
        wrapper = importlib.import_module("smacv2.env.starcraft2.wrapper").StarCraftCapabilityEnvWrapper
        self.env = wrapper(seed=seed, **settings(self.scenario))
        told, spec = self.env.get_env_info(), self.spec
        wanted = {
            "n_agents": spec.num_agents,
            "obs_shape": spec.obs_sizes[0],
            "state_shape": spec.state_size,
            "n_actions": spec.action_spaces[0].n,
            "episode_limit": spec.episode_limit,
        }
        for name, value in wanted.items():
            if told[name] != value:
                raise AgentMixerError(
                    f"this smacv2 has {name} {told[name]} where {value} is meant; install the version that agentmixer doctor "
                    "names"
                )

    def _show(self) -> None:
        """Write obs, state, action_mask and active."""
        env, row = self.env, self.row
        if not self.wipe:
            # smacv2 clears all enemies before one whom nobody has seen yet. Who is in sight is judged apart from this.
            env.env.obs_enemies[:] = 1
        row["obs"][:], row["state"][:], row["action_mask"][:] = env.get_obs(), env.get_state(), env.get_avail_actions()
        row["active"][:] = ~row["action_mask"][:, NO_OP]
        check_numbers("the observations", row["obs"].ravel())
        check_numbers("the state", row["state"])

    def _check_alive(self, restarts: int) -> None:
        """Raise AgentMixerError if the game died and smacv2 started it again: what is shown then belongs to no battle."""
        if self.env.env.force_restarts != restarts:
            raise AgentMixerError("StarCraft ended, or no longer answered")

    def _watched(self) -> Any:
        return foreign(f"game {self.index}, step {self.steps} of episode {self.number} of stream {self.stream},")


def _draw_from(source: np.random.Generator, distribution: Any) -> None:
    """Let a distribution of smacv2, and those that it is made of, draw from one source."""
    if hasattr(distribution, "rng"):
        distribution.rng = source
    for part in vars(distribution).values():
        if hasattr(part, "generate"):
            _draw_from(source, part)


def maker(scenario: str, unsighted_wipe: bool) -> Any:
    """What makes one game of a scenario (`chunk.MakeEnv`)."""
    return functools.partial(StarCraftGame, scenario, unsighted_wipe)
