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
    sampled: Annotated[
        bool | None,
        typer.Option(
            "--sampled/--greedy",
            help="Sample actions, or take the mode. Without either: greedy, and sampled too where that differs.",
        ),
    ] = None,
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

    Where neither --sampled nor --greedy is given, both are played, and what sampled actions come to is said where the intervals
    have nothing in common. With --json it is greedy alone.

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
        longest = judge.longest_episode(task.spec, chosen.config.run.judge_limit)

        def play(greedy: bool) -> tuple[judge.Episodes, dict[str, float | None]]:
            algorithm.team.generators[0].manual_seed(stream)
            with console.doing() as doing:
                played = judge.evaluate(
                    algorithm.team, task, episodes, stream, policy == "joint", greedy, longest, progress=doing
                )
            return played, figures.report(played, task.spec)

        played, found = play(not sampled)
        both = sampled is None and not as_json and not (policy == "decentralised" and task.spec.real_valued)
        other = play(False)[1] if both else None
    if as_json:
        typer.echo(
            json.dumps(
                {
                    "run": str(chosen.path),
                    "step": at,
                    "policy": policy,
                    "sampled": bool(sampled),
                    "seed": stream,
                    **found,
                }
            )
        )
        return
    who = policy if policy == "joint" else figures.arm(chosen)
    how = f"{who}, {'sampled' if sampled else 'greedy'}, {episodes} episodes"
    console.sentence(f"{how}: {intervals.headline(found)}")
    if other is not None and figures.differ(found, other):
        console.sentence(f"{who}, sampled, the same episodes: {intervals.headline(other)}")
    if played.note():
        console.sentence(f"note: {played.note()}")
