"""What a command found out: a report of checks. Every command that judges something says it in these words."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any, Literal

from agentmixer import __version__

#: "not run": something that the check needs has failed. "does not apply": there is nothing to judge.
Status = Literal["passed", "failed", "not run", "does not apply"]
#: The subject of a check that is not of one agent.
TEAM = "team"


def judged(holds: bool) -> Status:
    """The status of a check that applies."""
    return "passed" if holds else "failed"


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that was judged. Kinds of checks that have figures of their own are subclasses.

    subject: the agent that was judged, or TEAM; sentence: what was found, or why the check does not apply; control: the
    check shows that other checks notice what they should, and is no evidence by itself."""

    name: str
    subject: str = TEAM
    status: Status
    sentence: str = ""
    control: bool = False

    @property
    def passed(self) -> bool:
        """Whether it was judged and holds."""
        return self.status == "passed"


@dataclass(frozen=True, kw_only=True)
class Report:
    """All that one command found. agentmixer: the version that judged; bundle: path of what was judged.

    Kinds of reports that have figures beside their checks are subclasses."""

    agentmixer: str = __version__
    bundle: str
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Every check that applies passed, and one at least that is no control. Decides the exit code."""
        return all(check.status in ("passed", "does not apply") for check in self.checks) and any(
            check.passed and not check.control for check in self.checks
        )

    @property
    def verdict(self) -> str:
        """ "PASS", or "FAIL" with the reason: what failed first, and how much beside it."""
        if self.passed:
            return "PASS"
        wrong = [check for check in self.checks if check.status == "failed"]
        wrong += [check for check in self.checks if check.status == "not run"]
        if not wrong:
            return "FAIL: nothing was judged"
        first, more = wrong[0], len(wrong) - 1
        subject = "" if first.subject == TEAM else f", {first.subject}"
        beside = f" (and {more} more)" if more else ""
        return f"FAIL: {first.name}{subject}: {first.sentence}{beside}"

    def to_json(self) -> str:
        """The whole report, `passed` first. Raises ValueError for a number that is not finite."""
        return json.dumps(_plain(self), indent=2, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    """What JSON knows: structures as objects by their fields' names, a report with `passed` before its fields."""
    if dataclasses.is_dataclass(value):
        fields = {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {"passed": value.passed, **fields} if isinstance(value, Report) else fields
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return _plain(value._asdict())
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
