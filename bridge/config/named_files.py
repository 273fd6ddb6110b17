"""Files that settings name: secrets, which are read, and others, which must be readable. Errors never hold what is in them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bridge.files import Stamp

MAX_SECRET_OCTETS = 64 * 1024
CREDENTIALS = "CREDENTIALS_DIRECTORY"  # systemd.exec(5): copied at a start, and never again

KeyPath = tuple[str | int, ...]  # as in `bridge.config.file`


@dataclass(frozen=True, slots=True)
class NamedFile:
    """`key`: the setting it is for. `secret`: what it holds is the value; else its name is. `stamp`: how it looked before it was
    read."""

    key: KeyPath
    path: Path
    stamp: Stamp
    secret: bool

    @property
    def setting(self) -> str:
        """As it is called in messages."""
        name = ".".join(part for part in self.key if isinstance(part, str))
        return f"{name}_file" if self.secret else name

    def read(self) -> str:
        """The secret; "" for any other file, which is only looked at. Raises UnusableFile."""
        if self.secret:
            return read_secret(str(self.path), self.path.parent, {})
        check_readable(self.path)
        return ""


class UnusableFile(Exception):
    """The text says what is wrong, for the operator."""


def find_file(name: str, beside: Path, environ: Mapping[str, str]) -> Path:
    """A relative name is looked up in $CREDENTIALS_DIRECTORY (systemd) first, then in `beside`.

    `secrets/key` is there what LoadCredential=secrets:/a/directory makes of the file `key` in it, `secrets_key`.
    """
    credentials = environ.get(CREDENTIALS)
    if credentials and not os.path.isabs(name):
        for given in (name, name.replace("/", "_")):
            path = Path(credentials) / given
            if os.path.exists(path):
                return path
    return beside / name


def is_credential(path: Path, environ: Mapping[str, str]) -> bool:
    directory = environ.get(CREDENTIALS)
    return bool(directory) and path.is_relative_to(directory or "")


def read_secret(name: str, beside: Path, environ: Mapping[str, str]) -> str:
    """What the file holds, without the line end an editor leaves. Raises UnusableFile."""
    path = find_file(name, beside, environ)
    # A secret pasted where its file's name belongs must not be shown; an absolute name is no secret.
    shown = str(path) if os.path.isabs(name) or os.path.exists(path) else f"no such file in {beside}; it"
    data = _head(path, shown, MAX_SECRET_OCTETS + 1)
    if len(data) > MAX_SECRET_OCTETS:
        raise UnusableFile(f"{shown} is too large to be a secret")
    try:
        text = data.decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError:
        text = "\0"
    if text == "\0":  # out of the except clause: a decoding error carries the whole file
        raise UnusableFile(f"{shown} is not UTF-8 text")
    if not text:
        raise UnusableFile(f"{shown} is empty")
    return text


def check_readable(path: Path) -> None:
    """Raises UnusableFile."""
    _head(path, str(path), 0)


def _head(path: Path, shown: str, octets: int) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(octets)
    except OSError as error:
        problem = f"{shown} cannot be read: {error.strerror}"
    except ValueError:  # a NUL in the name
        problem = "not the name of a file"
    raise UnusableFile(problem)
