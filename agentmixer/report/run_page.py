"""The page of a run: what it came to, how it learned, its settings and what made it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from markupsafe import Markup

from agentmixer.report.charts import Row, interval_chart, linear
from agentmixer.report.kept_reports import Figure
from agentmixer.report.page import Page, Section
from agentmixer.report.pieces import charts, command, facts, paragraph, table
from agentmixer.report.training_section import learning_curves, metrics
from agentmixer.train.run_files import checkpoint_files, read_config, read_summary, step_of

#: What a summary's two policies are called.
POLICIES = {"decentralised_greedy": "each agent alone, greedy", "joint_greedy": "joint policy, greedy"}


def page(run: Path) -> Page:
    """The page of the run at `run`. Raises AgentMixerError if it cannot be read."""
    written = read_config(run)
    head, numbers = written.head, metrics(run)
    summary = read_summary(run, written.total_steps)
    files = checkpoint_files(run)
    done = max([*numbers, *(step_of(file) for file in files[-1:])], default=0)
    subject = f"{head['task']} {head['scenario']}, {head['algorithm']}, seed {head['seed']}"
    if summary:
        headline = f"Trained for {summary['steps']:,} steps."
        lead: list[str] = [_result(summary), Markup("Export it: <code>{}</code>").format(command("export", run))]
    else:
        headline = f"At step {done:,} of {written.total_steps:,}."
        again = command("train", head["task"], head["scenario"], "--resume", "--out", run)
        lead = [
            "The run is not finished, or was interrupted. Unless it is training now, go on with:",
            Markup("<code>{}</code>").format(again),
        ]
    sections = [_summary(summary)] if summary else []
    if drawn := learning_curves(numbers):
        told = (
            "Each agent alone: every agent takes its most likely action from its own observation, as an exported team does. While "
            "training: actions drawn from the joint policy. Bands are 95 % intervals over episodes."
        )
        sections.append(Section("learning", "How it learned", Markup("").join([paragraph(told), charts(*drawn)])))
    else:
        sections.append(Section("learning", "How it learned", paragraph("There are no numbers to draw yet.")))
    sections.append(_settings(written.settings, written.options))
    sections.append(_made(head, written.made_with, written.digest))
    return Page(subject, headline, "plain", tuple(lead), tuple(sections), (f"Run {run}.",))


def _figure(arm: dict[str, Any], name: str) -> Figure:
    return Figure(arm[name], arm[f"{name}_low"], arm[f"{name}_high"])


def _measures(summary: dict[str, Any]) -> list[str]:
    return [name for name in ("win_rate", "return") if all(name in summary[policy] for policy in POLICIES)]


def _result(summary: dict[str, Any]) -> str:
    alone = summary["decentralised_greedy"]
    told = ", ".join(f"{name.replace('_', ' ')} {_figure(alone, name).told()}" for name in _measures(summary))
    return f"Each agent alone, over {alone['episodes']:,} episodes: {told}."


def _summary(summary: dict[str, Any]) -> Section:
    drawn, measures = [], _measures(summary)
    for name in measures:
        what = name.replace("_", " ")
        figures = {told: _figure(summary[policy], name) for policy, told in POLICIES.items()}
        rows = [Row(told, f.value, f.low, f.high, f.told()) for told, f in figures.items()]
        ends = [end for f in figures.values() for end in (f.value, f.low, f.high)]
        axis = linear(ends, what, (0.0, 1.0) if name == "win_rate" else None)
        told = "; ".join(f"{row.name} {row.told}" for row in rows)
        drawn.append(interval_chart(f"final-{name}", f"{what.capitalize()}, with 95 % interval", told, axis, rows))
    head = ("Policy", *(f"{name.replace('_', ' ')} [95 %]" for name in measures), "episodes")
    rows_told = [
        (told, *(_figure(summary[policy], name).told() for name in measures), f"{summary[policy]['episodes']:,}")
        for policy, told in POLICIES.items()
    ]
    time = f"{summary['seconds']:,.0f} s in all, {summary['steps_per_second']:,.0f} environment steps a second while training."
    body = [charts(*drawn), table("The finished team, judged", head, rows_told, range(1, len(head))), paragraph(time)]
    return Section("result", "What it came to", Markup("").join(body))


def _settings(settings: dict[str, dict[str, Any]], options: dict[str, Any]) -> Section:
    parts = {**settings, **({"task options": options} if options else {})}
    body = [
        table(f"Settings: {part}", ("Setting", "Value"), [(name, _told(value)) for name, value in values.items()])
        for part, values in parts.items()
    ]
    inside = Markup("<details><summary>{} settings</summary>{}</details>")
    return Section("settings", "Settings", inside.format(sum(map(len, parts.values())), Markup("").join(body)))


def _made(head: dict[str, Any], made_with: dict[str, str], digest: str) -> Section:
    named = [(name.replace("_", " "), _told(value)) for name, value in head.items() if value != ""]
    named += made_with.items()
    return Section("made", "What made it", facts(*named, ("SHA-256 of config.toml", digest)))


def _told(value: Any) -> str:
    return f"{value:,}" if type(value) is int else f"{value:g}" if type(value) is float else str(value)
