"""The text of an HTML mail, for APIs and people that want text: paragraphs, lists and links survive, layout does not.

One pass with `str.find`, so that hostile markup costs time in proportion to its length (html.parser of Python 3.11 does not).
"""

from __future__ import annotations

import html
import re

MAX_HTML = 2 * 1024 * 1024  # characters; what comes after is left out
_START = re.compile(r"<(?=[!?]|/?[a-zA-Z])")  # any other "<" is text
_NAME = re.compile(r"</?([a-zA-Z][a-zA-Z0-9]{0,30})")
_HREF = re.compile(r"""\bhref\s{0,9}=\s{0,9}(?:"([^"]{1,2000})"|'([^']{1,2000})'|([^\s"'>]{1,2000}))""", re.IGNORECASE)
_BLANKS = re.compile(r"[ \t\r\n\f\xa0]+")
_SKIPPED = frozenset({"script", "style", "head", "title", "template", "noscript"})
_PARAGRAPHS = frozenset(["p", "h1", "h2", "h3", "h4", "h5", "h6", "ul", "ol", "table", "blockquote", "pre", "hr", "dl"])
_LINES = frozenset(["br", "div", "tr", "li", "section", "article", "header", "footer", "address", "dt", "dd"])


def html_to_text(source: str) -> str:
    return _Reader(source[:MAX_HTML]).read()


class _Reader:
    def __init__(self, source: str) -> None:
        self.source = source
        self.lower = source.lower() if len(source.lower()) == len(source) else source  # "İ" grows; then case must match
        self.out: list[str] = []
        self.href = ""
        self.link_text = 0

    def read(self) -> str:
        position = 0
        while 0 <= position < len(self.source):
            position = self._markup(position) if _START.match(self.source, position) else self._text(position)
        lines = [line.strip() for line in "".join(self.out).split("\n")]
        return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()

    def _text(self, start: int) -> int:
        following = _START.search(self.source, start)
        end = following.start() if following else len(self.source)
        self.out.append(_BLANKS.sub(" ", html.unescape(self.source[start:end])))
        return end

    def _markup(self, start: int) -> int:
        """Where reading goes on after the markup at `start`; -1 when it never ends."""
        if self.source.startswith("<!--", start):
            return _after(self.source, "-->", start + 4)
        if self.source.startswith(("<!", "<?"), start):
            return _after(self.source, ">", start)
        end = _after(self.source, ">", start)
        if end < 0:
            return end
        name = _NAME.match(self.source, start)[1].lower()  # type: ignore[index]  # there is one: see _START
        closing = self.source[start + 1] == "/"
        self._tag(name, self.source[start:end], closing=closing)
        return self.lower.find(f"</{name}", end) if name in _SKIPPED and not closing else end

    def _tag(self, name: str, tag: str, *, closing: bool) -> None:
        if name == "a":
            self._link(tag, closing=closing)
        elif name in _PARAGRAPHS:
            self.out.append("\n\n")
        elif name in _LINES:
            self.out.append("\n- " if name == "li" and not closing else "\n")
        elif name in ("td", "th") and closing:
            self.out.append("  ")

    def _link(self, tag: str, *, closing: bool) -> None:
        """`text (address)`, once, where the address says more than the text."""
        if closing and self.href and self.href.removeprefix("mailto:") not in "".join(self.out[self.link_text :]):
            self.out.append(f" ({self.href})")
        match = None if closing else _HREF.search(tag)
        href = html.unescape(next(filter(None, match.groups()), "")) if match else ""
        self.href = href if href.lower().startswith(("http://", "https://", "mailto:")) else ""
        self.link_text = len(self.out)


def _after(source: str, end: str, start: int) -> int:
    found = source.find(end, start)
    return found if found < 0 else found + len(end)
