"""A run's numbers on disk, a line an update."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from agentmixer.train import run as runs
from agentmixer.train.run import Run


class Records:
    """A run's numbers on disk: metrics.jsonl and tensorboard, as they were at `step` and added to from there.

    Raises AgentMixerError if a file cannot be read or written."""

    def __init__(self, run: Run, step: int):
        self._run, self._file = run, run.path / "metrics.jsonl"
        # What a killed run wrote after its last checkpoint, a half line for one, is left out; it is written again.
        kept = {at: line for at, line in runs.metrics(run).items() if at <= step}
        #: Whether there is a line of `step` itself.
        self.complete = step in kept
        runs.write(self._file, "".join(json.dumps(line) + "\n" for line in kept.values()), run)
        # The file is new, so nothing is written through a link; and nothing waits in a buffer.
        self._metrics = open(self._file, "ab", buffering=0, opener=_no_link)  # noqa: SIM115
        runs.make_folder(run.path / "tensorboard")
        self._writer = SummaryWriter(str(run.path / "tensorboard"), purge_step=step + 1)

    def add(self, step: int, numbers: dict[str, Any]) -> None:
        """Write what an update at `step` came to."""
        data = memoryview((json.dumps({"step": step, **numbers}) + "\n").encode())
        with self._written(self._file):
            while data:
                data = data[self._metrics.write(data) :]
        with self._written(self._run.path / "tensorboard"):
            for name, number in numbers.items():
                if number is not None:
                    self._writer.add_scalar(name, number, step)

    def close(self) -> None:
        """Write what tensorboard still holds back, and close both."""
        self._metrics.close()
        with self._written(self._run.path / "tensorboard"):
            self._writer.close()

    @contextlib.contextmanager
    def _written(self, file: Path) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise runs.unwritten(file, error, self._run) from error


def _no_link(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
