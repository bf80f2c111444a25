"""What came of one mutation: the check that caught it, that it survived, or why it does not apply."""

from __future__ import annotations

from dataclasses import dataclass

from agentmixer.contract.results import Check


@dataclass(frozen=True, kw_only=True)
class MutationCheck(Check):
    """One mutation: passed if it was caught, failed if it survived. what: what was done; caught_by: the check that objected,
    whose sentence it is."""

    what: str
    caught_by: str | None = None


def mutation_check(name: str, what: str, caught: tuple[str, str] | None) -> MutationCheck:
    """A mutation that applies. caught: the check that objected and its sentence, None if no check did."""
    if caught is None:
        return MutationCheck(name=name, what=what, status="failed", sentence="no check objected")
    return MutationCheck(name=name, what=what, status="passed", caught_by=caught[0], sentence=caught[1])


def not_applicable(name: str, what: str, why: str) -> MutationCheck:
    """A mutation that this bundle cannot have."""
    return MutationCheck(name=name, what=what, status="does not apply", sentence=why)
