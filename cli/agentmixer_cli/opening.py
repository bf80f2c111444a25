"""What commands that hold a bundle against its run begin with: their common options, and reading both."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from agentmixer.runtime.bundle import Bundle
    from agentmixer.train.run import Run

BundleArgument = Annotated[
    Path | None, typer.Argument(help="Bundle directory; the newest under bundles/ unless given.")
]
RunOption = Annotated[
    Path | None,
    typer.Option("--run", help="The run it was exported from; known without it where the bundle was exported here."),
]
TaskCodeOption = Annotated[
    str | None,
    typer.Option(
        "--task-code",
        metavar="MODULE:FACTORY",
        help="Let the task import this code, which its scenario names: needed for what was not made on this machine.",
    ),
]
TrustedOption = Annotated[
    Path | None,
    typer.Option(
        "--trusted",
        metavar="KEY.pub",
        help="Refuse a bundle that this public key did not sign, or that its pin excludes.",
    ),
]


def opened(bundle: Path | None, trusted: Path | None) -> Bundle:
    """The bundle at `bundle`, or the newest."""
    from agentmixer.runtime.bundle import newest, read_bundle

    return read_bundle(bundle or newest(), trusted)


def opened_with_run(
    bundle: Path | None, trusted: Path | None, run: Path | None, task_code: str | None
) -> tuple[Bundle, Run]:
    """The bundle, and the run it was exported from."""
    from agentmixer.validate.source_run import source_run

    found = opened(bundle, trusted)
    return found, source_run(found, run, task_code)
