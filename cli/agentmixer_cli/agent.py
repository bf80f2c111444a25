"""`agentmixer agent`."""

from __future__ import annotations

import contextlib
import signal
from pathlib import Path
from typing import Annotated

import typer

from agentmixer_cli.opening import TrustedOption, agent_folder


def agent(
    folder: Annotated[Path, typer.Argument(help="One agent's folder, such as bundles/NAME/agents/agent_0.")],
    listen: Annotated[
        str,
        typer.Option(
            help="Where the host reaches this device, such as 0.0.0.0:7447; port 0 takes any that is free.",
            metavar="ADDRESS",
        ),
    ],
    tls: Annotated[
        Path,
        typer.Option(
            help="This device's certificate and key: the folder that keygen --tls made for the agent.", metavar="KEYS"
        ),
    ],
    trusted: TrustedOption = None,
    require_isolation: Annotated[
        bool, typer.Option("--require-isolation", help="Refuse to start unless the agent is fully sandboxed.")
    ] = False,
    metrics: Annotated[
        str | None,
        typer.Option(
            help="Serve this device's counts as Prometheus text, such as at 127.0.0.1:9464.", metavar="ADDRESS"
        ),
    ] = None,
) -> None:
    """Run one agent on this device, and answer the host that deploy-sim --devices runs on another machine.

    Writes one line an event to the error output. Ends with Ctrl-C or SIGTERM. Needs the base install.
    Example: agentmixer agent agent_0 --listen 0.0.0.0:7447 --tls keys/agent_0
    """
    from agentmixer.host.device_server import DeviceServer
    from agentmixer.runtime.health import serve_metrics
    from agentmixer.runtime.tls import parse_address

    address = parse_address(listen)
    counted = parse_address(metrics) if metrics else None
    with contextlib.ExitStack() as open_:
        server = open_.enter_context(DeviceServer(agent_folder(folder), address, tls, trusted, require_isolation))
        for number in (signal.SIGINT, signal.SIGTERM):
            open_.callback(signal.signal, number, signal.signal(number, lambda *_: server.stop()))
        if counted:
            open_.callback(serve_metrics(counted, server.files.manifest.agent, server.health).shutdown)
        server.serve()
