"""`agentmixer settings`."""

from __future__ import annotations

import json
import textwrap
from typing import Annotated, Any

import typer

from agentmixer_cli.terminal import Terminal

#: What each part of the settings is about, in the order in which the parts are printed.
PARTS = {
    "team": "what acts",
    "algorithm": "how the team learns",
    "run": "how long, and when the team is judged and saved",
}


def settings(
    algorithm: Annotated[
        str, typer.Argument(help="One of those that agentmixer tasks --algorithms lists.")
    ] = "agentmixer_ppo",
    task: Annotated[str | None, typer.Option(help="Show the defaults for this task; presets set some by task.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List every setting of an algorithm: its default in each preset, its range and what it does.

    Example: agentmixer settings agentmixer_ppo --task mamujoco
    """
    from agentmixer import tasks
    from agentmixer.errors import AgentMixerError, nearest
    from agentmixer.train.algorithms import ALGORITHMS

    if algorithm not in ALGORITHMS:
        hint = nearest(algorithm, ALGORITHMS)
        known = "" if "known: " in hint else f" known: {', '.join(sorted(ALGORITHMS))}"
        raise AgentMixerError(f"unknown algorithm '{algorithm}'{hint}{known}")
    if task is not None:
        tasks.family(task)
    chosen = ALGORITHMS[algorithm]
    configs = {preset: chosen.configure(preset, task or "") for preset in chosen.presets}
    defaults = {preset: config.as_dict() for preset, config in configs.items()}
    first, *others = configs
    declared = {part: held.declared() for part, held in configs[first].parts.items()}
    if as_json:
        listed: dict[str, Any] = {
            part: {
                name: {
                    "defaults": {preset: values[name] for preset, values in defaults.items()},
                    "type": "str" if setting.choices else setting.type.__name__,
                    "choices": list(setting.choices) or None,
                    "low": setting.low,
                    "high": setting.high,
                    "about": setting.sentence,
                }
                for name, setting in named.items()
            }
            for part, named in declared.items()
        }
        typer.echo(json.dumps({"algorithm": algorithm, "task": task, "settings": listed}, indent=2))
        return
    console = Terminal()
    console.sentence(f"{algorithm}: defaults of preset {first}{f' for task {task}' if task else ''}")
    if task is None:
        console.sentence("a preset may differ by task; see --task NAME")
    for part, named in declared.items():
        console.print()
        console.sentence(f"{part}: {PARTS[part]}")
        for name, setting in named.items():
            differs = [f"{preset} {_typed(defaults[preset][name])}" for preset in others]
            beside = f"  ({', '.join(differs)})" if differs else ""
            console.sentence(f"  {name}={_typed(defaults[first][name])}{beside}")
            for text in (setting.wanted, setting.sentence):
                for line in textwrap.wrap(text, console.width - 6):
                    console.sentence(f"      {line}")
    console.print()
    console.sentence(f"algorithms: {', '.join(ALGORITHMS)}")
    console.copied(f"use: agentmixer train TASK SCENARIO --algorithm {algorithm} --set NAME=VALUE")


def _typed(value: Any) -> str:
    """A value as --set takes it."""
    return str(value).lower() if isinstance(value, bool) else str(value)
