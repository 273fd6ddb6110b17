"""`kind = "capture"`: takes every mail and sends none. It stays in the spool with its body, to be looked at."""

from __future__ import annotations

from collections.abc import Mapping

from bridge.mime.addressing import address
from bridge.model import Addressing, Email, Envelope, Outcome
from bridge.providers.base import Provider, Unfit
from bridge.reply import sent


class CaptureProvider(Provider):
    kind = "capture"
    idempotent = True
    keeps_bodies = True

    def unfit(self, email: Email, envelope: Envelope) -> Unfit | None:
        return None

    def calls(self, email: Email, reverse_path: str, recipients: tuple[str, ...]) -> tuple[Addressing, ...]:
        return address(email, reverse_path, recipients, carries_envelope=True)

    async def send(self, email: Email, addressing: Addressing, *, queue_id: str, key: str) -> Mapping[str, Outcome]:
        outcome = Outcome(status="sent", reply=sent(queue_id), detail="captured", provider_message_id=queue_id)
        return dict.fromkeys(addressing.recipients, outcome)
