"""Every link of a page to a file or a heading of ours leads somewhere."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from urllib.parse import unquote

import pytest

from tests.docs.blocks import ROOT, pages

_FENCED = re.compile(r"^( *)(`{3,})[^\n`]*\n.*?^\1\2 *$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)")


def links(text: str) -> list[str]:
    """What links point at, beside those of the web; code holds none."""
    plain = re.sub(r"(`+)[^`]+?\1", "", _FENCED.sub("", text))
    return [target for target in _LINK.findall(plain) if not re.match(r"[a-z]+:", target)]


@cache
def anchors(path: Path) -> frozenset[str]:
    """Those that GitHub makes of the headings."""
    found: list[str] = []
    for title in re.findall(r"(?m)^#{1,6} +(.+?)\s*#*$", _FENCED.sub("", path.read_text())):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title)
        slug = re.sub(r"[^\w\- ]", "", words.lower()).replace(" ", "-")
        repeats = sum(1 for one in found if one == slug or re.fullmatch(rf"{re.escape(slug)}-\d+", one))
        found.append(f"{slug}-{repeats}" if repeats else slug)
    return frozenset((*found, *re.findall(r'<a (?:id|name)="([^"]+)"', path.read_text())))


@pytest.mark.parametrize("page", pages(), ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_to_a_file_and_a_heading_that_are_there(page: Path) -> None:
    broken = []
    for target in links(page.read_text()):
        name, _, anchor = unquote(target).partition("#")
        file = (page.parent / name).resolve() if name else page
        if not file.exists() or not file.is_relative_to(ROOT):
            broken.append(f"{target}: no such file")
        elif anchor and file.suffix == ".md" and anchor not in anchors(file):
            broken.append(f"{target}: no such heading; there are {', '.join(sorted(anchors(file)))}")

    assert broken == []


def test_a_page_can_be_reached_from_the_readme() -> None:
    """By links alone: a page that nobody finds is none."""
    seen, todo = set(), [ROOT / "README.md"]
    while todo:
        page = todo.pop()
        if page in seen or page.suffix != ".md":
            continue
        seen.add(page)
        todo += [
            (page.parent / unquote(one).partition("#")[0]).resolve() for one in links(page.read_text()) if one[0] != "#"
        ]

    lost = {str(page.relative_to(ROOT)) for page in pages()} - {str(page.relative_to(ROOT)) for page in seen}
    assert sorted(lost) == [], "link it from docs/README.md"


def test_broken_links_would_be_found() -> None:
    assert links("a [b](c.md#d) `[no](x)` [web](https://x.example) ![i](p.png)") == ["c.md#d", "p.png"]
    assert "replies" in anchors(ROOT / "README.md")
