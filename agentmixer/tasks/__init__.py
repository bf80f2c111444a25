"""Where agents act: one folder per task family, all batched, one protocol (`tasks.base.Task`)."""

from agentmixer.tasks.base import ScenarioInfo, Task, TaskFamily, TaskStep
from agentmixer.tasks.registry import (
    backend_problems,
    check,
    check_workers,
    family,
    make,
    names,
    names_code,
    option_names,
)

__all__ = [
    "ScenarioInfo",
    "Task",
    "TaskFamily",
    "TaskStep",
    "backend_problems",
    "check",
    "check_workers",
    "family",
    "make",
    "names",
    "names_code",
    "option_names",
]
