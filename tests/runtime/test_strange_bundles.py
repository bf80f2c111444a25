"""Bundles as strangers might make them: none leads outside, starts anything, or costs more than its budget."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from made_bundle import made_bundle
from strange import ATTACKS, attack
from watch import Watch

from agentmixer.contract.manifest import REPORTS_FOLDER
from agentmixer.errors import AgentMixerError
from agentmixer.runtime import verify as verifying
from agentmixer.runtime.bundle import read_bundle
from agentmixer.runtime.verify import verify
from agentmixer.validate.reports import ReportFile
from agentmixer.validate.source_run import source_run

#: What the process that decodes may grow by (2^20 bytes), and how long it may compute (s).
GROWTH_MB, CPU_S = 100.0, 2.0
_TICKS = os.sysconf("SC_CLK_TCK")


class Seen:
    """Processes that this one starts, and what each inspector had used when it was ended."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.peaks_mb: list[float] = []
        self.cpu_s: list[float] = []
        self.watching = True
        sys.addaudithook(self._audit)  # there is no way to remove one

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.watching and event in (
            "subprocess.Popen",
            "os.system",
            "os.exec",
            "os.fork",
            "os.forkpty",
            "os.posix_spawn",
        ):
            self.started.append(f"{event} {arguments[1] if event == 'subprocess.Popen' else arguments}")

    def ended(self, pid: int) -> None:
        try:
            status = Path(f"/proc/{pid}/status").read_text()
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except FileNotFoundError:  # it ended before it answered, which its report says and is not allowed
            return
        (peak,) = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")]
        self.peaks_mb.append(int(peak) / 1024)
        self.cpu_s.append((int(fields[11]) + int(fields[12])) / _TICKS)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Iterator[Seen]:
    found, leave = Seen(), verifying._Inspection.__exit__

    def left(self: verifying._Inspection, *error: Any) -> None:
        found.ended(self._launched.process.pid)
        leave(self, *error)

    monkeypatch.setattr(verifying._Inspection, "__exit__", left)
    yield found
    found.watching = False


def harmless(seeds: range, seen: Seen, tmp_path: Path) -> None:
    """Make a strange bundle of each seed and do with it what somebody would who was handed it."""
    plain, work, elsewhere = tmp_path / "plain", tmp_path / "work", tmp_path / "elsewhere"
    made_bundle(plain)
    assert verify(plain).passed  # the control, and what the inspector weighs before anything is asked of it
    base, begin = seen.peaks_mb[0], time.monotonic()
    verdicts, reasons = Counter[str](), Counter[str]()
    for seed in seeds:
        for folder in (work, elsewhere):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
        bundle = Path(shutil.copytree(plain, work / "bundle"))
        name = attack(bundle, seed, elsewhere)
        what = f"seed {seed}: {name}"
        laid = sorted(file for file in elsewhere.rglob("*"))
        outside = Watch(elsewhere, *(file for file in laid if file.is_dir()))
        seen.started.clear()
        try:
            report = verify(bundle)
        except AgentMixerError as error:
            assert "is nothing to verify" in str(error), what  # noqa: PT017 - team.json itself is gone
            verdicts[f"{name}: refused"] += 1
        else:
            (only,) = seen.started
            assert str(verifying.INSPECTOR) in only, what
            assert not [check for check in report.checks if check.name == "inspection"], (what, report.checks)
            assert report.passed or any(check.status == "failed" for check in report.checks), what
            verdicts[f"{name}: {'passed' if report.passed else 'refused'}"] += 1
            reasons.update(check.sentence.partition(" ")[2][:30] for check in report.checks if check.status == "failed")
            assert seen.peaks_mb[-1] - base <= GROWTH_MB, (what, seen.peaks_mb[-1] - base)
            assert seen.cpu_s[-1] <= CPU_S, (what, seen.cpu_s[-1])
        seen.started.clear()
        try:  # what commands that need the run begin with
            source_run(read_bundle(bundle))
        except AgentMixerError:
            pass
        else:
            raise AssertionError(what)
        try:
            ReportFile(bundle, None, "parity.json").write("{}")
        except AgentMixerError:
            pass
        else:
            assert (bundle / REPORTS_FOLDER).resolve() == bundle.resolve() / REPORTS_FOLDER, what
        assert seen.started == [], what
        assert outside.opened() == [], what
        assert sorted(file for file in elsewhere.rglob("*")) == laid, what
        outside.close()
    print(
        f"\n{len(seeds)} strange bundles in {time.monotonic() - begin:.0f} s: {dict(verdicts)}; {len(reasons)} reasons; the inspector "
        f"grew by at most {max(seen.peaks_mb) - base:.0f} MB from {base:.0f} and computed at most {max(seen.cpu_s):.2f} s"
    )
    for name in ("large file", "compression", "wrong trace", "array header", "many agents", "model", "broken weights"):
        assert verdicts[f"{name}: refused"] and not verdicts[f"{name}: passed"], verdicts
    for name in ("source", "largest"):  # nothing is wrong with these, but what they would lead to
        assert verdicts[f"{name}: passed"] and not verdicts[f"{name}: refused"], verdicts


def test_strange_bundles_are_refused_or_harmless(seen: Seen, tmp_path: Path) -> None:
    harmless(range(len(ATTACKS)), seen, tmp_path)  # one of each class; `make soak` takes 5,000


@pytest.mark.soak
@pytest.mark.parametrize("first", range(0, 5000, 500))
def test_many_strange_bundles_are_refused_or_harmless(first: int, seen: Seen, tmp_path: Path) -> None:
    harmless(range(first, first + 500), seen, tmp_path)
