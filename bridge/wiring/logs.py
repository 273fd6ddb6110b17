"""The log from the settings."""

from __future__ import annotations

import secrets
from typing import Any

import structlog

from bridge import log as logging_setup
from bridge.config.settings import Settings

log: Any = structlog.get_logger()

KEY_FILE = "log.key"


def set_up(settings: Settings) -> None:
    """For the whole process, at a start and whenever `[log]` has changed."""
    section, key, problem = settings.log, b"", ""
    if section.addresses == "hashed":
        try:
            key = logging_setup.address_key(settings.state_directory / KEY_FILE)
        except OSError as error:
            key, problem = secrets.token_bytes(32), f"{settings.state_directory / KEY_FILE}: {error.strerror}"
    logging_setup.configure(
        level=section.level, format=section.format, addresses=section.addresses, priority=section.priority, key=key
    )
    if problem:
        log.warning("daemon.warning", text=f"{problem}; addresses are hashed with a key of this run alone")
