"""No test leaks a secret or a body into a log: all that is logged while one runs is looked at, and a test that leaked fails.

Looked at is what is logged in this process, at any level and before anything is masked, and what daemons in processes of
their own wrote. Secret is what settings hold as a secret (pydantic's SecretStr, wherever one is made), what the variables and
files of daemons in processes say is one, all of these in base64 too, and whatever has PLANTED in it, which stands in the
bodies and keys of the common fixtures.

As a plugin: `pytest -p tests.leaks`; `tests/conftest.py` has it for all tests. With xdist each worker looks for itself.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pydantic
import pytest
import structlog
from structlog._base import BoundLoggerBase

from bridge import log

MARK = "PLANTED"
BODY = f"{MARK}-body"
SHORTEST = 8  # characters; what is shorter stands in a log by chance
OUTPUTS = ("bridge.log", "stderr")  # of daemons, in a test's directory
_NAMED = re.compile(r"(?i)(key|token|password|secret|hash)$")
_IN_FILE = re.compile(r"""(?i)(?:key|token|password|secret|hash)\s*=\s*["']([^"'\n]+)["']""")
_ADDRESS = re.compile(r"[a-z+]+://")


class Watch:
    """What must not be logged in the test that runs, and what was."""

    def __init__(self) -> None:
        self.secrets: set[str] = set()
        self.found: list[str] = []

    def plant(self, secret: str) -> None:
        if len(secret) >= SHORTEST and not _ADDRESS.match(secret):
            self.secrets.update(_forms(secret))

    def plant_variables(self, variables: Mapping[str, str]) -> None:
        for name, value in variables.items():
            if name.startswith("SMTP_BRIDGE_") and _NAMED.search(name):
                self.plant(value)

    def look(self, text: str, where: str) -> None:
        if MARK in text or any(secret in text for secret in self.secrets):
            self._tell(text, where)

    def look_at(self, path: Path) -> None:
        """What a daemon wrote, whose settings may stand beside it."""
        try:
            text = path.read_text(errors="replace")
        except OSError:
            return
        settings = path.with_name("config.toml")
        for secret in _IN_FILE.findall(settings.read_text(errors="replace") if settings.exists() else ""):
            self.plant(secret)
        for line in text.splitlines():
            self.look(line, str(path))

    def _tell(self, text: str, where: str) -> None:
        self.found.append(f"{where}: {text[:500]}")


def _forms(secret: str) -> Iterator[str]:
    """As it is, and as it stands in base64 wherever in a longer text: after 0, 1 or 2 octets of a group."""
    yield secret
    for before in range(3):
        octets = b"\0" * before + secret.encode("utf-8", "replace")
        encoded = base64.b64encode(octets[: len(octets) // 3 * 3]).decode()[(before * 8 + 5) // 6 :]
        if len(encoded) >= SHORTEST:
            yield encoded


watch = Watch()
_secret_init: Any = pydantic.SecretStr.__init__
_log: Any = BoundLoggerBase._proxy_to_logger


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


pydantic.SecretStr.__init__ = _planted  # type: ignore[method-assign]
BoundLoggerBase._proxy_to_logger = _watched  # type: ignore[method-assign]


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


def pytest_runtest_setup() -> None:
    watch.found.clear()
    watch.secrets.clear()
    if structlog.get_config()["wrapper_class"] is not _Quiet:  # a test has left its own settings behind
        quietly()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Iterator[None]:
    yield
    directory = getattr(item, "funcargs", {}).get("tmp_path")
    for name in OUTPUTS if directory else ():
        watch.look_at(directory / name)
    if watch.found:
        pytest.fail("a secret or a body was logged:\n" + "\n".join(watch.found), pytrace=False)
