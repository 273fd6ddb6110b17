"""Files of an export: whole or not there, private, and never in the place of another."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from bridge.cli import files
from bridge.cli.files import empty_directory, write_new


def no_links(*_: object) -> None:
    """As on FAT and some network file systems."""
    raise OSError(errno.EPERM, os.strerror(errno.EPERM))


@pytest.fixture(params=["links", "no links"], autouse=True)
def _file_system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "no links":
        monkeypatch.setattr(files.os, "link", no_links)


def test_a_file_is_private_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    write_new(tmp_path / "a.eml", b"mail")

    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a.eml", b"mail")]
    assert stat.S_IMODE((tmp_path / "a.eml").stat().st_mode) == 0o600


def test_what_is_there_stays(tmp_path: Path) -> None:
    (tmp_path / "a.eml").write_bytes(b"first")
    with pytest.raises(FileExistsError):
        write_new(tmp_path / "a.eml", b"second")

    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a.eml", b"first")]


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"")
    (tmp_path / ".a.eml.tmp").symlink_to(tmp_path / "target")
    with pytest.raises(OSError, match="symbolic links"):
        write_new(tmp_path / "a.eml", b"mail")

    assert (tmp_path / "target").read_bytes() == b""
    assert not (tmp_path / "a.eml").exists()


def test_what_could_not_be_written_whole_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_new(tmp_path / "a.eml", b"mail")

    assert list(tmp_path.iterdir()) == []


def test_a_directory_with_something_in_it_is_refused(tmp_path: Path) -> None:
    empty_directory(tmp_path / "new" / "er")
    (tmp_path / "file").touch()

    assert stat.S_IMODE((tmp_path / "new" / "er").stat().st_mode) == 0o700
    with pytest.raises(FileExistsError):
        empty_directory(tmp_path)
