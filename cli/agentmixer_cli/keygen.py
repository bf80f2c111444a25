"""`agentmixer keygen`."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Annotated

import typer

from agentmixer_cli.terminal import Terminal


def keygen(
    path: Annotated[
        Path | None,
        typer.Argument(
            help="Where the private key goes, agentmixer.key unless given; the public one beside it, as PATH.pub. With --tls a "
            "folder, keys unless given."
        ),
    ] = None,
    tls: Annotated[
        bool,
        typer.Option(
            "--tls", help="Make certificates instead, in the folder PATH, for the host and for each agent's device."
        ),
    ] = False,
    bundle: Annotated[
        Path | None,
        typer.Option(help="With --tls: the bundle whose agents they are for; the newest under bundles/ unless given."),
    ] = None,
    days: Annotated[int, typer.Option(help="With --tls: how long they hold.", min=1, max=36500)] = 365,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Make a pair of Ed25519 keys: bundles are signed with the private one and checked with the public one.

    With --tls, make certificates for a team's devices and their host (deploy-sim --devices).
    Example: agentmixer keygen ~/release.key
    """
    from agentmixer.errors import AgentMixerError
    from agentmixer.runtime import signature

    if tls:
        _certificates(path or Path("keys"), bundle, days, as_json)
        return
    if bundle:
        raise AgentMixerError("--bundle names the agents that certificates are for; add --tls")
    path = path or Path("agentmixer.key")
    name = signature.generate(path)
    if as_json:
        public = f"{path}{signature.PUBLIC_SUFFIX}"
        typer.echo(json.dumps({"private_key": str(path), "public_key": public, "fingerprint": name}))
        return
    console = Terminal()
    for line in (
        f"private key {path} (keep it to yourself; whoever has it can sign)",
        f"public key {path}{signature.PUBLIC_SUFFIX} (give it to every device; fingerprint {name})",
        f"next: agentmixer export --sign {shlex.quote(str(path))}",
    ):
        console.copied(line)


def _certificates(path: Path, bundle: Path | None, days: int, as_json: bool) -> None:
    from agentmixer.host.tls_keys import AUTHORITY, make
    from agentmixer.runtime.bundle import newest, read_bundle

    made = make(path, read_bundle(bundle or newest()).team.task.agents, days)
    if as_json:
        found = {"new": [str(place) for place in made.new], "kept": [str(place) for place in made.old]}
        typer.echo(json.dumps(found | {"until": made.until.isoformat()}))
        return
    console = Terminal()
    for line in (
        *(f"{place} (new, until {made.until:%Y-%m-%d})" for place in made.new),
        *(f"{place} (kept; remove it to have a new one made)" for place in made.old),
        f"copy each agent's folder to its device alone; keep {path / AUTHORITY} to yourself (whoever has it can make more)",
        f"next, on each device: agentmixer agent FOLDER --listen 0.0.0.0:7447 --tls {shlex.quote(path.name)}/AGENT",
    ):
        console.copied(line)
