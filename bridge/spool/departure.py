"""What leaves for another spool: handed over in one write, so that one of the two goes on with it, and given up here later."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from bridge.spool import changes
from bridge.spool.engine import Parts
from bridge.spool.intake import EVENT, Retention, plain_event
from bridge.spool.retention import resolve
from bridge.spool.transfer import RECIPIENTS, Transfer
from bridge.spool.values import insert
from bridge.spool.writer import Operation

if TYPE_CHECKING:
    from bridge.spool.portable import Portable

PENDING = ("failure", "delay", "success")

# As if told, which the other spool does.
_TOLD = """
UPDATE recipient SET notice = CASE WHEN notice = 'failure' THEN 'done' ELSE '' END
WHERE queue_id = ? AND notice IN ('failure', 'delay', 'success')
"""

# Why a message that was exported is not given up.
ANOTHER = "it is not what was exported"
WAITS = "it is not on hold"
UNTOLD = "its sender is still to be told of it"
TRIED = "it was tried or retried here after it was exported"


class Departure(Transfer):
    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        self._hand_over = Operation("hand_over", partial(hand_over, retention=parts.keep))
        self._give_up = Operation("give_up", partial(give_up, retention=parts.keep))

    async def hand_over(self, message: Portable, *, now: float) -> int | None:
        """Who waits of it is on hold here from now on, and what its sender is to be told is not told here any more: how many
        are on hold. None, and nothing changed, when it is not as it was taken out, or somebody is being tried.

        Raises SpoolError.
        """
        handed: HandedOver = await self._writer.submit(self._hand_over, Leaving(message, now))
        self._discard(handed.files)
        return handed.held

    async def give_up(self, message: Portable, *, now: float) -> GivenUp:
        """Drop what was exported as `message`, if it is on hold here and nothing was done with it since.

        Raises SpoolError.
        """
        found = await self.take_out(message.queue_id)
        if found is None:
            return GivenUp()
        if found[0].sha256 != message.sha256:
            return GivenUp(left=ANOTHER)
        given: GivenUp = await self._writer.submit(self._give_up, Leaving(message, now))
        self._discard(given.files)
        return given


@dataclass(frozen=True, slots=True)
class Leaving:
    message: Portable
    now: float


@dataclass(frozen=True, slots=True)
class HandedOver:
    held: int | None
    files: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class GivenUp:
    """`recipients`: how many were dropped; 0 without `left` when the message is over, was never here or has lost its body.
    `left`: why nobody was."""

    recipients: int = 0
    left: str = ""
    files: tuple[str, ...] = ()


def hand_over(db: sqlite3.Connection, args: Sequence[Leaving], *, retention: Retention) -> list[HandedOver]:
    return [_hand_over(db, one, retention) for one in args]


def _hand_over(db: sqlite3.Connection, one: Leaving, retention: Retention) -> HandedOver:
    from bridge.spool.portable import portable_recipients

    queue_id = one.message.queue_id
    rows = _recipients(db, queue_id)
    if any(_running(row, one.now) for row in rows) or portable_recipients(rows) != one.message.recipients:
        return HandedOver(None)
    changes.hold(db, changes.Change([queue_id], one.now))
    if db.execute(_TOLD, (queue_id,)).rowcount:
        insert(db, "event", EVENT, [plain_event(queue_id, one.now, "exported", "with what its sender is to be told")])
    files = resolve(db, {queue_id: one.now}, retention).files
    return HandedOver(sum(row["status"] in ("queued", "deferred", "held") for row in rows), files)


def give_up(db: sqlite3.Connection, args: Sequence[Leaving], *, retention: Retention) -> list[GivenUp]:
    return [_give_up(db, one, retention) for one in args]


def _give_up(db: sqlite3.Connection, one: Leaving, retention: Retention) -> GivenUp:
    if left := _left(_recipients(db, one.message.queue_id), one):
        return GivenUp(left=left)
    dropped = changes.drop(db, changes.Change([one.message.queue_id], one.now), retention)
    return GivenUp(dropped.recipients, files=dropped.files)


def _left(rows: Sequence[sqlite3.Row], one: Leaving) -> str:
    """Why what is here is not what the other spool goes on with; "" when it is."""
    exported = {recipient.address: recipient for recipient in one.message.recipients}
    if {row["address"] for row in rows} != set(exported):
        return ANOTHER
    if any(_running(row, one.now) for row in rows):
        return changes.RUNNING
    if any(row["status"] in ("queued", "deferred") for row in rows):
        return WAITS
    if any(row["notice"] in PENDING for row in rows):
        return UNTOLD
    if any(row["attempts"] != exported[row["address"]].attempts for row in rows):
        return TRIED
    if any(row["status"] == "held" and not exported[row["address"]].waits for row in rows):
        return TRIED
    return ""


def _recipients(db: sqlite3.Connection, queue_id: str) -> list[sqlite3.Row]:
    cursor = db.cursor()
    cursor.row_factory = sqlite3.Row
    return cursor.execute(RECIPIENTS, (queue_id,)).fetchall()


def _running(row: sqlite3.Row, now: float) -> bool:
    return row["lease_owner"] is not None and bool(row["leased_until"] > now)
