"""Three ways to play the same episodes: the joint policy, the actors in process, the deployed agents."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch

from agentmixer.contract.spec import Box, TaskSpec
from agentmixer.errors import AgentMixerError
from agentmixer.export.team_noise import TeamNoise
from agentmixer.host.lock_step import Decision, Host
from agentmixer.runtime.log import Logger
from agentmixer.tasks import Task
from agentmixer.tasks.base import Restarting, TaskStep, to_torch
from agentmixer.tasks.side_by_side import lost_in
from agentmixer.train.settings import JUDGE_LIMIT
from agentmixer.train.team import Team
from agentmixer.validate.recording import Recorder


class Arm(Protocol):
    """Something that plays one environment with all agents."""

    def reset(self, episode: int) -> None: ...

    def act(self, step: TaskStep) -> np.ndarray:
        """Actions for the current step of a task with one environment: [N] int32 or [N, W] float32."""
        ...


class TorchArm:
    """The trained team in process: at each step the actors' policies, and what PM makes of them, on the same inputs.

    Counts on how many decisions of agents that can act both have the same mode (Definition 6; nothing is counted where
    that holds by definition), and keeps what the actors gave, to judge near ties by. Which of the two modes acts is the
    subclass's. seeds: of each agent's noise, by which whole numbers are drawn; None: the modes act."""

    joint_acts: bool

    def __init__(self, team: Team, seeds: Sequence[int] | None = None):
        self.team, self.noise, self.drawn = team, TeamNoise(team, seeds), seeds is not None
        self.policies: list[list[np.ndarray]] = []
        self.agreed = self.decided = 0

    def reset(self, episode: int) -> None:
        self.memory, self.episode_start = self.team.memory(1), torch.ones(1)
        self.noise.begin(episode)
        self.policies.append([])

    @torch.no_grad()
    def act(self, step: TaskStep) -> np.ndarray:
        team, memory, kind = self.team, self.memory, self.team.joint_policy
        obs, state, mask, active = (
            to_torch(array, team.device) for array in (step.obs, step.state, step.action_mask, step.active)
        )
        memory["signal"] = team.next_signal(memory["signal"], self.episode_start)
        self.episode_start = torch.zeros(1)
        actors = team.step(obs, mask, memory["actor"])
        score, remembered = team.score(actors, state, memory["signal"], memory["pm"])
        noise = self.noise.draw()
        policy = actors.policy + noise
        if self.joint_acts and self.drawn:
            by = self.noise.exponential(noise)
            action, _, _ = team.act_jointly(obs, state, memory["signal"], mask, memory, greedy=False, noise=by)
        memory |= {"actor": actors.memory, "pm": remembered}
        joint = kind.joint(actors.policy, score, mask)
        if (agree := kind.agree(joint, actors.policy)) is not None:
            self.agreed += int((agree & active).sum())
            self.decided += int(active.sum())
        self.policies[-1].append(policy[:, 0].cpu().numpy())
        if not self.joint_acts:
            action = kind.actor_mode(policy)
        elif not self.drawn:
            action = kind.mode(joint)
        return team.to_task(action)[:, 0].cpu().numpy()


def own_masks(spec: TaskSpec, masks: np.ndarray) -> list[np.ndarray | None] | None:
    """What each agent is told that it may do, [A_i] bool, None where real values are never masked; None if the task does
    not mask. masks [N, A]."""
    if not spec.has_action_mask:
        return None
    return [
        None if isinstance(space, Box) else row[: space.n] for row, space in zip(masks, spec.action_spaces, strict=True)
    ]


class JointArm(TorchArm):
    """The joint policy, with PM, global state and signal in the loop."""

    joint_acts = True


class ActorsArm(TorchArm):
    """The actors alone, as trained: PM is asked, but moves nothing."""

    joint_acts = False


class DeployedArm:
    """The exported agents, one process each, over their links. Keeps every decision and step time.

    loggers: one an agent, which are told what the agent is sent and what is done; none if nothing is logged."""

    def __init__(self, host: Host, spec: TaskSpec, loggers: Sequence[Logger] = ()):
        self.host, self.spec, self.loggers = host, spec, loggers
        self.decisions: list[list[Decision]] = []
        self.step_ns: list[int] = []
        #: For each agent the decisions that came in time and were applied, by the host's episode and step.
        self.applied: list[dict[tuple[int, int], np.ndarray]] = [{} for _ in spec.agents]
        self._episode = self._step = 0
        #: Whose last action is its own decision, [N] bool; the others fell back.
        self.decided = np.ones(spec.num_agents, bool)

    def reset(self, episode: int) -> None:
        # Counted on by the host, so that the same episodes may be played again over the same links.
        self._episode, self._step = self.host.last[0] + 1, 0
        for logger in self.loggers:
            logger.reset()

    def act(self, step: TaskStep) -> np.ndarray:
        obs, mine = of_each(self.spec, step)
        begin = time.monotonic_ns()
        decisions = self.host.step(self._episode, self._step, obs, mine)
        self.step_ns.append(time.monotonic_ns() - begin)
        self.decisions.append(decisions)
        for applied, decision in zip(self.applied, decisions, strict=True):
            if decision.in_time:
                applied[self._episode, self._step] = decision.action
        for i, logger in enumerate(self.loggers):
            logger.add(obs[i], mine[i] if mine else None, decisions[i].action)
        self._step += 1
        self.decided = np.array([decision.in_time for decision in decisions])
        return joined(self.spec, [decision.action for decision in decisions])


def of_each(spec: TaskSpec, step: TaskStep) -> tuple[list[np.ndarray], list[np.ndarray | None] | None]:
    """What each agent is told in a step of one environment: its observation, [D_i] float32, and `own_masks`."""
    seen, masks = np.asarray(step.obs)[:, 0], np.asarray(step.action_mask)[:, 0]
    return [row[:size] for row, size in zip(seen, spec.obs_sizes, strict=True)], own_masks(spec, masks)


def joined(spec: TaskSpec, actions: Sequence[np.ndarray]) -> np.ndarray:
    """The agents' actions, each as `Agent.act` gives it, as a task with one environment takes them: [N] int32 or [N, W] float32."""
    if spec.discrete:
        return np.array(actions, np.int32)
    rows = np.zeros((spec.num_agents, spec.action_size), np.float32)
    for row, action in zip(rows, actions, strict=True):
        row[: action.size] = action
    return rows


