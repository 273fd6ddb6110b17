"""Words for the spool's tests: messages, results and ways to look at what became of them. Time is a plain number here."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any

from bridge.model import Envelope, Fault, Message, Origin
from bridge.reply import Reply
from bridge.spool.base import Claimed, Lease, Result, SpoolFull
from bridge.spool.ids import new_queue_id
from bridge.spool.sqlite import SqliteSpool

NOW = 1_700_000_000.0
LIFETIME = 1000.0
ANN, BOB, EVE = "ann@example.com", "bob@example.com", "eve@example.com"

SENT = Result(status="sent", reply=Reply(250, "2.0.0", "Ok: sent"), provider="main", provider_message_id="id-1")
BOUNCED = Result(status="bounced", reply=Reply(550, "5.1.1", "No such user"), fault=Fault.RECIPIENT, provider="main")
EXPIRED = Result(status="expired", reply=Reply(554, "5.4.7", "Too old"), provider="main")
LOST = Result(status="deferred", reply=Reply(451, "4.4.2", "Answer lost"), at=NOW + 10, provider="main", unknown=True)
HELD = Result(status="held", reply=Reply(451, "4.4.2", "Held"), provider="main")
BLOCKED = Result(
    status="deferred", reply=Reply(451, "4.3.5", "Bad key"), fault=Fault.ACCOUNT, at=NOW + 10, blocked=True
)


def deferred(at: float) -> Result:
    return Result(status="deferred", reply=Reply(451, "4.4.1", "Later"), fault=Fault.PROVIDER, at=at, provider="main")


def message(*recipients: str, raw: bytes = b"Subject: hi\r\n\r\nHello\r\n", at: float = NOW, **other: Any) -> Message:
    return Message(
        queue_id=other.pop("queue_id", "") or new_queue_id(),
        envelope=Envelope(reverse_path="sender@example.org", recipients=recipients or (ANN,)),
        raw=raw,
        created_at=at,
        expires_at=at + LIFETIME,
        origin=Origin(client="192.0.2.7", helo="printer", user="printer", protocol="ESMTPA"),
        message_id="<1@example.org>",
        subject=other.pop("subject", "hi"),
        **other,
    )


async def claim(spool: SqliteSpool, now: float = NOW, *, limit: int = 100, lease_s: float = 60.0) -> list[Claimed]:
    return list(await spool.claim(owner="me", now=now, lease_s=lease_s, limit=limit))


async def claim_one(spool: SqliteSpool, now: float = NOW, lease_s: float = 60.0) -> Claimed:
    (only,) = await claim(spool, now, lease_s=lease_s)
    return only


async def record(
    spool: SqliteSpool, claimed: Claimed, results: Mapping[str, Result] | Result, now: float = NOW
) -> frozenset[str]:
    if isinstance(results, Result):
        results = {one.address: results for one in claimed.recipients}
    return await spool.record(claimed.message.queue_id, claimed.lease, results, now=now)


async def tell_senders(spool: SqliteSpool, now: float = NOW) -> int:
    """Settle every notice that is pending, as if the senders had been told; how many messages."""
    told = 0
    while found := await spool.notices(limit=500):
        for due in found:
            await spool.settle_notices(due, now=now)
        told += len(found)
    return told


async def statuses(spool: SqliteSpool, queue_id: str) -> dict[str, str]:
    row = await spool.show(queue_id)
    return {} if row is None else {one["address"]: one["status"] for one in row["recipients"]}


async def events(spool: SqliteSpool, queue_id: str) -> list[str]:
    row = await spool.show(queue_id)
    return [] if row is None else [one["event"] for one in row["events"]]


async def fill(spool: SqliteSpool, raw: bytes) -> list[str]:
    """Put until there is no room; returns the queue ids that were promised."""
    accepted: list[str] = []
    while True:
        mail = message(raw=raw)
        try:
            await spool.put(mail)
        except SpoolFull:
            return accepted
        accepted.append(mail.queue_id)
        assert len(accepted) < 5000


def other_epoch(lease: Lease) -> Lease:
    return replace(lease, epoch=lease.epoch + 1)


OpenSpool = Callable[..., Awaitable[SqliteSpool]]
