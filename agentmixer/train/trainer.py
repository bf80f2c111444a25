"""The training loop: collect, update, log, evaluate, save; interruptible at any time."""

from __future__ import annotations

import contextlib
import json
import signal
import time
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import Any

import numpy as np
import torch
from rich.console import Console

from agentmixer import intervals
from agentmixer.errors import AgentMixerError, TeamError
from agentmixer.progress import Doing
from agentmixer.tasks import Task
from agentmixer.tasks.base import Restarting
from agentmixer.tasks.side_by_side import apart, joined, side_by_side
from agentmixer.train import checkpoint, stream
from agentmixer.train import run as runs
from agentmixer.train.algorithms import ALGORITHMS
from agentmixer.train.checkpoint import Clock, Update
from agentmixer.train.evaluate import Interrupted, evaluate, longest_episode
from agentmixer.train.figures import evaluation_line, report
from agentmixer.train.lock import locked
from agentmixer.train.records import Records
from agentmixer.train.run import Run
from agentmixer.train.run_files import read_config
from agentmixer.train.watching import Seen, Standing, Watch

#: Evaluation episodes come from this stream; the command line keeps training seeds below a million.
EVALUATION_SEED = 1_000_003


def train(run: Run, console: Console, resume: bool = False) -> bool:
    """Train `run` to its total_steps and judge it there, unless that was done. Returns False if it was interrupted (a
    checkpoint is left). Nothing of the run is changed while another process trains it.

    Raises AgentMixerError if training diverges (a loss is not finite), an environment fails or a file cannot be
    written; the last checkpoint is good then."""
    return train_together([run], console, resume)


