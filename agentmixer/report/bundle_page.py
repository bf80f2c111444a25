"""The page of a bundle: the verdict, then how the team plays, each proof with its figures, and what goes onto a device."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from markupsafe import Markup

from agentmixer import provenance
from agentmixer.contract.results import Check
from agentmixer.contract.spec import ActionSpace, Box, Discrete
from agentmixer.errors import AgentMixerError
from agentmixer.report import proofs, rehearsal_sections
from agentmixer.report.charts import Row, bar_chart, linear, short
from agentmixer.report.graph_picture import graph_picture
from agentmixer.report.kept_reports import FaultMatrix, Judged, Rehearsal
from agentmixer.report.page import Page, Section, Tone
from agentmixer.report.pieces import charts, command, cut, facts, paragraph, subject, table
from agentmixer.report.proofs import Found
from agentmixer.report.replay_section import recorded
from agentmixer.report.training_section import learning_curves, metrics
from agentmixer.report.wiring_section import wiring
from agentmixer.runtime.bundle import Bundle
from agentmixer.runtime.certificate import check_locality
from agentmixer.runtime.datasheet import data_sheet
from agentmixer.runtime.guard import check_model
from agentmixer.runtime.probe import Probe, probe
from agentmixer.runtime.verify import verify
from agentmixer.train.run_files import read_config

#: How many agents are probed for the page, on how many recorded observations, and how many elements are drawn.
MOST_PROBED, PROBED, MOST_HEEDED = 8, 32, 12
#: Headlines where one check of a proof failed, by the proof's name and the check's.
WRONG = {
    "deploy-sim": {
        "parity": "The deployed team does not do what the trained team does.",
        "deadline": "The deployed team does not always decide in time.",
        "decisions": "Not every decision of the deployed team is a valid action.",
        "equivalence": "It is not shown that the deployed team plays as well as the trained actors.",
        "running": "The deployed team broke off: an agent was lost.",
    },
    "faults": {"step": "Under faults some steps take longer than is declared."},
}


def page(
    bundle: Bundle, trusted: Path | None = None, run: Path | None = None, instead: Mapping[str, Path] | None = None
) -> Page:
    """The page of a bundle that was read with `trusted`.

    run: the run it was exported from; the one known here unless given, and none if that is gone. instead: reports that lie
    elsewhere than in reports/, by their names there without .json. Raises AgentMixerError if a file of the bundle is not what
    it was when it was read."""
    known = proofs.found(bundle, verify(bundle.path, trusted), instead or {})
    rehearsal = known[0].kept.figures(Rehearsal) if known[0].kept and known[0].kept.report else None
    tone, headline = _headline(known)
    return Page(
        subject=subject(bundle),
        headline=headline,
        tone=tone,
        lead=tuple(_lead(known, rehearsal)),
        sections=sections(bundle, known, rehearsal, trusted, run, instead or {}),
        notes=(f"Bundle {bundle.path.name}. Make this page again: {command('report', bundle.path)}",),
    )


def sections(
    bundle: Bundle, known: tuple[Found, ...], rehearsal: Rehearsal | None, trusted: Path | None, run: Path | None,
    instead: Mapping[str, Path],
) -> tuple[Section, ...]:  # fmt: skip
    """Everything under the headline, in order."""
    found: list[Section | None] = []
    if rehearsal:
        found.append(rehearsal_sections.playing(rehearsal))
    if rehearsal and known[0].kept:
        found.append(recorded(bundle, known[0].kept.file, run))
    found.append(proofs.section(known, bundle))
    if rehearsal:
        found.append(rehearsal_sections.timing(rehearsal))
    if (faults := known[-1].kept) and faults.report:
        found.append(rehearsal_sections.faults(faults))
    found.append(wiring(bundle, instead))
    found.append(_training(bundle, run))
    found.append(_graph(bundle))
    found.append(_heeds(bundle))
    found.append(_sheet(bundle, trusted))
    return tuple(section for section in found if section)


def _headline(known: tuple[Found, ...]) -> tuple[Tone, str]:
    """The verdict in words. What failed comes before what was not run."""
    for one in known:
        if one.status == "failed" and one.kept and one.kept.report:
            checks: list[Check | Judged] = [*one.kept.report.checks]
            if matrix := one.kept.figures(FaultMatrix):
                checks = [check for run in matrix.reports for check in run.checks]
            wrong = [check.name for check in checks if check.status == "failed"]
            told = WRONG.get(one.proof.name, {}).get(wrong[0]) if len(set(wrong)) == 1 else None
            return "bad", told or one.proof.broken
    if known[0].status == "passed":
        return "good", "The deployed team does what the trained team does."
    return "open", "Nothing shows yet that the deployed team does what the trained team does."


def _lead(known: tuple[Found, ...], rehearsal: Rehearsal | None) -> list[str]:
    """What the verdict rests on."""
    told = []
    if rehearsal:
        parity = rehearsal.parity
        late = sum(agent.missed_deadlines for agent in rehearsal.agents.values())
        same = parity.actions - parity.different
        told.append(
            f"Over {parity.episodes:,} episodes every agent ran in a process of its own and saw its own observation alone. "
            f"{same:,} of {parity.actions:,} decisions were the trained actors', and {'none' if not late else f'{late:,}'} came "
            f"later than {rehearsal.deadline_s * 1e3:g} ms."
        )
        name = rehearsal.measures[0]
        deployed, joint = (_result(name, rehearsal.arms[arm][name].value) for arm in ("deployed", "joint"))
        told.append(
            f"The deployed team {deployed}. The joint policy, which exists in training only and may use the global state and a "
            f"Policy Modifier, {joint}."
        )
    failed = next((one.kept.report for one in known if one.status == "failed" and one.kept and one.kept.report), None)
    if failed:
        told.append(f"What failed: {cut(failed.verdict.removeprefix('FAIL: '))}.")
    counts = {status: [one for one in known if one.status == status] for status in ("passed", "failed", "not run")}
    summary = f"{len(counts['passed'])} of {len(known)} proofs passed"
    if counts["failed"]:
        summary += f"; failed: {', '.join(one.proof.name for one in counts['failed'])}"
    if counts["not run"]:
        summary += f"; not run: {', '.join(one.proof.name for one in counts['not run'])}"
    return [*told, summary + "."]


def _result(measure: str, value: float) -> str:
    """'won 53.1 % of its episodes'."""
    return f"won {100 * value:.3g} % of its episodes" if measure == "win_rate" else f"had a mean return of {value:.3g}"


def _training(bundle: Bundle, run: Path | None) -> Section | None:
    """How the team learned, if its run is on this machine and is the very one."""
    place = run or provenance.exported_from(bundle.digest)
    source = bundle.team.source
    try:
        if place is None or read_config(place).digest != source.config_sha256:
            return None
        drawn = learning_curves(metrics(place))
    except AgentMixerError:
        return None
    if not drawn:
        return None
    told = f"{source.algorithm}, preset {source.preset}, seed {source.seed}. The bundle was exported at step {source.step:,}."
    return Section("training", "How it learned", Markup("").join([paragraph(told), charts(*drawn)]))


def _graph(bundle: Bundle) -> Section:
    """The first agent's graph."""
    name, files = next(iter(bundle.agents.items()))
    graph = check_model(files.model, files.manifest)
    depends_on = check_locality(graph, files.manifest)
    picture = graph_picture("graph", name, graph, bundle.team.task, depends_on)
    body = [
        paragraph(
            f"This is all that computes {name}'s decisions. Its inputs are filled; every line leads down from them. What is behind "
            "the dotted line is no input of the graph, so that no decision can depend on it. That was derived from the model's "
            "file when this page was written."
        ),
        table(
            "What each output is computed from",
            ("Output", "Inputs"),
            [(output, ", ".join(inputs) or "nothing") for output, inputs in depends_on.items()],
        ),
    ]
    drawn = Markup('<div class="drawn"><figure><figcaption>The graph of {}</figcaption>{}</figure><div>{}</div></div>')
    return Section("graph", "What one agent sees", drawn.format(name, picture, Markup("").join(body)))


