"""A task in numpy. Two walkers stand on a line, each up to 4 cells from its goal; the team wins when both stand on theirs."""

from typing import Any

import numpy as np

from agentmixer.contract.spec import Discrete, TaskSpec
from agentmixer.tasks.base import NoOptions, ScenarioInfo, Task, TaskStep, check_known

FAR, LIMIT = 4, 12
# What `agentmixer tasks` and the registry ask of a family: these four names and the three functions.
backends, names_code, Options = ("numpy",), False, NoOptions
notes = "Reward: 1 when both walkers stand on their goals, which ends the episode; else -0.1 a step."


def scenarios() -> list[ScenarioInfo]:
    return [ScenarioInfo("two_walkers", 2, (3, 3), 2, "3 discrete", LIMIT, "an example")]


def check(scenario: str, backend: str, options: NoOptions) -> None:
    check_known("walkers", scenario, ["two_walkers"])


def make(scenario: str, num_envs: int, backend: str, options: NoOptions, device: str = "cpu") -> Task:
    return Walkers(num_envs)


class Walkers:
    """N = 2 agents in E environments. Arrays with a row an agent are [N, E, ...]."""

    restarts = False  # `restore` continues the episodes that were running
    spec = TaskSpec(
        name="walkers", scenario="two_walkers", backend="numpy", options={}, agents=("walker_0", "walker_1"),
        obs_names=(("goal.is_left", "goal.is_here", "goal.is_right"),) * 2, state_size=2,
        action_spaces=(Discrete(3),) * 2, has_action_mask=False, reports_wins=True, episode_limit=LIMIT,
        control_period_s=1.0, fallback_actions=(1, 1), shared="reward",
    )  # fmt: skip

    def __init__(self, num_envs: int):
        self.num_envs = num_envs

    def reset(self, seed: int, episodes: np.ndarray | None = None) -> TaskStep:
        self.seed = seed
        self.episodes = np.arange(self.num_envs) if episodes is None else np.array(episodes)
        self.played, self.time = np.zeros((2, self.num_envs), int)
        self.offset = np.zeros((2, self.num_envs), int)  # the goal's cell minus the walker's
        self._start(np.arange(self.num_envs))
        no = np.zeros(self.num_envs, bool)
        return self._seen(no * 0.0, no, no, *self._look())

    def step(self, actions: Any) -> TaskStep:
        self.offset = np.clip(self.offset - (np.asarray(actions.cpu()) - 1), -FAR, FAR)  # 0 left, 1 stay, 2 right
        self.time += 1
        won = (self.offset == 0).all(0)
        truncated = ~won & (self.time >= LIMIT)
        final = self._look()  # before the next episode starts
        self._start(np.flatnonzero(won | truncated))
        return self._seen(np.where(won, 1.0, -0.1), won, truncated, *final)

    def _start(self, envs: np.ndarray) -> None:
        """New episodes. Each depends on the seed, its stream and its number alone, whatever E is."""
        for e in envs:
            random = np.random.default_rng([self.seed, self.episodes[e], self.played[e]])
            self.offset[:, e] = random.integers(1, FAR + 1, 2) * random.choice([-1, 1], 2)
        self.played[envs] += 1
        self.time[envs] = 0

    def _look(self) -> tuple[np.ndarray, np.ndarray]:
        """obs [N, E, 3] and state [E, 2], float32."""
        return np.eye(3, dtype=np.float32)[np.sign(self.offset) + 1], (self.offset.T / FAR).astype(np.float32)

    def _seen(
        self, reward: np.ndarray, won: np.ndarray, truncated: np.ndarray, final_obs: np.ndarray, final_state: np.ndarray
    ) -> TaskStep:
        obs, state = self._look()
        mask, active = np.ones((2, self.num_envs, 3), bool), np.ones((2, self.num_envs), bool)
        reward = reward.astype(np.float32)
        self.last = TaskStep(obs, state, mask, active, reward, won, truncated, won, final_obs, final_state)
        return self.last

    def snapshot(self) -> dict[str, np.ndarray]:
        own = {name: getattr(self, name).copy() for name in ("episodes", "played", "time", "offset")}
        return {"seed": np.array(self.seed), **own, **self.last._asdict()}

    def restore(self, arrays: dict[str, np.ndarray]) -> TaskStep:
        self.seed = int(arrays["seed"])
        for name in ("episodes", "played", "time", "offset"):
            setattr(self, name, np.array(arrays[name]))
        self.last = TaskStep(*(np.array(arrays[name]) for name in TaskStep._fields))
        return self.last

    def close(self) -> None:
        pass
