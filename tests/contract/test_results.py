"""A report passes if its checks say so, and as JSON it begins with that."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import NamedTuple

import pytest

from agentmixer import __version__
from agentmixer.contract.results import Check, Report, Status


class Pair(NamedTuple):
    first: int
    second: bool


@dataclass(frozen=True, kw_only=True)
class Larger(Report):
    pair: Pair
    inner: tuple[Report, ...] = ()


def report(*statuses: Status, control: Status | None = None) -> Report:
    checks = [Check(name=status, status=status) for status in statuses]
    if control:
        checks.append(Check(name="control", status=control, control=True))
    return Report(bundle="x", checks=tuple(checks))


def test_a_report_passes_if_something_passed_and_nothing_failed_or_was_left_out() -> None:
    assert report("passed", "does not apply").passed
    assert report("passed", control="passed").passed
    for failing in (
        report(),
        report("does not apply"),
        report("passed", "failed"),
        report("passed", "not run"),
        report("passed", control="failed"),
        report(control="passed"),
    ):
        assert not failing.passed, failing


def test_json_begins_with_the_verdict_the_version_and_the_bundle() -> None:
    larger = Larger(bundle="x", checks=report("passed").checks, pair=Pair(1, True), inner=(report("failed"),))
    data = json.loads(larger.to_json())
    assert list(data.items())[:3] == [("passed", True), ("agentmixer", __version__), ("bundle", "x")]
    assert data["checks"] == [
        {"name": "passed", "subject": "team", "status": "passed", "sentence": "", "control": False}
    ]
    assert data["pair"] == {"first": 1, "second": True}
    assert list(data["inner"][0].items())[:3] == [("passed", False), ("agentmixer", __version__), ("bundle", "x")]


def test_a_number_that_is_not_finite_is_no_json() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Figure(Check):
        value: float

    with pytest.raises(ValueError, match="JSON"):
        Report(bundle="x", checks=(Figure(name="a", status="passed", value=float("nan")),)).to_json()
