"""Two agents, two passages: where copying an all-seeing teacher goes wrong (the paper's Figure 1).

Each agent is small or big, independently and with equal chance, and sees only its own size. Each chooses the
short passage or the long one, once. A passage has room for two small agents or for one big one. This file
knows payoffs only and imports no simulator.
"""

from __future__ import annotations

import itertools
import sys

import numpy as np

from agentmixer.contract.spec import Discrete, TaskSpec
from agentmixer.tasks.base import NoOptions, ScenarioInfo, Task, check_known

SMALL, BIG = 0, 1
SHORT, LONG = 0, 1
CROSSED = 10.0
#: What the long passage costs: DETOUR[agent][size]. A big agent hardly notices it, agent 1 starts nearer to it.
DETOUR = ((8.0, 1.0), (2.0, 1.0))
#: What the team gets when both are in one passage that has no room for them, by the number of big agents.
JAMMED = {1: 0.0, 2: -10.0}

Options = NoOptions
backends = ("jax",)
names_code = False
notes = (
    "One step an episode; an agent sees only its own size. Best possible: 9.25 if one could see both sizes, 8.5 "
    "for agents that cannot; agents that copy the all-seeing policy's most frequent action get 4.5."
)


def payoff() -> np.ndarray:
    """The team's reward, float64 [2, 2, 2, 2], indexed [size_0, size_1, action_0, action_1]."""
    table = np.empty((2, 2, 2, 2))
    for size_0, size_1, action_0, action_1 in itertools.product((0, 1), repeat=4):
        big = (size_0 == BIG) + (size_1 == BIG)
        if action_0 == action_1 and big:
            reward = JAMMED[big]
        else:
            reward = CROSSED - DETOUR[0][size_0] * (action_0 == LONG) - DETOUR[1][size_1] * (action_1 == LONG)
        table[size_0, size_1, action_0, action_1] = reward
    return table


def decentralised(first: tuple[int, int], second: tuple[int, int]) -> float:
    """Expected return of two policies, each given as its action when small and its action when big."""
    table = payoff()
    return float(np.mean([table[s, t, first[s], second[t]] for s in (SMALL, BIG) for t in (SMALL, BIG)]))


def best_decentralised() -> float:
    """The highest expected return of agents that see only their own size, by trying all 4 x 4 policies.

    Mixing policies cannot add to it: the return is linear in each agent's policy."""
    policies = [(small, big) for small in (SHORT, LONG) for big in (SHORT, LONG)]
    return max(decentralised(first, second) for first in policies for second in policies)


def best_joint() -> float:
    """The highest expected return of a policy that sees both sizes."""
    return float(payoff().max((2, 3)).mean())


def distilled() -> float:
    """Expected return of agents that copy the all-seeing policy: each takes the action which that policy chooses
    most often for the agent's own size. Where two joint actions are best the policy chooses each half of the time.
    """
    table = payoff()
    teacher = (table == table.max((2, 3), keepdims=True)).astype(float)
    teacher /= teacher.sum((2, 3), keepdims=True)
    first = teacher.sum(3).mean(1).argmax(-1)
    second = teacher.sum(2).mean(0).argmax(-1)
    return decentralised((first[SMALL], first[BIG]), (second[SMALL], second[BIG]))


def scenarios() -> list[ScenarioInfo]:
    """The one scenario."""
    return [ScenarioInfo("two_agents", 2, (2, 2), 4, "2 discrete", 1, "AgentMixer (arXiv 2401.08728), Figure 1")]


def check(scenario: str, backend: str, options: NoOptions) -> None:
    """Raise AgentMixerError for an unknown scenario."""
    check_known(sys.modules[__name__], "passage", scenario)


def make(scenario: str, num_envs: int, backend: str, options: NoOptions, device: str = "cpu") -> Task:
    """Build the task. It runs on the processor, whatever `device` the learner is on."""
    from agentmixer.tasks import passage_game
    from agentmixer.tasks.jax_task import JaxTask

    spec = TaskSpec(
        name="passage",
        scenario=scenario,
        backend=backend,
        options={},
        agents=("agent_0", "agent_1"),
        obs_names=(("own.is_small", "own.is_big"),) * 2,
        state_size=4,
        action_spaces=(Discrete(2),) * 2,
        has_action_mask=False,
        reports_wins=False,
        episode_limit=1,
        control_period_s=1.0,
        fallback_actions=(SHORT, LONG),
        shared="reward",
    )
    return JaxTask(spec, passage_game.game(), num_envs)
