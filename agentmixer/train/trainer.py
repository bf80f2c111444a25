"""The training loop: collect, update, log, evaluate, save; interruptible at any time."""

from __future__ import annotations

import contextlib
import json
import signal
import time
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch.utils.tensorboard import SummaryWriter

from agentmixer import statistics
from agentmixer.contract.spec import TaskSpec
from agentmixer.errors import AgentMixerError
from agentmixer.tasks import Task
from agentmixer.train import checkpoint, rollout
from agentmixer.train import run as runs
from agentmixer.train.evaluate import Episodes, evaluate
from agentmixer.train.run import Run

#: Evaluation episodes come from this stream; the command line keeps training seeds below a million.
EVALUATION_SEED = 1_000_003


def report(episodes: Episodes, spec: TaskSpec) -> dict[str, float]:
    """Return, and win rate where the task knows one, of a set of episodes with their 95 % intervals."""
    value = statistics.mean(episodes.returns)
    numbers = {"return": value.value, "return_low": value.low, "return_high": value.high}
    if spec.reports_wins:
        win = statistics.rate(episodes.won)
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


def train(run: Run, console: Console, resume: bool = False) -> bool:
    """Train `run` to its total_steps. Returns False if it was interrupted (a checkpoint is left).

    Raises AgentMixerError if training diverges (a loss is not finite) or an environment fails; the last
    checkpoint is good then."""
    with contextlib.ExitStack() as stack:
        task, judge = (stack.enter_context(contextlib.closing(run.make_task(run.config.num_envs))) for _ in range(2))
        return _train(run, task, judge, console, resume)


def _train(run: Run, task: Task, judge: Task, console: Console, resume: bool) -> bool:
    config, spec = run.config, task.spec
    algorithm = checkpoint.build(run, task)
    if resume and run.checkpoint_files:
        step, stream = checkpoint.restore(algorithm, task, checkpoint.latest(run))
        console.print(f"continuing {run.path} at step {step:,}", soft_wrap=True, markup=False)
    else:
        step, stream = 0, rollout.start(algorithm, task, run.seed)
        checkpoint.save(run, step, algorithm, task, stream)  # from here on every run can be resumed
    if algorithm.replay is not None:
        algorithm.replay.open(run.path / "replay")
    metrics_file = run.path / "metrics.jsonl"
    _forget_after(metrics_file, step)

    a_rollout = config.num_envs * config.rollout_length
    interrupted, first_step, shown = False, step, "return"
    if spec.reports_wins:
        shown = "win_rate"
    latest = float("nan")
    writer = SummaryWriter(str(run.path / "tensorboard"), purge_step=step + 1)
    started = time.monotonic()
    spent = {"collect": 0.0, "update": 0.0}
    progress = Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]:,.0f} steps/s"),
        TimeRemainingColumn(), TextColumn(shown.replace("_", " ") + " {task.fields[latest]:.2f}"), console=console, disable=not console.is_terminal,
    )  # fmt: skip
    with _Interrupt() as interrupt, progress, metrics_file.open("a") as metrics:
        bar = progress.add_task(
            escape(f"{run.task} {run.scenario}"), total=config.total_steps, completed=step, rate=0.0, latest=latest
        )
        while step < config.total_steps and not interrupted:
            begin = time.monotonic()
            algorithm.schedule(step / config.total_steps)
            try:
                experience, finished = algorithm.collect(task, stream)
            except AgentMixerError as error:
                raise AgentMixerError(
                    f"{error}; the checkpoint at step {runs.steps_done(run):,} of {run.path} is good and --resume goes on from it"
                ) from error
            collected = time.monotonic()
            numbers: dict[str, Any] = algorithm.update(experience)
            spent["collect"] += collected - begin
            spent["update"] += time.monotonic() - collected
            before, step = step, step + a_rollout

            numbers["episodes"] = len(finished["won"])
            if len(finished["won"]):
                numbers["train_return"] = finished["return"].mean().item()
                if spec.reports_wins:
                    numbers["train_win_rate"] = finished["won"].float().mean().item()
                latest = numbers[f"train_{shown}"]
            if not all(map(_finite, numbers.values())):
                raise AgentMixerError(
                    f"training diverged at step {step:,}: {', '.join(k for k, v in numbers.items() if not _finite(v))} is not finite; "
                    f"the last checkpoint is good; lower the step sizes, for example --set actor_lr={config.actor_lr / 2:g}"
                )
            done, interrupted = step >= config.total_steps, interrupt.asked
            if _crossed(before, step, config.eval_interval) or done:
                numbers |= {
                    f"eval_{k}": v
                    for k, v in report(evaluate(algorithm, judge, config.eval_episodes, EVALUATION_SEED), spec).items()
                }
            numbers["steps_per_second"] = (step - first_step) / (spent["collect"] + spent["update"])
            numbers["seconds"] = time.monotonic() - started
            _log(metrics, writer, step, numbers)
            progress.update(
                bar, completed=min(step, config.total_steps), rate=numbers["steps_per_second"], latest=latest
            )
            if "eval_return" in numbers:
                agreement = ""
                if "mode_agreement" in numbers:  # an off-policy algorithm that has not begun to learn has none
                    agreement = f"; modes agree in {numbers['mode_agreement']:.3f} of decisions"
                console.print(
                    f"step {step:>10,}  {numbers['steps_per_second']:>6,.0f} steps/s  decentralised greedy: "
                    f"{headline(numbers, 'eval_')}{agreement}",
                    soft_wrap=True,
                    markup=False,
                )
            if _crossed(before, step, config.checkpoint_interval) or done or interrupted:
                checkpoint.save(run, step, algorithm, task, stream)
    writer.close()
    if step < config.total_steps:
        return False
    algorithm.schedule(1.0)
    final = evaluate(algorithm, judge, config.final_episodes, EVALUATION_SEED)
    joint = evaluate(algorithm, judge, config.final_episodes, EVALUATION_SEED, joint=True)
    summary = {
        "steps": step, "steps_per_second": (step - first_step) / max(sum(spent.values()), 1e-9), "seconds": time.monotonic() - started,
        "seconds_collecting": spent["collect"], "seconds_updating": spent["update"],
        "decentralised_greedy": report(final, spec), "joint_greedy": report(joint, spec),
    }  # fmt: skip
    runs.write(run.path / "summary.json", json.dumps(summary, indent=2) + "\n")
    return True


