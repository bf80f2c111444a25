"""`agentmixer train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console


def train(
    task: Annotated[str, typer.Argument(help="Task, for example smacv2 (agentmixer tasks lists all).")],
    scenario: Annotated[str, typer.Argument(help="Scenario, for example protoss_5v5.")],
    steps: Annotated[
        str | None, typer.Option(help="Environment steps, also as 1e6; the preset's unless given.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Same seed, same run.", min=0, max=999_999)] = 0,
    preset: Annotated[
        str, typer.Option(help="default: results per minute on a small machine. paper: the paper's tables.")
    ] = "default",
    assignments: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a setting; may be repeated.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu (the default) or cuda.")] = None,
    backend: Annotated[str | None, typer.Option(help="The task's backend; its first unless given.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Run directory; runs/<task>/<scenario>/<algorithm>/<time>-s<seed> unless given.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the newest run of this scenario, or the one at --out.")
    ] = False,
) -> None:
    """Train a team centrally: actors, Policy Modifier and critics.

    Example: agentmixer train smacv2 protoss_5v5 --steps 1e6 --seed 1 --set actor_lr=1e-3
    """
    from agentmixer import tasks
    from agentmixer.errors import AgentMixerError, nearest
    from agentmixer.train import run as runs
    from agentmixer.train import trainer
    from agentmixer.train.algorithms import ALGORITHMS
    from agentmixer.train.config import parse_assignments

    console = Console()
    chosen = tasks.check(task, scenario, backend)
    trainer.check_device(device or "cpu")
    if resume:
        if assignments or preset != "default" or seed or backend:
            raise AgentMixerError(
                "--resume continues with the run's own settings; leave out --set, --preset, --seed and --backend"
            )
        run = runs.load(out) if out else runs.newest(task, scenario)
        if (run.task, run.scenario) != (task, scenario):
            raise AgentMixerError(f"{run.path} is a run of {run.task} {run.scenario}, not of {task} {scenario}")
        run = runs.extend(run, steps, device)
    else:
        algorithm = "agentmixer_ppo"
        presets = ALGORITHMS[algorithm].presets
        if preset not in presets:
            raise AgentMixerError(f"unknown preset '{preset}'{nearest(preset, presets)}")
        config = ALGORITHMS[algorithm].Config().replace(presets[preset]).replace(parse_assignments(assignments or []))
        if steps is not None:
            config = config.replace({"total_steps": steps})
        run = runs.create(task, scenario, chosen, algorithm, preset, seed, device or "cpu", config, out)
    console.print(f"run {run.path}", soft_wrap=True, markup=False)
    if not trainer.train(run, console, resume):
        again = f"agentmixer train {task} {scenario} --resume --out {run.path}"
        console.print(f"interrupted; continue with: {again}", soft_wrap=True, markup=False)
        raise typer.Exit(130)
    console.print(trainer.summary_line(run), soft_wrap=True)
    which = f" {run.path}" if out else ""
    console.print(f"next: agentmixer export{which} --per-agent onnx", soft_wrap=True, markup=False)
