"""Whether a new run can begin with the weights of another: found out before anything of the new run is on disk."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from agentmixer.contract.spec import TaskSpec
from agentmixer.errors import AgentMixerError
from agentmixer.train import checkpoint
from agentmixer.train.run import Run
from agentmixer.train.team import most_actions


def check_fits(file: Path, before: Run, new: Run) -> None:
    """Raise AgentMixerError that names what differs if `new`, which is not on disk, cannot begin with the weights of `file`,
    a checkpoint of the run `before`."""
    saved = checkpoint.read_all(file)
    with contextlib.closing(new.make_task(1)) as task:
        spec = task.spec

    def misfit(settings: Mapping[str, Any]) -> str:
        """What does not fit with these settings beside those of `new`."""
        other = replace(new, config=new.config.replace(dict(settings)))
        return checkpoint.take(checkpoint.build([other], spec), [saved.tensors])

    found = misfit({})
    if not found:
        return
    now = new.config.as_dict()
    was = {key: saved.settings[key] for key in now if saved.settings.get(key, now[key]) != now[key]}
    fits = False
    with contextlib.suppress(AgentMixerError):  # agents of this task may be unable to share a network as those did
        fits = not misfit(was)
    if fits:
        wrong = [key for key in was if misfit(was | {key: now[key]})] or [*was]
        old, own = (", ".join(f"{key}={values[key]}" for key in wrong) for values in (was, now))
        raise AgentMixerError(
            f"{file} was trained with {old}, and its weights do not fit {own}; leave that out, or leave --from out"
        )
    options = saved.settings["options"]
    raise AgentMixerError(
        f"{file} was trained on {_task(before, options, new.options)}, and its weights do not fit "
        f"{_task(new, new.options, options)}: {_sizes(before, spec) or found}; begin with a run of the same sizes, or leave "
        "--from out"
    )


def _task(run: Run, options: Mapping[str, Any], others: Mapping[str, Any]) -> str:
    """Task and scenario of a run, and those of its options that are not like the others."""
    told = [f"{key}={value}" for key, value in options.items() if key in others and others[key] != value]
    return f"{run.task} {run.scenario}{' with ' if told else ''}{', '.join(told)}"


def _sizes(before: Run, spec: TaskSpec) -> str:
    """In what a team of `before` differs from one of a task with this specification; nothing if that is not known."""
    try:
        with contextlib.closing(before.on_cpu().make_task(1)) as task:
            then = task.spec
    except AgentMixerError:  # its code is not allowed here, or it is gone
        return ""
    sizes: list[tuple[str, int, int]] = [
        ("agents", then.num_agents, spec.num_agents),
        ("size of an observation", max(then.obs_sizes), max(spec.obs_sizes)),
        ("actions", most_actions(then), most_actions(spec)),
        ("size of the state", then.state_size, spec.state_size),
    ]
    told = ", ".join(f"{what} ({old} there, {own} here)" for what, old, own in sizes if old != own)
    return told and f"they differ in {told}"
