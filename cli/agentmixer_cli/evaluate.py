"""`agentmixer evaluate`."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Annotated

import typer

from agentmixer_cli.opening import StepOption, TaskCodeOption, run_and_checkpoint
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
    step: StepOption = None,
    task_code: TaskCodeOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Play whole episodes with a checkpoint of a run and report win rate and return with 95 % intervals.

    Example: agentmixer evaluate --policy joint --sampled --episodes 500
    """
    from agentmixer import intervals
    from agentmixer.errors import AgentMixerError, nearest
    from agentmixer.train import checkpoint, figures, trainer
    from agentmixer.train import evaluate as judge

    kinds = ("decentralised", "joint")
    if policy not in kinds:
        raise AgentMixerError(f"unknown policy '{policy}'{nearest(policy, kinds)}")
    console = Terminal(stderr=as_json)
    chosen, file = run_and_checkpoint(run, step, task_code, None if as_json else console)
    chosen = chosen.on_cpu()
    stream = trainer.EVALUATION_SEED if seed is None else seed
    with contextlib.closing(chosen.make_task(min(episodes, chosen.config.run.num_envs))) as task:
        algorithm, at = checkpoint.load_weights(chosen, task, file)
        algorithm.team.generators[0].manual_seed(stream)
        longest = judge.longest_episode(task.spec, chosen.config.run.judge_limit)
        with console.doing() as doing:
            played = judge.evaluate(
                algorithm.team, task, episodes, stream, policy == "joint", not sampled, longest, progress=doing
            )
        found = figures.report(played, task.spec)
    if as_json:
        typer.echo(
            json.dumps(
                {"run": str(chosen.path), "step": at, "policy": policy, "sampled": sampled, "seed": stream, **found}
            )
        )
        return
    who = policy if policy == "joint" else figures.arm(chosen)
    how = f"{who}, {'sampled' if sampled else 'greedy'}, {episodes} episodes"
    console.sentence(f"{how}: {intervals.headline(found)}")
    if played.note():
        console.sentence(f"note: {played.note()}")
