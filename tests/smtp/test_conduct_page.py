"""docs/smtp-conduct.md says what the tests prove."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
PAGE = (TESTS.parent / "docs" / "smtp-conduct.md").read_text()
NAMES = sorted(set(re.findall(r"`([a-z0-9_]+/[\w/.-]+\.(?:txt|py)(?:::\w+)?)`", PAGE)))
ROWS = [line.strip("| ").split("|") for line in PAGE.splitlines() if line.startswith("|") and "---" not in line]
FACTS = [[cell.strip() for cell in row] for row in ROWS if row[0].strip() != "what happens"]


@cache
def functions(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


@pytest.mark.parametrize("name", NAMES)
def test_every_test_it_names_exists(name: str) -> None:
    file, _, function = name.partition("::")

    assert (TESTS / file).is_file()
    assert function.startswith("test_") if file.endswith(".py") else not function
    assert not function or function in functions(TESTS / file)


def test_it_names_every_dialogue() -> None:
    files = {f"smtp/dialogues/{path.name}" for path in (TESTS / "smtp" / "dialogues").iterdir()}

    assert files - set(NAMES) == set()


def test_every_row_has_its_proof_and_each_reply_stands_in_it() -> None:
    assert len(FACTS) > 90
    for row in FACTS:
        assert len(row) == 4, row
        named = [name for name in NAMES if f"`{name}`" in row[3]]
        assert named, row
        proof = "".join((TESTS / name.partition("::")[0]).read_text() for name in named)
        for reply in re.findall(r"[245]\d\d [245]\.\d+\.\d+", row[1]):
            assert reply in proof, (reply, row)
