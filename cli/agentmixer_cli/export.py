"""`agentmixer export`."""

from __future__ import annotations

import contextlib
import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, get_args

import typer
from rich import box
from rich.table import Table

from agentmixer_cli.opening import StepOption, TaskCodeOption, run_and_checkpoint
from agentmixer_cli.terminal import Terminal, leave


@contextlib.contextmanager
def _told_if_it_does_not_hold(console: Terminal, as_json: bool) -> Iterator[None]:
    """A team that int8 changes too much is a failed verdict: it is said, and the exit code is 1."""
    from agentmixer.export.exporter import DoesNotHold

    try:
        yield
    except DoesNotHold as error:
        report = error.report
        if as_json:
            typer.echo(report.to_json(), nl=False)
        console.print("nothing was exported; export without --quantize", soft_wrap=True, markup=False)
        console.verdict(report)
        leave(report)


#: What an agent can be exported as.
FORMATS = ("onnx", "c")


def export(
    run: Annotated[Path | None, typer.Argument(help="Run directory; the newest under runs/ unless given.")] = None,
    per_agent: Annotated[
        str,
        typer.Option(
            "--per-agent",
            metavar="FORMAT",
            help="One model an agent, in this format: onnx; or c, which is onnx with the agent as C beside it.",
        ),
    ] = "onnx",
    leapp: Annotated[
        bool,
        typer.Option("--leapp", help="Describe each agent for LEAPP too, NVIDIA's format for policies (leapp.yaml)."),
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="Bundle directory, which must not exist; a folder under bundles/ unless given.")
    ] = None,
    sign: Annotated[
        Path | None, typer.Option(metavar="KEY", help="Sign it with this private key (agentmixer keygen makes one).")
    ] = None,
    team: Annotated[
        str | None,
        typer.Option(
            help="The team's name over all its releases, which devices may pin; task and scenario unless given."
        ),
    ] = None,
    release: Annotated[
        int,
        typer.Option(help="Grows with every release, so that a device can refuse an older one.", min=0, max=2**31 - 1),
    ] = 0,
    elements: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="TOML that names and explains observations' elements and actions."),
    ] = None,
    when_unusual: Annotated[
        str,
        typer.Option(
            help="What Agent.step does about an observation outside what was seen: report, clamp, fall-back or refuse (to start)."
        ),
    ] = "report",
    quantize: Annotated[
        str | None,
        typer.Option(metavar="TYPE", help="Write matrices as int8, if the team still decides and earns the same."),
    ] = None,
    sampled: Annotated[
        bool,
        typer.Option(
            "--sampled",
            help="Agents draw their actions, by noise with a seed that the device owns; the most likely one unless given.",
        ),
    ] = False,
    step: StepOption = None,
    replace: Annotated[
        bool,
        typer.Option("--replace", help="Let a bundle that is in its place go, its signatures and reports with it."),
    ] = False,
    task_code: TaskCodeOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Strip Policy Modifier and critics, write one ONNX model an agent, and check it against torch.

    Example: agentmixer export --per-agent onnx
    """
    from agentmixer.contract.manifest import WhenUnusual
    from agentmixer.errors import AgentMixerError, nearest
    from agentmixer.export import exporter

    if per_agent not in FORMATS:
        raise AgentMixerError(f"unknown export format '{per_agent}'{nearest(per_agent, FORMATS)}")
    if quantize not in (None, "int8"):
        raise AgentMixerError(f"unknown --quantize '{quantize}'{nearest(str(quantize), ['int8'])}")
    ways = {way.replace(" ", "-"): way for way in get_args(WhenUnusual)}
    if when_unusual not in ways:
        raise AgentMixerError(f"unknown --when-unusual '{when_unusual}'{nearest(when_unusual, ways)}")
    console = Terminal(stderr=as_json)
    source, file = run_and_checkpoint(run, step, task_code, None if as_json else console)
    with console.doing() as doing, _told_if_it_does_not_hold(console, as_json):
        unusual, forms = ways[when_unusual], exporter.Forms(per_agent == "c", leapp, quantize is not None, sampled)
        result = exporter.export(source, out, doing, sign, team, release, file, replace, elements, unusual, forms)
    if as_json:
        parity = {
            name: {kind: found._asdict() for kind, found in kinds.items()} for name, kinds in result.parity.items()
        }
        told = {"bundle": str(result.path), "run": str(source.path), "checkpoint": file.name, "parity": parity}
        told |= {"self_tests": result.self_tests} if forms.c else {}
        told |= {"quantization": json.loads(result.quantization.to_json())} if result.quantization else {}
        typer.echo(json.dumps(told, indent=2))
        return
    table = Table(title="parity with the trained network, golden steps", box=box.SIMPLE)
    for column in ("agent", "steps", "torch", "onnxruntime", "reference", "near ties", "size"):
        figure = column != "agent"
        table.add_column(column, justify="right" if figure else "left", no_wrap=figure, overflow="fold")
    for agent, kinds in result.parity.items():
        size = (result.path / "agents" / agent / "policy.onnx").stat().st_size
        errors = [f"{kinds[kind].policy_error:.1e}" for kind in ("torch", "onnxruntime", "reference")]
        table.add_row(
            agent,
            str(kinds["torch"].steps),
            *errors,
            str(sum(found.near_ties for found in kinds.values())),
            f"{size / 1024:.0f} KiB",
        )
    console.print(table)
    for agent, said in result.self_tests.items():
        untried = f"agent {agent}: its C was not tried, for there is no C compiler here; its self_test.c says whether it is right"
        console.print(f"C: {said or untried}", soft_wrap=True, markup=False)
    for check in result.quantization.checks if result.quantization else ():
        console.sentence(f"int8: {check.name}: {check.sentence}")
    console.print(f"bundle {result.path}", soft_wrap=True, markup=False)
    if not result.remembered:
        console.print(
            "nothing can be kept in your state folder, so commands on this bundle need --run",
            soft_wrap=True,
            markup=False,
        )
    if sign:
        console.print(f"signed with {sign}", soft_wrap=True, markup=False)
    console.print(
        "next: agentmixer deploy-sim" + (f" {shlex.quote(str(out))}" if out else ""), soft_wrap=True, markup=False
    )
