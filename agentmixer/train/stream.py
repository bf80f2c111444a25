"""The step loop that every algorithm collects with: a team plays on in its environments, an algorithm takes recorder."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from agentmixer.contract.spec import TaskSpec
from agentmixer.errors import TeamError
from agentmixer.tasks.base import LARGEST, Task, TaskStep, to_torch
from agentmixer.tasks.side_by_side import lost_in
from agentmixer.train.team import Team


@dataclass
class Stream:
    """Where a task's environments of K teams stand between two rollouts: E of each team, team after team."""

    step: TaskStep
    #: What is remembered from step to step; the algorithm says what that is.
    memory: dict[str, Tensor]
    #: [K * E], 1 where the current observation is the first of its episode.
    episode_start: Tensor
    #: [K * E], return of the running episode so far.
    episode_return: Tensor


def begin(team: Team, memory: dict[str, Tensor], step: TaskStep) -> Stream:
    """A stream of environments that were just reset. memory: nothing remembered yet."""
    count = len(memory["signal"])
    return Stream(step, memory, torch.ones(count, device=team.device), torch.zeros(count, device=team.device))


class Place(NamedTuple):
    """Where in a rollout an array belongs: step t, and which of the E environments of each team."""

    t: int
    envs: slice


class Seen(NamedTuple):
    """What the team meets before a step. obs [N, E, D], state [K * E, S], mask [N, E, A], active [N, E], signal
    [K * E, Z], episode_start [K * E]."""

    obs: Tensor
    state: Tensor
    mask: Tensor
    active: Tensor
    signal: Tensor
    episode_start: Tensor


class Outcome(NamedTuple):
    """What came of a step: reward, terminated, truncated [K * E], and the step that follows. lost [K * E]: environments that
    failed in the step (`tasks.base.Restarting`), so that nobody knows what came of the decisions; None if none did."""

    reward: Tensor
    terminated: Tensor
    truncated: Tensor
    following: TaskStep
    lost: Tensor | None


class Recorder(Protocol):
    """What an algorithm does along the way: decide, and record. `memory` is the stream's own; what is left in it is met at the next step, set
    to zero where an episode starts (the signal apart)."""

    def decide(self, place: Place, seen: Seen, memory: dict[str, Tensor], noise: Tensor) -> Tensor:
        """Actions [N, E] or [N, E, A] for what is seen, with the noise [N, E, A] to sample them by. Arrays that are to be
        kept are copied here: a task may reuse them."""
        ...

    def meanwhile(self, place: Place, seen: Seen, memory: dict[str, Tensor]) -> None:
        """What can be done while the task is at work."""
        ...

    def outcome(self, place: Place, seen: Seen, outcome: Outcome, memory: dict[str, Tensor]) -> None:
        """Record what came of the step."""
        ...

    def end(self, envs: slice, state: Tensor, memory: dict[str, Tensor]) -> None:
        """The rollout is over; state [K * E, S] is the one after its last step."""
        ...


@torch.no_grad()
def play_on(
    team: Team, tasks: Sequence[Task], streams: Sequence[Stream], steps: int, recorder: Recorder
) -> list[dict[str, Tensor]]:
    """Let the joint policy act for `steps` steps and advance `streams`, one a task.

    E environments may be shared out over several tasks, in order: the team then decides for one task's while others are
    simulated. That changes no result, for what is random in actions is drawn beforehand, for all environments.

    Returns of each team's episodes that ended: return, won [episodes], in the order in which they ended."""
    envs = sum(task.num_envs for task in tasks)
    noise = [(team.signal_noise(envs), team.action_noise(envs)) for _ in range(steps)]
    returns = torch.empty(team.count, steps, envs, device=team.device)
    ended, won = torch.empty_like(returns, dtype=torch.bool), torch.empty_like(returns, dtype=torch.bool)
    first, lanes = 0, []
    with contextlib.ExitStack() as stack:
        for task, stream in zip(tasks, streams, strict=True):
            where = slice(first, first + task.num_envs)
            first = where.stop
            # JAX works beside Python unasked; what puts several teams' tasks together waits for it.
            threaded = len(tasks) > 1 and team.count > 1
            thread = stack.enter_context(ThreadPoolExecutor(1)) if threaded else None
            lanes.append(_lane(team, task, thread, stream, where, noise, recorder, (returns, ended, won)))
        for _ in range(steps + 1):
            for lane in lanes:
                next(lane, None)
    return [{"return": returns[k][ended[k]], "won": won[k][ended[k]]} for k in range(team.count)]


