"""Where each value came from: a line of the file or a variable. For messages, and for files named relative to it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bridge.config.file import ConfigFile, KeyPath, find_lines


@dataclass(frozen=True, slots=True)
class Place:
    """`directory`: what a relative file name in this value is relative to."""

    text: str
    directory: Path
    variable: str = ""


class Places:
    def __init__(self, file: ConfigFile | None, cwd: Path) -> None:
        self._cwd = cwd
        self._of: dict[KeyPath, Place] = {(): Place("the environment", cwd)}
        if file is not None:
            directory = file.path.absolute().parent
            self._of[()] = Place(str(file.path), directory)
            for path, line in find_lines(file.text).items():
                self._of[path] = Place(f"{file.path} line {line}", directory)

    def note_variable(self, path: KeyPath, variable: str) -> None:
        """From now on everything at and below `path` comes from this variable."""
        for known in [known for known in self._of if known[: len(path)] == path]:
            del self._of[known]
        self._of[path] = Place(variable, self._cwd, variable)

    def of(self, path: KeyPath) -> Place:
        """The place of the key (of the first table, where it is an array of them), or of the nearest table around it."""
        while path not in self._of and (*path, 0) not in self._of:
            path = path[:-1]
        return self._of.get(path) or self._of[(*path, 0)]

    def is_exact(self, path: KeyPath) -> bool:
        return path in self._of
