"""The commands, and how an error that a user can cause and an interruption look."""

from __future__ import annotations

import itertools
import sys
from typing import Annotated, get_args, get_type_hints

import typer
from msgspec import Meta
from typer.exceptions import TyperException

from agentmixer import __version__
from agentmixer.config import checked
from agentmixer.errors import AgentMixerError
from agentmixer_cli import (
    agent,
    analyze,
    audit,
    compare,
    deploy_sim,
    doctor,
    evaluate,
    export,
    isolation,
    keygen,
    locality,
    mutations,
    pack,
    parity,
    pin,
    plot,
    probe,
    replay,
    report,
    runs,
    settings,
    show,
    tasks,
    train,
    verify,
)
from agentmixer_cli.terminal import INTERRUPTED, Output, leaves, left, say

app = typer.Typer(
    help="Train a team with everything you can see, ship each member with only what it will see, and prove that nothing was lost.",
    epilog="Start with: agentmixer train smacv2 protoss_5v5",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("train")(train.train)
app.command("export")(export.export)
app.command("deploy-sim")(deploy_sim.deploy_sim)
app.command("verify")(verify.verify)
app.command("show")(show.show)
app.command("probe")(probe.probe)
app.command("audit")(audit.audit)
app.command("agent")(agent.agent)
app.command("parity")(parity.parity)
app.command("keygen")(keygen.keygen)
app.command("pack")(pack.pack)
app.command("pin")(pin.pin)
app.command("locality")(locality.locality)
app.command("mutations")(mutations.mutations)
app.command("evaluate")(evaluate.evaluate)
app.command("analyze")(analyze.analyze)
app.command("compare")(compare.compare)
app.command("isolation")(isolation.isolation)
app.command("tasks")(tasks.tasks)
app.command("settings")(settings.settings)
app.command("doctor")(doctor.doctor)
app.command("replay")(replay.replay)
app.command("runs")(runs.runs)
app.command("plot")(plot.plot)
app.command("report")(report.report)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"agentmixer {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    pass


def run(arguments: list[str]) -> int:
    """Run a command. Returns its exit code, INTERRUPTED after saying so and what is left to go on with."""
    out, error = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = Output(out), Output(error)
    leaves("")
    try:
        code = _run(arguments)
        if code == INTERRUPTED:
            say("; ".join(["interrupted", *left]), err=True)
        return code
    finally:
        sys.stdout.flush()
        sys.stdout, sys.stderr = out, error


def _run(arguments: list[str]) -> int:
    try:
        # typer ends an interrupted command with this exit code itself, and says nothing.
        return app(arguments, prog_name="agentmixer", standalone_mode=False) or 0
    except TyperException as error:
        told = _of_a_number(error, arguments) or error.format_message().strip().rstrip(".")
        say(f"error: {told}; see {_whose(error, arguments)} --help", err=True)
    except AgentMixerError as error:
        say(f"error: {error}", err=True)
    except OSError as error:
        say(f"error: {error.filename or 'input or output'}: {error.strerror or error}", err=True)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in {"agentmixer", "agentmixer_cli"}:
            raise
        say(
            f"error: this command needs '{error.name}', which is not installed; pip install 'agentmixer[train]'",
            err=True,
        )
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    return 2


def _whose(error: TyperException, arguments: list[str]) -> str:
    """The command that was typed, which not every error knows."""
    if context := getattr(error, "ctx", None):
        return str(context.command_path)
    known = [command.name for command in app.registered_commands]
    return " ".join(["agentmixer", *[word for word in arguments if word in known][:1]])


def _of_a_number(error: TyperException, arguments: list[str]) -> str | None:
    """What an option must be that is a number, in the words that settings have; None if the error is about anything else."""
    param, context = getattr(error, "param", None), getattr(error, "ctx", None)
    command = context and next((known for known in app.registered_commands if known.name == context.info_name), None)
    if not param or not command or command.callback is None:
        return None
    hint, *declared = get_args(get_type_hints(command.callback, include_extras=True)[param.name])
    kind = next((kind for kind in (int, float) if kind in (hint, *get_args(hint))), None)
    words = [word for argument in arguments for word in argument.split("=", 1)]
    typed = [after for word, after in itertools.pairwise(words) if word in param.opts]
    if kind is None or not typed:
        return None
    try:
        number = checked(param.opts[0], typed[-1], Annotated[kind, Meta(ge=declared[0].min, le=declared[0].max)])
    except AgentMixerError as said:
        return str(said)
    return f"{param.opts[0]} takes digits alone, got {typed[-1]}, which is typed {number}"
