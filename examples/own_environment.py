"""Your own PettingZoo environment, from its rules to a signed bundle that acts.

    python examples/own_environment.py

Two robots hold the ends of a beam and must bring it to a height that is new in every episode, without tilting it. Each robot feels
its own end and the tilt; nobody tells it what the other one does. The script types the commands for you, in this order: train, keygen,
export, verify. Then it lets the exported agents act, each from its own observation.
"""

import argparse
import shlex
from pathlib import Path
from typing import Any

import numpy as np
from agentmixer_cli.app import run
from gymnasium.spaces import Box, Discrete
from pettingzoo import ParallelEnv

from agentmixer.runtime import Agent
from agentmixer.runtime.bundle import newest


class Beam(ParallelEnv):  # type: ignore[misc]
    """Heights are 0 to 1; an action moves a robot's end down, not at all, or up by 0.05."""

    metadata = {"name": "beam", "render_fps": 20}  # noqa: RUF012 - as PettingZoo asks for it; a control period is 1/20 s
    possible_agents = ["left", "right"]  # noqa: RUF012
    max_cycles = 40  # the episode limit

    def observation_space(self, agent: str) -> Box:
        return Box(-1.0, 1.0, (2,), np.float32)

    def action_space(self, agent: str) -> Discrete:
        return Discrete(3)

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict, dict]:
        random = np.random.default_rng(seed)  # all randomness comes from the seed, so that episodes can be played again
        self.goal, self.ends, self.time = random.uniform(0.2, 0.8), random.uniform(0.0, 1.0, 2), 0
        self.agents = list(self.possible_agents)
        return self._seen(), {agent: {} for agent in self.agents}

    def step(self, actions: dict[str, int]) -> tuple[dict, dict, dict, dict, dict]:
        moves = np.array([actions[agent] - 1 for agent in self.possible_agents])
        self.ends = np.clip(self.ends + 0.05 * moves, 0.0, 1.0)
        self.time += 1
        away, tilt = np.abs(self.ends - self.goal), abs(self.ends[0] - self.ends[1])
        there = bool((away < 0.05).all())
        reward, over = 1.0 * there - away.mean() - tilt, self.time >= self.max_cycles
        seen, team = self._seen(), list(self.agents)
        if there or over:
            self.agents = []
        every = dict.fromkeys
        return seen, every(team, reward), every(team, there), every(team, over and not there), {one: {} for one in team}

    def state(self) -> np.ndarray:
        """What only training sees."""
        return np.array([self.goal, *self.ends, self.time / self.max_cycles], np.float32)

    def _seen(self) -> dict[str, np.ndarray]:
        left, right = self.ends
        return {
            "left": np.array([left - self.goal, left - right], np.float32),
            "right": np.array([right - self.goal, right - left], np.float32),
        }


def make_env() -> Beam:
    """What `agentmixer train pettingzoo own_environment:make_env` calls."""
    return Beam()


def typed(line: str) -> None:
    """Run a command as if it were typed, and stop if it fails."""
    print(f"\n$ agentmixer {line}", flush=True)
    if code := run(shlex.split(line)):
        raise SystemExit(code)


def play(agents: dict[str, Agent], episodes: int = 20) -> float:
    """Mean return of the exported agents. No torch, no Policy Modifier, no state: each acts from what it sees."""
    env, total = make_env(), 0.0
    for episode in range(episodes):
        seen, _ = env.reset(seed=episode)
        for agent in agents.values():
            agent.reset()
        while env.agents:
            actions = {name: int(agents[name].act(seen[name])) for name in env.agents}
            seen, rewards, *_ = env.step(actions)
            total += rewards["left"]
    return total / episodes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", default="20000", help="training steps")
    steps = parser.parse_args().steps
    typed(f"train pettingzoo own_environment:make_env --backend serial --steps {steps}")
    if not Path("beam.key").exists():
        typed("keygen beam.key")
    typed("export --sign beam.key --team beam --release 1")
    typed("verify --trusted beam.key.pub")
    folders = sorted((newest() / "agents").iterdir())
    agents = {folder.name: Agent.load(folder, trusted="beam.key.pub", name=folder.name) for folder in folders}
    print(f"\nthe exported agents earn {play(agents):.2f} an episode")


if __name__ == "__main__":
    main()
