"""`agentmixer pack`."""

from __future__ import annotations

import json
import platform
import re
from pathlib import Path
from typing import Annotated

import typer

from agentmixer_cli.opening import TrustedOption, agent_folder
from agentmixer_cli.terminal import Terminal


def pack(
    folder: Annotated[Path, typer.Argument(help="One agent's folder, such as bundles/NAME/agents/agent_0.")],
    machine: Annotated[
        str | None, typer.Option(help="The device's processor, x86_64 or aarch64; this machine's unless given.")
    ] = None,
    python: Annotated[str, typer.Option(help="The device's Python.", metavar="VERSION")] = "3.11",
    glibc: Annotated[
        str, typer.Option(help="The oldest C library that the device may have.", metavar="VERSION")
    ] = "2.28",
    wheel: Annotated[
        Path | None, typer.Option(help="agentmixer's own wheel; the newest in dist/ unless given.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Where the archive goes; AGENT-MACHINE.tar.gz unless given.", metavar="FILE")
    ] = None,
    trusted: TrustedOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Make one archive of an agent and what it needs, which two commands install on a device without a network.

    Needs pip and a network here, once: it fetches wheels for the device's processor, in the versions installed here.
    Example: agentmixer pack bundles/NAME/agents/agent_0 --machine aarch64
    """
    from agentmixer.errors import AgentMixerError
    from agentmixer.export import device_archive
    from agentmixer.runtime.bundle import read_agent

    name = read_agent(agent_folder(folder), trusted).manifest.agent
    where = machine or platform.machine()
    if where not in device_archive.MACHINES:
        raise AgentMixerError(f"--machine {where} is not known; choose one of {', '.join(device_archive.MACHINES)}")
    for option, text in (("--python", python), ("--glibc", glibc)):
        if not re.fullmatch(r"\d+\.\d+", text):
            raise AgentMixerError(f"{option} {text} is no version; write it like 3.11 or 2.28")
    oldest = tuple(map(int, glibc.split(".")))
    target = out or Path(f"{name}-{where}.tar.gz")
    own = wheel or device_archive.newest_wheel([Path("dist")])
    wheels = device_archive.pack(folder, own, target, where, python, (oldest[0], oldest[1]))
    size = target.stat().st_size
    if as_json:
        typer.echo(json.dumps({"archive": str(target), "bytes": size, "wheels": wheels}))
        return
    console = Terminal()
    for line in (
        f"{target} ({size / 1e6:.1f} MB: {name}, {len(wheels)} wheels for Python {python} on {where})",
        f"on the device: tar xzf {target.name} && sh {name}-device/install.sh",
    ):
        console.copied(line)