def _lane(
    team: Team,
    task: Task,
    thread: Executor | None,
    stream: Stream,
    where: slice,
    noise: list[tuple[Tensor, Tensor]],
    recorder: Recorder,
    episodes: tuple[Tensor, Tensor, Tensor],
) -> Iterator[None]:
    """Play one task's share of the environments, `where`. Gives way whenever the task is at work, in `thread` if given."""
    step = stream.step

    def tensor(array: object) -> Tensor:
        return to_torch(array, team.device)

    for t, (for_signal, for_action) in enumerate(noise):
        place, memory = Place(t, where), _remembered(team, stream)
        for_signal = for_signal.unflatten(0, (team.count, -1))[:, where].flatten(0, 1)
        memory["signal"] = team.next_signal(memory["signal"], stream.episode_start, for_signal)
        seen = Seen(
            tensor(step.obs), tensor(step.state), tensor(step.action_mask), tensor(step.active), memory["signal"],
            stream.episode_start,
        )  # fmt: skip
        action = team.to_task(recorder.decide(place, seen, memory, for_action[:, where]))
        running = task.step(action) if thread is None else thread.submit(task.step, action)
        recorder.meanwhile(place, seen, memory)
        yield
        step = running.result() if isinstance(running, Future) else running
        failed = lost_in(task)
        lost = None if failed is None else torch.from_numpy(failed).to(team.device)
        outcome = Outcome(tensor(step.reward), tensor(step.terminated), tensor(step.truncated), step, lost)
        stream.episode_return += outcome.reward
        recorder.outcome(place, seen, outcome, memory)
        ended = outcome.terminated | outcome.truncated
        whole = ended if lost is None else ended & ~lost
        for kept, array in zip(episodes, (stream.episode_return, whole, tensor(step.won)), strict=True):
            kept[:, t, where] = array.view(team.count, -1)
        stream.episode_return.masked_fill_(ended, 0.0)
        stream.memory, stream.episode_start, stream.step = memory, ended.float(), step
    recorder.end(where, tensor(step.state), _remembered(team, stream))


def _remembered(team: Team, stream: Stream) -> dict[str, Tensor]:
    """The stream's memory [K * G, E, M], set to zero where an episode starts; the signal as it is."""
    keep, teams = (1.0 - stream.episode_start).view(team.count, 1, -1, 1), team.count
    return {
        name: array if name == "signal" else (array.unflatten(0, (teams, len(array) // teams)) * keep).flatten(0, 1)
        for name, array in stream.memory.items()
    }


def check_numbers(obs: Tensor, state: Tensor, reward: Tensor, spec: TaskSpec) -> None:
    """obs [K*N, T, E, D], state [K, T, E, S], reward [K, T, E]. Raise TeamError naming the first environment and step
    whose numbers are not finite or larger than LARGEST, and the number."""
    for name, array in (("obs", obs), ("state", state), ("reward", reward)):
        fine = array.abs() <= LARGEST
        if not fine.all():
            where = (~fine).nonzero()
            row, step, env, *element = where[where[:, 1].argmin()].tolist()
            number = array[(row, step, env, *element)].item()
            whose, agent = "", row % spec.num_agents
            if name == "obs":
                whose = f" of {spec.agents[agent]}"
            which = f" (element {element[0]})" if element else ""
            wrong = "that is not finite" if not math.isfinite(number) else f"of {number:g}{which}"
            scale = f", and beyond {LARGEST:g} sums of squares overflow in 32-bit arithmetic, so scale it in the task"
            raise TeamError(
                f"environment {env} returned a {name}{whose} {wrong} at step {step} of this rollout"
                f"{scale if math.isfinite(number) else ''}; nothing was learned from it",
                row // spec.num_agents if name == "obs" else row,
            )