def _heeds(bundle: Bundle) -> Section | None:
    """What each agent heeds; None if that cannot be tried, which `verify` then says."""
    try:
        found = [probe(files, most=PROBED) for files in list(bundle.agents.values())[:MOST_PROBED]]
    except AgentMixerError:
        return None
    first, left = found[0], len(bundle.agents) - len(found)
    told = f"Each element was moved by itself on {first.decisions:,} recorded observations. "
    told += f"The other {left:,} agents were not tried here. " if left else ""
    told += f"Make the table of any agent: {command('probe', bundle.folder(first.agent))}"
    drawn = Markup("").join(_heeded(i, one) for i, one in enumerate(found))
    return Section("heeds", "What each agent heeds", paragraph(told) + drawn)


def _heeded(number: int, found: Probe) -> Markup:
    """What one agent heeds, the most heeded first."""
    heeded = [heed for heed in found.elements if heed.heeded]
    told = f"{len(heeded):,} of {len(found.elements):,} elements of its observation move what {found.agent} computes."
    if not heeded:
        return paragraph(told)
    changes = [Row(heed.name, heed.changed, None, None, f"{heed.changed:.0%}") for heed in heeded[:MOST_HEEDED]]
    by_slope = sorted(heeded, key=lambda heed: -heed.slope)[:MOST_HEEDED]
    slopes = [Row(heed.name, heed.slope, None, None, short(heed.slope)) for heed in by_slope]
    return paragraph(told) + charts(
        bar_chart(
            f"heeds-changed-{number}", f"{found.agent}: actions that change", "; ".join(f"{row.name} {row.told}" for row in changes),
            linear([0, 1], "share of decisions, element from its 5 % to its 95 % quantile", (0.0, 1.0)), changes,
        ),
        bar_chart(
            f"heeds-slope-{number}", f"{found.agent}: how far the output moves", "; ".join(f"{row.name} {row.told}" for row in slopes),
            linear([0, *(row.value for row in slopes)], "largest change of a logit or mean, element by its range"), slopes,
        ),
    )  # fmt: skip


