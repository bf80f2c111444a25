"""Small PettingZoo environments that do what foreign environments may do, right and wrong."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
from gymnasium import spaces
from pettingzoo import AECEnv, ParallelEnv
from pettingzoo.utils import BaseParallelWrapper, turn_based_aec_to_parallel

#: What `Counting.step` returns, without `self`'s bookkeeping.
Result = tuple[dict, dict, dict, dict, dict]


class Counting(ParallelEnv):
    """Two agents of unlike sizes for `length` steps. Agent a sees (t, seed, its last action), b only t, both as
    numbers; the reward is t for a and 3 t for b. The end is a truncation."""

    metadata = {"name": "counting", "render_fps": 20}  # noqa: RUF012

    def __init__(self, length: int = 4):
        self.max_steps = length
        self.possible_agents: list[Any] = ["a", "b"]

    def observation_space(self, agent: Any) -> spaces.Space:
        return spaces.Box(-np.inf, np.inf, (3,) if agent == "a" else (1, 1), np.float64)

    def action_space(self, agent: Any) -> spaces.Space:
        return spaces.Discrete(4, start=-1) if agent == "a" else spaces.Discrete(2)

    def look(self) -> dict:
        seen = {"a": np.array([self.t, self.seed, self.last]), "b": np.array([[float(self.t)]])}
        return {agent: seen[agent] for agent in self.agents}

    def reset(self, seed: int | None = None, options: dict | None = None) -> tuple[dict, dict]:
        self.agents, self.t, self.last, self.seed = list(self.possible_agents), 0, 0.0, float(seed or 0)
        return self.look(), {agent: {} for agent in self.agents}

    def step(self, actions: dict) -> Result:
        self.t += 1
        self.last = float(actions.get("a", 0))
        over, seen = self.t >= self.max_steps, self.look()
        rewards = {agent: float(self.t if agent == "a" else 3 * self.t) for agent in self.agents}
        result = (
            seen,
            rewards,
            dict.fromkeys(self.agents, False),
            dict.fromkeys(self.agents, over),
            {agent: {} for agent in self.agents},
        )
        if over:
            self.agents = []
        return result


class Rendered(Counting):
    """Renders a picture of 400 x 200 pixels, as bright as the step's number, if asked to when it is made."""

    def __init__(self, length: int = 4, render_mode: str | None = None):
        super().__init__(length)
        self.render_mode = render_mode

    def render(self) -> np.ndarray:
        return np.full((200, 400, 3), self.t, np.uint8)


class Masked(Counting):
    """Agent a's mask lies beside its observation, b's in its info; both forbid the last action at odd times."""

    def observation_space(self, agent: Any) -> spaces.Space:
        space = super().observation_space(agent)
        return (
            spaces.Dict({"observation": space, "action_mask": spaces.MultiBinary(4)})
            if agent == "a" and self.beside
            else space
        )

    beside = True

    def masks(self, observations: dict, infos: dict) -> tuple[dict, dict]:
        allowed = self.t % 2 == 0
        if "a" in observations:
            observations["a"] = {"observation": observations["a"], "action_mask": np.array([1, 1, 1, allowed], np.int8)}
        return observations, {**infos, "b": {"action_mask": [1, allowed]}}

    def reset(self, seed: int | None = None, options: dict | None = None) -> tuple[dict, dict]:
        return self.masks(*super().reset(seed, options))

    def step(self, actions: dict) -> Result:
        observations, *rest, infos = super().step(actions)
        observations, infos = self.masks(observations, infos)
        return observations, *rest, infos  # type: ignore[return-value]


class Dying(Counting):
    """Agent a is terminated at step 2 and leaves; b goes on to the end and is truncated."""

    def step(self, actions: dict) -> Result:
        assert set(actions) == set(self.agents)
        result = super().step(actions)
        if self.t == 2:
            result[2]["a"] = True
            self.agents = ["b"]
        return result


class MaskedDying(Dying, Masked):
    """Dying with masks."""


class Winning(Counting):
    """Both agents are terminated at the last step."""

    def step(self, actions: dict) -> Result:
        seen, rewards, _, over, infos = super().step(actions)
        return seen, rewards, over, dict.fromkeys(over, False), infos


class Coming(Counting):
    """Agent b is not there at reset and appears at step 3."""

    def reset(self, seed: int | None = None, options: dict | None = None) -> tuple[dict, dict]:
        super().reset(seed, options)
        self.agents = ["a"]
        return self.look(), {}

    def step(self, actions: dict) -> Result:
        if self.t == 2:
            self.agents = ["a", "b"]
        return super().step(actions)


