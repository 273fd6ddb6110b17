"""Random operations against a model of the promises: whatever the order, nobody is sent to twice at once, and all end."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import pytest

from bridge.spool.base import Claimed
from bridge.spool.sqlite import SqliteSpool

from .support import ANN, BLOCKED, BOB, BOUNCED, EVE, HELD, LOST, NOW, SENT, deferred, message, tell_senders

LEASE_S = 20.0
FINAL = {"sent", "bounced", "dropped"}


@dataclass
class World:
    """What a careful observer knows. Keys are (queue id, address)."""

    spool: SqliteSpool
    dice: random.Random
    now: float = NOW
    ids: list[str] = field(default_factory=list)
    running: list[Claimed] = field(default_factory=list)
    leased_until: dict[tuple[str, str], float] = field(default_factory=dict)
    final: dict[tuple[str, str], str] = field(default_factory=dict)

    async def put(self) -> None:
        mail = message(*self.dice.sample([ANN, BOB, EVE], self.dice.randint(1, 3)), at=self.now)
        await self.spool.put(mail)
        self.ids.append(mail.queue_id)

    async def claim(self) -> None:
        for item in await self.spool.claim(owner="me", now=self.now, lease_s=LEASE_S, limit=self.dice.randint(1, 4)):
            for one in item.recipients:
                key = (item.message.queue_id, one.address)
                assert key not in self.final
                assert self.leased_until.get(key, 0.0) <= self.now
                assert one.interrupted == (key in self.leased_until)
                self.leased_until[key] = self.now + LEASE_S
            self.running.append(item)

    async def record(self) -> None:
        if not self.running:
            return
        item = self.running.pop(self.dice.randrange(len(self.running)))
        choices = [SENT, SENT, BOUNCED, HELD, LOST, BLOCKED, deferred(self.now + 5)]
        results = {one.address: self.dice.choice(choices) for one in item.recipients}
        for address in await self.spool.record(item.message.queue_id, item.lease, results, now=self.now):
            key = (item.message.queue_id, address)
            assert self.leased_until.pop(key) == item.lease.until
            if results[address].status in FINAL:
                self.final[key] = results[address].status

    async def wait(self) -> None:
        self.now += self.dice.choice([1.0, 6.0, LEASE_S + 1])

    async def operate(self) -> None:
        if not self.ids:
            return
        queue_id = self.dice.choice(self.ids)
        await self.dice.choice([self.spool.hold, self.spool.release])([queue_id], now=self.now)

    async def look(self) -> None:
        await tell_senders(self.spool, self.now)
        for queue_id in self.ids:
            row = await self.spool.show(queue_id)
            assert row
            statuses = {one["address"]: one["status"] for one in row["recipients"]}
            known = {address: status for (of, address), status in self.final.items() if of == queue_id}
            assert {a: s for a, s in statuses.items() if s in FINAL} == known
            done = set(statuses.values()) <= FINAL
            assert (row["resolved_at"] is not None) == done
            assert row["has_body"] == (not done or "bounced" in statuses.values())

    async def finish(self) -> None:
        """Release what is held, wait for lost leases, and send all that is left."""
        self.now += 1000
        await self.spool.release(self.ids, now=self.now)
        while items := await self.spool.claim(owner="me", now=self.now, lease_s=LEASE_S, limit=10):
            for item in items:
                results = {one.address: SENT for one in item.recipients}
                written = await self.spool.record(item.message.queue_id, item.lease, results, now=self.now)
                assert written == set(results)
                self.final.update({(item.message.queue_id, address): "sent" for address in written})


@pytest.mark.parametrize("seed", range(25))
async def test_whatever_the_order_the_promises_hold(spool: SqliteSpool, seed: int) -> None:
    world = World(spool, random.Random(seed))
    steps: list[Callable[[], Awaitable[None]]] = [
        world.put, world.put, world.claim, world.claim, world.record, world.record, world.record, world.wait,
        world.operate,
    ]  # fmt: skip
    for _ in range(80):
        await world.dice.choice(steps)()
    await world.look()
    await world.finish()
    await world.look()

    assert await spool.next_due() is None
    assert set((await spool.stats()).by_status) <= {"bounced"}
