"""What arrived a moment ago is not parsed twice; what is kept for that is counted and never in the way."""

from __future__ import annotations

import dataclasses

from bridge.budget import MemoryBudget
from bridge.content import cost
from bridge.delivery.parsed import FRESH_S, SHARE, Parsed
from bridge.mime.parse import parse
from bridge.model import Envelope, Message

RAW = b"From: ann@example.com\r\nSubject: x\r\n\r\n" + b"x" * 1000


def message(queue_id: str, raw: bytes = RAW) -> Message:
    envelope = Envelope(reverse_path="ann@example.com", recipients=("bob@example.org",))
    return Message(queue_id=queue_id, envelope=envelope, raw=raw, created_at=0.0, expires_at=1.0)


def test_it_is_given_once_for_the_message_it_was_made_of_and_counted_meanwhile() -> None:
    budget = MemoryBudget(SHARE << 20, wait_s=1)
    parsed = Parsed(budget)
    parsed.keep("A", email := parse(RAW), 0.0)
    parsed.keep("B", email, 0.0)

    assert budget.used == 2 * cost(len(RAW))
    assert parsed.take(message("A")) is email
    assert parsed.take(message("A")) is None
    assert parsed.take(message("B", RAW + b"y")) is None
    assert budget.used == 0


def test_what_fills_its_share_lets_in_no_other_until_it_is_old() -> None:
    budget = MemoryBudget(SHARE * 2 * cost(len(RAW)), wait_s=1)
    parsed, email = Parsed(budget), parse(RAW)
    for name in "ABC":
        parsed.keep(name, email, 0.0)
    assert parsed.take(message("C")) is None

    parsed.keep("D", email, FRESH_S)

    assert parsed.take(message("D")) is email
    assert [parsed.take(message(name)) for name in "AB"] == [None, None]
    assert budget.used == 0


def test_neither_a_long_message_nor_one_for_which_there_is_no_memory_is_kept() -> None:
    budget = MemoryBudget(SHARE << 20, wait_s=1)
    parsed = Parsed(budget)
    parsed.keep("A", dataclasses.replace(parse(RAW), raw=b"x" * 100_000), 0.0)
    assert budget.used == 0

    hold = budget.charge(budget.total)
    parsed.keep("B", parse(RAW), 0.0)

    assert parsed.take(message("B")) is None
    hold.release()
    assert budget.used == 0
