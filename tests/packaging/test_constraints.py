"""constraints.txt: what is installed is what was tested."""

from __future__ import annotations

import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
LINES = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
PINNED = {canonicalize_name(line.partition("==")[0]): line.partition("==")[2] for line in LINES}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def requirements() -> list[Requirement]:
    project = PROJECT["project"]
    texts = [*project["dependencies"], *project["optional-dependencies"]["test"], *PROJECT["build-system"]["requires"]]
    return [Requirement(text) for text in texts]


def closure() -> set[str]:
    """Every distribution that the project, its tests and its build back end need here, as far as they are installed."""
    found: set[str] = set()
    waiting = requirements()
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if name in found or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        found.add(name)
        try:
            needs = metadata.requires(name) or []
        except metadata.PackageNotFoundError:  # the build back end lives in an environment of its own
            continue
        waiting += [need for need in map(Requirement, needs) if _wanted(need, requirement.extras)]
    return found


def _wanted(need: Requirement, extras: set[str]) -> bool:
    return need.marker is None or any(need.marker.evaluate({"extra": extra}) for extra in ("", *extras))


def test_every_dependency_direct_or_not_is_pinned() -> None:
    assert closure() - PINNED.keys() == set()
    assert {"hatchling", "editables", "packaging", "pathspec", "pluggy", "trove-classifiers"} <= PINNED.keys()


@pytest.mark.parametrize("requirement", requirements(), ids=str)
def test_the_pin_is_a_version_that_the_project_allows(requirement: Requirement) -> None:
    assert requirement.specifier.contains(PINNED[canonicalize_name(requirement.name)])


@pytest.mark.parametrize("line", LINES)
def test_a_pin_is_a_version_and_no_address(line: str) -> None:
    assert re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line)


def test_the_pins_are_sorted_and_the_project_itself_is_not_among_them() -> None:
    assert sorted(LINES, key=str.lower) == LINES
    assert PROJECT["project"]["name"] not in PINNED
