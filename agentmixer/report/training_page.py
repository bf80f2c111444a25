"""The page of a run while it is trained: where it stands, and all that the page of a run has. It reloads itself."""

from __future__ import annotations

from pathlib import Path

from agentmixer.progress import span
from agentmixer.report import run_page
from agentmixer.report.page import Page, Section
from agentmixer.report.pieces import facts
from agentmixer.train.metrics_file import MODIFIER, evaluation, number
from agentmixer.train.watching import Seen, Standing

#: A browser loads the page anew after so many seconds.
RELOAD_S = 10


def page(run: Path, now: Standing, seen: Seen) -> Page:
    """The page of the run at `run` at this moment. seen: its own numbers. Raises AgentMixerError if it cannot be read."""
    made = run_page.page(run)
    left = "judging" if now.step >= now.total else "not known yet" if now.left is None else span(now.left)
    told = [("steps", f"{now.step:,} of {now.total:,}"), ("steps a second", f"{now.rate:,.0f}"), ("time left", left)]
    if seen.evaluations and (judged := evaluation(seen.evaluations[-1])):
        name = judged[0].replace("_", " ")
        told.append((f"{name}, each agent alone", judged[1].told(".3f" if judged[0] == "win_rate" else ".2f")))
    for key in ("train_win_rate", "train_return", *MODIFIER):
        value = number(seen.newest, key)
        if value is not None:
            told.append((key, f"{value:.4g}"))
    lead = f"This page loads itself anew every {RELOAD_S} s, until the run is finished or interrupted."
    return made._replace(
        headline=f"Training: step {now.step:,} of {now.total:,}.",
        lead=(f"Time left: {left}.", lead),
        sections=(Section("now", "Now", facts(*told)), *made.sections),
        reload_s=RELOAD_S,
    )
