"""`agentmixer pin`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from agentmixer_cli.terminal import Terminal


def pin(
    key: Annotated[Path, typer.Argument(metavar="KEY.pub", help="Public key; the pin is kept beside it.")],
    team: Annotated[str, typer.Option(help="The team this device is of: team_id in team.json and agent.json.")],
    release: Annotated[int, typer.Option(help="The lowest release of it that is accepted.", min=0, max=2**31 - 1)] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Pin a team and a lowest release for a public key: wherever the key is asked for, others are refused.

    A pin is only raised; to lower it or to change the team, remove its file.
    Example: agentmixer pin release.key.pub --team smacv2-protoss_5v5 --release 3
    """
    from agentmixer.runtime import signature

    signature.pin(key, team, release)
    if as_json:
        typer.echo(json.dumps({"pin": str(signature.pin_file(key)), "team_id": team, "lowest_release": release}))
        return
    Terminal().print(
        f"pinned in {signature.pin_file(key)}: team {team}, release {release} or later", soft_wrap=True, markup=False
    )
