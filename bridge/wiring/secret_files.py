"""Secrets that are kept in files: when one has changed, it holds from then on, without a signal.

Kubernetes swaps a link, others write the file or put another in its place. What cannot be used changes nothing: it is told
once, and looked at again when the file changes again. The settings file is no secret, and is read when somebody asks for it.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from bridge.config.load import SettingsError, with_files
from bridge.config.named_files import NamedFile, UnusableFile
from bridge.files import Stamp, stamp
from bridge.smtp.tls import CertificateError
from bridge.wiring.providers import ProviderError
from bridge.wiring.reload import use

if TYPE_CHECKING:
    from bridge.daemon import Daemon

log: Any = structlog.get_logger()

Found = Mapping[NamedFile, str]


class SecretFiles:
    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._refused: dict[Path, Stamp] = {}  # how they looked when they could not be used

    async def look(self) -> None:
        """At all of them; what has changed is used."""
        if not self._daemon.settings.files:
            return
        async with self._daemon.reloading:
            found = await asyncio.to_thread(self._changed, self._daemon.settings.files)
            # Together first: a key and its secret are often renewed as one. Then each by itself, so that one that is wrong keeps
            # none of the others back.
            if found and not await self._use(found, tell=len(found) == 1) and len(found) > 1:
                for file, value in found.items():
                    await self._use({file: value}, tell=True)

    def _changed(self, files: tuple[NamedFile, ...]) -> Found:
        found = {}
        for file in files:
            now = stamp(file.path)
            if now == file.stamp or now == self._refused.get(file.path):
                continue
            renewed = dataclasses.replace(file, stamp=now)
            try:
                found[renewed] = renewed.read()
            except UnusableFile as problem:
                self._refuse(renewed, str(problem))
        return found

    async def _use(self, found: Found, *, tell: bool) -> bool:
        try:
            await use(self._daemon, with_files(self._daemon.settings, found))
        except (SettingsError, ProviderError, CertificateError) as error:
            if tell:
                for file in found:
                    self._refuse(file, str(error))
            return False
        for file in found:
            self._refused.pop(file.path, None)
        log.info("secret.renewed", keys=[file.setting for file in found])
        return True

    def _refuse(self, file: NamedFile, text: str) -> None:
        log.error("secret.not_renewed", key=file.setting, text=text)
        self._refused[file.path] = file.stamp
