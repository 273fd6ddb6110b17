"""The files behind the listeners' TLS contexts: when one has changed, new connections get a context made from it.

Open sessions keep what they have. A bad file changes nothing; it is told once, and tried again when it changes again.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import structlog

from bridge.files import Stamp as FileStamp
from bridge.files import stamp as file_stamp
from bridge.smtp.conversation import Service
from bridge.smtp.tls import CertificateError, make_context

log: Any = structlog.get_logger()

Stamp = tuple[FileStamp, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFiles:
    """`key` None: it stands in `cert`. `client_ca` None: no client certificates. `minimum`: "1.0" to "1.3"."""

    cert: Path
    key: Path | None = None
    client_ca: Path | None = None
    minimum: str = "1.2"

    def make(self) -> ssl.SSLContext:
        """Raises CertificateError naming the file."""
        return make_context(self.cert, self.key, minimum=self.minimum, client_ca=self.client_ca)

    def stamp(self) -> Stamp:
        """Differs when one of them was changed, see `bridge.files`."""
        return tuple(file_stamp(path) for path in (self.cert, self.key, self.client_ca) if path)


@dataclass(slots=True, eq=False)
class Made:
    """A context, from which files, and how these looked before it was made: a change meanwhile is seen at the next look."""

    files: TlsFiles
    stamp: Stamp
    context: ssl.SSLContext
    refused: Stamp | None = None  # how they looked when they could not be used


def _make(files: TlsFiles) -> Made:
    return Made(files, files.stamp(), files.make())


class Contexts:
    """Those of all listeners with TLS."""

    def __init__(self) -> None:
        self._services: list[Service] = []
        self._made: list[Made] = []
        self._looking = asyncio.Lock()  # two that look at the same time would both find the same change

    def add(self, service: Service, files: TlsFiles) -> None:
        """Raises CertificateError."""
        made = _make(files)
        self._services.append(service)
        self._made.append(made)
        service.tls_context = made.context

    async def make(self, certificate: Callable[[], tuple[Path, Path | None]]) -> Sequence[Made]:
        """For each listener one from the certificate and key that `certificate` names (asked in a thread), for `use`. Raises
        CertificateError."""
        return await asyncio.to_thread(self._make_all, certificate) if self._made else ()

    def _make_all(self, certificate: Callable[[], tuple[Path, Path | None]]) -> Sequence[Made]:
        cert, key = certificate()
        return [_make(replace(made.files, cert=cert, key=key)) for made in self._made]

    def use(self, made: Sequence[Made]) -> None:
        """For handshakes from now on."""
        self._made = list(made)
        for service, one in zip(self._services, made, strict=True):
            service.tls_context = one.context

    async def renew(self) -> None:
        """Look at the files, and make anew what has changed."""
        async with self._looking:
            for service, made in zip(self._services, self._made, strict=True):
                stamp = await asyncio.to_thread(made.files.stamp)
                if stamp != made.stamp:
                    await self._renew(service, made, stamp)

    async def _renew(self, service: Service, made: Made, stamp: Stamp) -> None:
        """What cannot be used now is tried again at the next look (it may have been the machine's fault), and told once."""
        listener = service.policy.name
        try:
            made.context = await asyncio.to_thread(made.files.make)
        except CertificateError as error:
            if stamp != made.refused:
                log.error("tls.not_renewed", listener=listener, text=str(error))
            made.refused = stamp
            return
        made.stamp = stamp
        if made in self._made:  # else other files were given meanwhile
            service.tls_context = made.context
            log.info("tls.renewed", listener=listener, cert_file=str(made.files.cert))
