"""The training loop: collect, update, log, evaluate, save; interruptible at any time."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from torch.utils.tensorboard import SummaryWriter

from agentmixer import intervals
from agentmixer.contract.spec import TaskSpec
from agentmixer.errors import AgentMixerError, TeamError
from agentmixer.files import read_regular
from agentmixer.tasks import Task
from agentmixer.tasks.side_by_side import joined, side_by_side
from agentmixer.train import checkpoint, rollout
from agentmixer.train import run as runs
from agentmixer.train.algorithms import AgentMixerPPO, AgentMixerSAC
from agentmixer.train.checkpoint import Clock, Update
from agentmixer.train.evaluate import Episodes, evaluate
from agentmixer.train.lock import locked
from agentmixer.train.run import Run

#: Evaluation episodes come from this stream; the command line keeps training seeds below a million.
EVALUATION_SEED = 1_000_003


def report(episodes: Episodes, spec: TaskSpec) -> dict[str, float]:
    """Return, and win rate where the task knows one, of a set of episodes with their 95 % intervals."""
    value = intervals.mean(episodes.returns)
    numbers = {"return": value.value, "return_low": value.low, "return_high": value.high}
    if spec.reports_wins:
        win = intervals.rate(episodes.won)
        numbers |= {"win_rate": win.value, "win_rate_low": win.low, "win_rate_high": win.high}
    return numbers | {"length": float(episodes.lengths.mean()), "episodes": len(episodes.returns)}


def headline(numbers: dict[str, float], prefix: str = "") -> str:
    """One line of `report`: the win rate where there is one, else the return, with its interval."""
    parts = []
    for name, digits in (("win_rate", 3), ("return", 2)):
        if f"{prefix}{name}" in numbers:
            low, high = numbers[f"{prefix}{name}_low"], numbers[f"{prefix}{name}_high"]
            label = name.replace("_", " ")
            parts.append(f"{label} {numbers[prefix + name]:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]")
    return ", ".join(parts)


class _Interrupt:
    """Turns the first Ctrl-C into a request to stop after the current update; a second one stops at once."""

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


def train(run: Run, console: Console, resume: bool = False, compiled: bool = False) -> bool:
    """Train `run` to its total_steps and judge it there, unless that was done. Returns False if it was interrupted (a
    checkpoint is left). Nothing of the run is changed while another process trains it.

    compiled: whether torch.compile takes over (docs/performance.md says what that brings).

    Raises AgentMixerError if training diverges (a loss is not finite), an environment fails or a file cannot be
    written; the last checkpoint is good then."""
    return train_together([run], console, resume, compiled)


def train_together(chosen: Sequence[Run], console: Console, resume: bool = False, compiled: bool = False) -> bool:
    """`train` for runs that differ in their seeds alone: one batched computation, and a run directory each with all
    that training it alone would leave there. Where one fails, all stop."""
    check_together(chosen[0].algorithm, len(chosen), compiled)
    with contextlib.ExitStack() as stack:
        for run in chosen:
            stack.enter_context(locked(run.path))

        def make(run: Run, envs: int) -> Task:
            return stack.enter_context(contextlib.closing(run.make_task(envs)))

        config = chosen[0].config
        tasks = [[make(run, config.num_envs // config.lanes) for _ in range(config.lanes)] for run in chosen]
        lanes = [side_by_side(same, chosen[0].device) for same in zip(*tasks, strict=True)]
        for lane in lanes:
            stack.callback(lane.close)
        return _train(chosen, tasks, lanes, make(chosen[0], config.num_envs), console, resume, compiled)


def check_together(algorithm: str, seeds: int, compiled: bool = False) -> None:
    """Raise AgentMixerError if this algorithm cannot train so many seeds side by side, or cannot be compiled."""
    if algorithm == AgentMixerSAC.name and seeds > 1:
        raise AgentMixerError(
            f"{algorithm} trains one seed at a time, for its replay is one team's; agentmixer compare --seeds trains "
            "several of them in processes"
        )
    if algorithm == AgentMixerSAC.name and compiled:
        raise AgentMixerError(f"{algorithm} has no compiled form; leave out --compile")


def _train(
    chosen: Sequence[Run], tasks: Sequence[Sequence[Task]], lanes: Sequence[Task], judge: Task, console: Console,
    resume: bool, compiled: bool,
) -> bool:  # fmt: skip
    first, several = chosen[0], len(chosen) > 1
    config, spec = first.config, judge.spec
    algorithm = checkpoint.build(chosen, spec)
    if isinstance(algorithm, AgentMixerPPO):
        torch.set_num_threads(1)  # an update gives every core a block of its own; what is left is too small to share
    if compiled and isinstance(algorithm, AgentMixerPPO):
        algorithm.compile()
    # Teams are judged one at a time, by an algorithm that takes each one's weights.
    alone = checkpoint.build([first], spec) if several else algorithm
    updates: list[Update | None] = []
    if begun := resume and any(map(runs.steps_done, chosen)):
        step, streams, updates = checkpoint.restore(algorithm, tasks, [checkpoint.latest(run) for run in chosen])
    else:
        step, streams = 0, []
        for same, episodes in zip(
            zip(*tasks, strict=True), np.split(np.arange(config.num_envs), len(lanes)), strict=True
        ):
            now = [task.reset(run.seed, episodes) for run, task in zip(chosen, same, strict=True)]
            streams.append(rollout.begin(algorithm, len(episodes), joined(now, first.device)))
    if algorithm.replay is not None:
        runs.make_folder(first.path / "replay")
        algorithm.replay.open(first.path / "replay")
    for run in chosen if resume else []:
        runs.reopen(run)
        console.print(f"continuing {run.path} at step {step:,}", soft_wrap=True, markup=False)
    if begun:
        checkpoint.tidy(chosen)
    else:
        checkpoint.save(chosen, step, algorithm, tasks, streams)

    def play(team: int, episodes: int, joint: bool = False) -> dict[str, float]:
        """Greedy figures of one team. Training goes on with the random numbers that it would have had."""
        generator = algorithm.generators[team]
        kept = generator.get_state()
        if several:
            alone.load([algorithm.team(team)])
            alone.generators[0] = generator
        try:
            return report(evaluate(alone, judge, episodes, EVALUATION_SEED, joint), spec)
        finally:
            generator.set_state(kept)

    def line(team: int, update: Update) -> dict[str, Any]:
        """What metrics.jsonl has of an update; the team is judged if that is due."""
        figures = play(team, config.eval_episodes) if update.judged else {}
        times = {"steps_per_second": update.clock.steps_per_second(step), "seconds": elapsed()}
        return update.numbers | {f"eval_{key}": value for key, value in figures.items()} | times

    a_rollout = config.num_envs * config.rollout_length
    interrupted = False
    shown = "win_rate" if spec.reports_wins else "return"
    latest = [float("nan")] * len(chosen)
    clock = updates[0].clock if updates and updates[0] is not None else Clock()
    started = time.monotonic() - clock.seconds

    def elapsed() -> float:
        return time.monotonic() - started

    progress = Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]:,.0f} steps/s"),
        TimeRemainingColumn(), TextColumn(("mean " if several else "") + shown.replace("_", " ") + " {task.fields[latest]:.2f}"), console=console, disable=not console.is_terminal,
    )  # fmt: skip
    with _Interrupt() as interrupt, progress, contextlib.ExitStack() as files:
        records = [files.enter_context(contextlib.closing(_Records(run, step))) for run in chosen]
        for team, update in enumerate(updates):
            if update is not None and not records[team].complete:  # killed between its checkpoint and this line
                records[team].add(step, line(team, update))
        what = f"{first.task} {first.scenario}" + (f", {len(chosen)} seeds" if several else "")
        bar = progress.add_task(escape(what), total=config.total_steps, completed=step, rate=0.0, latest=latest[0])
        while step < config.total_steps and not interrupted:
            begin = time.monotonic()
            algorithm.schedule(step / config.total_steps)
            try:
                with _explained(compiled):
                    experience, finished = algorithm.collect(lanes, streams)
            except AgentMixerError as error:
                run = chosen[error.team if isinstance(error, TeamError) else 0]
                raise AgentMixerError(
                    f"{_whose(run, several)}{error}; the checkpoint at step {runs.steps_done(run):,} of "
                    f"{'every seed' if several else run.path} is good and --resume goes on from it"
                ) from error
            collected = time.monotonic()
            with _explained(compiled):
                numbers: list[dict[str, Any]] = [dict(own) for own in algorithm.update(experience)]
            clock.collecting += collected - begin
            clock.updating += time.monotonic() - collected
            clock.seconds = elapsed()
            before, step = step, step + a_rollout

            for team, (run, own, ended) in enumerate(zip(chosen, numbers, finished, strict=True)):
                own["episodes"] = len(ended["won"])
                if len(ended["won"]):
                    own["train_return"] = ended["return"].mean().item()
                    if spec.reports_wins:
                        own["train_win_rate"] = ended["won"].float().mean().item()
                    latest[team] = own[f"train_{shown}"]
                if not all(map(_finite, own.values())):
                    raise AgentMixerError(
                        f"{_whose(run, several)}training diverged at step {step:,}: {', '.join(k for k, v in own.items() if not _finite(v))} is not finite; "
                        f"the last checkpoint{' of every seed' if several else ''} is good; lower the step sizes, for example --set actor_lr={config.actor_lr / 2:g}"
                    )
            done, interrupted = step >= config.total_steps, interrupt.asked
            judged = _crossed(before, step, config.eval_interval) or done
            now_updates = [Update(own, judged, clock) for own in numbers]
            if judged or interrupted or _crossed(before, step, config.checkpoint_interval):
                checkpoint.save(chosen, step, algorithm, tasks, streams, now_updates)
            numbers = [line(team, update) for team, update in enumerate(now_updates)]
            for record, own in zip(records, numbers, strict=True):
                record.add(step, own)
            rate, known = clock.steps_per_second(step), [value for value in latest if _finite(value)]
            progress.update(
                bar,
                completed=min(step, config.total_steps),
                rate=rate,
                latest=sum(known) / len(known) if known else float("nan"),
            )
            if judged:
                agreements = [own["mode_agreement"] for own in numbers if "mode_agreement" in own]
                agreement = ""
                if agreements:  # an off-policy algorithm that has not begun to learn has none
                    agreement = f"; modes agree in {min(agreements):.3f} of decisions"
                score = headline(numbers[0], "eval_")
                if several:
                    mean = intervals.mean(np.array([own[f"eval_{shown}"] for own in numbers]))
                    score = f"{shown.replace('_', ' ')} {mean.value:.3f} [{mean.low:.3f}, {mean.high:.3f}] over {len(chosen)} seeds"
                console.print(
                    f"step {step:>10,}  {rate:>6,.0f} steps/s  decentralised greedy: {score}{agreement}",
                    soft_wrap=True,
                    markup=False,
                )
    if step < config.total_steps:
        return False
    alone.schedule(1.0)
    for team, run in enumerate(chosen):
        if run.summary is not None:  # judged before the process was killed that trained it
            continue
        final, joint = (play(team, config.final_episodes, joint) for joint in (False, True))
        summary = {
            "steps": step, "steps_per_second": clock.steps_per_second(step), "seconds": elapsed(),
            "seconds_collecting": clock.collecting, "seconds_updating": clock.updating,
            "decentralised_greedy": final, "joint_greedy": joint,
        }  # fmt: skip
        runs.write(run.path / "summary.json", json.dumps(summary, indent=2) + "\n", run)
    return True


@contextlib.contextmanager
def _explained(compiled: bool) -> Iterator[None]:
    """Turns what torch's compiler raises, a missing C++ compiler for one, into a sentence."""
    try:
        yield
    except Exception as error:
        if not compiled or isinstance(error, AgentMixerError):
            raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise AgentMixerError(f"training with --compile failed ({reason}); leave out --compile") from error


