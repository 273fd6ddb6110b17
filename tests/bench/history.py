"""How fast a large history is listed and searched: python -m tests.bench.history [directory] [messages].

A million messages of three days, made by SQL; then pages as the web page and the API ask for them, while nothing else
happens. Every page should come in under 100 ms (p95). "found": messages on the page; "more": it stopped before the end. The
newest fifty have a thousand recipients each, in the cases that say so.
"""

from __future__ import annotations

import asyncio
import random
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bridge.spool import schema
from bridge.spool.base import Page, Search
from bridge.spool.ids import id_at
from bridge.spool.opening import open_spool
from bridge.spool.sqlite import SqliteSpool

MESSAGES = 1_000_000
SPAN_S = 3 * 86_400.0
ROUNDS = 20
DOMAINS = [f"shop{n}.example" for n in range(2000)]
WORDS = [
    *("Your", "invoice", "order", "delivery", "has", "been", "sent", "paid", "shipped", "report", "daily", "backup"),
    *("failed", "welcome", "password", "reset"),
]
_MESSAGE = (
    "INSERT INTO message (queue_id, reverse_path, smtputf8, size, kind, created_at, expires_at, client, helo, user, protocol,"
    " message_id, subject, body, keep_body, failed, resolved_at)"
    " VALUES (?, ?, 0, 5000, 'mail', ?, ?, '192.0.2.7', 'erp', 'erp', 'ESMTPA', ?, ?, '', 0, 0, ?)"
)
_RECIPIENT = (
    "INSERT INTO recipient (queue_id, address, position, status, attempts, begun, unknowns, provider, provider_message_id,"
    " code, enhanced, text, fault, expires_at) VALUES (?, ?, 0, ?, 1, 0, 0, ?, ?, ?, ?, ?, '', ?)"
)

_RECIPIENT_AT = _RECIPIENT.replace("VALUES (?, ?, 0, ", "VALUES (?, ?, ?, ")
WIDE = 1000  # recipients


def rows(count: int, now: float) -> Iterator[tuple[tuple[Any, ...], tuple[Any, ...]]]:
    chance = random.Random(1)
    for n in range(count):
        at = now - 60 - SPAN_S * (count - n) / count
        queue_id = id_at(at)
        to = f"customer{chance.randrange(count)}@{chance.choice(DOMAINS)}"
        subject = f"{' '.join(chance.choices(WORDS, k=4))} {chance.randrange(10**8)}"
        bounced = n % 500 == 0
        yield (
            (queue_id, "erp@example.com", at, at + SPAN_S, f"<{n}.{at}@erp.example.com>", subject, at + 1),
            (
                *(queue_id, to, "bounced" if bounced else "sent", "main" if n % 10 else "backup", f"provider-{n}"),
                *((550, "5.1.1", "No such user") if bounced else (250, "2.0.0", "Ok: sent")),
                at + SPAN_S,
            ),
        )


def fill(path: Path, count: int, now: float) -> None:
    schema.create_file(path)
    db = schema.connect(path)
    schema.migrate(db, path)
    db.execute("PRAGMA synchronous = OFF")
    made = rows(count, now)
    for _ in range(0, count, 20_000):
        part = [row for row, _ in zip(made, range(20_000), strict=False)]
        db.execute("BEGIN")
        db.executemany(_MESSAGE, [one for one, _ in part])
        db.executemany(_RECIPIENT, [one for _, one in part])
        db.execute("COMMIT")
    db.execute("CREATE INDEX IF NOT EXISTS recipient_provider_id ON recipient (provider_message_id)")
    db.close()


