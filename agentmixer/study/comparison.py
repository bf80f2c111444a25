"""Several variants of training on the same task and seeds, side by side: ablations and baselines in one table."""

from __future__ import annotations

import contextlib
import itertools
import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console

from agentmixer import intervals, tasks
from agentmixer.config import parse_assignments
from agentmixer.contract.manifest import sha256
from agentmixer.errors import AgentMixerError, nearest
from agentmixer.intervals import Estimate
from agentmixer.study import analysis, worker
from agentmixer.train import run as runs
from agentmixer.train import trainer
from agentmixer.train.algorithms import ALGORITHMS
from agentmixer.train.run import Run
from agentmixer.versions import made_with

COMPARISONS = Path("comparisons")
MEASURES = ("return", "win_rate")


@dataclass(frozen=True)
class Variant:
    """One way to train: what is varied, as typed, and what that makes of algorithm, preset and settings."""

    name: str
    algorithm: str
    preset: str
    settings: dict[str, str]


@dataclass(frozen=True)
class Trained:
    """What one run came to. measure: win_rate or return; both figures greedy, over the run's final episodes."""

    run: str
    variant: str
    seed: int
    measure: str
    decentralised: float
    joint: float
    #: Share of decisions in the last update in which joint policy and actor had the same mode.
    mode_agreement: float | None
    #: CE gap of the joint policy and of the exported modes; matrix games only.
    ce_gap: dict[str, float] | None
    seconds: float


@dataclass(frozen=True)
class Row:
    """One variant over its seeds: means over seeds with Student's 95 % intervals."""

    variant: str
    decentralised: Estimate
    joint: Estimate
    #: Decentralised, this variant minus the first, paired by seed; None for the first.
    difference: Estimate | None


def variants(vary: list[str], algorithm: str, preset: str) -> list[Variant]:
    """['pm=mixer,attention', 'joint=gap,gumbel'] -> every combination, the first values first.

    A key is a setting, or algorithm or preset. Without any there is one variant, called as its preset.
    Raises AgentMixerError for what is not KEY=A,B,... or repeats itself."""
    axes: list[list[tuple[str, str]]] = []
    for key, values in parse_assignments(vary, "--vary", "pm=mixer,attention").items():
        options = [value.strip() for value in values.split(",")]
        if len(set(options)) < len(options) or not all(options):
            raise AgentMixerError(f"--vary {key} takes different values with commas between them, got '{values}'")
        axes.append([(key, value) for value in options])
    found = []
    for choice in itertools.product(*axes):
        settings = dict(choice)
        name = " ".join(f"{key}={value}" for key, value in choice) or preset
        found.append(
            Variant(name, settings.pop("algorithm", algorithm), settings.pop("preset", preset), settings)
        )  # fmt: skip
    return found


def prepare(
    task: str, scenario: str, chosen: list[Variant], seeds: list[int], settings: dict[str, str],
    options: dict[str, str], out: Path, backend: str | None = None,
) -> list[tuple[Variant, Run]]:  # fmt: skip
    """One run a variant and seed under `out`, new or as an earlier call left it. A digest of all settings is part of its
    name, so that comparisons of a scenario share the runs that they have in common and no others.

    Raises AgentMixerError before anything is trained if a name or value is wrong, or if a run's settings were changed by
    hand."""
    backend, resolved = tasks.check(task, scenario, backend, options)
    planned = []
    for variant in chosen:
        if variant.algorithm not in ALGORITHMS:
            raise AgentMixerError(f"unknown algorithm '{variant.algorithm}'{nearest(variant.algorithm, ALGORITHMS)}")
        config = ALGORITHMS[variant.algorithm].configure(variant.preset, task, backend)
        config = config.replace(settings, resolved).replace(variant.settings, resolved)
        config = config.fitted(settings | variant.settings)
        config.check()
        planned += [(variant, seed, config) for seed in seeds]
    prepared = []
    for variant, seed, config in planned:
        name = _digest([backend, variant.algorithm, resolved, config.as_dict()])
        path = out / f"{runs.folder_name(variant.name)}-{name}-s{seed}"
        if runs.is_vacant(path):
            run = runs.create(
                task, scenario, backend, variant.algorithm, variant.preset, seed, "cpu", resolved, config, path
            )
        else:
            run = runs.load(path, scenario)
            told = (run.task, run.scenario, run.algorithm, run.seed, run.options, run.config)
            if told != (task, scenario, variant.algorithm, seed, resolved, config):
                raise AgentMixerError(
                    f"{path} holds a run whose settings were changed; remove it, or choose another --out"
                )
        prepared.append((variant, run))
    return prepared


def _digest(value: Any) -> str:
    """A short name of any JSON value."""
    return sha256(json.dumps(value, sort_keys=True).encode())[:8]


