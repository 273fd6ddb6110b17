"""What the daemon remembers beside the mail: values, messages it has seen, requests, posts to make, addresses not to mail."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bridge.spool import memory, requests
from bridge.spool.base import Asked, Post
from bridge.spool.engine import Engine, Parts
from bridge.spool.writer import Operation


class Remembrance(Engine):
    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        self._remember = Operation("remember", memory.remember, durable=False)
        self._remember_well = Operation("remember", memory.remember)
        self._note_seen = Operation("note_seen", memory.note_seen, durable=False)
        self._forget = Operation("forget", memory.forget, durable=False, rank=2)
        self._note_request = Operation("note_request", requests.note, rank=0)
        self._begin_request = Operation("begin_request", requests.note, durable=False, rank=0)
        self._forget_requests = Operation("forget_requests", requests.forget, durable=False, rank=2)
        self._settle_post = Operation("settle_post", memory.settle_posts)
        self._suppress = Operation("suppress", memory.suppress, rank=0)
        self._unsuppress = Operation("unsuppress", memory.unsuppress, rank=0)

    async def remember(
        self, values: Mapping[str, str], *, now: float, durable: bool = False, posts: Sequence[Post] = ()
    ) -> None:
        operation = self._remember_well if durable else self._remember
        await self._writer.submit(operation, memory.Remember(values, now, tuple(posts)))

    async def note_seen(self, fingerprint: bytes, reply: str, *, now: float) -> None:
        await self._writer.submit(self._note_seen, memory.Seen(fingerprint, reply, now))

    async def find_seen(self, fingerprint: bytes, *, since: float) -> str | None:
        return await self._reader.run(memory.find_seen, fingerprint, since)

    async def forget(self, *, seen_before: float, limit: int = 500) -> int:
        dropped: int = await self._writer.submit(self._forget, memory.Forget(seen_before, limit))
        return dropped

    async def note_request(self, asked: Asked, *, now: float) -> None:
        operation = self._note_request if asked.status else self._begin_request
        await self._writer.submit(operation, requests.Note(asked, now))

    async def find_request(self, key: bytes, *, since: float) -> Asked | None:
        return await self._reader.run(requests.find, key, since)

    async def forget_requests(self, *, before: float, limit: int = 500) -> int:
        dropped: int = await self._writer.submit(self._forget_requests, requests.Forget(before, limit))
        return dropped

    # Posts that are still to be made

    async def due_posts(self, *, now: float, limit: int = 20, target: str = "") -> Sequence[Post]:
        return await self._reader.run(memory.due_posts, now, limit, target)

    async def settle_post(self, post: Post, *, next_attempt_at: float | None) -> None:
        await self._writer.submit(self._settle_post, memory.PostDone(post.id, next_attempt_at))

    # Addresses that are not mailed

    async def list_suppressions(self, *, limit: int = 1000, after: str = "") -> Sequence[Mapping[str, Any]]:
        """By address; `after` is the last one of the page before."""
        return await self._searcher.run(memory.list_suppressions, limit, after)

    async def find_suppressions(
        self, typed: str, *, limit: int = 100, after: str = ""
    ) -> tuple[Sequence[Mapping[str, Any]], str]:
        """As listed, those with this in the address or the reason; and where to go on, "" at the end. Never takes long: what is
        found until then is given."""
        return await self._searcher.run(memory.find_suppressions, typed, limit, after)

    async def suppressions(self) -> Mapping[str, str]:
        return await self._reader.run(memory.suppressions)

    async def suppress(self, address: str, reason: str, *, provider: str = "", now: float) -> bool:
        added: bool = await self._writer.submit(self._suppress, memory.Suppress(address, reason, provider, now))
        if not self._bell.ours:  # the daemon knows what it did itself
            self._bell.ring()
        return added

    async def unsuppress(self, address: str) -> bool:
        """False when it was not suppressed."""
        removed: bool = await self._writer.submit(self._unsuppress, address)
        self._bell.ring()
        return removed

    async def recall(self, prefix: str = "") -> Mapping[str, str]:
        """What is remembered under names that begin so."""
        return await self._reader.run(memory.recall, prefix)
