"""docs/troubleshooting.md names every reply that the bridge makes, and none that it does not make."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text()
ROWS = [line for line in PAGE.splitlines() if re.match(r"\| `(?:[2-5]\d\d|\.\.\.) ", line)]
ON_PAGE = [re.findall(r"^\| `([^`]+)` \|", row)[0] for row in ROWS]
_ENHANCED = re.compile(r"[245]\.\d{1,3}\.\d{1,3}")


def replies_in(source: str) -> Iterator[str]:
    """Wherever a code, an enhanced code and a text follow each other: in a call or a tuple. `...` for what changes.

    Of a reply whose code is known only when it runs, the text.
    """
    nodes = list(ast.walk(ast.parse(source)))
    assigned = [node for node in nodes if isinstance(node, ast.Assign)]
    for node in nodes:
        parts = node.args if isinstance(node, ast.Call) else node.elts if isinstance(node, ast.Tuple) else []
        of_replies = isinstance(node, ast.Call) and ast.unparse(node.func) in ("Reply", "Reply.safe", "bounced")
        for code, enhanced, text in zip(parts, parts[1:], parts[2:], strict=False):
            if of_replies and code is parts[0] and not (is_code(code) and is_enhanced(enhanced)):
                number = str(code.value) if is_code(code) and isinstance(code, ast.Constant) else ""
                known = [one for one in texts(value_of(text, assigned)) if re.search("[a-z]", one)]
                yield from (f"{number} ... {one}".lstrip() for one in known)
            if is_code(code) and is_enhanced(enhanced):
                number, status = str(ast.literal_eval(code)), ast.literal_eval(enhanced)
                yield from (" ".join(filter(None, (number, status, one))) for one in texts(value_of(text, assigned)))


def value_of(text: ast.expr, assigned: list[ast.Assign]) -> ast.expr:
    """Of a name what was assigned to it last before."""
    if not isinstance(text, ast.Name):
        return text
    before = [a for a in assigned if a.lineno < text.lineno and any(ast.unparse(t) == text.id for t in a.targets)]
    return max(before, key=lambda a: a.lineno).value if before else text


def is_code(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and type(node.value) is int and 200 <= node.value <= 599


def is_enhanced(node: ast.expr) -> bool:
    value = node.value if isinstance(node, ast.Constant) else None
    return value == "" or (isinstance(value, str) and bool(_ENHANCED.fullmatch(value)))


def texts(node: ast.expr) -> Iterator[str]:
    if isinstance(node, ast.Constant):
        yield str(node.value)
    elif isinstance(node, ast.JoinedStr):
        yield "".join(str(part.value) if isinstance(part, ast.Constant) else "..." for part in node.values)
    elif isinstance(node, ast.IfExp):
        yield from (*texts(node.body), *texts(node.orelse))
    elif isinstance(node, ast.BoolOp):
        yield from (one for value in node.values for one in texts(value))
    else:
        yield "..."


@cache
def replies_of_the_code() -> set[str]:
    """Without the challenges of a login, and the sandbox and stand-ins for tests, which are no part of the bridge."""
    modules = [path for path in (ROOT / "bridge").rglob("*.py") if "sandbox" not in path.parts]
    found = {reply for path in modules for reply in replies_in(path.read_text())}
    return {reply for reply in found if not reply.startswith("334 ")}


def test_every_reply_of_the_code_stands_on_the_page() -> None:
    missing = sorted(replies_of_the_code() - set(ON_PAGE))

    assert missing == [], "give each a row in docs/troubleshooting.md: what it means, and what its readers can do"


def test_the_page_names_no_reply_that_the_code_does_not_make() -> None:
    assert sorted(set(ON_PAGE) - replies_of_the_code()) == []
    assert len(ON_PAGE) == len(set(ON_PAGE)) > 90


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[3:60])
def test_every_row_says_what_to_do_and_stands_below_its_code(row: str) -> None:
    cells = [cell.strip() for cell in row.strip("| ").split(" | ")]
    title = re.findall(r"(?m)^## (.*)$", PAGE[: PAGE.index(row)])[-1]

    assert len(cells) == 4
    assert all(cells)
    if cells[0].startswith("`..."):
        return
    code, covered = int(cells[0][1:4]), [int(number) for number in re.findall(r"\b\d{3}\b", title)]
    if covered:
        between = " to " in title
        assert (covered[0] <= code <= covered[-1]) if between else code in covered
    else:
        assert code < 400


def test_a_new_reply_would_be_found() -> None:
    source = """
X = Reply(451, "4.3.9", "New")
Y = {1: (550, "5.7.9", f"No {x}", Fault.MESSAGE)}
def f():
    text = "c"
    bounced(554, "5.6.9", "a" if y else "b")
    bounced(554, "5.6.8", text)
    Reply(code, enhanced, f"It says {x}")
    Reply.safe(554, other.enhanced, text or "d")
"""

    found = {
        "451 4.3.9 New",
        "550 5.7.9 No ...",
        "554 5.6.9 a",
        "554 5.6.9 b",
        "554 5.6.8 c",
        "... It says ...",
        "554 ... d",
    }
    assert set(replies_in(source)) == found
