"""A claim costs what it takes, not what the queue holds; the same for everything else on the path of a message."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from bridge.spool import changes, leases, messages, retention, schema
from bridge.spool.base import Lease
from bridge.spool.intake import Intake, Retention, head, insert_messages
from bridge.spool.values import placeholders

from .support import NOW, message

LEASE = {"owner": "me", "epoch": 1}
AMONG = ("[]",)
# name -> (statement, its values, tables that may be scanned: what the statement itself brought)
STATEMENTS: dict[str, tuple[str, object]] = {
    "promote": (leases.PROMOTE, {"now": 1, "limit": 1}),
    "claim": (leases.CLAIM, {**LEASE, "until": 1, "ids": "[]", "lanes": None, "provider": "", "tried": 1}),
    "next lane": (leases.NEXT_LANE, ("",)),
    "next source": (leases.NEXT_SOURCE, ("", "")),
    "oldest": (leases.OLDEST, ("", "", "", 1)),
    "sizes": (leases.SIZES, AMONG),
    "held": (leases._HELD_BY.format(rows=placeholders(5, 4)), [1] * 20),
    "write": (leases._WRITE.format(rows=placeholders(16, 4)), [1] * 64),
    "finish": (retention._FINISH, {"now": 1, "keep_failed": 1, "ids": "[]"}),
    "files": (retention._FILES, AMONG),
    "delete bodies": (retention._DELETE_BODIES, AMONG),
    "note no body": (retention._NOTE_NO_BODY, AMONG),
    "claimed messages": (messages._MESSAGES, LEASE),
    "claimed recipients": (messages._RECIPIENTS, LEASE),
    "hold": (changes._HOLD, {"now": 1, "ids": "[]"}),
    "drop": (changes._DROP, {"now": 1, "ids": "[]"}),
    "retry failed": (changes._RETRY_FAILED, {"now": 1, "ids": "[]"}),
}


@pytest.fixture
def db(path: Path) -> sqlite3.Connection:
    schema.create_file(path)
    connection = schema.connect(path)
    schema.migrate(connection, path)
    return connection


def fill(db: sqlite3.Connection, count: int) -> None:
    keep = Retention(1000, 1000)
    db.execute("BEGIN")
    for start in range(0, count, 500):
        mails = [message(at=NOW - n) for n in range(start, min(start + 500, count))]
        entries = [Intake(head(m), m.envelope.recipients, m.expires_at, m.created_at, m.raw, None, {}) for m in mails]
        insert_messages(db, entries, retention=keep)
    db.execute("COMMIT")


@pytest.mark.parametrize("name", STATEMENTS)
def test_no_table_is_scanned(db: sqlite3.Connection, name: str) -> None:
    sql, values = STATEMENTS[name]
    plan = [row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {sql}", values)]  # type: ignore[arg-type]

    scanned = {step.split()[1] for step in plan if step.startswith("SCAN")}
    assert scanned.isdisjoint({"message", "recipient", "body", "event"}), plan
    db.close()


def test_due_rows_are_read_in_order_from_their_index(db: sqlite3.Connection) -> None:
    def plan(name: str) -> str:
        sql, values = STATEMENTS[name]
        return "\n".join(row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {sql}", values))  # type: ignore[arg-type]

    assert "SEARCH recipient USING INDEX recipient_due (next_attempt_at<?)" in plan("promote")
    assert "SEARCH recipient USING INDEX recipient_ready (lane=? AND source=? AND queue_id>?)" in plan("oldest")
    assert "SEARCH recipient USING INDEX recipient_ready (lane=? AND source>?)" in plan("next source")
    for name in ("promote", "claim"):
        assert "SEARCH recipient USING PRIMARY KEY (queue_id=?)" in plan(name)
    db.close()


def steps_of_a_claim(db: sqlite3.Connection, epoch: int) -> int:
    """Work in units of SQLite's machine: the same on every computer."""
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += 1
        return 0

    db.set_progress_handler(count, 10)
    lease = Lease(owner="me", epoch=epoch, until=NOW + 60)
    assert leases.Turns().claim(db, [leases.Claim(lease, NOW, 20)]) == [20]
    db.set_progress_handler(None, 0)
    return steps


def test_a_claim_from_a_long_queue_costs_as_much_as_from_a_short_one(db: sqlite3.Connection) -> None:
    fill(db, 100)
    short = steps_of_a_claim(db, 1)
    fill(db, 20_000)
    long = steps_of_a_claim(db, 2)

    assert long < short * 1.2
    db.close()


def test_leased_rows_never_stand_in_the_way_of_a_claim(db: sqlite3.Connection) -> None:
    fill(db, 5000)
    first = steps_of_a_claim(db, 1)
    leases.Turns().claim(db, [leases.Claim(Lease(owner="me", epoch=2, until=NOW + 60), NOW, 4500)])

    assert steps_of_a_claim(db, 3) < first * 1.2
    db.close()


def test_a_claim_is_bounded_in_bytes(db: sqlite3.Connection) -> None:
    keep = Retention(1000, 1000)
    mails = [message(at=NOW - n) for n in range(5)]
    for mail in mails:
        entry = Intake(head(mail), mail.envelope.recipients, mail.expires_at, mail.created_at, None, 1, {})
        insert_messages(db, [entry], retention=keep)
    db.execute("UPDATE message SET size = ?", (leases.CLAIM_BYTES // 2 + 1,))

    taken = leases.Turns().claim(db, [leases.Claim(Lease(owner="me", epoch=1, until=NOW + 60), NOW, 5)])
    assert taken == [2]
    db.execute("UPDATE message SET size = ?", (leases.CLAIM_BYTES * 2,))
    assert leases.Turns().claim(db, [leases.Claim(Lease(owner="me", epoch=2, until=NOW + 60), NOW, 5)]) == [1]
    db.close()
