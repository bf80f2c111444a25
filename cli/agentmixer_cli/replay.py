"""`agentmixer replay`."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from agentmixer_cli.opening import BundleArgument, TrustedOption, opened
from agentmixer_cli.terminal import Terminal


class Arms(StrEnum):
    """Who is shown."""

    deployed = "deployed"
    joint = "joint"
    both = "both"


def replay(
    bundle: BundleArgument = None,
    episode: Annotated[
        int | None, typer.Option(help="Which of the recorded episodes; the first unless given.", min=0)
    ] = None,
    arm: Annotated[Arms, typer.Option(help="Whose episode; both are drawn side by side.")] = Arms.both,
    agent: Annotated[
        str | None, typer.Option(help="Draw only what this agent sees, for example agent_3.", metavar="AGENT")
    ] = None,
    gif: Annotated[
        Path | None, typer.Option(help="Where to write a GIF; the bundle's reports/ unless given.", metavar="FILE.gif")
    ] = None,
    mp4: Annotated[Path | None, typer.Option(help="Write an MP4, with the program ffmpeg.", metavar="FILE.mp4")] = None,
    size: Annotated[int, typer.Option(help="Width of an arm's picture, pixels.", min=120, max=1024)] = 480,
    recording: Annotated[
        Path | None,
        typer.Option(
            help="A recording of the bundle's task; the newest in its reports/ unless given.", metavar="FILE.npz"
        ),
    ] = None,
    trusted: TrustedOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was drawn, and where it is, as JSON.")] = False,
) -> None:
    """Draw an episode that deploy-sim recorded: joint policy and deployed agents side by side, as a GIF or an MP4.

    The first step in which they act differently is marked. A file of that name stays, and the new one is called -2, -3 and so on.
    Example: agentmixer replay --agent agent_3
    """
    from agentmixer.errors import AgentMixerError, nearest
    from agentmixer.missing import missing_packages
    from agentmixer.validate import recording as recordings
    from agentmixer.validate.reports import ReportFile

    if problems := missing_packages(["PIL"], "pip install 'agentmixer[report]'"):
        raise AgentMixerError(str(problems[0]))
    from agentmixer.report import film as films

    found = opened(bundle, trusted)
    spec, file = found.team.task, recording or recordings.newest(found.path)
    kept = recordings.load(file, spec)
    number = kept.numbers[0] if episode is None else episode
    arms = [one for one in recordings.ARMS if arm in (one, Arms.both)]
    episodes = [one for one in (kept.find(name, number) for name in arms) if one]
    if not episodes:
        told = ", ".join(map(str, kept.numbers[:9])) + (", ..." if len(kept.numbers) > 9 else "")
        raise AgentMixerError(
            f"{file} holds no episode {number} of arm {arm.value}; it holds {told} ({len(kept.numbers):,} of {kept.played:,} "
            "episodes played)"
        )
    if agent is not None and agent not in spec.agents:
        raise AgentMixerError(f"the team has no agent '{agent}'{nearest(agent, spec.agents)}")
    kinds = [(films.gif, ".gif", gif), (films.mp4, ".mp4", mp4)]
    kinds = [kind for kind in kinds if kind[2] or (kind[1] == ".gif" and not mp4)]
    for _, ending, asked in kinds:
        if asked and asked.suffix != ending:
            raise AgentMixerError(f"--{ending[1:]} {asked} must end in {ending}")
    if mp4:
        films.ffmpeg()
    name = "_".join(["replay", str(number), *([] if arm == Arms.both else [arm.value]), *([agent] if agent else [])])
    targets = [
        ReportFile(found.path, asked, name + ending, option=f"--{ending[1:]} FILE") for _, ending, asked in kinds
    ]
    drawn = films.film(episodes, spec, size, None if agent is None else spec.agents.index(agent))
    console = Terminal(stderr=as_json)
    with console.doing() as doing:
        for (make, *_), target in zip(kinds, targets, strict=True):
            target.write(make(drawn, doing))
    steps = max(len(one.actions) for one in episodes)
    if as_json:
        told_json = {
            "recording": str(file),
            "episode": number,
            "arms": [one.arm for one in episodes],
            "steps": steps,
            "pictures": len(drawn.moments),
            "first_difference": drawn.parted,
            "files": [str(target.path) for target in targets],
        }
        typer.echo(json.dumps(told_json, indent=2))
        return
    rest = "" if len(drawn.moments) == steps + 1 else f", of which {len(drawn.moments):,} moments are drawn"
    same = ""
    if len(episodes) == 2:
        same = (
            "; both act alike" if drawn.parted is None else f"; they first act differently in step {drawn.parted + 1}"
        )
    console.sentence(f"episode {number} of {spec.name} {spec.scenario}, {steps:,} steps{rest}{same}")
    for target in targets:
        console.place("replay", target.path)
