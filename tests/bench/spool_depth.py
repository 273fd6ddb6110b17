"""How fast the spool is when much is in it already: python -m tests.bench.spool_depth [directory] [depth ...].

Put, claim, and drain (claim, record) of 5 kB messages with 0, 100 000 and 1 000 000 messages already waiting, and how long
`smtp-bridge run` needs from its start to the first greeting. The ratios to the empty spool should be near 1.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bridge.model import Envelope, Message, Origin
from bridge.reply import Reply
from bridge.spool import schema
from bridge.spool.base import Result
from bridge.spool.ids import new_queue_id
from bridge.spool.intake import Intake, Retention, head, insert_messages
from bridge.spool.opening import open_spool
from bridge.spool.sqlite import SqliteSpool

DEPTHS = (0, 100_000, 1_000_000)
COUNT = 6000  # messages of a measurement
AT_ONCE = 20
CLAIMED = 100  # in one claim
SOURCES = 20
LANE = "main#0"
SENT = Result(status="sent", reply=Reply(250, "2.0.0", "Ok: sent"), provider="main", provider_message_id="id-1")


def message(number: int, raw: bytes = b"x" * 5000) -> Message:
    now = time.time()
    return Message(
        queue_id=new_queue_id(),
        envelope=Envelope(reverse_path="a@example.com", recipients=(f"r{number}@example.com",)),
        raw=raw,
        created_at=now,
        expires_at=now + 86400,
        origin=Origin(client=f"192.0.2.{number % SOURCES}"),
        subject="A subject of usual length",
        message_id="<20240101120000.12345@example.com>",
        source=f"192.0.2.{number % SOURCES}",
    )


def fill(path: Path, count: int) -> None:
    """Messages that wait, with short bodies: what is deep is the queue."""
    schema.create_file(path)
    db = schema.connect(path)
    schema.migrate(db, path)
    db.execute("PRAGMA synchronous = OFF")
    keep = Retention(86400, 86400)
    for start in range(0, count, 5000):
        db.execute("BEGIN")
        mails = [message(n, b"x" * 200) for n in range(start, min(start + 5000, count))]
        insert_messages(db, [_entry(mail) for mail in mails], retention=keep)
        db.execute("COMMIT")
    db.close()


def _entry(mail: Message) -> Intake:
    (recipient,) = mail.envelope.recipients
    return Intake(
        head(mail),
        mail.envelope.recipients,
        mail.expires_at,
        mail.created_at,
        mail.raw,
        None,
        {},
        lanes={recipient: LANE},
        source=mail.source,
    )


async def rate(count: int, work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    await work()
    return count / (time.perf_counter() - start)


async def put_all(spool: SqliteSpool) -> None:
    async def putter(n: int) -> None:
        for number in range(COUNT // AT_ONCE):
            mail = message(n * COUNT + number)
            await spool.put(mail, lanes={mail.envelope.recipients[0]: LANE})

    await asyncio.gather(*(putter(n) for n in range(AT_ONCE)))


async def claim_all(spool: SqliteSpool) -> list[Any]:
    found: list[Any] = []
    while len(found) < COUNT:
        found += await spool.claim(
            owner="bench", now=time.time() + 10, lease_s=600, limit=CLAIMED, lanes=[LANE], provider="main"
        )
    return found


async def drain_all(spool: SqliteSpool) -> None:
    done = 0
    while done < COUNT:
        now = time.time() + 10
        claimed = await spool.claim(owner="bench", now=now, lease_s=600, limit=CLAIMED, lanes=[LANE], provider="main")
        await asyncio.gather(
            *(
                spool.record(i.message.queue_id, i.lease, dict.fromkeys(i.message.envelope.recipients, SENT), now=now)
                for i in claimed
            )
        )
        done += len(claimed)


async def measure(path: Path) -> dict[str, float]:
    spool = await open_spool(
        path, max_bytes=100 << 30, min_free=0, history_s=86400, failed_s=86400, owner="b", now=time.time()
    )
    await put_all(spool)  # warm, and enough for an empty queue
    found = {"put": await rate(COUNT, lambda: put_all(spool))}
    found["drain"] = await rate(COUNT, lambda: drain_all(spool))
    found["claim"] = await rate(COUNT, lambda: claim_all(spool))
    await spool.close()
    return found


async def startup(directory: Path, path: Path) -> float:
    """Seconds until the daemon greets. Nothing is sent: the provider's address is nobody's."""
    environ = {
        **os.environ,
        "STATE_DIRECTORY": str(directory),
        "SMTP_BRIDGE_SPOOL__URL": f"sqlite://{path}",
        "SMTP_BRIDGE_SPOOL__MIN_FREE": "0",
        "SMTP_BRIDGE_SPOOL__MAX_BYTES": "0",
        "SMTP_BRIDGE_PROVIDER__NAME": "main",
        "SMTP_BRIDGE_PROVIDER__KIND": "rest",
        "SMTP_BRIDGE_PROVIDER__URL": "http://127.0.0.1:9/send-email",
        "SMTP_BRIDGE_SMTP__LISTENER__ADDRESS": f"unix:{directory}/smtp.sock",
    }
    start = time.perf_counter()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bridge", "run"), env=environ, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        for _ in range(3000):
            try:
                reader, writer = await asyncio.open_unix_connection(f"{directory}/smtp.sock")
            except OSError:
                await asyncio.sleep(0.01)
                continue
            await reader.readline()
            writer.close()
            return time.perf_counter() - start
        raise RuntimeError("the daemon did not start")
    finally:
        process.send_signal(signal.SIGTERM)
        await process.wait()


def measure_depth(place: str, depth: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory(dir=place) as directory:
        path = Path(directory, "spool.db")
        fill(path, depth)
        found = asyncio.run(measure(path))
        with sqlite3.connect(path) as db:
            db.execute("UPDATE recipient SET lease_owner = NULL WHERE lease_owner IS NOT NULL")
        found["start"] = asyncio.run(startup(Path(directory), path))
    return found


def main(place: str, depths: list[int]) -> None:
    print(f"{'already waiting':>16} {'put/s':>14} {'claim/s':>14} {'drain/s':>14} {'start':>8}")
    first: dict[str, float] = {}
    for depth in depths:
        found = measure_depth(place, depth)
        first = first or found
        cells = " ".join(f"{found[k]:>8.0f} {found[k] / first[k]:>4.2f}x" for k in ("put", "claim", "drain"))
        print(f"{depth:>16} {cells} {found['start']:>6.2f} s", flush=True)


if __name__ == "__main__":
    main(
        sys.argv[1] if len(sys.argv) > 1 else tempfile.gettempdir(), [int(arg) for arg in sys.argv[2:]] or list(DEPTHS)
    )
