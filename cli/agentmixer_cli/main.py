"""`agentmixer`: the commands, and how an error a user can cause looks."""

from __future__ import annotations

import signal
import sys
import threading
from types import FrameType

import typer
from typer.exceptions import TyperException

from agentmixer import __version__
from agentmixer.errors import AgentMixerError
from agentmixer_cli import (
    analyze,
    compare,
    deploy_sim,
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
from agentmixer_cli.terminal import Output, say

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


def main() -> None:
    """Run the command line. Exit codes: 0 as promised, 1 a failed verdict, 2 bad input, and 128 + the signal that
    interrupted: 130 Ctrl-C, 143 SIGTERM, 129 SIGHUP."""
    out, error = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = Output(out), Output(error)
    interrupted = _Signals()
    try:
        _run()
    except SystemExit as left:
        if left.code == 130:
            sys.exit(interrupted.exit_code)
        raise
    finally:
        sys.stdout.flush()
        interrupted.restore()
        sys.stdout, sys.stderr = out, error


class _Signals:
    """SIGTERM and SIGHUP, while a command runs, do what Ctrl-C does, but for the exit code. Either is left alone where
    somebody has told this process to ignore it (nohup)."""

    def __init__(self) -> None:
        self.exit_code = 128 + signal.SIGINT
        self._old = {
            number: signal.signal(number, self._interrupt)
            for number in (signal.SIGTERM, signal.SIGHUP)
            if threading.current_thread() is threading.main_thread() and signal.getsignal(number) == signal.SIG_DFL
        }

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        self.exit_code = 128 + number
        signal.raise_signal(signal.SIGINT)

    def restore(self) -> None:
        """As it was before."""
        for number, handler in self._old.items():
            signal.signal(number, handler)


def _run() -> None:
    try:
        sys.exit(app(sys.argv[1:] or ["--help"], standalone_mode=False) or 0)
    except TyperException as error:
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "agentmixer"
        say(f"error: {error.format_message().strip().rstrip('.')}; see {command} --help", err=True)
        sys.exit(2)
    except AgentMixerError as error:
        say(f"error: {error}", err=True)
        sys.exit(2)
    except OSError as error:
        say(f"error: {error.filename or 'input or output'}: {error.strerror or error}", err=True)
        sys.exit(2)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in {"agentmixer", "agentmixer_cli"}:
            raise
        say(
            f"error: this command needs '{error.name}', which is not installed; pip install 'agentmixer[train]'",
            err=True,
        )
        sys.exit(2)
    except (KeyboardInterrupt, typer.Abort):
        say("interrupted", err=True)
        sys.exit(130)


if __name__ == "__main__":
    main()
