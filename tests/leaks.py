"""No test leaks a secret or a body into a log: all that is logged while one runs is looked at, and a test that leaked fails.

Looked at is what is logged in this process, at any level and before anything is masked; every log under pytest's directory, of
daemons in processes of their own and whatever fixture keeps them; what processes that were run to their end wrote, and what
pytest itself captured. Secret is what settings hold as a secret (pydantic's SecretStr, wherever one is made), what the
variables and files of daemons in processes say is one, what the files hold that these name, the telling parts of an address,
all of these in base64 too, and whatever has PLANTED in it, which stands in the bodies and keys of the common fixtures.

A secret is one until the tests of its file are over, that of a wider fixture for ever.

As a plugin: `pytest -p tests.leaks`; `tests/conftest.py` has it for all tests. With xdist each worker looks for itself.
"""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import tomllib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit

import pydantic
import pytest
import structlog
from structlog._base import BoundLoggerBase

from bridge import log

MARK = "PLANTED"
BODY = f"{MARK}-body"
SHORTEST = 8  # characters; what is shorter stands in a log by chance
FEWEST = 5  # different characters of a secret, for the same reason
# Commands that show a secret or a mail, to who asked for it, on standard output alone.
SHOW = ("hash-password", "new-key", "queue export")
_GRAM = 4  # characters; see Watch._suspects
_STRIDE = SHORTEST - _GRAM + 1
_NAMED = re.compile(r"(?i)(?:key|token|password|secret|hash|account|webhook|proxy|url)(_file)?$")
_ADDRESS = re.compile(r"[a-z+]+://")
_ENCODED = re.compile(r"[A-Za-z0-9+/=]{40,}")  # the lines of a PEM, also within JSON
_LOG = re.compile(r"(?:stderr|stdout|log|.*\.log)$")
_COMMON = frozenset({"password", "passphrase", "localhost"})


class Watch:
    """What must not be logged in the tests that run, and what was."""

    def __init__(self) -> None:
        self.secrets: set[str] = set()
        self.found: list[str] = []
        self.lasting = True  # whether what is planted now is of a wider fixture, or of no test
        self._planted: set[str] = set()
        self._kept: set[str] = set()
        self._by_gram: defaultdict[str, set[str]] = defaultdict(set)

    def plant(self, secret: str) -> None:
        if self.lasting:
            self._kept.add(secret)
        if secret in self._planted:
            return
        self._planted.add(secret)
        for part in _parts(secret):
            if _is_secret(part):
                for form in _forms(part):
                    self._add(form)

    def _add(self, form: str) -> None:
        self.secrets.add(form)
        for at in range(_STRIDE):
            self._by_gram[form[at : at + _GRAM]].add(form)

    def forget(self) -> None:
        """All but what is kept."""
        self.secrets.clear()
        self._planted.clear()
        self._by_gram.clear()
        for secret in self._kept:
            self.plant(secret)

    def plant_variables(self, variables: Mapping[str, str], beside: Path | None = None) -> None:
        """`beside`: where relative names of files are looked up, as the daemon does that has the variables."""
        for name, value in variables.items():
            if name.startswith("SMTP_BRIDGE_"):
                self._plant_named(name, value, beside)
        if beside:
            self.plant_settings(beside / "config.toml")

    def plant_settings(self, path: Path) -> None:
        """Of a settings file, whose form may be a mistake on purpose."""
        try:
            self._plant_table(tomllib.loads(path.read_text(errors="replace")), path.parent)
        except (OSError, tomllib.TOMLDecodeError):
            return

    def _plant_table(self, table: Any, beside: Path) -> None:
        if isinstance(table, list):
            for one in table:
                self._plant_table(one, beside)
        elif isinstance(table, dict):
            for name, value in table.items():
                if isinstance(value, str):
                    self._plant_named(name, value, beside)
                else:
                    self._plant_table(value, beside)

    def _plant_named(self, name: str, value: str, beside: Path | None) -> None:
        found = _NAMED.search(name)
        if not found:
            return
        if found[1]:
            self._plant_file((beside or Path()) / value)
        elif _is_shown(name):
            self.plant(_credentials_only(value))
        else:
            self.plant(value)

    def _plant_file(self, path: Path) -> None:
        try:
            self.plant(path.read_text(errors="replace").strip())
        except OSError:
            return

    def look(self, text: str, where: str) -> None:
        """`text`: of one line or many."""
        if not self._has_one(text):
            return
        for line in text.splitlines():
            if self._has_one(line):
                self.found.append(f"{where}: {line[:500]}")

    def _has_one(self, text: str) -> bool:
        return MARK in text or any(secret in text for secret in self._suspects(text))

    def _suspects(self, text: str) -> Iterable[str]:
        """Those of which some characters stand in the text, at a cost that does not grow with their number.

        Of SHORTEST characters in a row, one of _GRAM begins at a multiple of _STRIDE; it is one of the first of the secret.
        """
        sample = [text[at : at + _GRAM] for at in range(0, len(text), _STRIDE)]
        if self._by_gram.keys().isdisjoint(sample):
            return ()
        return set().union(*(self._by_gram[gram] for gram in self._by_gram.keys() & set(sample)))