def samples(path: Path, now: float) -> dict[str, tuple[Search, str]]:
    """name -> (what is asked for, `before`). A message of long ago is sought by what it is found by."""
    with sqlite3.connect(path) as db:
        old = "SELECT queue_id, address, subject, message_id, provider_message_id FROM message JOIN recipient USING (queue_id)"
        queue_id, address, subject, message_id, provider_id = db.execute(
            f"{old} WHERE queue_id > ? LIMIT 1",
            (id_at(now - SPAN_S * 0.9),),
        ).fetchone()
    number = subject.split()[-1]
    return {
        "newest": (Search(), ""),
        "a page of two days ago": (Search(), id_at(now - 2 * 86_400)),
        "bounced": (Search(status="bounced"), ""),
        "sent through backup": (Search(status="sent", provider="backup"), ""),
        "queue id": (Search(text=queue_id), ""),
        "Message-ID": (Search(id=message_id), ""),
        "provider's id": (Search(id=provider_id), ""),
        "address, old": (Search(address=address), ""),
        "text: address, old": (Search(text=address), ""),
        "domain": (Search(address="@shop77.example"), ""),
        "word of the subject": (Search(subject="invoice"), ""),
        "number in the subject, old": (Search(text=number), ""),
        "two words, one hour": (Search(text="backup failed", since=now - 86_400, until=now - 82_800), ""),
        "address that is not there": (Search(address="nobody@nowhere.example"), ""),
        "failed with a word": (Search(status="failed", text="password"), ""),
        "two letters": (Search(text="zz"), ""),
        "provider that is not there": (Search(provider="other"), ""),
    }


async def measure(path: Path, now: float) -> None:
    spool = await open_spool(
        path, max_bytes=100 << 30, min_free=0, history_s=SPAN_S * 2, failed_s=SPAN_S * 2, owner="b", now=now
    )
    start = time.perf_counter()
    while await spool.summarize(now=now):
        pass
    print(f"summarized in {time.perf_counter() - start:.1f} s, what an upgrade does bit by bit")
    print(f"{'':>30} {'p50':>8} {'p95':>8}  found")
    for name, (wanted, before) in samples(path, now).items():
        show(name, *await _time(spool, wanted, before))
    await spool.close()


async def measure_wide(path: Path, now: float) -> None:
    """The newest page again, of messages with very many recipients."""
    with sqlite3.connect(path) as db:
        for n in range(50):
            queue_id = id_at(now - 50 + n)
            mail = (queue_id, "erp@example.com", now, now + SPAN_S, f"<wide{n}@erp.example.com>", f"Wide {n}", now)
            db.execute(_MESSAGE, mail)
            people = ((f"user{i}@shop{i % 7}.example", i) for i in range(WIDE))
            told = ("sent", "main", "", 250, "2.0.0", "Ok: sent", now + SPAN_S)
            db.executemany(_RECIPIENT_AT, [(queue_id, address, at, *told) for address, at in people])
    db.close()
    spool = await open_spool(
        path, max_bytes=100 << 30, min_free=0, history_s=SPAN_S * 2, failed_s=SPAN_S * 2, owner="b", now=now
    )
    for name, wanted, recipients in (
        ("wide, for the page", Search(), 1),
        ("wide, for the API", Search(), 20),
        ("wide, one that is not there", Search(address="nobody@nowhere.example"), 1),
    ):
        show(name, *await _time(spool, wanted, "", recipients))
    await spool.close()


def show(name: str, times: list[float], page: Page) -> None:
    found = f"{len(page.rows)}{' more' if page.more else ''}"
    p95 = statistics.quantiles(times, n=20)[-1]
    print(f"{name:>30} {statistics.median(times) * 1000:>5.1f} ms {p95 * 1000:>5.1f} ms  {found}", flush=True)


async def _time(spool: SqliteSpool, wanted: Search, before: str, recipients: int = 1) -> tuple[list[float], Page]:
    page = await spool.search(wanted, before=before, recipients=recipients)  # warm
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        page = await spool.search(wanted, before=before, recipients=recipients)
        times.append(time.perf_counter() - start)
    return times, page


def main(place: str, count: int) -> None:
    with tempfile.TemporaryDirectory(dir=place) as directory:
        path, now = Path(directory, "spool.db"), time.time()
        start = time.perf_counter()
        fill(path, count, now)
        size = path.stat().st_size >> 20
        print(f"{count} messages, {size} MiB, made in {time.perf_counter() - start:.1f} s")
        asyncio.run(measure(path, now))
        asyncio.run(measure_wide(path, now))
        with sqlite3.connect(path) as db:
            print(f"the summaries take {db.execute('SELECT sum(length(words)) FROM summary').fetchone()[0] >> 20} MiB")


if __name__ == "__main__":
    main(
        sys.argv[1] if len(sys.argv) > 1 else tempfile.gettempdir(), int(sys.argv[2]) if len(sys.argv) > 2 else MESSAGES
    )