class Question(NamedTuple):
    """What a comparison asks, and with what. digest: a short name of all but the command; variants in another order are
    another question, since all are held against the first."""

    digest: str
    command: str
    task: str
    scenario: str
    options: dict[str, Any]
    seeds: list[int]
    measure: str
    #: Algorithm, preset and every setting of each variant.
    variants: dict[str, dict[str, Any]]
    made_with: dict[str, str]

    @property
    def heading(self) -> str:
        """What the table shows, and which of its algorithms' agents need more than their own observations to act."""
        named = dict.fromkeys(variant["algorithm"] for variant in self.variants.values())
        told = [
            f"{name} sees {ALGORITHMS[name].execution_sees.value}"
            for name in named
            if not ALGORITHMS[name].execution_sees.alone
        ]
        seen = f" ({'; '.join(told)})" if told else ""
        return f"{self.measure.replace('_', ' ')}, decentralised and greedy{seen}, {self.task} {self.scenario}"


def question(prepared: list[tuple[Variant, Run]], measure: str | None, command: str) -> Question:
    """The question that these runs answer. measure: win_rate or return; unless given, the win rate where the task reports
    wins, else the return.

    Raises AgentMixerError, before anything is trained, if the task does not report that measure."""
    run = prepared[0][1]
    known = ["return"]
    if measure != "return":  # every task has a return, and making a task takes seconds
        with contextlib.closing(run.make_task(1)) as task:
            known += ["win_rate"] if task.spec.reports_wins else []
    if measure is not None and measure not in known:
        raise AgentMixerError(f"{run.task} reports no {measure}; known: {', '.join(known)}")
    measure = measure or intervals.measure(known)
    asked = {
        variant.name: {"algorithm": own.algorithm, "preset": own.preset, **own.config.as_dict()}
        for variant, own in prepared
    }
    seeds = sorted({own.seed for _, own in prepared})
    told, software = (run.task, run.scenario, run.options, seeds, measure, asked), made_with()
    return Question(_digest([*told, list(asked), software]), command, *told, software)


def train_all(
    prepared: list[tuple[Variant, Run]], jobs: int, done: Callable[[Trained], None], measure: str,
    progress: Callable[[str], None] = lambda _: None,
) -> list[Trained]:  # fmt: skip
    """Train what is not finished, `jobs` runs at a time, each on one thread, and call `done` with each as it ends.

    measure: win_rate or return. Calls `progress` with how far all runs are. Returns all, in the order of `prepared`. Raises AgentMixerError if a run fails, and
    KeyboardInterrupt if somebody interrupts, once every training process has ended: at once before its run's first
    checkpoint, and later with one. What is finished is kept and used by the next call."""
    found: dict[Path, Trained] = {}
    training: dict[int, Run] = {}

    def note(variant: Variant, run: Run) -> None:
        found[run.path] = judge(variant, run, measure)
        done(found[run.path])

    for variant, run in prepared:
        if run.summary is not None:
            note(variant, run)
    todo = [(variant, run) for variant, run in prepared if run.path not in found]
    with ThreadPoolExecutor(jobs) as pool:
        futures = {pool.submit(_in_a_process, run, training): (variant, run) for variant, run in todo}
        try:
            waiting = set(futures)
            progress(_how_far(prepared, len(found)))
            while waiting:
                ended, waiting = wait(waiting, timeout=1.0, return_when=FIRST_COMPLETED)
                for future in ended:
                    if not future.result():
                        raise KeyboardInterrupt
                    note(*futures[future])
                progress(_how_far(prepared, len(found)))
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            _stop(list(futures), training)
            raise
        except BrokenProcessPool:
            raise AgentMixerError(
                "a training process was killed, for want of memory perhaps; the same command goes on, fewer --jobs need less"
            ) from None
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
    return [found[run.path] for _, run in prepared]


def _how_far(prepared: list[tuple[Variant, Run]], finished: int) -> str:
    saved = sum(runs.steps_done(run) for _, run in prepared)
    total = sum(run.config.run.total_steps for _, run in prepared)
    return f"training: {finished} of {len(prepared)} runs finished, {saved:,} of {total:,} steps saved"


def _stop(futures: list[Future[bool]], training: dict[int, Run]) -> None:
    """Pass Ctrl-C on to every training process whose run has a checkpoint, kill the others, which have nothing to lose, and
    wait until all have ended. A second Ctrl-C is passed on as well; it ends those that are still saving what they have.

    training: the run of each process, by its id; a process that has only begun is not in it."""
    told: set[int | None] = set()
    while True:
        try:
            for process in multiprocessing.active_children():
                if process.pid not in told:
                    told.add(process.pid)
                    run = training.get(process.pid or 0)
                    with contextlib.suppress(OSError):
                        os.kill(process.pid or 0, signal.SIGINT if run and run.checkpoint_files else signal.SIGKILL)
            if all(future.done() for future in futures):  # `wait` would wait for ever for those that were cancelled
                return
            time.sleep(0.1)
        except KeyboardInterrupt:
            told.clear()