def _is_secret(text: str) -> bool:
    return len(text) >= SHORTEST and len(set(text)) >= FEWEST and text not in _COMMON


def _is_shown(name: str) -> bool:
    """Addresses whose path and host are no secret; those of webhooks are, since chats have their key there."""
    return name.lower().endswith(("url", "proxy"))


def _parts(secret: str) -> Iterator[str]:
    """Itself; of an address, what is secret in it; of keys and accounts in a file, their lines."""
    if _ADDRESS.match(secret):
        yield from _parts_of_address(secret)
    elif "\n" in secret:
        yield from _ENCODED.findall(secret)
    else:
        yield secret


def _parts_of_address(address: str) -> Iterator[str]:
    try:
        parts = urlsplit(address)
    except ValueError:
        return
    credentials = parts.netloc.rpartition("@")[0]
    for text in (credentials, credentials.partition(":")[2], parts.query, *(v for _, v in parse_qsl(parts.query))):
        yield text
        yield unquote(text)
    if parts.scheme in ("http", "https"):
        yield parts.path


def _credentials_only(address: str) -> str:
    """Without its path."""
    try:
        parts = urlsplit(address)
    except ValueError:
        return ""
    return parts._replace(path="").geturl() if parts.scheme else ""


def _forms(secret: str) -> Iterator[str]:
    """As it is, as it stands in JSON, a repr() and an address, and in base64 wherever in a longer text: after 0, 1 or 2 octets
    of a group."""
    yield from {secret, repr(secret)[1:-1], json.dumps(secret)[1:-1], quote(secret, safe="", errors="replace")}
    for before in range(3):
        octets = b"\0" * before + secret.encode("utf-8", "replace")
        encoded = base64.b64encode(octets[: len(octets) // 3 * 3]).decode()[(before * 8 + 5) // 6 :]
        if len(encoded) >= SHORTEST:
            yield encoded


class Logs:
    """The files that daemons write, each read once as far as it goes."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[int, int, int]] = {}  # inode, size, time of the last change
        self._read: dict[str, int] = {}  # octets, in whole lines

    def look_below(self, directory: Path) -> None:
        for name, below, files in os.walk(directory):
            if "pyvenv.cfg" in files:  # what is installed there is large, and no log
                below.clear()
                continue
            for file in filter(_LOG.match, files):
                self._look_at(Path(name, file))

    def _look_at(self, path: Path) -> None:
        """The settings of who wrote it may stand beside it."""
        try:
            text = self._new(path)
        except OSError:
            return
        if text:
            watch.plant_settings(path.with_name("config.toml"))
            watch.look(text, str(path))

    def _new(self, path: Path) -> str:
        """What was not read yet, and the line before if it was not whole."""
        name, state = str(path), path.stat()
        now = (state.st_ino, state.st_size, state.st_mtime_ns)
        before = self._seen.get(name)
        if now == before:
            return ""
        if not before or before[0] != now[0] or before[1] > now[1]:
            self._read[name] = 0
        self._seen[name] = now
        with path.open("rb") as file:
            file.seek(self._read[name])
            octets = file.read()
        self._read[name] += octets.rfind(b"\n") + 1
        return octets.decode(errors="replace")


watch = Watch()
logs = Logs()
_secret_init: Any = pydantic.SecretStr.__init__
_log: Any = BoundLoggerBase._proxy_to_logger
_completed_init: Any = subprocess.CompletedProcess.__init__


def _planted(self: Any, value: Any) -> None:
    _secret_init(self, value)
    if isinstance(value, str):
        watch.plant(value)


def _look(logger: Any, event: Any, facts: Mapping[str, Any]) -> None:
    shown = {**logger._context, **facts}
    shown.pop("exc_info", None)  # told by type and place alone, see bridge/log.py
    watch.look(f"{event} {shown}", "logged")


def _watched(self: Any, method: str, event: Any = None, **facts: Any) -> Any:
    _look(self, event, facts)
    return _log(self, method, event, **facts)


def _completed(self: Any, args: Any, returncode: int, stdout: Any = None, stderr: Any = None) -> None:
    """`subprocess.run`, and what the tests make of a command within this process."""
    _completed_init(self, args, returncode, stdout, stderr)
    words = args if isinstance(args, (str, bytes)) else " ".join(map(str, args))
    outputs = (stderr,) if any(command in str(words) for command in SHOW) else (stdout, stderr)
    for output in filter(None, outputs):
        watch.look(
            output if isinstance(output, str) else output.decode(errors="replace"), f"written by {str(words)[:200]}"
        )


pydantic.SecretStr.__init__ = _planted  # type: ignore[method-assign]
BoundLoggerBase._proxy_to_logger = _watched  # type: ignore[method-assign]
subprocess.CompletedProcess.__init__ = _completed  # type: ignore[method-assign]


class _Quiet(structlog.make_filtering_bound_logger(0)):  # type: ignore[misc]
    """All is looked at, errors alone are logged."""

    def _proxy_to_logger(self, method: str, event: Any = None, **facts: Any) -> Any:
        if method in ("error", "exception", "critical"):
            return super()._proxy_to_logger(method, event, **facts)
        _look(self, event, facts)
        return None


def quietly() -> None:
    """As tests have it that want nothing else of the log."""
    log.configure(level="error", format="json")
    structlog.configure(
        wrapper_class=_Quiet, cache_logger_on_first_use=False
    )  # so that a test may capture what is logged


_ALWAYS = ("session", "package")  # scopes of fixtures that outlast a file of tests
_file: Path | None = None  # of the test that runs
_scopes: list[str] = []  # of the fixtures that are being set up
_directories: dict[Path, str] = {}  # made by fixtures wider than a test, and of which scope these are
_mktemp: Any = pytest.TempPathFactory.mktemp


def _made(self: Any, basename: str, numbered: bool = True) -> Path:
    path: Path = _mktemp(self, basename, numbered)
    if _scopes and _scopes[-1] != "function":
        _directories[path] = _scopes[-1]
    return path


pytest.TempPathFactory.mktemp = _made  # type: ignore[method-assign]


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[Any]) -> Iterator[Any]:
    before, watch.lasting = watch.lasting, fixturedef.scope in _ALWAYS
    _scopes.append(fixturedef.scope)
    try:
        return (yield)
    finally:
        _scopes.pop()
        watch.lasting = before


def pytest_runtest_setup(item: pytest.Item) -> None:
    global _file
    watch.lasting = False
    watch.found.clear()
    if _file != item.path:
        _file = item.path
        watch.forget()
        for path in [path for path, scope in _directories.items() if scope not in _ALWAYS]:
            del _directories[path]
    if structlog.get_config()["wrapper_class"] is not _Quiet:  # a test has left its own settings behind
        quietly()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
    yield
    directory = getattr(item, "funcargs", {}).get("tmp_path")
    for place in (*_directories, *([directory] if directory else [])):
        logs.look_below(place)
    if nextitem is None and (factory := getattr(item.config, "_tmp_path_factory", None)):
        logs.look_below(factory.getbasetemp())
    for _, what, content in item._report_sections:
        if what in ("stdout", "stderr"):  # "log" is of pytest's own handler, before the log of ours has it
            watch.look(content, f"captured {what}")
    if watch.found:
        pytest.fail("a secret or a body was logged:\n" + "\n".join(watch.found), pytrace=False)
