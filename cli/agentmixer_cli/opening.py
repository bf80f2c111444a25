"""What commands that hold a bundle against its run begin with: their common options, and reading both."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agentmixer_cli.terminal import Terminal

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

StepOption = Annotated[
    str | None,
    typer.Option(
        "--step",
        metavar="N",
        help="Which of the run's checkpoints: a step, or best (when it was judged); the newest unless given.",
    ),
]


def run_and_checkpoint(
    run: Path | None, step: str | None, task_code: str | None, console: Terminal | None
) -> tuple[Run, Path]:
    """The run at `run`, or the newest that is finished, and a checkpoint of it. console: where to say which, if anywhere."""
    from agentmixer.train import checkpoint
    from agentmixer.train import run as runs
    from agentmixer.train.run_files import step_of

    found = runs.load(run, task_code) if run else runs.newest(task_code=task_code)
    file = checkpoint.chosen(found, step)
    if console:
        console.sentence(f"{found.path} {runs.standing(found, step_of(file))}")
        newer = None if run else runs.newest(with_checkpoint=False, task_code=task_code)
        if newer and newer.path != found.path:
            console.sentence(
                f"note: {newer.path} is newer, {runs.standing(newer, runs.steps_done(newer))}; name it if you mean it"
            )
    return found, file


def opened(bundle: Path | None, trusted: Path | None) -> Bundle:
    """The bundle at `bundle`, or the newest."""
    from agentmixer.runtime.bundle import newest, read_bundle

    return read_bundle(bundle or newest(), trusted)


def agent_folder(folder: Path) -> Path:
    """`folder`, if it can be one agent's. Raises AgentMixerError if it is a whole bundle."""
    from agentmixer.contract.manifest import AGENTS_FOLDER, TEAM_FILE
    from agentmixer.errors import AgentMixerError

    if os.path.lexists(folder / TEAM_FILE):
        raise AgentMixerError(
            f"{folder} is a whole bundle; give one agent's folder, such as {folder / AGENTS_FOLDER / 'agent_0'}"
        )
    return folder


def opened_with_run(
    bundle: Path | None, trusted: Path | None, run: Path | None, task_code: str | None
) -> tuple[Bundle, Run]:
    """The bundle, and the run it was exported from."""
    from agentmixer.validate.source_run import source_run

    found = opened(bundle, trusted)
    return found, source_run(found, run, task_code)
