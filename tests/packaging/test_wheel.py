"""The wheel: what an installation gets."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """Built as pip builds it, with the back end that is installed, else in an environment that pip makes for it."""
    here = ["--no-build-isolation"] if find_spec("hatchling") else []
    made = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(made), *here, str(ROOT)]
    subprocess.run(command, check=True, capture_output=True, timeout=110)
    (path,) = made.glob("*.whl")
    return zipfile.ZipFile(path)


def test_it_holds_every_file_of_the_package_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    source = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "bridge").rglob("*")
        if path.is_file() and path.suffix in (".py", ".sql", ".typed", ".html", ".css", ".js", ".svg")
    }
    held = {name for name in wheel.namelist() if ".dist-info/" not in name}

    assert held == source
    assert "bridge/py.typed" in held
    assert "bridge/spool/migrations/0001_queue.sql" in held


def test_it_brings_the_command_and_the_licence(wheel: zipfile.ZipFile) -> None:
    (entry_points,) = [name for name in wheel.namelist() if name.endswith("/entry_points.txt")]

    assert wheel.read(entry_points).decode().splitlines() == [
        "[console_scripts]",
        "smtp-bridge = bridge.cli:main",
        "smtp-bridge-sendmail = bridge.cli:sendmail",
    ]
    assert any(name.endswith("/licenses/LICENSE") for name in wheel.namelist())
