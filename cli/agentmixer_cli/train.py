"""`agentmixer train`."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from agentmixer_cli.terminal import Terminal, leaves


def train(
    task: Annotated[str, typer.Argument(help="Task, for example smacv2 (agentmixer tasks lists all).")],
    scenario: Annotated[str, typer.Argument(help="Scenario, for example protoss_5v5.")],
    steps: Annotated[
        str | None, typer.Option(help="Environment steps, also as 1e6; the preset's unless given.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Same seed, same run; 0 unless given.", min=0, max=999_999)] = None,
    seeds: Annotated[
        str | None, typer.Option(help="Several teams side by side, for example 0-4 or 0,3,7; a run directory each.")
    ] = None,
    algorithm: Annotated[
        str, typer.Option(help="One of those that agentmixer tasks --algorithms lists.")
    ] = "agentmixer_ppo",
    preset: Annotated[
        str,
        typer.Option(
            help="default: results per minute on a small machine. paper: the paper's tables. released: the authors' scripts."
        ),
    ] = "default",
    assignments: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Override a setting (agentmixer settings lists them); may be repeated."
        ),
    ] = None,
    env_args: Annotated[
        list[str] | None,
        typer.Option(
            "--env-arg", metavar="KEY=VALUE", help="An option of the task (agentmixer tasks NAME lists them)."
        ),
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu (the default) or cuda.")] = None,
    backend: Annotated[str | None, typer.Option(help="The task's backend; its first unless given.")] = None,
    env_restarts: Annotated[
        int | None,
        typer.Option(
            help="How often an environment of others' code that fails may be made anew instead of ending the run.",
            min=0,
        ),
    ] = None,
    workers: Annotated[
        str | None,
        typer.Option(
            help="Where environments of others' code are stepped: processes (the default), or ray (a cluster)."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Run directory; runs/<task>/<scenario>/<algorithm>/<time>-s<seed> unless given.")
    ] = None,
    begin_from: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="RUN",
            help="Begin a new run with the newest weights of RUN, and with its settings but for --set (fine-tuning).",
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Continue the newest run of this scenario (of each of --seeds), or the one at --out."
        ),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print what each run came to as JSON, and no progress.")
    ] = False,
) -> None:
    """Train a team centrally: actors, Policy Modifier and critics.

    Example: agentmixer train smacv2 protoss_5v5 --steps 1e6 --seed 1 --set actor_lr=1e-3
    """
    leaves("the same command continues" if resume else "no training was begun, so there is nothing to continue")
    from agentmixer import tasks
    from agentmixer.config import parse_assignments, parse_seeds
    from agentmixer.errors import AgentMixerError, nearest
    from agentmixer.tasks.smacv2 import sc2_install
    from agentmixer.train import begun_from, checkpoint, figures, trainer
    from agentmixer.train import run as runs
    from agentmixer.train.algorithms import ALGORITHMS
    from agentmixer.train.settings import read_steps
    from agentmixer_cli.watched import watched

    console = Terminal(stderr=as_json, quiet=as_json)
    steps = None if steps is None else read_steps(steps)
    if algorithm not in ALGORITHMS:
        raise AgentMixerError(f"unknown algorithm '{algorithm}'{nearest(algorithm, ALGORITHMS)}")
    tasks.family(task)
    trainer.check_device(device or "cpu")
    if seeds is not None and (seed is not None or out is not None):
        raise AgentMixerError("--seeds gives every seed a run directory of its own; leave out --seed and --out")
    wanted = [seed or 0] if seeds is None else parse_seeds(seeds)
    if resume:
        if (
            assignments
            or env_args
            or algorithm != "agentmixer_ppo"
            or preset != "default"
            or seed is not None
            or backend
            or begin_from
        ):
            raise AgentMixerError(
                "--resume continues with the run's own settings; leave out --set, --env-arg, --algorithm, --preset, "
                "--seed and --backend, or begin a new run with its weights: --from RUN instead of --resume"
            )
        if seeds is not None:
            chosen = runs.extend_together(task, scenario, wanted, steps, device)
        else:
            run = (
                runs.load(out, scenario)
                if out
                else runs.newest(task, scenario, with_checkpoint=False, task_code=scenario)
            )
            if (run.task, run.scenario) != (task, scenario):
                raise AgentMixerError(f"{run.path} is a run of {run.task} {run.scenario}, not of {task} {scenario}")
            chosen = [runs.extend(run, steps, device)]
    else:
        trainer.check_together(algorithm, len(wanted))
        given: dict[str, Any] = dict(
            parse_assignments(env_args or [], "--env-arg", "penalty=-1", tasks.option_names(task, scenario))
        )
        file = None
        if begin_from is None:
            config = ALGORITHMS[algorithm].configure(preset, task, backend or "")
        else:
            if algorithm != "agentmixer_ppo" or preset != "default":
                raise AgentMixerError(
                    "--from takes algorithm and settings from its run; leave out --algorithm and --preset"
                )
            before = runs.load(begin_from, scenario)
            algorithm, preset, config = before.algorithm, before.preset, before.config
            trainer.check_together(algorithm, len(wanted))
            file = checkpoint.latest(before)
            if (before.task, before.scenario) == (task, scenario):
                given = before.options | given
        config.check_options(given, tasks.option_names(task, scenario))
        name, options = tasks.check(task, scenario, backend, given)
        if (task, name) == ("smacv2", "smax") and not sc2_install.problems():
            console.sentence(f"note: StarCraft II is in {sc2_install.found()}; --backend sc2 would play the real game")
        own_settings = parse_assignments(assignments or [], known=config.as_dict())
        given_settings = {"env_restarts": env_restarts, "workers": workers}
        own_settings |= {key: str(value) for key, value in given_settings.items() if value is not None}
        config = config.replace(own_settings, options).fitted(own_settings)
        if steps is not None:
            config = config.replace({"total_steps": steps})
        if file is not None:
            new = runs.Run(
                Path(), task, scenario, name, algorithm, preset, 0, "cpu", options, config, task_code=scenario
            )
            config.check()
            begun_from.check_fits(file, before, new)
        tasks.check_workers(task, name, config.run.workers)
        if config.run.workers == "ray":  # before a run is made: without a cluster there is nothing to continue
            from agentmixer.tasks.workers.ray_pool import connected

            connected()
        stamp = runs.now()
        chosen = [
            runs.create(
                task, scenario, name, algorithm, preset, own, device or "cpu", options, config, out, stamp, file
            )
            for own in wanted
        ]
    for key, value in {"env_restarts": env_restarts, "workers": workers}.items():
        if resume and value is not None:
            chosen = [runs.change(run, key, value) for run in chosen]
    which = ["--out", str(chosen[0].path)] if seeds is None else ["--seeds", seeds]
    leaves(f"continue with: {shlex.join(['agentmixer', 'train', task, scenario, '--resume', *which])}")
    for run in chosen:
        console.print(f"run {run.path}", soft_wrap=True, markup=False)
    with watched(chosen, console) as watch:
        trained = trainer.train_together(chosen, console, resume, watch)
    if not trained:
        raise KeyboardInterrupt
    leaves("")
    if as_json:
        typer.echo(
            json.dumps([{"run": str(run.path), "seed": run.seed, **(run.summary or {})} for run in chosen], indent=2)
        )
        return
    if len(chosen) == 1:
        console.sentence(figures.summary_line(chosen[0]))
    else:
        done = chosen[0].summary or {}
        console.print(
            f"{done['steps']:,} steps of each seed at {done['steps_per_second'] * len(chosen):,.0f} steps/s together"
        )
        console.print(figures.table(chosen))
    for run in chosen:
        if line := figures.sampled_line(run):
            console.sentence(f"note: {f'seed {run.seed}: ' if len(chosen) > 1 else ''}{line}")
    path = f" {shlex.quote(str(chosen[0].path))}" if out or len(chosen) > 1 else ""
    if ALGORITHMS[chosen[0].algorithm].execution_sees.alone:
        console.print(f"next: agentmixer export{path} --per-agent onnx", soft_wrap=True, markup=False)
