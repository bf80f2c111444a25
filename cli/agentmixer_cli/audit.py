"""`agentmixer audit`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agentmixer_cli.opening import TrustedOption, agent_folder
from agentmixer_cli.terminal import Terminal, leave

if TYPE_CHECKING:
    from agentmixer.runtime.audit import AuditReport


def audit(
    folder: Annotated[Path, typer.Argument(help="One agent's folder, such as bundles/NAME/agents/agent_0.")],
    log: Annotated[Path, typer.Option(help="What the device fed this agent: a file that Agent.logging wrote.")],
    trusted: TrustedOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Judge what a device fed its agent: which elements of the observation are wired wrong, how, and what mends them.

    Also decides again on every logged observation. Exits 1 if something is wrong. Runs on a device, with the base install.
    Example: agentmixer audit bundles/NAME/agents/agent_0 --log agent_0.npz
    """
    from agentmixer.runtime import log as logs
    from agentmixer.runtime.audit import audit as judge
    from agentmixer.runtime.bundle import read_agent

    files = read_agent(agent_folder(folder), trusted)
    team = sorted(folder.resolve().parent.glob("*/agent.json"))
    others = [read_agent(file.parent, trusted) for file in team if file.parent.name != folder.resolve().name]
    report = judge(files, logs.read(log, files.manifest), others)
    if as_json:
        typer.echo(report.to_json(), nl=False)
    else:
        _print(report)
    leave(report)


def _print(report: AuditReport) -> None:
    console = Terminal()
    console.sentence(f"{report.agent}: {report.decisions:,} logged decisions, {report.elements:,} elements with models")
    for check in report.checks:
        console.check(check)
    for finding in report.findings if len(report.findings) > 1 else ():
        console.sentence(f"     {finding.told} ({finding.gain:,.0f} nats)", indent=5)
    if not report.findings:
        told = ", ".join(f"{kind} {count:,}" for kind, count in report.noticed.items())
        console.sentence(f"of {report.elements:,} elements, this log would show a fault of the kind: {told}")
    console.verdict(report)