def _sheet(bundle: Bundle, trusted: Path | None) -> Section:
    """The data sheet."""
    sheet = data_sheet(bundle.path, trusted)
    source = sheet.source
    named = facts(
        ("Team", f"{sheet.team_id}, release {sheet.release}"),
        ("Task", f"{sheet.task}, scenario {sheet.scenario}"),
        ("Rate", f"{sheet.rate_hz:g} Hz: a decision every {sheet.control_period_s:g} s"),
        ("Trained by", f"{source.algorithm}, preset {source.preset}, seed {source.seed}, step {source.step:,}"),
        ("Exported by", f"agentmixer {source.agentmixer}"),
        ("Signature", sheet.signature),
        ("SHA-256 of team.json", sheet.digest),
        ("SHA-256 of the checkpoint", source.checkpoint_sha256),
    )
    rows = [
        (
            agent.agent,
            f"{len(bundle.team.task.obs_names[agent.index]):,}",
            f"{agent.memory:,}",
            _actions(agent.action_space),
            f"{agent.parameters:,}",
            f"{agent.multiply_adds:,}",
            f"{agent.model_bytes / 1024:,.0f}",
        )
        for agent in sheet.agents
    ]
    head = ("Agent", "observation", "memory", "actions", "parameters", "multiply-adds", "KiB")
    agents = table(
        "What a device needs for each agent: numbers in, float32 kept between steps, cost of a decision",
        head,
        rows,
        {1, 2, 4, 5, 6},
    )
    return Section("device", "What goes onto a device", Markup("").join([named, agents]))


def _actions(space: ActionSpace) -> str:
    if isinstance(space, Discrete):
        return f"one of {space.n:,}"
    return f"{space.size:,} {'real values' if isinstance(space, Box) and not space.whole else 'whole numbers'}"
