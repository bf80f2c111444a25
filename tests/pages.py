"""A page, read as a browser reads it, and held to what every page promises."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import NamedTuple

#: Elements that have no end.
VOID = {"meta", "link", "br", "img", "input", "hr"}
#: SVG's elements without content here, which are written with "/>".
CLOSED = {"line", "circle", "rect", "path", "polyline", "polygon"}


class Element(NamedTuple):
    tag: str
    attributes: dict[str, str | None]


class Reader(HTMLParser):
    """Elements in order, the text of each table's rows, and all text outside scripts and styles."""

    def __init__(self, text: str):
        super().__init__()
        self.elements: list[Element] = []
        self.rows: list[list[str]] = []
        self.text = ""
        self.scripts: list[str] = []
        self._open: list[str] = []
        self._cell = False
        self.feed(text)
        self.close()
        assert self._open == [], f"not ended: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(Element(tag, dict(attrs)))
        assert len(dict(attrs)) == len(attrs), f"an attribute twice in {tag}"
        if tag not in VOID:
            self._open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self._cell = True

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in CLOSED, tag
        self.elements.append(Element(tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag, f"{tag} ends where it may not"
        if tag in ("td", "th"):
            self._cell = False

    def handle_data(self, data: str) -> None:
        if self._open[-1:] == ["script"]:
            self.scripts.append(data)
        elif self._open[-1:] != ["style"]:
            self.text += data
            if self._cell:
                self.rows[-1][-1] += data


def read(text: str) -> Reader:
    """A page that keeps the promises: well formed, one h1, tables and drawings that say what they are, every reference leads
    to something on it, and nothing outside it is loaded."""
    page = Reader(text)
    ids = [element.attributes["id"] for element in page.elements if "id" in element.attributes]
    assert len(set(ids)) == len(ids)
    tags = [element.tag for element in page.elements]
    assert [tags.count(tag) for tag in ("h1", "main", "nav", "header", "footer")] == [1] * 5
    assert tags.count("caption") == tags.count("table")
    assert tags.count("details") == tags.count("summary")
    for tag, attributes in page.elements:
        for name, value in attributes.items():
            assert not name.startswith("on"), name
            if name in ("src", "href", "action", "data", "poster", "srcset", "xlink:href"):
                assert name == "href" and tag == "a" and value and value[0] == "#" and value[1:] in ids, (tag, value)
            if name == "aria-labelledby":
                assert set(str(value).split()) <= set(ids)
        if tag == "th":
            assert attributes["scope"] in ("row", "col")
        if tag == "svg" and "aria-hidden" not in attributes:
            assert attributes["role"] == "img" and attributes["aria-labelledby"]
    # No address anywhere, not even as text; none is needed for inline SVG. Packed data may hold any letters in a row.
    written = re.sub(r'(<script type="application/json"[^>]*>).*?</script>', r"\1", text, flags=re.DOTALL)
    assert not re.search(r"https?:|//[a-z]|url\(|@import", written)
    return page