def _whose(run: Run, several: bool) -> str:
    """What an error begins with where several seeds train side by side."""
    return f"seed {run.seed} ({run.path}): " if several else ""


def _crossed(before: int, after: int, interval: int) -> bool:
    """Whether a multiple of `interval` (0: never) lies in (before, after]."""
    return interval > 0 and before // interval != after // interval


def _finite(number: float) -> bool:
    return abs(number) < float("inf")


class _Records:
    """A run's numbers on disk: metrics.jsonl and tensorboard, as they were at `step` and added to from there.

    Raises AgentMixerError if a file cannot be read or written."""

    def __init__(self, run: Run, step: int):
        self._run, self._file = run, run.path / "metrics.jsonl"
        kept = _until(self._file, step)
        #: Whether there is a line of `step` itself.
        self.complete = step in kept
        runs.write(self._file, "".join(kept.values()), run)
        # The file is new, so nothing is written through a link; and nothing waits in a buffer.
        self._metrics = open(self._file, "ab", buffering=0, opener=_no_link)  # noqa: SIM115
        runs.make_folder(run.path / "tensorboard")
        self._writer = SummaryWriter(str(run.path / "tensorboard"), purge_step=step + 1)

    def add(self, step: int, numbers: dict[str, Any]) -> None:
        data = memoryview((json.dumps({"step": step, **numbers}) + "\n").encode())
        with self._written(self._file):
            while data:
                data = data[self._metrics.write(data) :]
        with self._written(self._run.path / "tensorboard"):
            for name, number in numbers.items():
                self._writer.add_scalar(name, number, step)

    def close(self) -> None:
        self._metrics.close()
        with self._written(self._run.path / "tensorboard"):
            self._writer.close()

    @contextlib.contextmanager
    def _written(self, file: Path) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise runs.unwritten(file, error, self._run) from error


