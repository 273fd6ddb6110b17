"""Traces of messages, for those who want them (OpenTelemetry); without, `tracer` does nothing and costs a call.

A message is one trace: its transaction, then what the spool and the providers did with it, days later and in another process
perhaps. Nothing is stored for that: the ids of the trace and of its first span are made from the queue id (`ids_of`), which
everybody who works on the message knows. Spans are told when they have ended, so none is lost in a task that was cut off
without being noticed, and none is held meanwhile. No address, subject or text of anybody goes into one.
"""

from __future__ import annotations

import hashlib
from typing import Protocol

Value = str | int | bool


class Tracer(Protocol):
    def now(self) -> int:
        """When something begins; nanoseconds since the epoch, 0 when nobody wants to know."""

    def ended(
        self,
        name: str,
        queue_id: str,
        began: int,
        *,
        first: bool = False,
        failure: str = "",
        **facts: Value,
    ) -> None:
        """A span from `began` (0: it is left out) until now. `first`: the message's own; the others are its children.

        `failure`: why it did not go well. `facts`: become attributes.
        """


class Off:
    """Nobody wants traces."""

    def now(self) -> int:
        return 0

    def ended(
        self, name: str, queue_id: str, began: int, *, first: bool = False, failure: str = "", **facts: Value
    ) -> None:
        pass


tracer: Tracer = Off()


def use(new: Tracer) -> None:
    """For the whole process."""
    global tracer
    tracer = new


def ids_of(queue_id: str) -> tuple[int, int]:
    """Of the trace (128 bits) and of its first span (64 bits); neither is 0, which W3C Trace Context forbids.

    Queue ids are unique, so these are too; being a hash they are as good as random ones for whoever samples by them.
    """
    digest = hashlib.sha256(b"smtp-bridge trace " + queue_id.encode()).digest()
    return int.from_bytes(digest[:16], "big") or 1, int.from_bytes(digest[16:24], "big") or 1
