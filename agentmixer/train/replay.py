"""A memory of past transitions: one .npy file of fixed-size records, used as a ring."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from agentmixer.errors import AgentMixerError

FILE = "replay.npy"


class Replay(nn.Module):
    """The newest `size` transitions, one numpy record each. Nothing is held in memory: the file is mapped.

    `slack` more records are kept on disk than are drawn from. A run that goes on from a checkpoint finds every
    transition it could draw then, provided that at most `slack` were written after it; the run itself writes the
    later ones again, to the same numbers. So a checkpoint need hold no more than `written`, which is why this is a
    module: it stands among the networks. The file grows to (size + slack) records, plus 8 bytes each.
    """

    def __init__(self, fields: list[tuple[str, type, tuple[int, ...]]], size: int, slack: int):
        """fields: name, element type and shape of what a record holds."""
        super().__init__()
        self.fields, self.size, self.capacity = fields, size, size + slack
        self.record = np.dtype([("number", np.int64), *fields])
        #: How many transitions were ever written.
        self.written: Tensor
        self.register_buffer("written", torch.zeros((), dtype=torch.int64))
        self.ring = np.empty(0, self.record)

    def __len__(self) -> int:
        """How many transitions there are to draw from."""
        return min(int(self.written), self.size)

    def open(self, folder: Path) -> None:
        """Start with an empty file, or go on with the one there if anything was written.

        Raises AgentMixerError if the disk has no room for it, or if it does not hold what was written."""
        file = folder / FILE
        if not self.written:
            folder.mkdir(parents=True, exist_ok=True)
            file.unlink(missing_ok=True)
            needed, free = self.capacity * self.record.itemsize, shutil.disk_usage(folder).free
            if needed > free:
                raise AgentMixerError(
                    f"replay needs up to {needed / 1e9:.1f} GB under {folder}, but {free / 1e9:.1f} GB are free; "
                    "lower it with --set replay_size= or make room"
                )
            self.ring = np.lib.format.open_memmap(file, "w+", self.record, (self.capacity,))
            return
        try:
            found = os.lstat(file)
            if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:  # it is written to in its place
                raise AgentMixerError(f"{file} is a link, has a second name or is no file; train again")
            ring = np.lib.format.open_memmap(file, "r+")
        except (OSError, ValueError) as error:
            raise AgentMixerError(f"{file} cannot be read ({error}); without it the run cannot go on") from error
        if ring.dtype != self.record or ring.shape != (self.capacity,):
            raise AgentMixerError(f"{file} does not fit its run's config.toml; put that back")
        # Records are written in order, so the oldest is the first to be lost and the newest the last to arrive.
        oldest, newest = int(self.written) - len(self), int(self.written) - 1
        if any(ring["number"][number % self.capacity] != number for number in (oldest, newest)):
            raise AgentMixerError(
                f"{file} does not hold the transitions before the run's checkpoint any more; train again, or put back "
                "the file that belongs to it"
            )
        self.ring = ring

    def add(self, rows: np.ndarray) -> None:
        """Write transitions, [n] records without their numbers; the oldest give way."""
        numbers = int(self.written) + np.arange(len(rows))
        rows["number"] = numbers
        self.ring[numbers % self.capacity] = rows
        self.written += len(rows)

    def sample(self, count: int, generator: torch.Generator) -> np.ndarray:
        """`count` records drawn evenly, with replacement."""
        drawn = torch.randint(len(self), (count,), generator=generator, device=generator.device).cpu().numpy()
        return self.ring[(int(self.written) - len(self) + drawn) % self.capacity]

    def flush(self) -> None:
        """Have everything on disk before a checkpoint speaks of it."""
        if isinstance(self.ring, np.memmap):
            self.ring.flush()
