"""One self-contained HTML file: a headline, then sections one after another.

A browser that opens the file loads nothing else, and runs no script but those that are given here: the page's own
Content-Security-Policy says so, whatever a stranger has written into a name or a sentence.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import jinja2
from markupsafe import Markup

from agentmixer import __version__
from agentmixer.errors import AgentMixerError

#: Most bytes that a page may have, unless it says otherwise.
MOST_BYTES = 3_000_000
#: How the headline looks: what was promised holds, does not hold, or is not known; or nothing was promised.
Tone = Literal["good", "bad", "open", "plain"]

_TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("agentmixer.report"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


class Section(NamedTuple):
    """One part of a page, under a heading of its own."""

    #: The section's id on the page: lower-case letters and hyphens, different in each section.
    name: str
    title: str
    #: HTML. A plain string is shown as the text it is; `rendered` and Markup are HTML.
    body: Markup
    #: Added to the page's style sheet.
    css: str = ""
    #: JavaScript, run once when the page has been read.
    script: str = ""
    #: What the script works on, any JSON value: it reads `JSON.parse(document.getElementById("NAME-data").textContent)`.
    data: Any = None


class Page(NamedTuple):
    """What `compose` makes a file of."""

    #: What the page is about, in a few words: the browser's tab, and above the headline.
    subject: str
    headline: str
    tone: Tone
    #: Sentences under the headline; strings, or HTML as Markup.
    lead: tuple[str, ...]
    sections: tuple[Section, ...]
    #: Sentences at the page's end.
    notes: tuple[str, ...] = ()
    #: What the Content-Security-Policy allows beside the page's own styles and scripts: sources by directive, as
    #: {"worker-src": "blob:", "script-src": "'wasm-unsafe-eval'"}.
    allowed: Mapping[str, str] = {}
    #: After how many seconds a browser loads the file anew; never, if 0.
    reload_s: int = 0
    #: Most bytes that it may have.
    most_bytes: int = MOST_BYTES


def rendered(template: str, **values: Any) -> Markup:
    """A template of this package, filled in. Every string is escaped but Markup."""
    return Markup(_TEMPLATES.get_template(template).render(values))


def compose(page: Page) -> str:
    """The whole file. Raises ValueError if a script would end its element, or two sections have one name, and AgentMixerError
    if the file would be larger than `page.most_bytes`."""
    names = [section.name for section in page.sections]
    if len(set(names)) < len(names):
        raise ValueError(f"two sections have one name: {', '.join(names)}")
    for section in page.sections:
        if "</script" in section.script.lower() or "<!--" in section.script:
            raise ValueError(f"the script of section {section.name} would end its own element")
    whole = rendered(
        "page.html",
        page=page,
        style=Markup(source("style.css") + "".join(section.css for section in page.sections)),
        data={section.name: data_block(section.data) for section in page.sections if section.data is not None},
        policy=_policy(page),
        version=__version__,
    )
    if (size := len(whole.encode(errors="replace"))) > page.most_bytes:
        raise AgentMixerError(
            f"the page would have {size:,} bytes, more than {page.most_bytes:,}; take large reports out of reports/"
        )
    return str(whole)


def data_block(data: Any) -> Markup:
    """A value as JSON that nothing in it can lead out of a script element."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def _policy(page: Page) -> str:
    """The page's Content-Security-Policy: no address at all, and scripts by their digests."""
    digests = [hashlib.sha256(section.script.encode()).digest() for section in page.sections if section.script]
    scripts = [f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests]
    directives = {
        "default-src": "'none'",
        "style-src": "'unsafe-inline'",
        "img-src": "data:",
        "script-src": " ".join(scripts),
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    for directive, sources in page.allowed.items():
        directives[directive] = f"{directives.get(directive, '')} {sources}".strip()
    return "; ".join(
        f"{directive} {sources or chr(39) + 'none' + chr(39)}" for directive, sources in directives.items()
    )


def source(name: str) -> str:
    """The text of a file among the templates."""
    assert _TEMPLATES.loader is not None
    return _TEMPLATES.loader.get_source(_TEMPLATES, name)[0]
