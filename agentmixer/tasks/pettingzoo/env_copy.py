"""One copy of a PettingZoo environment, packed into one row of flat arrays and reset by itself."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from gymnasium import spaces

from agentmixer.contract.spec import Action, ActionSpace, Box
from agentmixer.errors import AgentMixerError
from agentmixer.tasks.base import LARGEST
from agentmixer.tasks.pettingzoo.observations import mask_of, numbers, row_of
from agentmixer.tasks.pettingzoo.pictures import Pictures
from agentmixer.tasks.pettingzoo.team_description import Team, checked_mask
from agentmixer.tasks.workers.chunk import Row, episode_seed
from agentmixer.tasks.workers.foreign import check_numbers, foreign, unusable


class EnvCopy:
    """A `RowEnv` of a PettingZoo ParallelEnv."""

    starting = True

    def __init__(self, env: Any, team: Team, index: int, row: Row, pictures: Pictures | None = None):
        """index: the environment's number in the whole task. pictures: where those go that it renders."""
        self.env, self.team, self.index, self.row = env, team, index, row
        self.pictures = pictures
        self.sizes = team.obs_sizes
        #: A mask that allows the fallback action alone; all True for real values.
        self._fallback_alone = list(map(_mask_of_one, team.action_spaces, team.fallback_actions))
        #: Which elements of the padded observations are an agent's own.
        self.own = np.arange(max(self.sizes)) < np.array(self.sizes)[:, None]

    def reset(self, seed: int, stream: int, number: int) -> None:
        self.seed, self.stream, self.number = seed, stream, number
        self.row["reward"][...] = self.row["terminated"][...] = self.row["truncated"][...] = 0
        self._begin()
        self.row["final_obs"][:], self.row["final_state"][:] = self.row["obs"], self.row["state"]

    def step(self) -> None:
        team, row = self.team, self.row
        self.steps += 1
        with self._watched():
            acting = self.live
            chosen = {agent: self._action(i, row["actions"][i]) for i, agent in enumerate(team.agents) if acting[i]}
            observations, rewards, terminations, truncations, infos = self.env.step(chosen)
            self._known(
                agents=self.env.agents, observations=observations, rewards=rewards, terminations=terminations,
                truncations=truncations, infos=infos,
            )  # fmt: skip
            terminated, truncated = self._after(acting, terminations, truncations)
            self._all_rewarded(acting, rewards, terminations, truncations)
            row["reward"][...] = math.fsum(map(_reward, rewards, rewards.values())) / len(team.agents)
            row["terminated"][...], row["truncated"][...] = terminated, truncated
            ended = terminated or truncated
            # Those who saw the end are shown in the final observation.
            self._show(acting if ended else self.live, observations, infos, ended)
            if self.pictures:
                self.pictures.take(self.env, start=False)
        row["final_obs"][:], row["final_state"][:] = row["obs"], row["state"]
        if ended:
            self.number += 1
            self._begin()

    def close(self) -> None:
        self.env.close()

    def _begin(self) -> None:
        self.steps, self.starting = 0, True
        with self._watched():
            observations, infos = self.env.reset(seed=episode_seed(self.seed, self.stream, self.number))
            self._known(agents=self.env.agents, observations=observations, infos=infos)
            self.live = [agent in self.env.agents for agent in self.team.agents]
            if not any(self.live):
                raise AgentMixerError("no agent is there after reset")
            self._show(self.live, observations, infos, False)
            if self.pictures:
                self.pictures.take(self.env, start=True)
        self.starting = False

    def _watched(self) -> contextlib.AbstractContextManager[None]:
        start = f"the episode that reset(seed={episode_seed(self.seed, self.stream, self.number)}) starts"
        return foreign(f"environment {self.index}, step {self.steps} of {start},")

    def _known(self, **named: Iterable[Any]) -> None:
        """Raise AgentMixerError for a key that is no agent. named: what the environment gave, by its name."""
        for name, keys in named.items():
            for key in keys:
                if key not in self.team.agents:
                    raise AgentMixerError(
                        f"{name} has '{key}', which is not one of possible_agents; name all agents there, and give "
                        "every agent its own entry instead of an entry for the team"
                    )

    def _all_rewarded(self, acting: list[bool], rewards: Mapping[Any, Any], *ends: Mapping[Any, Any]) -> None:
        """Raise AgentMixerError if an agent that acted has no reward. An agent that left without a word needs none.

        ends: terminations and truncations."""
        for agent, acted, lives in zip(self.team.agents, acting, self.live, strict=True):
            if acted and agent not in rewards and (lives or any(agent in told for told in ends)):
                raise AgentMixerError(f"agent '{agent}' acted and was given no reward; give 0 where that is meant")

    def _action(self, i: int, action: np.ndarray) -> Any:
        """The action in the form that the environment's space says."""
        space, size = self.team.env_action_spaces[i], self.team.action_spaces[i].size
        values = np.ravel(action)[:size]
        if isinstance(space, spaces.Discrete):
            return np.int64(values[0])
        values = values.reshape(space.shape)
        if isinstance(space, spaces.Box):
            # Bounds that float32 cannot hold exactly would be overstepped by a rounding error.
            values = np.minimum(np.maximum(values.astype(np.float64), space.low), space.high)
        return np.asarray(values, space.dtype)

    def _after(self, acting: list[bool], terminations: Mapping[Any, Any], truncations: Mapping[Any, Any]) -> Any:
        """Who lives on, and whether the episode was terminated or truncated."""
        remaining = set(self.env.agents)
        self.live, terminated = [], False
        for agent, acted in zip(self.team.agents, acting, strict=True):
            ended, cut = terminations.get(agent, False), truncations.get(agent, False)
            for name, value in (("terminations", ended), ("truncations", cut)):
                if value not in (True, False):
                    raise AgentMixerError(f"{name} says {value!r} of agent '{agent}', which is neither true nor false")
            here = agent in remaining and not ended and not cut
            if here and not acted:
                raise AgentMixerError(f"agent '{agent}' appeared in mid-episode; agents may leave but not come")
            self.live.append(here)
            # An agent that left without a word was terminated.
            terminated |= acted and not here and (ended or not cut)
        over = not any(self.live)
        return over and bool(terminated), over and not terminated

    def _show(self, who: list[bool], observations: Mapping[Any, Any], infos: Mapping[Any, Any], may_lack: bool) -> None:
        """Write obs, state, action_mask and active. At an episode's end an agent may lack its observation.

        An agent that is gone, or that waits for its turn, is not active: its mask allows the fallback action alone. A task
        without masks forbids nothing, for its agents are exported without a mask: they decide freely, and `step` drops the
        decision of an agent that is gone."""
        team, row = self.team, self.row
        row["obs"][:], row["action_mask"][:], row["active"][:] = 0.0, False, who
        for i, (agent, shown) in enumerate(zip(team.agents, who, strict=True)):
            if shown and agent in observations:
                row["obs"][i, : self.sizes[i]] = self._observation(i, observations[agent])
            elif shown and not may_lack:
                raise AgentMixerError(f"agent '{agent}' was given no observation")
            legal = self._legal(i, shown, observations, infos)
            if legal is None:
                row["active"][i], legal = False, self._fallback_alone[i] if team.has_action_mask else True
            row["action_mask"][i, : team.action_spaces[i].n] = legal
        if not may_lack and not row["active"].any():
            raise AgentMixerError(
                "the action masks allow no agent any action; one agent at least must have a legal one"
            )
        row["state"][:] = self._state() if team.has_state else row["obs"][self.own]

    def _observation(self, i: int, value: Any) -> np.ndarray:
        space = self.team.observation_spaces[i]
        if isinstance(value, Mapping) and not (isinstance(space, spaces.Dict) and set(space.spaces) <= set(value)):
            value = value["observation"]
        return row_of(space, value, f"the observation of agent '{self.team.agents[i]}'")

    def _legal(self, i: int, shown: bool, observations: Mapping[Any, Any], infos: Mapping[Any, Any]) -> Any:
        """The mask's row of one agent; None if it is gone, or may do nothing in this step."""
        team, agent, space = self.team, self.team.agents[i], self.team.action_spaces[i]
        if not shown:
            return None
        if isinstance(space, Box):
            return True
        mask = mask_of(agent, observations, infos)
        if mask is None:
            return True
        if not team.has_action_mask:
            raise AgentMixerError(f"agent '{agent}' has an action mask, but no agent had one after the first reset")
        return checked_mask(agent, space, mask) if mask.any() or len(mask) != space.n else None

    def _state(self) -> np.ndarray:
        state = numbers(self.env.state(), "the state").ravel()
        if state.shape != (self.team.state_size,):
            raise AgentMixerError(f"the state has {state.size} elements, after the first reset {self.team.state_size}")
        check_numbers("the state", state)
        return state


def _reward(agent: Any, given: Any) -> float:
    """The agent's reward. Raises AgentMixerError unless it is one number, finite and not too large."""
    whose = f"the reward of agent '{agent}'"
    reward = numbers(given, whose)
    if reward.size != 1:
        raise AgentMixerError(f"{whose} has shape {list(reward.shape)}, and must be one number")
    if not abs(value := float(reward.item())) <= LARGEST:
        raise AgentMixerError(f"{whose} is {value:g}, {unusable(value)}")
    return value


def _mask_of_one(space: ActionSpace, action: Action) -> np.ndarray:
    if isinstance(space, Box):
        return np.ones(space.n, bool)
    elements = zip(space.choices, np.ravel(action), strict=True)
    return np.concatenate([np.arange(start, start + n) == value for (n, start), value in elements])
