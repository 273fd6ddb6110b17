"""Webhooks as Standard Webhooks (and Svix, under other names of headers) has them: one event in a call, with the call's id."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from typing import Any, ClassVar

from bridge.model import Event
from bridge.providers.events.base import Call, Hook, HookSettings, Received, collect, json_body
from bridge.providers.events.signatures import check_standard, standard_key


class StandardHook(Hook):
    """`prefix`: of the headers' names. Raises ValueError for a secret that is none."""

    prefix: ClassVar[str] = "webhook"

    def __init__(self, settings: HookSettings) -> None:
        super().__init__(settings)
        self._key = self.key_of(settings.secret)

    @staticmethod
    def key_of(secret: str) -> bytes:
        return standard_key(secret)

    def verify(self, call: Call) -> None:
        check_standard(call, self._key, self.settings.tolerance, prefix=self.prefix)

    def parse(self, call: Call) -> Received:
        call_id = call.header(f"{self.prefix}-id")
        return collect([json_body(call)], lambda item: self.told(item, call_id))

    def read(self, item: dict[str, Any]) -> Iterable[Event]:
        return self.told(item, "")

    @abstractmethod
    def told(self, item: dict[str, Any], call_id: str) -> Iterable[Event]:
        """As `read`; the id is the same however often the call is made again."""
