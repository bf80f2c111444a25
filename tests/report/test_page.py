"""What a page is put together from, and that nothing gets out of its place."""

from __future__ import annotations

import base64
import hashlib
import json

import pytest
from markupsafe import Markup
from pages import read

from agentmixer.errors import AgentMixerError
from agentmixer.report.page import Page, Section, compose

BAD = "</script><script>alert(1)</script><img src=x onerror=alert(1)>\"'"


def page(*sections: Section, **fields: object) -> Page:
    return Page("a team", "It holds.", "good", ("So it is.",), sections)._replace(**fields)


def test_strings_are_text_and_markup_is_not() -> None:
    found = read(
        compose(page(Section("one", BAD, Markup("<p>here</p>")), subject=BAD, headline=BAD, lead=(BAD,), notes=(BAD,)))
    )
    assert found.text.count(BAD) == 7  # tab, subject, headline, sentence, link, heading, note
    assert found.scripts == []
    assert read(compose(page(Section("one", "One", BAD)))).text.count(BAD) == 1  # type: ignore[arg-type]


def test_data_cannot_leave_its_element() -> None:
    found = read(compose(page(Section("replay", "Replay", Markup(""), data={"name": BAD, "x": [1.5, "<!--", "&"]}))))
    assert [json.loads(script) for script in found.scripts] == [{"name": BAD, "x": [1.5, "<!--", "&"]}]
    with pytest.raises(ValueError, match="Out of range"):
        compose(page(Section("replay", "Replay", Markup(""), data=float("nan"))))


def test_the_policy_lets_in_the_pages_own_scripts_and_no_address() -> None:
    script = "document.title = 'a < b && c'"
    found = read(compose(page(Section("replay", "Replay", Markup(""), css="b { color: red }", script=script))))
    assert found.scripts == [script]
    policy = dict(
        part.split(" ", 1)
        for element in found.elements
        if element.attributes.get("http-equiv") == "Content-Security-Policy"
        for part in str(element.attributes["content"]).split("; ")
    )
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == f"'sha256-{digest}'"
    without, more = compose(page()), compose(page(allowed={"worker-src": "blob:", "script-src": "'wasm-unsafe-eval'"}))
    assert "script-src &#39;none&#39;" in without
    assert "script-src &#39;wasm-unsafe-eval&#39;" in more and "worker-src blob:" in more


def test_what_cannot_be_a_page_is_refused() -> None:
    one = Section("one", "One", Markup("<p>a</p>"))
    with pytest.raises(ValueError, match="two sections"):
        compose(page(one, one))
    for script in ("'</SCRIPT>'", "'<!-- <script>'"):
        with pytest.raises(ValueError, match="end its own element"):
            compose(page(one._replace(script=script)))
    with pytest.raises(AgentMixerError, match="more than 1,000"):
        compose(page(one, most_bytes=1_000))
