"""`agentmixer keygen`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from agentmixer_cli.terminal import Terminal


def keygen(
    path: Annotated[
        Path, typer.Argument(help="Where the private key goes; the public one beside it, as PATH.pub.")
    ] = Path("agentmixer.key"),
) -> None:
    """Make a pair of Ed25519 keys: bundles are signed with the private one and checked with the public one.

    Example: agentmixer keygen ~/release.key
    """
    from agentmixer.runtime import signature

    name = signature.generate(path)
    console = Terminal()
    for line in (
        f"private key {path} (keep it to yourself; whoever has it can sign)",
        f"public key {path}{signature.PUBLIC_SUFFIX} (give it to every device; fingerprint {name})",
        f"next: agentmixer export --sign {shlex.quote(str(path))}",
    ):
        console.print(line, soft_wrap=True, markup=False, highlight=False)