def _no_link(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)


def _until(metrics_file: Path, step: int) -> dict[int, str]:
    """Lines up to `step`, by their steps. What a killed run wrote after its last checkpoint, a half line for one, is left
    out; the resumed run writes it again."""
    kept: dict[int, str] = {}
    if os.path.lexists(metrics_file):
        again = "remove it; what it held is lost then, and the run can go on"
        data = read_regular(metrics_file, runs.MAX_BYTES, links=None, again=again)
        for line in data.decode(errors="replace").splitlines():
            try:
                number = json.loads(line)["step"]
                if type(number) is int and number <= step:
                    kept[number] = line + "\n"
            except (ValueError, TypeError, KeyError, RecursionError):  # half a line, or not ours
                continue
    return kept


def summary_line(run: Run) -> str:
    """One sentence on a finished run."""
    summary = run.summary
    assert summary is not None
    alone, joint = summary["decentralised_greedy"], summary["joint_greedy"]
    return (
        f"{summary['steps']:,} steps at {summary['steps_per_second']:,.0f} steps/s; over {alone['episodes']} episodes, "
        f"greedy: decentralised {headline(alone)}; joint {headline(joint)}"
    )


def table(chosen: Sequence[Run]) -> Table:
    """Finished runs of several seeds: each one's greedy figures, and their means over seeds with 95 % intervals.

    The figure is the win rate where the task has one that matters, else the return."""
    summaries = [run.summary for run in chosen]
    rows = [[summary[arm] for arm in ("decentralised_greedy", "joint_greedy")] for summary in summaries if summary]
    assert len(rows) == len(chosen)
    measure = "win_rate" if "win_rate" in rows[0][0] and chosen[0].task != "matrix" else "return"
    out = Table(
        title=f"{measure.replace('_', ' ')}, greedy, {rows[0][0]['episodes']} episodes a seed", title_justify="left"
    )
    for column in ("seed", "decentralised", "joint"):
        out.add_column(column, justify="right")
    for run, row in zip(chosen, rows, strict=True):
        out.add_row(str(run.seed), *(f"{arm[measure]:.3f}" for arm in row))
    means = [intervals.mean(np.array([row[arm][measure] for row in rows])) for arm in (0, 1)]
    out.add_section()
    out.add_row("mean", *(escape(f"{mean.value:.3f} [{mean.low:.3f}, {mean.high:.3f}]") for mean in means))
    return out


def check_device(device: str) -> None:
    """Raise AgentMixerError if torch cannot use `device`."""
    if device not in ("cpu", "cuda"):
        raise AgentMixerError(f"unknown device '{device}'; known: cpu, cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise AgentMixerError("--device cuda: torch sees no GPU here; use --device cpu")
