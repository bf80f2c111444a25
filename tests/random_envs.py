"""Random PettingZoo environments, small and of every kind, some of which do one thing that none may do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium import spaces
from pettingzoo import ParallelEnv

#: What an environment can do wrong. The first two groups are a matter of one agent, which is to be named.
SPACE_FAULTS = (
    "text seen",
    "nothing seen",
    "sequence seen",
    "text done",
    "nothing done",
    "bounds of 1e300",
    "bounds alike",
)
AGENT_FAULTS = (
    "observation nan", "observation huge", "observation of another shape", "observation missing", "observation is text",
    "reward missing", "reward nan", "reward huge", "reward is text", "termination is 2", "agent comes back",
    "mask without a value", "mask too long",
)  # fmt: skip
TEAM_FAULTS = (
    "raises", "four results", "no infos", "nobody after reset", "state grows", "state nan", "stranger rewarded",
    "stranger in infos", "stranger terminated", "stranger lives",
)  # fmt: skip


class Random(ParallelEnv):
    """Everything about it follows from `number`. `fault`: the thing that it does wrong, or None; `who`: the agent it is
    about; `at`: the step at which it does so."""

    def __init__(self, number: int):
        draw = self.draw = np.random.default_rng(number)
        self.metadata = {"render_fps": int(draw.choice([0, 5, 50]))}
        self.dt = float(draw.choice([0.0, 0.02]))
        names: list[Any] = [f"robot.{i}" for i in range(4)] if draw.random() < 0.7 else list(range(4))
        self.possible_agents = names[: draw.integers(1, 5)]
        self.who = self.possible_agents[draw.integers(len(self.possible_agents))]
        self.fault = None if draw.random() < 0.5 else str(draw.choice(SPACE_FAULTS + AGENT_FAULTS + TEAM_FAULTS))
        if self.fault == "agent comes back" and len(self.possible_agents) == 1:  # the episode is over before
            self.fault = None
        self.at = int(draw.integers(1, 3))
        self.length = int(draw.integers(self.at + 1, 7))
        if draw.random() < 0.5:
            setattr(self, str(draw.choice(["max_cycles", "max_steps", "episode_limit"])), self.length)
        self.seen = {agent: observed(draw) for agent in self.possible_agents}
        self.done = {agent: acted(draw) for agent in self.possible_agents}
        if self.fault in SPACE_FAULTS:
            where = self.seen if self.fault.endswith("seen") else self.done
            where[self.who] = faulty_space(self.fault)
        if self.fault in ("mask without a value", "mask too long"):
            self.done[self.who] = spaces.MultiDiscrete([2, 3])
        for space in self.seen.values():
            space.seed(int(draw.integers(1 << 31)))
        self.masks = draw.random() < 0.4 or self.fault in ("mask without a value", "mask too long")
        self.beside = draw.random() < 0.5  # masks lie beside the observation
        self.dies = {agent: int(draw.integers(self.at + 1, 9)) for agent in self.possible_agents}
        self.dies[self.who] = 9 if self.fault != "agent comes back" else self.at
        self.has_state = draw.random() < 0.5 or self.fault in ("state grows", "state nan")
        self.terse = draw.random() < 0.5  # leaves out what need not be said
        self.reward: Callable[[float], Any] = [float, np.float32, np.array, int][draw.integers(4)]

    def observation_space(self, agent: Any) -> spaces.Space:
        space = self.seen[agent]
        if self.masks and self.beside and mask_size(self.done[agent]):
            mask = spaces.MultiBinary(mask_size(self.done[agent]))
            return spaces.Dict({"observation": space, "action_mask": mask})
        return space

    def action_space(self, agent: Any) -> spaces.Space:
        return self.done[agent]

    def now(self, fault: str) -> bool:
        return self.fault == fault and self.t == self.at

    def look(self, who: list[Any]) -> tuple[dict, dict]:
        observations, infos = {}, {}
        for agent in self.draw.permutation(np.array(who, object)):
            value: Any = self.seen[agent].sample()
            if agent == self.who:
                value = self.wrong(value)
            infos[agent] = {}
            if self.masks and (size := mask_size(self.done[agent])):
                mask = np.ones(size, self.draw.choice([np.int8, np.bool_, np.float64]))
                mask[self.draw.integers(size)] = isinstance(self.done[agent], spaces.MultiDiscrete) or size == 1
                if agent == self.who and self.now("mask without a value"):
                    mask[:2] = 0
                if agent not in self.agents[:1] and self.draw.random() < 0.1:  # it waits for its turn
                    mask[:] = 0
                if agent == self.who and self.now("mask too long"):
                    mask = np.ones(size + 1, np.int8)
                if self.beside:
                    value = {"observation": value, "action_mask": mask}
                else:
                    infos[agent]["action_mask"] = mask
            if not (agent == self.who and self.now("observation missing")):
                observations[agent] = value
        return observations, infos

    def wrong(self, value: Any) -> Any:
        if not isinstance(self.seen[self.who], spaces.Box):
            return object() if self.fault in AGENT_FAULTS[:5] and self.t == self.at else value
        array = np.array(value, np.float64)
        if self.now("observation nan"):
            return np.full_like(array, np.nan)
        if self.now("observation huge"):
            return np.full_like(array, -3e20)
        if self.now("observation of another shape"):
            return np.zeros((*array.shape, 2))
        return "north" if self.now("observation is text") else value

    def reset(self, seed: int | None = None, options: dict | None = None) -> Any:
        self.agents, self.t = list(self.possible_agents), 0
        if self.fault == "nobody after reset":
            self.agents = []
        observations, infos = self.look(self.possible_agents)
        return observations if self.fault == "no infos" else (observations, infos)

    def step(self, actions: dict) -> Any:
        for agent, action in actions.items():
            assert self.done[agent].contains(action), (agent, action)
        assert set(actions) == set(self.agents)
        self.t += 1
        if self.now("raises"):
            raise ValueError("the motor\nis\nhot")
        acting, over = list(self.agents), self.t >= self.length
        gone = {agent: over or self.t >= self.dies[agent] for agent in acting}
        truncated = self.draw.random() < 0.5
        self.agents = [agent for agent in acting if not gone[agent]]
        if self.fault == "agent comes back" and self.t == self.at + 1:
            self.agents.append(self.who)
        rewards = {agent: self.reward(self.draw.integers(-3, 4)) for agent in acting}
        terminations: dict[Any, Any] = {agent: gone[agent] and not truncated for agent in acting}
        truncations = {agent: np.bool_(gone[agent] and truncated) for agent in acting}
        observations, infos = self.look(self.agents if self.terse else acting)
        if self.terse:
            infos = infos if self.masks else {}
            truncations = {agent: value for agent, value in truncations.items() if value}
        self.spoil(rewards, terminations, infos)
        results = observations, rewards, terminations, truncations, infos
        return results[:4] if self.now("four results") else results

    def spoil(self, rewards: dict, terminations: dict, infos: dict) -> None:
        bad = {"reward nan": float("nan"), "reward huge": 1e30, "reward is text": "well done"}
        if self.fault in bad and self.t == self.at:
            rewards[self.who] = bad[str(self.fault)]
        if self.now("reward missing"):
            del rewards[self.who]
        if self.now("termination is 2"):
            terminations[self.who] = 2
        for fault, told in (
            ("stranger rewarded", rewards),
            ("stranger terminated", terminations),
            ("stranger in infos", infos),
        ):
            if self.now(fault):
                told["nobody"] = {} if told is infos else 0
        if self.now("stranger lives"):
            self.agents.append("nobody")

    def state(self) -> np.ndarray:
        if not self.has_state:
            raise NotImplementedError
        size = 3 + (self.fault == "state grows" and self.t > 0)
        return np.full((size, 2), np.nan if self.fault == "state nan" and self.t else 0.5)


def observed(draw: np.random.Generator, deep: int = 2) -> spaces.Space:
    """A space of observations."""
    kind = draw.integers(8 if deep else 6)
    shape = tuple(draw.integers(1, 4, draw.integers(0, 3)).tolist())
    if kind <= 1:
        return spaces.Box(-np.inf, np.inf, shape, draw.choice([np.float32, np.float64, np.float16]))
    if kind == 2:
        return spaces.Box(0, 255, (*shape, 2), np.uint8)
    if kind == 3:
        return spaces.Discrete(int(draw.integers(1, 6)), start=int(draw.integers(-3, 4)))
    if kind == 4:
        return spaces.MultiBinary(int(draw.integers(1, 5)))
    if kind == 5:
        return spaces.MultiDiscrete(draw.integers(1, 5, draw.integers(1, 4)))
    parts = [observed(draw, deep - 1) for _ in range(draw.integers(1, 4))]
    return spaces.Tuple(parts) if kind == 6 else spaces.Dict({f"part{i}": part for i, part in enumerate(parts)})


def acted(draw: np.random.Generator) -> spaces.Space:
    """A space of actions."""
    kind = draw.integers(7)
    shape = tuple(draw.integers(1, 3, draw.integers(0, 3)).tolist())
    if kind <= 1:
        return spaces.Discrete(int(draw.integers(1, 6)), start=int(draw.integers(-3, 4)))
    if kind == 2:
        sizes = draw.integers(1, 5, draw.integers(1, 4))
        return spaces.MultiDiscrete(sizes, start=draw.integers(-2, 3, len(sizes)))
    if kind == 3:
        return spaces.MultiBinary(int(draw.integers(1, 4)))
    if kind == 4:
        low = draw.normal(0, 3, shape)
        return spaces.Box(low, low + draw.uniform(0.1, 5, shape), dtype=draw.choice([np.float32, np.float64]))
    if kind == 5:
        return spaces.Box(-np.inf, draw.choice([1.0, np.inf]), shape, np.float32)
    low, high = {np.int8: (-5, 5), np.uint16: (0, 65_535), np.int64: (np.iinfo(np.int64).min, 7)}[
        dtype := [np.int8, np.uint16, np.int64][draw.integers(3)]
    ]
    return spaces.Box(low, high, shape, dtype)


def faulty_space(fault: str) -> spaces.Space:
    return {
        "text seen": spaces.Text(3),
        "nothing seen": spaces.Box(0, 1, (0,)),
        "sequence seen": spaces.Dict({"all": spaces.Sequence(spaces.Discrete(2))}),
        "text done": spaces.Text(3),
        "nothing done": spaces.Box(0, 1, (2, 0)),
        "bounds of 1e300": spaces.Box(-1e300, 1e300, (2,), np.float64),
        "bounds alike": spaces.Box(1e9, 1e9 + 1, (2,), np.float64),
    }[fault]


def mask_size(space: spaces.Space) -> int:
    """Entries of an action mask; 0 for real values, which have none."""
    if isinstance(space, spaces.Discrete):
        return int(space.n)
    return int(space.nvec.sum()) if isinstance(space, spaces.MultiDiscrete) else 0


def make(number: int) -> Random:
    return Random(number)
