"""A run's numbers on disk: metrics.jsonl and tensorboard with a line an update, train.log with a line an evaluation."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from agentmixer.progress import span
from agentmixer.train import run as runs
from agentmixer.train.figures import evaluation_line
from agentmixer.train.metrics_file import evaluated
from agentmixer.train.run import Run
from agentmixer.train.run_files import read_metrics


class Records:
    """A run's numbers on disk: metrics.jsonl, train.log and tensorboard, as they were at `step` and added to from there.

    All that train.log says is in metrics.jsonl, so a run that goes on writes it anew from there. Raises AgentMixerError
    if a file cannot be read or written."""

    def __init__(self, run: Run, step: int):
        self._run = run
        # What a killed run wrote after its last checkpoint, a half line for one, is left out; it is written again.
        kept = {at: line for at, line in read_metrics(run.path).items() if at <= step}
        #: Whether there is a line of `step` itself.
        self.complete = step in kept
        #: The newest line, empty before the first; and the lines that hold an evaluation.
        self.newest: Mapping[str, Any] = kept[max(kept)] if kept else {}
        self.evaluations = evaluated(kept.values())
        self._metrics = _Growing(run, "metrics.jsonl", (json.dumps(line) for line in kept.values()))
        self._log = _Growing(run, "train.log", filter(None, map(self._told, self.evaluations)))
        runs.make_folder(run.path / "tensorboard")
        self._writer = SummaryWriter(str(run.path / "tensorboard"), purge_step=step + 1)

    def add(self, step: int, numbers: dict[str, Any]) -> None:
        """Write what an update at `step` came to."""
        self.newest = {"step": step, **numbers}
        self._metrics.add(json.dumps(self.newest))
        with self._written():
            for name, number in numbers.items():
                if number is not None:
                    self._writer.add_scalar(name, number, step)
        if found := evaluated([self.newest]):
            self.evaluations += found
            self._log.add(self._told(self.newest))

    def close(self) -> None:
        """Write what tensorboard still holds back, and close all."""
        self._metrics.close()
        self._log.close()
        with self._written():
            self._writer.close()

    def _told(self, line: Mapping[str, Any]) -> str:
        """A line of train.log; none if somebody else has written into metrics.jsonl what training does not."""
        with contextlib.suppress(KeyError, TypeError, ValueError, OverflowError):
            return f"{span(line['seconds'])}  {evaluation_line(self._run, line)}"
        return ""

    @contextlib.contextmanager
    def _written(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise runs.unwritten(self._run.path / "tensorboard", error, self._run) from error


class _Growing:
    """A file of a run that lines are added to, and that begins with these."""

    def __init__(self, run: Run, name: str, lines: Iterable[str]):
        self._run, self._path = run, run.path / name
        runs.write(self._path, "".join(f"{line}\n" for line in lines), run)
        # The file is new, so nothing is written through a link; and nothing waits in a buffer.
        self._file = open(self._path, "ab", buffering=0, opener=_no_link)  # noqa: SIM115

    def add(self, line: str) -> None:
        """Write one more line, at once."""
        data = memoryview(f"{line}\n".encode())
        try:
            while data:
                data = data[self._file.write(data) :]
        except OSError as error:
            raise runs.unwritten(self._path, error, self._run) from error

    def close(self) -> None:
        self._file.close()


def _no_link(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