class Broken(Counting):
    """Does something wrong at step 3: `how` names it."""

    def __init__(self, how: str, only: int = -1, length: int = 9):
        super().__init__(length)
        self.how = how

    def step(self, actions: dict) -> Result:
        result = super().step(actions)
        if self.t != 3:
            return result
        seen, rewards, *_ = result
        if self.how == "raise":
            raise ValueError("the gripper\nis stuck")
        if self.how == "exit":
            os._exit(7)
        if self.how == "nan":
            seen["a"] = np.array([1.0, np.nan, 1.0])
        if self.how == "huge":
            seen["a"] = np.array([1.0, 1.0, -1e300])
        if self.how == "huge reward":
            rewards["b"] = 1e18
        if self.how == "shape":
            seen["a"] = np.zeros(5)
        if self.how == "reward":
            rewards["b"] = np.inf
        if self.how == "stranger":
            seen["c"] = np.zeros(1)
        if self.how in ("rewards", "terminations", "truncations", "infos"):
            result[("rewards", "terminations", "truncations", "infos").index(self.how) + 1]["__all__"] = True
        if self.how == "word":
            result[2]["b"] = "False"
        if self.how == "unpaid":
            del rewards["b"]
        if self.how == "silent":
            del seen["b"]
        if self.how == "mask":
            result[4]["a"] = {"action_mask": [1, 1, 0, 0]}
        return result


class HugeState(Counting):
    """The third number of its state grows too large at step 3."""

    def state(self) -> np.ndarray:
        return np.array([0.0, 0.0, 1e19 if self.t == 3 else 0.0])


class Unpaid(Counting):
    """Agent b has no reward in the step that ends the episode."""

    def step(self, actions: dict) -> Result:
        result = super().step(actions)
        if not self.agents:
            del result[1]["b"]
        return result


class Stateless(Counting):
    """Its state holds nothing."""

    def state(self) -> np.ndarray:
        return np.zeros(0)


class Named(Counting):
    """Agents of any name and any spaces."""

    def __init__(self, agents: list, action: Callable[[], spaces.Space], observation: spaces.Space | None = None):
        super().__init__()
        self.possible_agents = agents
        self.action, self.observation = action, observation or spaces.Box(0, 1, (2,))

    def observation_space(self, agent: Any) -> spaces.Space:
        return self.observation

    def action_space(self, agent: Any) -> spaces.Space:
        return self.action() if agent == self.possible_agents[0] else spaces.Discrete(2)

    def look(self) -> dict:
        return {agent: self.observation.sample() for agent in self.agents}


class Kinds(ParallelEnv):
    """Observations of every kind and a state of its own; Box actions with bounds that leave out zero."""

    metadata = {"name": "kinds"}  # noqa: RUF012
    dt = 0.25

    def __init__(self) -> None:
        self.possible_agents = ["one/hot", "bits", "image"]
        self.shown: dict[str, Any] = {"one/hot": 5, "bits": np.array([1, 0, 1], np.int8), "image": np.ones((2, 2))}
        self.got: list[dict] = []

    def observation_space(self, agent: str) -> spaces.Space:
        return {
            "one/hot": spaces.Discrete(3, start=4),
            "bits": spaces.MultiBinary(3),
            "image": spaces.Box(0, 255, (2, 2), np.uint8),
        }[agent]

    def action_space(self, agent: str) -> spaces.Space:
        low, high = {"one/hot": ([1.0, -1.0], [2.0, 1.0]), "bits": ([-3.0], [-2.0]), "image": ([-0.1], [0.1])}[agent]
        return spaces.Box(np.array(low), np.array(high), dtype=np.float64)

    def reset(self, seed: int | None = None, options: dict | None = None) -> tuple[dict, dict]:
        self.agents = list(self.possible_agents)
        return dict(self.shown), {}

    def step(self, actions: dict) -> Result:
        for agent, action in actions.items():
            assert self.action_space(agent).contains(action), (agent, action)
        self.given = actions
        return dict(self.shown), dict.fromkeys(self.agents, 1.0), {}, {}, {}

    def state(self) -> np.ndarray:
        return np.arange(6.0).reshape(2, 3)


