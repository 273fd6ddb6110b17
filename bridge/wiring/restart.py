"""Which settings are read at a start alone. A daemon that runs keeps the ones it has, all through, until it starts again."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TypeVar

from bridge.config.section import Section
from bridge.config.settings import Settings
from bridge.config.smtp import Listener

_S = TypeVar("_S", bound=Section)

HTTP = ("address", "max_connections")
SMTP = (
    "max_connections",  # open files are allowed for them at a start
    "max_header_size",
    "max_mime_depth",
    "max_mime_parts",
    "memory_budget",
    "memory_wait",
    "auth_cache",
    "auth_delay",
    "auth_delay_maximum",
    "auth_forget",
)
LISTENER = (
    "address",
    "name",
    "protocol",
    "tls",
    "tls_minimum",
    "client_ca_file",
    "client_certificates",
    "proxy_protocol",
)


def until_restart(running: Settings, wanted: Settings) -> tuple[Settings, list[str]]:
    """`wanted`, with what only a start reads as it is in `running`; and the keys in which the two differ."""
    keys: list[str] = []
    tables: dict[str, Section] = {"spool": running.spool, "workers": running.workers}
    keys += [*_differing("spool", running.spool, wanted.spool), *_differing("workers", running.workers, wanted.workers)]
    tables["http"] = _keep("http", running.http, wanted.http, HTTP, keys)
    smtp = _keep("smtp", running.smtp, wanted.smtp, SMTP, keys)
    listeners = _listeners(running.smtp.listener, wanted.smtp.listener, keys)
    tables["smtp"] = smtp.model_copy(update={"listener": listeners})
    return wanted.model_copy(update=tables), list(dict.fromkeys(keys))


def _listeners(running: tuple[Listener, ...], wanted: tuple[Listener, ...], keys: list[str]) -> tuple[Listener, ...]:
    """Where it listens elsewhere, none of the new rules hold: they were written for other doors."""
    if len(running) != len(wanted):
        keys.append("smtp.listener")
        return running
    if any(old.address != new.address for old, new in zip(running, wanted, strict=True)):
        for old, new in zip(running, wanted, strict=True):
            keys += _differing("smtp.listener", old, new)
        return running
    return tuple(_keep("smtp.listener", old, new, LISTENER, keys) for old, new in zip(running, wanted, strict=True))


def _keep(table: str, running: _S, wanted: _S, names: Collection[str], keys: list[str]) -> _S:
    keys += _differing(table, running, wanted, names)
    return wanted.model_copy(update={name: getattr(running, name) for name in names})


def _differing(table: str, running: Section, wanted: Section, names: Collection[str] | None = None) -> Iterator[str]:
    for name in type(running).model_fields if names is None else names:
        if getattr(running, name) != getattr(wanted, name):
            yield f"{table}.{name}"
