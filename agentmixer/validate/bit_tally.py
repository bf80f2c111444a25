"""Arrays compared bit for bit, and what takes the place of an array that must not matter."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from agentmixer.contract.results import Check, judged

#: What takes the place of everything that must not matter.
REPLACEMENTS = ("noise", "zeros", "NaN")


@dataclass(frozen=True, kw_only=True)
class BitCheck(Check):
    """One agent while one thing was changed: arrays compared, their bits, and how many of these differ. A control compares
    something that does depend on the change.

    where: in what the change was made; name: what was changed."""

    where: str
    comparisons: int
    bits: int
    differing: int


def bit_check(
    where: str, change: str, agent: str, control: bool, comparisons: int, bits: int, differing: int
) -> BitCheck:
    """Passed if something was compared, and moved only if it had to."""
    return BitCheck(
        name=change,
        subject=agent,
        status=judged(comparisons > 0 and (differing > 0) == control),
        sentence=f"{differing:,} of {bits:,} bits of {comparisons:,} arrays differ",
        control=control,
        where=where,
        comparisons=comparisons,
        bits=bits,
        differing=differing,
    )


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

    def check(self, where: str, change: str, agent: str, control: bool = False) -> BitCheck:
        """What was added up, judged."""
        return bit_check(where, change, agent, control, self.comparisons, self.bits, self.differing)


def replaced(kind: str, array: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """An array like it that says nothing of it. kind: one of REPLACEMENTS; noise has standard deviation 10."""
    if kind == "noise":
        return generator.normal(0.0, 10.0, array.shape).astype(array.dtype)
    return np.full_like(array, 0.0 if kind == "zeros" else np.nan)
