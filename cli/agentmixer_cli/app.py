"""The commands, and how an error that a user can cause and an interruption look."""

from __future__ import annotations

import sys

import typer
from typer.exceptions import TyperException

from agentmixer import __version__
from agentmixer.errors import AgentMixerError
from agentmixer_cli import (
    analyze,
    compare,
    deploy_sim,
    doctor,
    evaluate,
    export,
    isolation,
    keygen,
    locality,
    mutations,
    parity,
    pin,
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
app.command("parity")(parity.parity)
app.command("keygen")(keygen.keygen)
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
app.command("runs")(runs.runs)


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
        say(f"error: {error.format_message().strip().rstrip('.')}; see {_whose(error, arguments)} --help", err=True)
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
