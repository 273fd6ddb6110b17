"""`smtp-bridge reload`: the running daemon reads its settings again, and says what came of it."""

from __future__ import annotations

import os
from typing import Any

from bridge.cli.common import fail, print_json, settings_or_exit, warn
from bridge.cli.exits import EX_CONFIG, EX_NOPERM, EX_SOFTWARE, EX_TEMPFAIL, EX_UNAVAILABLE
from bridge.config.load import load_spool_settings
from bridge.config.settings import Settings
from bridge.control import NobodyThere, Refused, ask, beside, within

_STATUS = {"reloaded": 0, "refused": EX_CONFIG, "failed": EX_SOFTWARE}


def reload(config: str, *, timeout_s: float, as_json: bool) -> int:
    """The exit status: 0 they hold, 78 there are mistakes and the old ones hold, 69 there is no daemon, 75 no answer in time."""
    settings = settings_or_exit(config, load_spool_settings)
    try:
        answer = _ask(settings, timeout_s=timeout_s)
    except NobodyThere:
        queue = f"no daemon runs with the queue {settings.spool_path}"
        fail(f"{queue}; if spool.url was changed, restart the one that runs with the old one", EX_UNAVAILABLE)
    except Refused as error:
        fail(f"{error}; ask as root or as the daemon's user", EX_NOPERM)
    except TimeoutError:
        fail(f"no answer within {timeout_s:g} s; the log says what comes of it", EX_TEMPFAIL)
    if as_json:
        print_json(answer)
    else:
        _tell(answer)
    return _STATUS.get(answer["outcome"], EX_SOFTWARE)


def _ask(settings: Settings, *, timeout_s: float) -> dict[str, Any]:
    """The daemon with this spool; else the one that runs with this settings file, when it named another spool then.

    Raises NobodyThere, Refused, TimeoutError.
    """
    try:
        return ask(beside(settings.spool_path), "reload", timeout_s=timeout_s)
    except NobodyThere:
        there = within(settings.state_directory)
        source = ask(there, "settings", timeout_s=timeout_s).get("source")
        if not source or source != os.path.realpath(settings.source):
            raise
    return ask(there, "reload", timeout_s=timeout_s)


def _tell(answer: dict[str, Any]) -> None:
    for text in answer.get("warnings", ()):
        warn(f"warning: {text}")
    for text in answer.get("mistakes", ()):
        warn(text)
    if answer["outcome"] != "reloaded":
        warn("not reloaded: the settings that held before hold on")
        return
    print("reloaded")
    for key in answer["needs_restart"]:
        print(f"needs a restart: {key}")
    if kept := answer.get("as_at_start", []):
        print(f"read at a start only, so as they were then: {', '.join(kept)}")