def _in_a_process(run: Run, training: dict[int, Run]) -> bool:
    """A fresh process a run: none inherits what another left in torch's or JAX's global state. Its id is noted in `training`.

    It begins with Ctrl-C blocked, which reaches every process of a terminal."""
    resource_tracker.ensure_running()  # it unblocks Ctrl-C when it starts, so it is started before
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), worker.begin) as pool:
        training[pool.submit(os.getpid).result()] = run
        return pool.submit(_train, run).result()


def _train(run: Run) -> bool:
    os.environ["OMP_NUM_THREADS"] = "1"  # as many processes as cores are at work
    return trainer.train(run, Console(quiet=True), resume=bool(run.checkpoint_files))


def judge(variant: Variant, run: Run, measure: str) -> Trained:
    """What a finished run's own files say of it; for matrix games, its distance from equilibrium beside."""
    summary = run.summary
    assert summary is not None
    alone, joint = summary["decentralised_greedy"], summary["joint_greedy"]
    last = json.loads((run.path / "metrics.jsonl").read_text().splitlines()[-1])
    gaps = None
    if run.task == "matrix":
        policies = analysis.analyze(run)["policies"]
        gaps = {name: policies[name]["ce"]["value"] for name in ("joint", "actors_greedy")}
    return Trained(
        run=str(run.path),
        variant=variant.name,
        seed=run.seed,
        measure=measure,
        decentralised=alone[measure],
        joint=joint[measure],
        mode_agreement=last.get("mode_agreement"),
        ce_gap=gaps,
        seconds=summary["seconds"],
    )


def summarise(found: list[Trained]) -> list[Row]:
    """One row a variant, in order of first appearance. All variants must have the same seeds."""
    groups: dict[str, list[Trained]] = {}
    for trained in found:
        groups.setdefault(trained.variant, []).append(trained)
    rows: list[Row] = []
    first: np.ndarray | None = None
    for name, group in groups.items():
        alone = np.array([trained.decentralised for trained in group])
        rows.append(
            Row(
                name,
                intervals.mean_of(group[0].measure, alone),
                intervals.mean_of(group[0].measure, np.array([trained.joint for trained in group])),
                None if first is None else intervals.paired(alone, first),
            )
        )
        first = alone if first is None else first
    return rows


def cells(found: list[Trained], rows: list[Row]) -> tuple[list[str], list[list[str]]]:
    """The table in words: the names of its columns, and a list of cells for each variant."""
    groups = {row.variant: [trained for trained in found if trained.variant == row.variant] for row in rows}
    gaps = any(trained.ce_gap for trained in found)
    head = [
        "variant",
        *(f"seed {t.seed}" for t in groups[rows[0].variant]),
        "mean [95 %]",
        "joint",
        "against the first",
        "mode agreement, least",
        *(["CE gap, largest: joint, exported"] if gaps else []),
        "seconds a run",
    ]
    table = []
    for row in rows:
        group = groups[row.variant]
        agreement = [t.mode_agreement for t in group if t.mode_agreement is not None]
        line = [
            row.variant,
            *(f"{t.decentralised:.3g}" for t in group),
            row.decentralised.told(".3g"),
            f"{row.joint.value:.3g}",
            "" if row.difference is None else row.difference.told("+.3g"),
            f"{min(agreement):.3f}" if agreement else "-",
        ]  # fmt: skip
        if gaps:
            worst = {key: max(t.ce_gap[key] for t in group if t.ce_gap) for key in ("joint", "actors_greedy")}
            line.append(f"{worst['joint']:.4f}, {worst['actors_greedy']:.4f}")
        table.append([*line, f"{np.mean([t.seconds for t in group]):.0f}"])
    return head, table


def markdown(asked: Question, found: list[Trained], rows: list[Row]) -> str:
    """The table, as docs/results.md wants it, under what was asked and made with what."""
    head, table = cells(found, rows)
    lines = ["| " + " | ".join(line) + " |" for line in (head, *table)]
    lines.insert(1, "|" + "---|" * len(head))
    software = ", ".join(f"{name} {version}" for name, version in asked.made_with.items())
    steps = ", ".join(f"{settings['total_steps']:,}" for settings in asked.variants.values())
    above = [
        asked.heading,
        f"`{asked.command}`",
        f"steps: {steps}; {software}",
    ]
    return "\n\n".join(above) + "\n\n" + "\n".join(lines) + "\n"


def to_json(asked: Question, found: list[Trained], rows: list[Row]) -> str:
    """The question, every run and every row, as JSON."""
    data: dict[str, Any] = {
        "question": asked._asdict(),
        "runs": [asdict(t) for t in found],
        "rows": [asdict(row) for row in rows],
    }
    return json.dumps(data, indent=2) + "\n"