class Played(NamedTuple):
    """Episodes of one arm, in order. actions: one [T, N] or [T, N, W] array an episode; shadow: what the shadow
    would have done on the very same observations; unended: episodes that were cut off, which are lost; rewards: one [T] array
    an episode."""

    returns: np.ndarray
    won: np.ndarray
    actions: list[np.ndarray]
    shadow: list[np.ndarray]
    unended: tuple[int, ...] = ()
    rewards: Sequence[np.ndarray] = ()


def play(
    arm: Arm, task: Task, episodes: int, seed: int, shadow: Arm | None = None, longest: int = JUDGE_LIMIT,
    progress: Callable[[str], None] = lambda _: None, recorder: Recorder | None = None,
) -> Played:  # fmt: skip
    """Play episodes 0 .. episodes-1 of `seed` one after the other. Two arms that act alike see, bit for
    bit, the same episodes. task: one environment.

    shadow: another arm that sees every step and decides too, with its own memory, but moves nothing. Where
    physics is chaotic, two arms that differ in the last bit soon live in different worlds; a shadow stays in one.
    longest: steps after which an episode is cut off (`evaluate.longest_episode`). progress: called with how far it is. recorder: is shown every step. Raises AgentMixerError if an environment
    fails, whether it was made anew or not: the arms would no longer play the same episode."""
    # One environment's networks gain nothing from threads, and lose much where other work holds the cores.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with recorder.of(task) if recorder else contextlib.nullcontext():
            return _play(arm, task, episodes, seed, shadow, longest, progress, recorder)
    finally:
        torch.set_num_threads(threads)


def _play(
    arm: Arm, task: Task, episodes: int, seed: int, shadow: Arm | None, longest: int, progress: Callable[[str], None],
    recorder: Recorder | None,
) -> Played:  # fmt: skip
    returns, won, actions, shadows, unended, all_rewards = [], [], [], [], [], []
    for episode in range(episodes):
        progress(f"episode {episode + 1} of {episodes}")
        step = task.reset(seed, np.array([episode]))
        arm.reset(episode)
        if shadow:
            shadow.reset(episode)
        if recorder:
            recorder.begin(step)
        taken: list[np.ndarray] = []
        rewards: list[float] = []
        beside, ended = [], False
        while not ended and len(taken) < longest:
            progress(f"episode {episode + 1} of {episodes}")
            if shadow:
                beside.append(shadow.act(step))
            action = arm.act(step)
            taken.append(action)
            step = task.step(torch.from_numpy(action[:, None].copy()))
            if lost_in(task) is not None and isinstance(task, Restarting):
                raise AgentMixerError(f"{task.failures()[-1]}; choose other episodes with --seed")
            if recorder:
                decided = arm.decided if isinstance(arm, DeployedArm) else np.ones(len(action), bool)
                recorder.add(action, decided, step)
            rewards.append(float(np.asarray(step.reward)[0]))
            ended = bool(np.asarray(step.terminated)[0] or np.asarray(step.truncated)[0])
        returns.append(sum(rewards))
        all_rewards.append(np.array(rewards))
        won.append(ended and bool(np.asarray(step.won)[0]))
        if recorder:
            recorder.end(won[-1], ended)
        if not ended:
            unended.append(episode)
        actions.append(np.stack(taken))
        shadows.append(np.stack(beside) if shadow else np.empty(0))
    return Played(np.array(returns), np.array(won), actions, shadows, tuple(unended), all_rewards)
