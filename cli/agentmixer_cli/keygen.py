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
        Path, typer.Argument(help="Where the private key goes; the public one beside it, as PATH.pub.")
    ] = Path("agentmixer.key"),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Make a pair of Ed25519 keys: bundles are signed with the private one and checked with the public one.

    Example: agentmixer keygen ~/release.key
    """
    from agentmixer.runtime import signature

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
        console.print(line, soft_wrap=True, markup=False, highlight=False)