def _crossed(before: int, after: int, interval: int) -> bool:
    """Whether a multiple of `interval` (0: never) lies in (before, after]."""
    return interval > 0 and before // interval != after // interval


def _finite(number: float) -> bool:
    return abs(number) < float("inf")


def _log(metrics: Any, writer: SummaryWriter, step: int, numbers: dict[str, Any]) -> None:
    metrics.write(json.dumps({"step": step, **numbers}) + "\n")
    metrics.flush()
    for name, number in numbers.items():
        writer.add_scalar(name, number, step)


def _forget_after(metrics_file: Path, step: int) -> None:
    """Drop lines a killed run wrote after its last checkpoint; the resumed run writes them again."""
    if metrics_file.is_file():
        kept = []
        for line in metrics_file.read_text(errors="replace").splitlines():
            try:
                if json.loads(line)["step"] <= step:
                    kept.append(line + "\n")
            except (ValueError, TypeError, KeyError):  # half a line, or not ours
                continue
        runs.write(metrics_file, "".join(kept))


def summary_line(run: Run) -> str:
    """One sentence on a finished run."""
    summary = run.summary
    assert summary is not None
    alone, joint = summary["decentralised_greedy"], summary["joint_greedy"]
    return (
        f"{summary['steps']:,} steps at {summary['steps_per_second']:,.0f} steps/s; over {alone['episodes']} episodes, "
        f"greedy: decentralised {headline(alone)}; joint {headline(joint)}"
    )


def check_device(device: str) -> None:
    """Raise AgentMixerError if torch cannot use `device`."""
    if device not in ("cpu", "cuda"):
        raise AgentMixerError(f"unknown device '{device}'; known: cpu, cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise AgentMixerError("--device cuda: torch sees no GPU here; use --device cpu")
