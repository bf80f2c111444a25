"""The version stands in three places, and they agree: the package, the changelog's newest heading and CITATION.cff."""

from __future__ import annotations

import re
from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import yaml

import agentmixer

ROOT = Path(__file__).parents[1]


class Release(NamedTuple):
    version: tuple[int, ...]
    released: date | None  # None: not yet


def releases(changelog: str) -> list[Release]:
    """From headings such as `## 0.1.0 (unreleased)` and `## 0.1.0 (2026-12-01)`, in the order of the page. Raises ValueError
    for another kind of second-level heading."""
    found = []
    for heading in re.findall(r"^## .*", changelog, re.MULTILINE):
        parts = re.fullmatch(r"## (\d+)\.(\d+)\.(\d+) \((.+)\)", heading)
        if not parts:
            raise ValueError(f"{heading!r} is not like '## 0.1.0 (unreleased)' or '## 0.1.0 (2026-12-01)'")
        *version, when = parts.groups()
        found.append(Release(tuple(map(int, version)), None if when == "unreleased" else date.fromisoformat(when)))
    return found


def faults(found: list[Release], version: str) -> list[str]:
    """What is wrong with the order of releases, the newest first."""
    wrong = []
    if not found or ".".join(map(str, found[0].version)) != version:
        wrong.append(f"the newest heading is not that of version {version}")
    if any(release.released is None for release in found[1:]):
        wrong.append("only the newest release may be unreleased")
    for newer, older in pairwise(found):
        if newer.version <= older.version:
            wrong.append(f"{newer.version} stands above {older.version}")
        if newer.released and older.released and newer.released < older.released:
            wrong.append(f"{newer.version} is dated before {older.version}")
    return wrong


def test_the_changelog_fits_the_version() -> None:
    assert not faults(releases((ROOT / "CHANGELOG.md").read_text()), agentmixer.__version__)


def test_a_wrong_changelog_is_noticed() -> None:
    good = "## 0.10.0 (unreleased)\n## 0.9.0 (2026-12-01)\n## 0.8.1 (2026-11-02)\n"
    assert not faults(releases(good), "0.10.0")
    assert len(faults(releases(good), "0.9.0")) == 1
    assert len(faults(releases(good.replace("0.9.0", "0.10.0")), "0.10.0")) == 1
    assert len(faults(releases(good.replace("2026-11-02", "2026-12-02")), "0.10.0")) == 1
    assert len(faults(releases(good.replace("2026-12-01", "unreleased")), "0.10.0")) == 1


def test_the_citation_fits_the_version() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert cited["cff-version"] == "1.2.0" and {"message", "title", "authors"} <= set(cited)
    assert cited["version"] == agentmixer.__version__
    (paper,) = cited["references"]
    assert paper["url"].endswith("/2401.08728") and next(author["family-names"] for author in paper["authors"]) == "Li"
