"""The wheel and the sdist: what an installation gets, and what a packager builds from."""

from __future__ import annotations

import email
import email.message
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest

from bridge import __version__
from tests.packaging.conftest import ROOT, Backend

KEPT = (".py", ".sql", ".typed", ".html", ".css", ".js", ".svg")


@pytest.fixture
def held(wheel: Path) -> dict[str, bytes]:
    return contents(wheel)


@pytest.fixture(scope="module")
def unpacked(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    into = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as archive:
        archive.extractall(into, filter="data")
    (tree,) = into.iterdir()
    return tree


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def metadata(held: dict[str, bytes]) -> email.message.Message:
    return email.message_from_bytes(held[f"smtp_rest_bridge-{__version__}.dist-info/METADATA"])


def test_it_holds_every_file_of_the_package_and_nothing_else(held: dict[str, bytes]) -> None:
    source = {
        str(path.relative_to(ROOT)) for path in (ROOT / "bridge").rglob("*") if path.is_file() and path.suffix in KEPT
    }
    names = {name for name in held if ".dist-info/" not in name}

    assert names == source
    assert "bridge/py.typed" in names
    assert "bridge/spool/migrations/0001_queue.sql" in names
    assert "bridge/web/pages/templates/mails.html" in names


def test_it_brings_the_command_and_the_licence(held: dict[str, bytes]) -> None:
    (entry_points,) = [name for name in held if name.endswith("/entry_points.txt")]

    assert held[entry_points].decode().splitlines() == [
        "[console_scripts]",
        "smtp-bridge = bridge.cli:main",
        "smtp-bridge-sendmail = bridge.cli:sendmail",
    ]
    assert any(name.endswith("/licenses/LICENSE") for name in held)


def test_it_says_what_it_is(held: dict[str, bytes]) -> None:
    told = metadata(held)

    assert (told["Name"], told["Version"]) == ("smtp-rest-bridge", __version__)
    assert (told["License-Expression"], told["License-File"]) == ("Apache-2.0", "LICENSE")
    assert told["Requires-Python"] == ">=3.11"
    assert set(told.get_all("Provides-Extra", [])) == {"doctor", "otel", "test"}
    assert told["Description-Content-Type"] == "text/markdown"
    assert told.get_payload(decode=True) == (ROOT / "README.md").read_bytes()


def test_the_sdist_builds_the_same_wheel(backend: Backend, wheel: Path, unpacked: Path, tmp_path: Path) -> None:
    again = backend.build("wheel", unpacked, tmp_path)

    assert again.name == wheel.name
    assert contents(again) == contents(wheel)


def test_the_sdist_has_what_the_tests_and_a_packager_need_and_nothing_private(unpacked: Path) -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a checkout: what belongs to the project is not known")
    tracked = {name for name in listed.stdout.split("\0") if (ROOT / name).is_file()}
    held = {str(path.relative_to(unpacked)) for path in unpacked.rglob("*") if path.is_file()}

    assert tracked - held == set()
    assert {name.partition("/")[0] for name in held} - {name.partition("/")[0] for name in tracked} == {"PKG-INFO"}
