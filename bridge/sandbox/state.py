"""What the sandbox received and remembers, in bounded memory, and the journal that outlives the process."""

from __future__ import annotations

import os
import secrets
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from bridge.clock import Clock
from bridge.sandbox.exchange import Response
from bridge.sandbox.failures import FailurePlan
from bridge.sandbox.mail import Mail
from bridge.sandbox.payloads import Submission

MAX_KEPT_BYTES = 64 * 1024 * 1024
MAX_KEYS = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """One message that was taken. `headers` are those of the request, with its credentials masked.

    `shape` is that of the sandbox's own API, or the kind of the twin that took it; then `mail` is what it understood, and
    `provider_id` what it told the client.
    """

    id: str
    at: float
    shape: str
    idempotency_key: str
    sender: str
    to: tuple[str, ...]
    cc: tuple[str, ...]
    bcc: tuple[str, ...]
    recipients: tuple[str, ...]
    subject: str
    message_id: str
    payload: Mapping[str, Any]
    headers: tuple[tuple[str, str], ...]
    mail: Mail | None = None
    provider_id: str = ""


class Journal:
    """A JSON line for each message, given to the system before the answer is, so that it survives a kill."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def append(self, received: Received) -> None:
        line = {
            "id": received.id,
            "key": received.idempotency_key,
            "to": received.to,
            "cc": received.cc,
            "bcc": received.bcc,
            "recipients": received.recipients,
            "subject": received.subject,
            "message_id": received.message_id,
        }
        # One short write, so that a line is whole or absent; not worth a thread.
        os.write(self._file, orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))

    def close(self) -> None:
        os.close(self._file)


class State:
    """`total` counts what was recorded since the start or the last `clear`, also what is no longer kept."""

    def __init__(
        self, *, clock: Clock, max_messages: int, on_received: Callable[[Received], None] | None = None
    ) -> None:
        self.plan = FailurePlan()
        self.journal: Journal | None = None
        self._clock = clock
        self._max_messages = max_messages
        self._on_received = on_received
        self.clear()

    def clear(self) -> None:
        """Forget messages, idempotency keys and counters; the failure plan stays."""
        self.total = 0
        self.replayed = 0
        self.failed = 0
        self.responses: Counter[int] = Counter()
        self._messages: deque[tuple[Received, int]] = deque()
        self._kept_bytes = 0
        self._keys: OrderedDict[str, tuple[str, str]] = OrderedDict()
        self._answers: OrderedDict[tuple[str, str], tuple[str, Response]] = OrderedDict()

    @property
    def messages(self) -> list[Received]:
        """Oldest first."""
        return [received for received, _ in self._messages]

    def record(self, submission: Submission, *, key: str, headers: tuple[tuple[str, str], ...]) -> Received:
        received = Received(
            id=f"msg_{secrets.token_hex(8)}",
            at=self._clock.now(),
            shape=submission.shape,
            idempotency_key=key,
            sender=submission.sender,
            to=submission.to,
            cc=submission.cc,
            bcc=submission.bcc,
            recipients=submission.recipients,
            subject=submission.subject,
            message_id=submission.message_id,
            payload=submission.payload,
            headers=headers,
        )
        if key:
            self._remember(key, submission.fingerprint, received.id)
        return self._add(received)

    def record_mail(
        self, kind: str, mail: Mail, *, provider_id: str, payload: Any, headers: tuple[tuple[str, str], ...]
    ) -> Received:
        """A message that the twin of this kind took."""
        received = Received(
            id=f"msg_{secrets.token_hex(8)}",
            at=self._clock.now(),
            shape=kind,
            idempotency_key=mail.idempotency_key,
            sender=mail.sender,
            to=tuple(email for email, _ in mail.to),
            cc=tuple(email for email, _ in mail.cc),
            bcc=mail.bcc,
            recipients=mail.recipients,
            subject=mail.subject,
            message_id=mail.message_id,
            payload=payload,
            headers=headers,
            mail=mail,
            provider_id=provider_id,
        )
        return self._add(received)

    def remembered(self, key: str) -> tuple[str, str] | None:
        """Fingerprint and id of the message that was taken with this idempotency key."""
        return self._keys.get(key)

    def remembered_answer(self, kind: str, key: str) -> tuple[str, Response] | None:
        """Fingerprint of the request that this twin took with the key, and what it answered."""
        return self._answers.get((kind, key))

    def remember_answer(self, kind: str, key: str, fingerprint: str, response: Response) -> None:
        self._answers[kind, key] = (fingerprint, response)
        if len(self._answers) > MAX_KEYS:
            self._answers.popitem(last=False)

    def stats(self) -> dict[str, Any]:
        return {
            "received": self.total,
            "kept": len(self._messages),
            "kept_bytes": self._kept_bytes,
            "replayed": self.replayed,
            "failed": self.failed,
            "responses": {str(status): count for status, count in sorted(self.responses.items())},
            "plan": self.plan.as_json(),
        }

    def _add(self, received: Received) -> Received:
        if self.journal:
            self.journal.append(received)
        self._keep(received)
        self.total += 1
        if self._on_received:
            self._on_received(received)
        return received

    def _keep(self, received: Received) -> None:
        size = len(orjson.dumps(received))
        self._messages.append((received, size))
        self._kept_bytes += size
        while len(self._messages) > self._max_messages or self._kept_bytes > MAX_KEPT_BYTES:
            self._kept_bytes -= self._messages.popleft()[1]

    def _remember(self, key: str, fingerprint: str, message_id: str) -> None:
        self._keys[key] = (fingerprint, message_id)
        if len(self._keys) > MAX_KEYS:
            self._keys.popitem(last=False)
