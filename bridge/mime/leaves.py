"""The leaves of a message in order, and which of them people read as its text: what mail programs show, losing nothing.

- A leaf without file name, not marked `attachment`, of type text/plain or text/html may be the body.
- The first HTML leaf is the HTML. Inside multipart/alternative its plain members are the text; outside, the plain leaves
  before it are.
- Without HTML all plain leaves are the text, one after the other (a list's footer is read where it belongs).
- Every other leaf becomes an attachment: a plain footer below an HTML mail too, since a reader of HTML would never see it
  in the text. Other text members of multipart/alternative (a calendar, AMP) are `alternatives`.
- In multipart/related only the root (`start`, else the first part) may be a body.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bridge.mime.params import Value, file_name, parse_value
from bridge.mime.structure import Part

_NO_VALUE = Value("")


@dataclass(slots=True, eq=False)
class Leaf:
    """`group`: the outermost multipart/alternative around it (its number, 0 for none). `extra`: in multipart/related, not
    its root."""

    part: Part
    group: int
    related: bool
    extra: bool
    disposition: str
    name: str

    @property
    def content_type(self) -> str:
        return self.part.content_type

    @property
    def readable(self) -> bool:
        """Whether it may be the body or an alternative of it."""
        return not (self.name or self.extra or self.part.opaque or self.disposition not in ("", "inline"))


@dataclass(frozen=True, slots=True)
class Choice:
    text: Sequence[Leaf]
    html: Leaf | None
    alternatives: Sequence[Leaf]
    attachments: Sequence[Leaf]


@dataclass(frozen=True, slots=True)
class _Place:
    group: int = 0
    related: bool = False
    extra: bool = False
    named_body: bool = True  # the name of a lone part or of a related root does not make it an attachment


def find_leaves(top: Part) -> Iterator[Leaf]:
    stack: list[tuple[Part, _Place]] = [(top, _Place())]
    groups = 0
    while stack:
        part, place = stack.pop()
        if not part.children:
            if _holds_something(part):
                yield _leaf(part, place)
            continue
        if part.content_type == "multipart/alternative" and not place.group:
            groups += 1
            place = _Place(groups, place.related, place.extra)
        root = _root(part) if part.content_type == "multipart/related" else None
        stack.extend((child, _inside(place, part, child, root)) for child in reversed(part.children))


def _inside(place: _Place, part: Part, child: Part, root: Part | None) -> _Place:
    named_body = child is root or part.content_type == "multipart/alternative"
    if root is None:
        return _Place(place.group, place.related, place.extra, named_body)
    return _Place(place.group, True, place.extra or child is not root, named_body)


def _root(related: Part) -> Part:
    """RFC 2387 3.2: the part named by `start`, else the first."""
    start = related.type.params.get("start", "").strip().encode("utf-8", "replace")
    if start:
        for child in related.children:
            if child.first(b"content-id").strip() == start:
                return child
    return related.children[0]


def _holds_something(part: Part) -> bool:
    """An empty part is nothing, unless it was named or typed (an empty file is a file)."""
    return part.end > part.body or bool(part.typed and not part.content_type.startswith("multipart/"))


def _leaf(part: Part, place: _Place) -> Leaf:
    raw = part.first(b"content-disposition")
    disposition = parse_value(raw) if raw else _NO_VALUE
    name = file_name(part.type, disposition)
    if place.named_body and not disposition.value and part.content_type in ("text/plain", "text/html"):
        name = ""
    return Leaf(part, place.group, place.related, place.extra, disposition.value, name)


def choose(leaves: Sequence[Leaf]) -> Choice:
    plain = [leaf for leaf in leaves if leaf.readable and _is_plain(leaf)]
    html = next((leaf for leaf in leaves if leaf.readable and leaf.content_type == "text/html"), None)
    text = plain if html is None else _texts_beside(html, plain, leaves)
    group = (html or text[0]).group if html or text else 0
    taken = {id(leaf) for leaf in (*text, html)}
    others = [leaf for leaf in leaves if id(leaf) not in taken]
    alternatives = [leaf for leaf in others if group and leaf.group == group and _is_alternative(leaf)]
    taken |= {id(leaf) for leaf in alternatives}
    return Choice(text, html, alternatives, [leaf for leaf in others if id(leaf) not in taken])


def _is_plain(leaf: Leaf) -> bool:
    """A multipart that could not be split is shown as it is, as mail programs do."""
    return leaf.content_type == "text/plain" or leaf.content_type.startswith("multipart/")


def _is_alternative(leaf: Leaf) -> bool:
    return (
        leaf.readable and leaf.content_type.startswith("text/") and leaf.content_type not in ("text/plain", "text/html")
    )


def _texts_beside(html: Leaf, plain: Sequence[Leaf], leaves: Sequence[Leaf]) -> list[Leaf]:
    if html.group:
        return [leaf for leaf in plain if leaf.group == html.group]
    before = {id(leaf) for leaf in leaves[: leaves.index(html)]}
    return [leaf for leaf in plain if not leaf.group and id(leaf) in before]
