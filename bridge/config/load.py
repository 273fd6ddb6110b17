"""From the file, the environment and secret files to checked settings, or to every mistake in them, one line each."""

from __future__ import annotations

import copy
import dataclasses
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from bridge.config.environ import DEFAULT_LISTENER_VARIABLE, fill_listeners, overlay, unknown_variable, variables
from bridge.config.file import ConfigFile, FileProblem, KeyPath, find_config
from bridge.config.machine import state_directory
from bridge.config.named_files import NamedFile, UnusableFile, check_readable, find_file, is_credential, read_secret
from bridge.config.places import Places
from bridge.config.provider_base import ProviderBase
from bridge.config.providers import KINDS
from bridge.config.schema import keys_of, keys_of_other_kinds, nearest, own_keys, tables
from bridge.config.section import Section, SectionProblems, fields, has_marker, sections_in
from bridge.config.settings import Facts, Settings
from bridge.config.types import FileMarker, SecretMarker
from bridge.config.wording import describe
from bridge.files import stamp

# Stands for a secret whose file cannot be read, so that the rest can be checked; nothing is said of it.
_UNREAD = "unread"


class SettingsError(Exception):
    """`problems`: one clear line per mistake, with no secret in it."""

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


INBOX = "127.0.0.1:8025"  # where mail is looked at when there are no settings at all


def load_settings(
    config_path: str | None = None, environ: Mapping[str, str] | None = None, cwd: Path | None = None
) -> Settings:
    """Read and check the settings. Raises SettingsError with everything that is wrong."""
    environ = os.environ if environ is None else environ
    cwd = cwd or Path.cwd()
    try:
        file = find_config(config_path, environ, cwd)
    except FileProblem as problem:
        raise SettingsError((str(problem),)) from None
    given = variables(environ)
    if file is None and not given and not environ.get(DEFAULT_LISTENER_VARIABLE):
        facts = Facts(state_directory(environ), "", implicit_capture=True)
        return Settings.read({"provider": [{"kind": "capture"}], "http": {"address": INBOX}}, facts)
    return _Loading(file, given, environ, cwd).settings()


def load_spool_settings(
    config_path: str | None = None, environ: Mapping[str, str] | None = None, cwd: Path | None = None
) -> Settings:
    """Only where the spool is and how it is kept; the rest is not looked at.

    For the operator's commands: they need none of the daemon's secrets, which may be readable for the daemon alone.
    """
    environ = os.environ if environ is None else environ
    cwd = cwd or Path.cwd()
    try:
        file = find_config(config_path, environ, cwd)
    except FileProblem as problem:
        raise SettingsError((str(problem),)) from None
    return _Loading(file, variables(environ), environ, cwd).only_spool()


def with_files(settings: Settings, changed: Mapping[NamedFile, str]) -> Settings:
    """The same, with what these of its files hold now (`NamedFile.read`). Raises SettingsError, each mistake with its key.

    `changed` has its keys as they are in `settings.files`, with the stamps of now in theirs.
    """
    facts = settings.facts
    tree = copy.deepcopy(dict(facts.tree))
    now = {file.key: file for file in changed}
    for file, value in changed.items():
        if file.secret:
            _put(tree, file.key, value)
    facts = dataclasses.replace(facts, tree=tree, files=tuple(now.get(file.key, file) for file in facts.files))
    try:
        return Settings.read(tree, facts)
    except ValidationError as error:
        found = [each for one in error.errors(include_url=False, include_input=False) for each in _found(one)]
        problems = tuple(f"{_dotted(path)}: {text}" for path, text in found)
    raise SettingsError(problems)  # out of the except clause: a validation error carries what was validated


def _put(tree: Any, key: KeyPath, value: str) -> None:
    for part in key[:-1]:
        tree = tree[part]
    tree[key[-1]] = value


