"""The proofs of a bundle: what each asks, what its newest report says, and the command that asks again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from markupsafe import Markup

from agentmixer.contract.results import TEAM, Report, Status
from agentmixer.report import kept_reports
from agentmixer.report.kept_reports import FaultFigures, FaultMatrix, Kept, LocalityFigures, Rehearsal
from agentmixer.report.page import Section, rendered
from agentmixer.report.pieces import badge, command, cut, table
from agentmixer.runtime.bundle import Bundle

#: The order of checks in a table.
ORDER: tuple[Status, ...] = ("failed", "not run", "passed", "does not apply")
#: Most rows of one proof's checks.
MOST_ROWS = 400


class Proof(NamedTuple):
    """What can be shown of a bundle. name: the command that shows it, with its options; files: how its reports are called, the
    first that is there counts; title, asks: the promise, short and long; broken: a headline for when it does not hold."""

    name: str
    words: tuple[str, ...]
    files: tuple[str, ...]
    title: str
    asks: str
    broken: str


PROOFS = (
    Proof(
        "deploy-sim", ("deploy-sim",), ("deploy_sim",), "The deployed team does what the trained team does",
        "Every agent runs its exported model in a process of its own, and plays whole episodes. Beside it the trained actors "
        "decide on the same observations. No decision may differ, and none may come late.",
        "The deployed team does not do what was promised.",
    ),
    Proof(
        "verify", ("verify",), (), "The files are what was exported",
        "Every file has the digest that its manifest names, nothing else lies beside it, and each model repeats its recorded "
        "decisions. Checked when this page was written.",
        "The bundle is not what was exported.",
    ),
    Proof(
        "parity", ("parity",), ("parity",), "Each exported model computes what its trained actor computes",
        "The trained actors and the exported models answer the same inputs: played observations, extreme ones, free runs and batches.",
        "An exported model does not compute what its trained actor computes.",
    ),
    Proof(
        "locality", ("locality",), ("locality",), "Each agent decides from its own observation alone",
        "Everything that an agent must not depend on is changed: the others' observations, the Policy Modifier, the critics, the global "
        "state. Not one bit of its decisions may move. Beside each check a control changes what does count, and must move.",
        "A decision depends on something that its agent must not know.",
    ),
    Proof(
        "isolation", ("isolation",), ("isolation",), "An agent's process can reach nothing but its link",
        "A hostile process takes one agent's place and attacks the others. Each attack has to work without the sandbox, and none may "
        "work in it.",
        "It is not shown that an agent's process can reach nothing but its link.",
    ),
    Proof(
        "mutations", ("mutations",), ("mutations",), "The checks notice what is wrong",
        "Copies of the bundle are made wrong in one thing each. Some check must object to every copy.",
        "A wrong copy of the bundle goes unnoticed.",
    ),
    Proof(
        "faults", ("deploy-sim", "--fault-matrix"), ("faults", "deploy_sim_faults"), "Under faults the team does what is declared",
        "Frames between the host and its agents are lost, delayed, doubled, reordered and damaged. An agent whose decision does not "
        "arrive in time takes its fallback action, and every such step is accounted for.",
        "Under faults the team does not do what is declared.",
    ),
)  # fmt: skip


class Found(NamedTuple):
    """A proof and what was found of it; None if its command has not been run."""

    proof: Proof
    kept: Kept | None

    @property
    def status(self) -> Status:
        """passed, failed or not run. A report that cannot be read counts as none."""
        if self.kept is None or self.kept.report is None:
            return "not run"
        return "passed" if self.kept.report.passed else "failed"


def found(bundle: Bundle, verified: Report, instead: Mapping[str, Path]) -> tuple[Found, ...]:
    """What is known of each proof. verified: what `runtime.verify` says of the bundle now; instead: reports that lie elsewhere
    than in reports/, by their names there without .json."""
    kept: list[Found] = []
    for proof in PROOFS:
        if not proof.files:
            kept.append(Found(proof, Kept(bundle.path, verified)))
            continue
        given = [kept_reports.read(instead[name]) for name in proof.files if name in instead]
        lying = (kept_reports.newest(bundle.path, name) for name in proof.files)
        kept.append(Found(proof, next((one for one in (*given, *lying) if one), None)))
    return tuple(kept)


def again(one: Found, path: Path) -> str:
    """The command that makes this report again, with what the report says that it was given."""
    words, kept = list(one.proof.words), one.kept
    if kept is None or kept.report is None:
        return command(words[0], path, *words[1:])
    if run := kept.figures(Rehearsal):
        words += [
            "--episodes",
            str(run.parity.episodes),
            "--seed",
            str(run.seed),
            *_deadline(run.deadline_s, run.control_period_s),
        ]
        if any(check.name == "equivalence" and check.status != "does not apply" for check in kept.report.checks):
            base = 1.0 if "win_rate" in run.measures else abs(run.arms["actors"]["return"].value)
            words += ["--margin", f"{run.equivalence.margin / base:.6g}"] if base else []
    elif matrix := kept.figures(FaultMatrix):
        words += _played(matrix.reports[0]) if matrix.reports else []
    elif alone := kept.figures(FaultFigures):
        words = ["deploy-sim", *_typed(alone), *_played(alone)]
    elif known := kept.figures(LocalityFigures):
        words += ["--steps", str(known.steps)]
    return command(words[0], path, *words[1:])


def _played(run: FaultFigures) -> list[str]:
    return ["--episodes", str(run.episodes), "--seed", str(run.seed), *_deadline(run.deadline_s, None)]


def _deadline(deadline_s: float, period_s: float | None) -> list[str]:
    return [] if deadline_s == period_s else ["--deadline-ms", f"{deadline_s * 1e3:g}"]


def _typed(run: FaultFigures) -> list[str]:
    """The faults as deploy-sim takes them."""
    typed = []
    for kind, rate in run.faults.rates.items():
        typed.append(f"delay={run.faults.delay_s * 1e3:g}ms:p={rate:g}" if kind == "delay" else f"{kind}={rate:g}")
    for one in run.faults.incidents:
        typed.append(
            f"{one.kind}={one.agent}@{one.step}" + (f":for={one.for_s * 1e3:g}ms" if one.kind == "stop" else "")
        )
    return [word for fault in typed for word in ("--fault", fault)]


def section(all_found: tuple[Found, ...], bundle: Bundle) -> Section:
    """Every proof: an overview, then one after another."""
    rows = [
        (
            Markup('<a href="#proof-{}">{}</a>').format(one.proof.name, one.proof.title),
            badge(one.status),
            Markup("<code>{}</code>").format(command(*one.proof.words)),
        )
        for one in all_found
    ]
    overview = table("Proofs", ("What is promised", "Result", "Command"), rows)
    return Section(
        "proofs", "Proofs", rendered("proofs.html", overview=overview, proofs=[_told(one, bundle) for one in all_found])
    )


def _told(one: Found, bundle: Bundle) -> dict[str, object]:
    """One proof as the template takes it."""
    kept, report = one.kept, one.kept.report if one.kept else None
    said: list[str] = []
    if kept and kept.problem:
        said.append(f"Its report cannot be shown: {kept.problem}")
    elif report and not report.passed:
        said.append(report.verdict.removeprefix("FAIL: "))
    if kept and (known := kept.figures(LocalityFigures)) and known.observation:
        said.append(f"What observations hide: {known.observation}.")
    made = (
        f"Report: {kept.file.name}, judged by agentmixer {report.agentmixer}. " if kept and report and kept.data else ""
    )
    return {
        "name": one.proof.name,
        "title": one.proof.title,
        "asks": one.proof.asks,
        "badge": badge(one.status),
        "said": [cut(sentence) for sentence in said],
        "checks": _checks(one.proof.title, report, set(bundle.agents)) if report else "",
        "count": _count(report) if report else "",
        "open": bool(report and len(report.checks) <= 8),
        "again": f"{made}Run it again:" if kept else "Not run yet. Run it:",
        "command": again(one, bundle.path),
    }


def _count(report: Report) -> str:
    """How many checks passed, in words."""
    applied = [check for check in report.checks if check.status != "does not apply"]
    controls = sum(check.control for check in applied)
    left = len(report.checks) - len(applied)
    told = f"{sum(check.passed for check in applied):,} of {len(applied):,} checks passed"
    return (
        told + (f", {controls:,} of them controls" if controls else "") + (f"; {left:,} do not apply" if left else "")
    )


def _whose(subjects: list[str], agents: set[str]) -> str:
    """Whom checks are of; nothing where it is the team alone."""
    if set(subjects) >= agents and len(agents) > 1:
        return "team, every agent" if TEAM in subjects else "every agent"
    return "" if subjects == [TEAM] else cut(", ".join(subjects))


def _checks(title: str, report: Report, agents: set[str]) -> Markup:
    """A row for checks that say the same of several agents; what failed comes first."""
    same: dict[tuple[str, Status, str], list[str]] = {}
    for check in sorted(report.checks, key=lambda check: ORDER.index(check.status)):
        name = f"{check.name} (control)" if check.control and "control" not in check.name else check.name
        same.setdefault((name, check.status, check.sentence), []).append(check.subject)
    rows: list[tuple[str, str, str, str]] = [
        (cut(name), _whose(subjects, agents), badge(status), cut(sentence))
        for (name, status, sentence), subjects in same.items()
    ]
    if len(rows) > MOST_ROWS:
        rows[MOST_ROWS:] = [(f"{len(rows) - MOST_ROWS:,} more", "", "", "are in the report itself")]
    if not any(row[1] for row in rows):
        return table(f"Checks: {title}", ("Check", "Result", "What was found"), [(a, c, d) for a, _, c, d in rows])
    return table(f"Checks: {title}", ("Check", "Whose", "Result", "What was found"), rows)
