"""A Gymnasium environment as a PettingZoo ParallelEnv of one agent."""

from __future__ import annotations

import difflib
from typing import Any

import gymnasium
import pettingzoo

from agentmixer.errors import AgentMixerError, nearest

AGENT = "agent_0"


def check_registered(id: str) -> None:
    """Raise AgentMixerError naming the nearest id if no environment is registered as `id`. An id that leads with a module
    is registered when the module is imported, so it is left to gymnasium.make."""
    if ":" not in id and id not in gymnasium.registry:
        alike = difflib.get_close_matches(id, gymnasium.registry, n=1)  # all ids would fill the screen
        raise AgentMixerError(
            f"Gymnasium has no environment '{id}'; write module:id for an environment that a module registers"
            f"{nearest(id, alike) if alike else ''}"
        )


def make_env(id: str, **options: Any) -> SingleAgent:
    """The environment that is registered as `id`. options: keyword arguments of gymnasium.make. Gymnasium's own checks of
    every step are left out unless asked for: this package checks."""
    return SingleAgent(gymnasium.make(id, **{"disable_env_checker": True, **options}))


class SingleAgent(pettingzoo.ParallelEnv):  # type: ignore[misc]  # PettingZoo's types are not told
    """One agent, AGENT, who sees and does all that the environment shows and takes."""

    def __init__(self, env: gymnasium.Env):
        self.env, self.metadata = env, env.metadata
        self.possible_agents = [AGENT]
        #: The limit of an episode as the environment was registered or made with it; None if there is none.
        self.max_steps = env.spec.max_episode_steps if env.spec is not None else None

    @property
    def unwrapped(self) -> Any:
        """The environment without its wrappers."""
        return self.env.unwrapped

    def observation_space(self, agent: str) -> gymnasium.Space:
        return self.env.observation_space

    def action_space(self, agent: str) -> gymnasium.Space:
        return self.env.action_space

    def reset(self, seed: int | None = None, options: dict | None = None) -> tuple[dict, dict]:
        observation, info = self.env.reset(seed=seed, options=options)
        self.agents = [AGENT]
        return {AGENT: observation}, {AGENT: info}

    def step(self, actions: dict) -> tuple[dict, dict, dict, dict, dict]:
        observation, reward, terminated, truncated, info = self.env.step(actions[AGENT])
        if terminated or truncated:
            self.agents = []
        return {AGENT: observation}, {AGENT: reward}, {AGENT: terminated}, {AGENT: truncated}, {AGENT: info}

    @property
    def render_mode(self) -> str | None:
        """How the environment was made to render, with --env-arg render_mode=...."""
        return self.env.render_mode

    def render(self) -> Any:
        return self.env.render()

    def close(self) -> None:
        self.env.close()