class _Loading:
    def __init__(
        self, file: ConfigFile | None, given: Mapping[str, str], environ: Mapping[str, str], cwd: Path
    ) -> None:
        self._places = Places(file, cwd)
        self._environ = environ
        self._source = str(file.path) if file else ""
        self._tree: dict[str, Any] = file.tree if file else {}
        self._unread: set[KeyPath] = set()
        self._files: list[NamedFile] = []
        self._as_at_start = list(given)
        self._problems = list(overlay(self._tree, given, self._places))
        if address := environ.get(DEFAULT_LISTENER_VARIABLE):
            fill_listeners(self._tree, address, self._places)

    def only_spool(self) -> Settings:
        smtp = self._tree.get("smtp")
        size = smtp.get("max_message_size") if isinstance(smtp, dict) else None
        self._tree = {
            "spool": self._tree.get("spool", {}),
            "smtp": {} if size is None else {"max_message_size": size},
            "provider": [{"kind": "rest", "url": "https://unused.invalid/"}],
        }
        self._problems = []
        return self.settings()

    def settings(self) -> Settings:
        self._table(self._tree, Settings, ())
        facts = Facts(
            state_directory(self._environ),
            self._source,
            tree=self._tree,
            files=tuple(self._files),
            as_at_start=tuple(dict.fromkeys(self._as_at_start)),
        )
        checked: Settings | None = None
        try:
            checked = Settings.read(self._tree, facts)
        except ValidationError as error:
            errors = error.errors(include_url=False, include_input=False)
            self._problems += [
                self._line(*found) for each in errors for found in _found(each) if found[0] not in self._unread
            ]
        if self._problems or checked is None:
            raise SettingsError(tuple(dict.fromkeys(self._problems)))
        return checked

    # --- before validation: unknown keys, one table or an array, secret files

    def _table(self, table: dict[str, Any], section: type[Section], path: KeyPath) -> None:
        known = frozenset(keys_of(section))
        for key in list(table):
            if key not in known:
                self._unknown(key, section, table.get("kind"), path)
                del table[key]
        for key, field in fields(section).items():
            self._secret_file(table, key, path, wanted=has_marker(field, SecretMarker))
            if key in table and has_marker(field, FileMarker):
                self._file(table, key, (*path, key))
            classes, many = sections_in(field)
            if key in table and classes:
                self._inner(table, key, classes, (*path, key), many=many)

    def _inner(
        self, table: dict[str, Any], key: str, classes: tuple[type[Section], ...], path: KeyPath, *, many: bool
    ) -> None:
        if many and isinstance(table[key], dict):
            table[key] = [table[key]]
        tables = table[key] if many else [table[key]]
        if not isinstance(tables, list):
            return  # validation says so
        for index, one in enumerate(tables):
            place = (*path, index) if many else path
            if isinstance(one, dict) and (section := self._class_of(one, classes, place)):
                self._table(one, section, place)

    def _class_of(
        self, table: dict[str, Any], classes: tuple[type[Section], ...], path: KeyPath
    ) -> type[Section] | None:
        """The class of a table; for a provider that of its kind, None (with a problem) for none that there is."""
        if len(classes) == 1:
            return classes[0]
        kind = table.get("kind")
        if not isinstance(kind, str) or kind not in KINDS:
            self._kind_problem(kind, path)
            # Its other keys cannot be judged; it must not fail once more.
            table.clear()
            table["kind"] = "capture"
            return None
        return KINDS[kind]

    def _kind_problem(self, kind: object, path: KeyPath) -> None:
        if kind is None:
            self._say((*path, "kind"), f"is missing; one of {', '.join(KINDS)}")
        elif not isinstance(kind, str):
            self._say((*path, "kind"), f"must be text in quotes; one of {', '.join(KINDS)}")
        else:
            meant = nearest_kind(kind)
            hint = f"; did you mean '{meant}'?" if meant else f"; one of {', '.join(KINDS)}"
            self._say((*path, "kind"), f"unknown provider kind{hint}")

    def _unknown(self, key: str, section: type[Section], kind: object, path: KeyPath) -> None:
        place = self._places.of((*path, key))
        inside = _dotted(path)
        full = f"{inside}.{key}".lstrip(".")
        siblings = frozenset(f"{inside}.{name}".lstrip(".") for name in keys_of(section))
        meant = nearest(full, siblings)
        if issubclass(section, ProviderBase) and {full, meant} & keys_of_other_kinds(siblings):
            own = ", ".join(own_keys(section))
            self._problems.append(
                f"{place.text}: kind {kind} has no '{key}'" + (f"; its own keys are {own}" if own else "")
            )
        elif place.variable and self._places.is_exact((*path, key)):
            self._problems.append(unknown_variable(place.variable, siblings))
        else:
            hint = f"; did you mean '{meant}'?" if meant else ""
            self._problems.append(f"{place.text}: unknown key '{full}'{hint}")

    def _secret_file(self, table: dict[str, Any], key: str, path: KeyPath, *, wanted: bool) -> None:
        name = f"{key}_file"
        if not wanted or name not in table:
            return
        value, place = table.pop(name), (*path, name)
        if value == "":
            return
        if table.get(key):
            other = self._places.of((*path, key)).text
            self._say(place, f"'{key}' is given too ({other}); give one of them")
        elif not isinstance(value, str):
            self._say(place, "must be text in quotes: the name of a file")
        else:
            self._read_secret(table, key, value, place)

    def _read_secret(self, table: dict[str, Any], key: str, name: str, path: KeyPath) -> None:
        directory = self._places.of(path).directory
        found = find_file(name, directory, self._environ)
        self._note(found, (*path[:-1], key), secret=True)
        self._note_credential(found, path)
        try:
            table[key] = read_secret(name, directory, self._environ)
        except UnusableFile as problem:
            self._say(path, str(problem))
            table[key] = _UNREAD
            self._unread.add((*path[:-1], key))

    def _file(self, table: dict[str, Any], key: str, path: KeyPath) -> None:
        value = table[key]
        if not isinstance(value, str) or not value:
            return
        found = find_file(value, self._places.of(path).directory, self._environ)
        self._note_credential(found, path)
        if path[0] == "provider":  # the listeners' are looked at by themselves
            self._note(found, path, secret=False)
        try:
            check_readable(found)
            table[key] = str(found)
        except UnusableFile as problem:
            self._say(path, str(problem))

    def _note(self, path: Path, key: KeyPath, *, secret: bool) -> None:
        self._files.append(NamedFile(key, path.absolute(), stamp(path), secret))

    def _note_credential(self, file: Path, path: KeyPath) -> None:
        if is_credential(file, self._environ):
            self._as_at_start.append(_dotted(path))

    def _say(self, path: KeyPath, text: str) -> None:
        self._problems.append(self._line(path, text))

    def _line(self, path: KeyPath, text: str) -> str:
        place = self._places.of(path)
        key = _dotted(path)
        return f"{place.text}: {key}: {text}" if key else f"{place.text}: {text}"


