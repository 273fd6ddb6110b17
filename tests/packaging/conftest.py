"""What is built, as pip and a publisher build it: the wheel, the sdist, and the wheel that the sdist builds of itself."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from os import environ
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BUILD = "import sys, hatchling.build as back; print(getattr(back, 'build_' + sys.argv[1])(sys.argv[2]))"


@dataclass(frozen=True, slots=True)
class Backend:
    """The build back end of pyproject.toml. `path`: where it is when the tests' own environment has none, else ""."""

    path: str

    def build(self, kind: str, tree: Path, into: Path) -> Path:
        """`kind`: wheel or sdist. `tree`: where pyproject.toml is."""
        command = [sys.executable, "-c", BUILD, kind, str(into)]
        kept = {name: value for name, value in environ.items() if name != "PYTHONPATH"}
        where = {"PYTHONPATH": self.path} if self.path else {}
        done = subprocess.run(
            command, cwd=tree, env={**kept, **where}, check=True, capture_output=True, text=True, timeout=60
        )
        return into / done.stdout.split()[-1]


@pytest.fixture(scope="session")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Backend:
    if find_spec("hatchling"):
        return Backend("")
    path = tmp_path_factory.mktemp("backend")
    pip("install", "--target", str(path), "hatchling")
    return Backend(str(path))


def pip(*arguments: str, python: str = sys.executable) -> None:
    """At the versions of constraints.txt, and in the environment of `python`, which needs no pip of its own."""
    quiet = ("--quiet", "--disable-pip-version-check", "--no-input")
    command = [sys.executable, "-m", "pip", "--python", python, *quiet, *arguments]
    done = subprocess.run(command, env=constrained(), capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr


def constrained() -> Mapping[str, str]:
    kept = {name: value for name, value in environ.items() if name != "PYTHONPATH"}
    return {**kept, "PIP_CONSTRAINT": str(ROOT / "constraints.txt")}


@pytest.fixture(scope="session")
def wheel(backend: Backend, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return backend.build("wheel", ROOT, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="session")
def sdist(backend: Backend, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return backend.build("sdist", ROOT, tmp_path_factory.mktemp("sdist"))