def train_together(chosen: Sequence[Run], console: Console, resume: bool = False, watch: Watch | None = None) -> bool:
    """`train` for runs that differ in their seeds alone: one batched computation, and a run directory each with all
    that training it alone would leave there. Where one fails, all stop. watch: is told where they stand, at the start
    and after each update."""
    check_together(chosen[0].algorithm, len(chosen))
    with contextlib.ExitStack() as stack:
        # Before the task is made, which takes seconds: whoever stops a run is to find a checkpoint.
        interrupt = stack.enter_context(_Interrupt())
        for run in chosen:
            stack.enter_context(locked(run.path))

        def make(run: Run, envs: int) -> Task:
            return stack.enter_context(contextlib.closing(run.make_task(envs, run.config.run.workers)))

        settings = chosen[0].config.run
        tasks = [[make(run, settings.num_envs // settings.lanes) for _ in range(settings.lanes)] for run in chosen]
        lanes = [side_by_side(same, chosen[0].device) for same in zip(*tasks, strict=True)]
        for lane in lanes:
            stack.callback(lane.close)
        judge = make(chosen[0], settings.num_envs)
        training = _Training(chosen, tasks, lanes, judge, console, resume, interrupt, watch)
        return training.run()


def check_together(algorithm: str, seeds: int) -> None:
    """Raise AgentMixerError if this algorithm cannot train so many seeds side by side."""
    if seeds > 1 and not ALGORITHMS[algorithm].several_teams:
        raise AgentMixerError(
            f"{algorithm} trains one seed at a time; agentmixer compare --seeds trains several of them in processes"
        )


def check_device(device: str) -> None:
    """Raise AgentMixerError if torch cannot use `device`."""
    if device not in ("cpu", "cuda"):
        raise AgentMixerError(f"unknown device '{device}'; known: cpu, cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise AgentMixerError("--device cuda: torch sees no GPU here; use --device cpu")


class _Training:
    """Runs that differ in their seeds alone, while they are trained. tasks: each run's own, one a lane. lanes: what all
    runs' tasks are together. judge: the task that teams are judged on, one at a time."""

    def __init__(
        self,
        chosen: Sequence[Run],
        tasks: Sequence[Sequence[Task]],
        lanes: Sequence[Task],
        judge: Task,
        console: Console,
        resume: bool,
        interrupt: _Interrupt,
        watch: Watch | None,
    ):
        self.interrupt, self.watch = interrupt, watch
        self.chosen, self.tasks, self.lanes, self.judge, self.console = chosen, tasks, lanes, judge, console
        self.first, self.settings, self.spec = chosen[0], chosen[0].config.run, judge.spec
        self.several = len(chosen) > 1
        self.measure = "win_rate" if self.spec.reports_wins else "return"
        #: What `latest` is: not what is exported, which alone acts greedily.
        self._figure = f"sampled joint {self.measure.replace('_', ' ')}"
        self._doing = Doing(lambda line: console.print(line, soft_wrap=True, markup=False), at_once=False)
        self.algorithm = checkpoint.build(chosen, self.spec)
        if self.algorithm.own_threads:
            torch.set_num_threads(1)
        # Teams are judged one at a time, by an algorithm that takes each one's weights.
        self.alone = checkpoint.build(chosen[:1], self.spec) if self.several else self.algorithm
        updates = self._begin(resume)
        self.clock = updates[0].clock if updates and updates[0] is not None else Clock()
        self.started = time.monotonic() - self.clock.seconds
        #: Where this process began, and step and time after its first update, from which its pace is taken.
        self._begun_at = self.step
        self._paced: tuple[int, float] | None = None
        #: Each run's figure of the episodes that ended last, nan before any did.
        self.latest = [float("nan")] * len(chosen)
        self._unwritten = updates

    def _begin(self, resume: bool) -> list[Update | None]:
        """Start from nothing, or from the newest checkpoints and with the last updates that they speak of."""
        algorithm, chosen = self.algorithm, self.chosen
        updates: list[Update | None] = []
        begun = resume and any(map(runs.steps_done, chosen))
        if begun:
            self.step, self.streams, updates, totals = checkpoint.restore(algorithm, self.tasks, chosen)
        else:
            for run in chosen:
                checkpoint.check_start(run)
            totals = [read_config(run.path).total_steps for run in chosen]
            if self.first.begun_from:
                checkpoint.begin_from(algorithm, self.first)
            self.step, self.streams = 0, []
            shares = np.split(np.arange(self.settings.num_envs), len(self.lanes))
            for same, episodes in zip(zip(*self.tasks, strict=True), shares, strict=True):
                now = [task.reset(run.seed, episodes) for run, task in zip(chosen, same, strict=True)]
                memory = algorithm.memory(len(episodes))
                self.streams.append(stream.begin(algorithm.team, memory, joined(now, self.first.device)))
        if algorithm.replay is not None:
            runs.make_folder(self.first.path / "replay")
            algorithm.replay.open(self.first.path / "replay")
        for run, before in zip(chosen, totals, strict=True) if resume else []:
            total = run.config.run.total_steps
            runs.reopen(run)
            stretched = f"; {before:,} steps are now {total:,}, and schedules (step sizes, tau) follow the new total"
            said = f"continuing {run.path} at step {self.step:,}{stretched if total != before else ''}"
            self.console.print(said, soft_wrap=True, markup=False)
        if begun:
            checkpoint.tidy(chosen)
        else:
            checkpoint.save(chosen, self.step, algorithm, self.tasks, self.streams)
        return updates

    def run(self) -> bool:
        """Train to the end and judge. Returns False if interrupted."""
        try:
            return self._train() and self._judge()
        except Interrupted:  # while a team was judged; what it was trained to is in a checkpoint
            return False

    def _train(self) -> bool:
        """Train to the end. Returns False if interrupted before."""
        total, interrupted = self.settings.total_steps, self.interrupt.asked
        with contextlib.ExitStack() as files:
            records = [files.enter_context(contextlib.closing(Records(run, self.step))) for run in self.chosen]
            for team, update in enumerate(self._unwritten):
                if update is not None and not records[team].complete:  # killed between its checkpoint and this line
                    records[team].add(self.step, self._line(team, update))
            self._tell(records)
            while self.step < total and not interrupted:
                before = self.step
                updates = self._learn()
                interrupted = self.interrupt.asked
                judged = _crossed(before, self.step, self.settings.eval_interval) or self.step >= total
                for update in updates:
                    update.judged = judged
                if judged or interrupted or _crossed(before, self.step, self.settings.checkpoint_interval):
                    checkpoint.save(self.chosen, self.step, self.algorithm, self.tasks, self.streams, updates)
                lines = [self._line(team, update) for team, update in enumerate(updates)]
                for record, line in zip(records, lines, strict=True):
                    record.add(self.step, line)
                self._tell(records, judged)
                self._show()
                if judged:
                    self._say([record.newest for record in records])
        return self.step >= total

    def _learn(self) -> list[Update]:
        """Collect one rollout and learn from it."""
        begin = time.monotonic()
        self.algorithm.schedule(self.step / self.settings.total_steps)
        try:
            experience, finished = self.algorithm.collect(self.lanes, self.streams)
        except AgentMixerError as error:
            run = self.chosen[error.team if isinstance(error, TeamError) else 0]
            raise AgentMixerError(
                f"{self._whose(run)}{error}; the checkpoint at step {runs.steps_done(run):,} of "
                f"{'every seed' if self.several else run.path} is good and --resume goes on from it"
            ) from error
        for lane in self.lanes:
            self._told(lane)
        collected = time.monotonic()
        numbers: list[dict[str, Any]] = [dict(own) for own in self.algorithm.update(experience)]
        self.clock.collecting += collected - begin
        self.clock.updating += time.monotonic() - collected
        self.clock.seconds = self._elapsed()
        self.step += self.settings.num_envs * self.settings.rollout_length
        for team, (own, ended) in enumerate(zip(numbers, finished, strict=True)):
            own["episodes"] = len(ended["won"])
            # Before the first limit of steps only short episodes have ended, which are not like the others.
            if len(ended["won"]) and self.step >= self.spec.episode_limit * self.settings.num_envs:
                own["train_return"] = ended["return"].mean().item()
                if self.spec.reports_wins:
                    own["train_win_rate"] = ended["won"].float().mean().item()
                self.latest[team] = own[f"train_{self.measure}"]
            self._check_finite(self.chosen[team], own)
        return [Update(own, False, self.clock) for own in numbers]

    def _check_finite(self, run: Run, numbers: dict[str, float]) -> None:
        if wrong := [name for name, number in numbers.items() if not _finite(number)]:
            slower = f"--set actor_lr={run.config.algorithm.actor_lr / 2:g}"
            raise AgentMixerError(
                f"{self._whose(run)}training diverged at step {self.step:,}: {', '.join(wrong)} is not finite; the last "
                f"checkpoint{' of every seed' if self.several else ''} is good; lower the step sizes, for example {slower}"
            )

    def _play(self, team: int, episodes: int, joint: bool = False, greedy: bool = True) -> dict[str, float | None]:
        """Figures of one team. Training goes on with the random numbers that it would have had."""
        generator = self.algorithm.team.generators[team]
        kept = generator.get_state()
        if self.several:
            self.alone.load([self.algorithm.share(team)])
            self.alone.team.generators[0] = generator
        longest = longest_episode(self.spec, self.settings.judge_limit)
        try:
            played = evaluate(
                self.alone.team,
                self.judge,
                episodes,
                EVALUATION_SEED,
                joint,
                greedy,
                longest,
                lambda: self.interrupt.asked,
            )
        finally:
            generator.set_state(kept)
        self._told(self.judge)
        if played.note():
            self.console.print(f"note: {self._whose(self.chosen[team])}{played.note()}", soft_wrap=True, markup=False)
        return report(played, self.spec)

    def _told(self, task: Task) -> None:
        """Say which environments failed and were made anew."""
        for part in apart(task):
            if isinstance(part, Restarting):
                for failure in part.failures():
                    words = f"{failure}; it was made anew, {part.env_restarts:,} times are left"
                    self.console.print(f"note: {words}", soft_wrap=True, markup=False)

    def _line(self, team: int, update: Update) -> dict[str, Any]:
        """What metrics.jsonl has of an update; the team is judged if that is due."""
        figures = self._play(team, self.settings.eval_episodes) if update.judged else {}
        times = {"steps_per_second": update.clock.steps_per_second(self.step), "seconds": self._elapsed()}
        return update.numbers | {f"eval_{key}": value for key, value in figures.items()} | times

    def _judge(self) -> bool:
        """Write the summary of every run that has none. Returns True."""
        self.alone.schedule(1.0)
        for team, run in enumerate(self.chosen):
            if run.summary is not None:  # judged before the process was killed that trained it
                continue
            episodes = self.settings.final_episodes
            alone, joint = (self._play(team, episodes, joint) for joint in (False, True))
            summary = {
                "steps": self.step, "steps_per_second": self.clock.steps_per_second(self.step),
                "seconds": self._elapsed(), "seconds_collecting": self.clock.collecting,
                "seconds_updating": self.clock.updating, "decentralised_greedy": alone, "joint_greedy": joint,
            }  # fmt: skip
            if self.alone.stochastic and not self.spec.real_valued:  # a real-valued actor has no spread of its own
                summary["decentralised_sampled"] = self._play(team, episodes, greedy=False)
            runs.write(run.path / "summary.json", json.dumps(summary, indent=2) + "\n", run)
        return True

    def _tell(self, records: Sequence[Records], judged: bool = False) -> None:
        """Tell whoever watches where the runs stand."""
        if self.watch is None:
            return
        left, total, now = None, self.settings.total_steps, time.monotonic()
        if self._paced is not None:
            left = (total - self.step) * (now - self._paced[1]) / (self.step - self._paced[0])
        elif self.step > self._begun_at:  # the first update takes longer, JAX compiles in it
            self._paced = self.step, now
        seen = [Seen(record.newest, record.evaluations) for record in records]
        rate = self.clock.steps_per_second(self.step)
        self.watch(Standing(self.step, total, rate, left, seen, judged))

    def _show(self) -> None:
        """Say how far it is, now and then, where nobody can watch."""
        if self.console.is_interactive:
            return
        known = [value for value in self.latest if _finite(value)]
        latest = f"{sum(known) / len(known):.2f}" if known else "-"
        rate = self.clock.steps_per_second(self.step)
        self._doing(f"step {self.step:>10,}  {rate:>6,.0f} steps/s  {self._figure} {latest}")

    def _say(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """One line of what teams that were just judged came to."""
        line, score = lines[0], ""
        if self.several:
            mean = intervals.mean_of(self.measure, np.array([own[f"eval_{self.measure}"] for own in lines]))
            score = f"{self.measure.replace('_', ' ')} {mean.told()} over {len(lines)} seeds"
            agreements = [own["mode_agreement"] for own in lines if "mode_agreement" in own]
            line = {**line, **({"mode_agreement": min(agreements)} if agreements else {})}
        self.console.print(evaluation_line(self.first, line, score), soft_wrap=True, markup=False)

    def _elapsed(self) -> float:
        return time.monotonic() - self.started

    def _whose(self, run: Run) -> str:
        """What an error begins with where several seeds train side by side."""
        return f"seed {run.seed} ({run.path}): " if self.several else ""


class _Interrupt:
    """Turns the first Ctrl-C into a request to stop after the current update; a second one stops at once.

    In the main thread of a process only, where Python handles signals."""

    def __init__(self) -> None:
        self.asked = False

    def __enter__(self) -> _Interrupt:
        self._old = signal.signal(signal.SIGINT, self._ask)
        return self

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        signal.signal(signal.SIGINT, self._old)

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._old)


def _crossed(before: int, after: int, interval: int) -> bool:
    """Whether a multiple of `interval` (0: never) lies in (before, after]."""
    return interval > 0 and before // interval != after // interval


def _finite(number: float) -> bool:
    return abs(number) < float("inf")
