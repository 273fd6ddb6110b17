"""CONTRIBUTING.md names the tests that look at every kind of provider."""

from __future__ import annotations

import re

from tests.docs.blocks import ROOT


def test_the_tests_that_look_at_every_kind_are_named() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    (arguments,) = re.findall(r'make test ARGS="([^"]*)"`\s+are the tests that look at every kind', text)
    named = tuple(arguments.split())

    looking = [
        str(path.relative_to(ROOT))
        for path in (ROOT / "tests").rglob("test_*.py")
        if re.search(r"import .*\b(KINDS|HOOKS|CATALOGUE)\b", path.read_text())
    ]
    assert len(looking) > 5
    assert [one for one in looking if not one.startswith(named)] == []
    assert [name for name in named if not (ROOT / name).exists()] == []