class Robots(ParallelEnv):
    """Six unlike agents that are each told a number from 0 to 3, in six ways, and are to do what it says.

    What an agent should do (`WANTED`) is paid 1 if every element is right, real values to within a quarter of their range;
    the team is paid the mean. With `mask`, the gripper may not do 6 with its second finger."""

    metadata = {"name": "robots"}  # noqa: RUF012
    LENGTH = 6
    SPACES: ClassVar[dict[str, spaces.Space]] = {
        "wheel": spaces.Discrete(4, start=1),
        "gripper": spaces.MultiDiscrete([2, 4], start=[0, 5]),
        "lamps": spaces.MultiBinary(2),
        "arm": spaces.Box(np.array([[-1.0, 0.0]]), np.array([[1.0, 10.0]]), dtype=np.float64),
        "pump": spaces.Box(0, 60_000, (1,), np.uint16),
        "counter": spaces.Box(np.iinfo(np.int64).min, np.iinfo(np.int64).max, (), np.int64),
    }
    SEEN: ClassVar[dict[str, spaces.Space]] = {
        "wheel": spaces.Discrete(4, start=2),
        "gripper": spaces.Dict(
            {"goal": spaces.Tuple((spaces.MultiBinary(2), spaces.Box(-9, 9, (1,)))), "at": spaces.Box(0, 1, ())}
        ),
        "lamps": spaces.MultiDiscrete([4, 2], start=[1, 0]),
        "arm": spaces.Box(-1, 1, (2, 2)),
        "pump": spaces.Box(0, 255, (2, 2), np.uint8),
        "counter": spaces.Box(-8, 8, (1,), np.int32),
    }

    def __init__(self, mask: bool = False):
        self.mask, self.possible_agents = mask, list(self.SPACES)
        self.taken: list[dict] = []

    def observation_space(self, agent: str) -> spaces.Space:
        return self.SEEN[agent]

    def action_space(self, agent: str) -> spaces.Space:
        return self.SPACES[agent]

    @staticmethod
    def wanted(agent: str, told: int) -> np.ndarray:
        """What an agent should do where it is told a number."""
        return np.array(
            {
                "wheel": 1 + told,
                "gripper": [told % 2, 5 + told],
                "lamps": [told % 2, told // 2],
                "arm": [[told / 2 - 0.75, 10 - 3 * told]],
                "pump": [15_000 * told],
                "counter": 3 - 2 * told,
            }[agent]
        )

    def shown(self, agent: str, told: int) -> Any:
        bits = np.array([told % 2, told // 2], np.int8)
        return {
            "wheel": 2 + told,
            "gripper": {"goal": (bits, np.float32([told])), "at": np.float32(0.5)},
            "lamps": np.array([1 + told, 1]),
            "arm": np.float32([[told == 0, told == 1], [told == 2, told == 3]]),
            "pump": np.uint8([[0, 80 * told], [255 * (told % 2), 7]]),
            "counter": np.int32([told - 2]),
        }[agent]

    def reset(self, seed: int | None = None, options: dict | None = None) -> tuple[dict, dict]:
        self.agents, self.random, self.steps = list(self.possible_agents), np.random.default_rng(seed), 0
        return self.look()

    def look(self) -> tuple[dict, dict]:
        self.told = {agent: int(self.random.integers(4)) for agent in self.agents}
        infos: dict[str, dict] = {agent: {} for agent in self.agents}
        if self.mask and self.agents:
            infos["gripper"]["action_mask"] = (np.ones(2, np.int8), np.array([1, 0, 1, 1], np.int8))
        return {agent: self.shown(agent, told) for agent, told in self.told.items()}, infos

    def step(self, actions: dict) -> Result:
        rewards = {}
        for agent, action in actions.items():
            space = self.SPACES[agent]
            assert space.contains(action), (agent, action)
            assert isinstance(action, np.integer if isinstance(space, spaces.Discrete) else np.ndarray), type(action)
            near = {"arm": np.array([[0.5, 2.5]]), "pump": 15_000, "counter": 1.5}.get(agent, 0)
            rewards[agent] = float((np.abs(action.astype(float) - self.wanted(agent, self.told[agent])) <= near).all())
            if self.mask and agent == "gripper":
                assert action[1] != 6, action
        self.taken.append(actions)
        self.steps += 1
        over = dict.fromkeys(self.agents, self.steps == self.LENGTH)
        told = self.look()
        if self.steps == self.LENGTH:
            self.agents = []
        return told[0], rewards, dict.fromkeys(over, False), over, told[1]


class Turns(AECEnv):
    """Three agents take turns in laying 0, 1 or 2; whoever lays what was laid last loses, so that is illegal. The other two
    have masks of zeros. Every agent is paid what was laid, and after six turns it is over."""

    metadata = {"name": "turns", "is_parallelizable": False}  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__()
        self.possible_agents = ["a", "b", "c"]
        self.render_mode = None

    def observation_space(self, agent: str) -> spaces.Space:
        return spaces.Dict({"observation": spaces.Box(0, 9, (2,)), "action_mask": spaces.MultiBinary(3)})

    def action_space(self, agent: str) -> spaces.Space:
        return spaces.Discrete(3)

    def reset(self, seed: int | None = None, options: dict | None = None) -> None:
        self.agents, self.turn, self.laid = list(self.possible_agents), 0, 0
        self.agent_selection = "a"
        self.rewards = self._cumulative_rewards = dict.fromkeys(self.agents, 0.0)
        self.terminations, self.truncations = dict.fromkeys(self.agents, False), dict.fromkeys(self.agents, False)
        self.infos: dict = {agent: {} for agent in self.agents}

    def observe(self, agent: str) -> dict:
        mask = (np.arange(3) != self.laid) & (agent == self.agent_selection)
        return {"observation": np.float32([self.laid, self.turn]), "action_mask": mask.astype(np.int8)}

    def step(self, action: Any) -> None:
        if self.terminations[self.agent_selection]:
            self._was_dead_step(action)
            return
        assert action in (0, 1, 2) and action != self.laid, action
        self.laid, self.turn = int(action), self.turn + 1
        self.rewards = dict.fromkeys(self.agents, float(action))
        self.terminations = dict.fromkeys(self.agents, self.turn == 6)
        self.agent_selection = "abc"[self.turn % 3]


def turns() -> ParallelEnv:
    return turn_based_aec_to_parallel(Turns())


class Flaky(Counting):
    """Fails at its third step if the seed of the episode is even, and at its reset if the seed ends in 3."""

    def reset(self, seed: int | None = None, options: dict | None = None) -> tuple[dict, dict]:
        if seed is not None and seed % 10 == 3:
            raise OSError("the port is taken")
        return super().reset(seed, options)

    def step(self, actions: dict) -> Result:
        if self.t == 2 and self.seed % 2 == 0:
            raise RuntimeError("a walker fell through the floor")
        return super().step(actions)


class NeverAgain(Counting):
    """Starts to be looked at, which takes seed 0, and never for an episode."""

    def reset(self, seed: int | None = None, options: dict | None = None) -> tuple[dict, dict]:
        if seed:
            raise OSError("the port is taken")
        return super().reset(seed, options)


def broken(how: str = "raise") -> Broken:
    return Broken(how)


def counting(length: int = 4, note: str | None = "x", scale: float = 1.0, big: bool = False) -> Counting:
    env = Counting(length)
    env.metadata = {**env.metadata, "got": (length, note, scale, big)}
    return env


def sequential() -> AECEnv:
    return AECEnv()


def failing(size: int = 1) -> None:
    raise RuntimeError(f"no licence for size {size}")


def no_action() -> Named:
    return Named(["a"], lambda: spaces.Box(0, 1, (2, 0)))


def text_actions() -> Named:
    return Named(["a"], lambda: spaces.Text(4))


def words() -> Named:
    return Named(["a"], lambda: spaces.Discrete(2), spaces.Text(4))


def numbered() -> Named:
    return Named([0, "drone.1", "Müller"], lambda: spaces.Discrete(2))


def twins() -> Named:
    return Named(["a.b", "a/b"], lambda: spaces.Discrete(2))


def blind() -> Named:
    return Named(["a"], lambda: spaces.Discrete(2), spaces.Box(0, 1, (2, 0)))


ONLY = Counting()


def one_for_all() -> Counting:
    return ONLY


def wrapped_anew() -> BaseParallelWrapper:
    return BaseParallelWrapper(ONLY)


def bounded(low: float = -1.0, high: float = 1.0) -> Named:
    """One agent; its second action element has these bounds."""
    return Named(["a"], lambda: spaces.Box(np.array([-1.0, low]), np.array([1.0, high]), dtype=np.float64))


def many_choices() -> Named:
    return Named(["a"], lambda: spaces.Discrete(20_000_000))