def nearest_kind(kind: str) -> str:
    import difflib

    found = difflib.get_close_matches(kind.lower(), KINDS, n=1)
    return found[0] if found else ""


def _found(error: Any) -> Iterator[tuple[KeyPath, str]]:
    """Each thing that validation found: which key, and what is wrong with it."""
    path = _without_tag(error["loc"])
    cause = error.get("ctx", {}).get("error")
    if isinstance(cause, SectionProblems):
        yield from (((*path, *_parts(key)), text) for key, text in cause.problems)
    else:
        yield path, describe(error, tables=tables().get(_names(path), False))


def _without_tag(location: tuple[int | str, ...]) -> KeyPath:
    """pydantic puts the kind of a provider into the path: ("provider", 0, "rest", "url")."""
    if len(location) > 2 and location[0] == "provider" and location[2] in KINDS:
        return (*location[:2], *location[3:])
    return location


def _parts(key: str) -> KeyPath:
    """`user.1.name` -> ("user", 1, "name"): the second of the users."""
    return tuple(int(part) if part.isdigit() else part for part in key.split(".") if part)


def _names(path: KeyPath) -> tuple[str, ...]:
    return tuple(name for name in path if isinstance(name, str))


def _dotted(path: KeyPath) -> str:
    return ".".join(_names(path))
