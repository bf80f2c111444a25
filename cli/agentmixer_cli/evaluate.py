"""`agentmixer evaluate`."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Annotated

import typer

from agentmixer_cli.opening import TaskCodeOption
from agentmixer_cli.terminal import Terminal


def evaluate(
    run: Annotated[Path | None, typer.Argument(help="Run directory; the newest under runs/ unless given.")] = None,
    policy: Annotated[
        str, typer.Option(help="decentralised: the actors alone. joint: with PM and the global state.")
    ] = "decentralised",
    sampled: Annotated[bool, typer.Option("--sampled/--greedy", help="Sample actions, or take the mode.")] = False,
    episodes: Annotated[int, typer.Option(help="Episodes to play.", min=1)] = 200,
    seed: Annotated[
        int | None,
        typer.Option(help="Which episodes; those of training's evaluations unless given.", min=0, max=2**31 - 1),
    ] = None,
    task_code: TaskCodeOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Play whole episodes with a run's newest checkpoint and report win rate and return with 95 % intervals.

    Example: agentmixer evaluate --policy joint --sampled --episodes 500
    """
    from agentmixer.errors import AgentMixerError, nearest
    from agentmixer.train import checkpoint, figures, trainer
    from agentmixer.train import evaluate as judge
    from agentmixer.train import run as runs

    kinds = ("decentralised", "joint")
    if policy not in kinds:
        raise AgentMixerError(f"unknown policy '{policy}'{nearest(policy, kinds)}")
    chosen = (runs.load(run, task_code) if run else runs.newest(task_code=task_code)).on_cpu()
    stream = trainer.EVALUATION_SEED if seed is None else seed
    with contextlib.closing(chosen.make_task(min(episodes, chosen.config.run.num_envs))) as task:
        algorithm, step = checkpoint.load_weights(chosen, task, checkpoint.latest(chosen))
        algorithm.team.generators[0].manual_seed(stream)
        played = judge.evaluate(algorithm.team, task, episodes, stream, joint=policy == "joint", greedy=not sampled)
        found = figures.report(played, task.spec)
    if as_json:
        typer.echo(
            json.dumps(
                {"run": str(chosen.path), "step": step, "policy": policy, "sampled": sampled, "seed": stream, **found}
            )
        )
        return
    console = Terminal()
    console.print(
        f"{chosen.path} at step {step:,}, {policy}, {'sampled' if sampled else 'greedy'}, {episodes} episodes",
        soft_wrap=True,
        markup=False,
    )
    console.print(figures.headline(found), highlight=False, markup=False)
