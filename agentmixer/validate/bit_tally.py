"""Arrays compared bit for bit, and what takes the place of an array that must not matter."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

#: What takes the place of everything that must not matter.
REPLACEMENTS = ("noise", "zeros", "NaN")


@dataclass(frozen=True)
class Finding:
    """One agent while one thing was changed: arrays compared, their bits, and how many of these differ.

    control: whether something that does depend on the change was compared, so that bits must differ."""

    where: str
    change: str
    agent: str
    control: bool
    comparisons: int
    bits: int
    differing: int

    @property
    def passed(self) -> bool:
        """Something was compared, and moved only if it had to."""
        return self.comparisons > 0 and (self.differing > 0) == self.control


class Tally:
    """Compares arrays bit for bit and adds up."""

    def __init__(self) -> None:
        self.comparisons = self.bits = self.differing = 0

    def compare(self, reference: np.ndarray, found: np.ndarray | None) -> None:
        """An array that is missing, or of another kind, differs in every bit."""
        self.comparisons += 1
        self.bits += reference.nbytes * 8
        if found is None or (found.shape, found.dtype) != (reference.shape, reference.dtype):
            self.differing += reference.nbytes * 8
        else:
            ours, theirs = (np.frombuffer(array.tobytes(), np.uint8) for array in (reference, found))
            self.differing += int(np.unpackbits(ours ^ theirs).sum())

    def finding(self, where: str, change: str, agent: str, control: bool = False) -> Finding:
        """What was added up, under its name."""
        return Finding(where, change, agent, control, self.comparisons, self.bits, self.differing)


def replaced(kind: str, array: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """An array like it that says nothing of it. kind: one of REPLACEMENTS; noise has standard deviation 10."""
    if kind == "noise":
        return generator.normal(0.0, 10.0, array.shape).astype(array.dtype)
    return np.full_like(array, 0.0 if kind == "zeros" else np.nan)
