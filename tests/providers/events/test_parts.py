"""One call that tells of thousands: each event keeps its own part, and what they have in common once in effect."""

from __future__ import annotations

import time
from typing import Any

import orjson
import pytest

from bridge.providers.events.base import Received
from bridge.providers.events.parts import LEAST, MAX_OWN, own_parts, shortened

from .samples import ID, NO_USER, WHEN
from .test_hooks import call, receive

MANY = 5000
PEOPLE = [f"person-{n}@example.org" for n in range(MANY)]
HEADERS = [{"name": "To", "value": ", ".join(PEOPLE)}]


def _ses(kind: str, part: Any) -> Any:
    mail = {"messageId": ID, "destination": PEOPLE, "timestamp": WHEN, "headers": HEADERS}
    return {"eventType": kind, "mail": mail, kind.lower(): part}


def _zeptomail(people: list[str]) -> Any:
    details = [{"bounced_recipient": one, "diagnostic_message": NO_USER, "time": WHEN} for one in people]
    info = {"client_reference": "Q1", "to": [{"email_address": {"address": one}} for one in people]}
    told = {"object": "hardbounce", "details": details}
    return {
        "event_name": ["hardbounce"],
        "event_message": [{"email_info": info, "event_data": [told], "request_id": ID}],
    }


TOLD = {
    "bounced": (
        "ses",
        _ses(
            "Bounce",
            {
                "bounceType": "Permanent",
                "bouncedRecipients": [{"emailAddress": one, "diagnosticCode": f"smtp; {NO_USER}"} for one in PEOPLE],
            },
        ),
    ),
    "delivered": ("ses", _ses("Delivery", {"recipients": PEOPLE, "smtpResponse": "250 ok"})),
    "sent": ("ses", _ses("Send", {})),
    "in a list": ("resend", {"type": "email.bounced", "created_at": WHEN, "data": {"email_id": ID, "to": PEOPLE}}),
    "in details": ("zeptomail", _zeptomail(PEOPLE)),
}


@pytest.mark.parametrize("name", TOLD)
async def test_all_rows_together_grow_with_the_body_and_so_does_the_time(name: str) -> None:
    """Whole, the item would stand in each: half a gigabyte of the smallest of these."""
    kind, told = TOLD[name]
    made = call(kind, told)
    began = time.process_time()
    received = await receive(kind, made)
    took = time.process_time() - began

    assert [event.recipient for event in received.events] == PEOPLE
    assert len({event.event_id for event in received.events}) == MANY
    assert sum(len(event.raw) for event in received.events) < len(made.body) + 2 * LEAST * MANY
    assert all(event.recipient in event.raw for event in received.events)
    assert PEOPLE[2000] not in received.events[4711].raw
    assert {event.provider_message_id for event in received.events} == {ID}
    assert took < 2  # half a second in fact


async def raws(kind: str, told: Any) -> list[Any]:
    received: Received = await receive(kind, call(kind, told))
    return [orjson.loads(event.raw) for event in received.events]


async def test_of_one_and_of_two_nothing_that_is_said_of_them_is_lost() -> None:
    two = _zeptomail(PEOPLE[:2])
    one = _zeptomail(PEOPLE[:1])

    assert await raws("zeptomail", one) == one["event_message"]
    first, second = await raws("zeptomail", two)
    whole = two["event_message"][0]
    assert first["email_info"] == second["email_info"] == whole["email_info"]
    details = [raw["event_data"][0]["details"] for raw in (first, second)]
    assert details == [[one] for one in whole["event_data"][0]["details"]]


def test_what_is_too_long_keeps_its_beginning() -> None:
    long = {"id": "Q1", "texts": ["x" * 5000] * 5000, "more": {str(n): n for n in range(5000)}}
    found = shortened(long, 1000)

    assert found["id"] == "Q1"
    assert found["texts"][0].startswith("xxx")
    assert len(orjson.dumps(found)) <= 1000
    assert shortened({"a": 1}, 1000) == {"a": 1}
    assert shortened({f"{n}{'x' * 900}": [["y" * 900] * 9] * 9 for n in range(99)}, 100) == {}


def test_one_s_own_part_is_bounded_too() -> None:
    first, _ = own_parts({"people": []}, ("people",), ["x" * 100_000, "y"])

    assert len(orjson.dumps(first)) <= MAX_OWN + 100
