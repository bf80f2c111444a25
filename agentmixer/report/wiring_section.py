"""What observations that are put together wrongly do to the team, as `deploy-sim --wiring-matrix` found."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from markupsafe import Markup

from agentmixer.report import kept_reports
from agentmixer.report.kept_reports import Kept, WiringFigures, WiringMatrix
from agentmixer.report.page import Section
from agentmixer.report.pieces import command, cut, paragraph, table
from agentmixer.report.rehearsal_sections import MEASURES
from agentmixer.runtime.bundle import Bundle

#: How the reports are called, the first that is there counts.
FILES = ("wiring_matrix", "wiring")
#: Most faults of the table.
MOST_FAULTS = 400
NAMED = {"fault": "element and kind", "element": "element", "no": "no"}
IN_TIME = {True: "yes", False: "no", None: "does not fall"}


def wiring(bundle: Bundle, instead: Mapping[str, Path]) -> Section | None:
    """The newest rehearsal with faults of wiring; None if there is none. instead: reports that lie elsewhere, see `proofs.found`."""
    given = [kept_reports.read(instead[name]) for name in FILES if name in instead]
    lying = (kept_reports.newest(bundle.path, name) for name in FILES)
    kept = next((one for one in (*given, *lying) if one), None)
    return (
        None if kept is None else Section("wiring", "When an observation is put together wrongly", _body(bundle, kept))
    )


def _body(bundle: Bundle, kept: Kept) -> Markup:
    matrix, alone = kept.figures(WiringMatrix), kept.figures(WiringFigures)
    reports = matrix.reports if matrix else (alone,) if alone else ()
    if kept.report is None or not reports:
        return paragraph(cut(kept.problem) or f"{kept.file} has no figures that this version knows; make it again.")
    some = reports[0]
    fallen = [run for run in reports if run.in_time is not None]
    told = "" if kept.report.passed else f"{cut(kept.report.verdict)}. "
    told += (
        f"The return falls by a tenth with {len(fallen):,} of {len(reports):,} faults; with {sum(bool(run.in_time) for run in fallen):,} of "
        f"these the status flags the observation no later. An audit of the agent's log names the element first with "
        f"{sum(run.named != 'no' for run in reports):,} of {len(reports):,}, and the kind too with {sum(run.named == 'fault' for run in reports):,}."
    )
    options = ["--wiring-matrix"] if matrix else [word for fault in some.faults for word in ("--fault", fault)]
    options += ["--episodes", str(some.episodes), "--seed", str(some.seed)]
    how = (
        f"{some.episodes:,} episodes with each fault, and the same ones without, agents in one process. Step: of the episodes that are flagged, "
        f"the median of the first step in which one is. Run it again: {command('deploy-sim', bundle.path, *options)}"
    )
    measure = "win_rate" if all("win_rate" in run.measured for run in reports) else "return"
    name, form = MEASURES[measure]
    head = (
        "Fault",
        name,
        "against none [95 %]",
        "episodes flagged",
        "step",
        "no later than the return falls",
        "audit names",
    )
    calm = sum(flags.calm for flags in some.flags), some.episodes * len(some.flags)
    rows = [("none", f"{some.calm[measure].value:{form}}", "", _share(*calm), "", "", "")]
    rows += [
        (
            ", ".join(run.faults),
            f"{run.figures[measure].value:{form}}",
            run.difference[measure].told(f"+{form}"),
            _share(sum(flags.flagged for flags in run.flags), run.episodes * len(run.flags)),
            "-" if run.step is None else f"{run.step:,}",
            IN_TIME[run.in_time],
            NAMED[run.named],
        )
        for run in reports[:MOST_FAULTS]
    ]
    found = table("What each fault costs, and who says so", head, rows, {1, 2, 3, 4})
    return Markup("").join([paragraph(told), paragraph(how), found])


def _share(part: int, whole: int) -> str:
    return f"{part / max(whole, 1):.0%}"
