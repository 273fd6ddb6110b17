"""What follows from what a provider tells."""

from __future__ import annotations

from typing import Any

import pytest

from bridge.delivery.events import failure_reply, note, suppression_reason
from bridge.model import EVENT_KINDS, Event, EventKind


def event(kind: EventKind = "bounced", **more: Any) -> Event:
    return Event(kind=kind, event_id="1", recipient="bob@example.org", **more)


HARD: dict[str, Any] = {"final": True, "permanent": True}


@pytest.mark.parametrize(
    ("told", "reply"),
    [
        (event(**HARD, code=550, enhanced="5.1.1", text="550 5.1.1 No such user"), "550 5.1.1 No such user"),
        (event(**HARD, code=550, enhanced="5.1.1", text="smtp; 550 5.1.1 No such user"), "550 5.1.1 No such user"),
        (event(**HARD, enhanced="5.1.1", text="5.1.1 No such user"), "550 5.1.1 No such user"),
        (event(**HARD, code=552, enhanced="5.2.2", text="552-5.2.2 Mailbox full"), "552 5.2.2 Mailbox full"),
        (event(final=True, code=452, enhanced="4.2.2", text="452 4.2.2 full"), "550 5.2.2 full"),
        (event(final=True, code=250, enhanced="2.0.0", text="late"), "550 5.0.0 late"),
        (event("rejected", final=True, text="Bounced Address"), "550 5.0.0 Bounced Address"),
        (event(**HARD), "550 5.0.0 The provider reports it as bounced"),
        (event(**HARD, text="é\r\n" * 3), "550 5.0.0 The provider reports it as bounced"),
        (event(text="452 4.2.2 full"), "None"),
        (event("deferred", text="550 no"), "None"),
        (event("complained", final=True), "None"),
    ],
)
def test_a_failure_is_told_in_the_words_of_the_other_server(told: Event, reply: str) -> None:
    assert str(failure_reply(told)) == reply


@pytest.mark.parametrize(
    ("told", "suppressed"),
    [
        (event(**HARD), True),
        (event(**HARD, enhanced="5.1.1"), True),
        (event(**HARD, enhanced="5.7.1"), False),  # about the mail, not about the address
        (event(**HARD, enhanced="5.3.4"), False),
        (event(final=True, enhanced="5.1.1"), False),
        (event("rejected", final=True), False),
        (event("complained"), True),
        (event("unsubscribed"), True),
    ],
)
def test_an_address_that_is_no_good_and_who_wants_no_more_is_suppressed(told: Event, suppressed: bool) -> None:
    assert bool(suppression_reason(told)) is suppressed
    assert note(told, suppress=False).suppression == ""


@pytest.mark.parametrize("kind", sorted(set(EVENT_KINDS) - {"bounced", "complained", "unsubscribed", "rejected"}))
def test_nothing_follows_from_the_others(kind: EventKind) -> None:
    noted = note(event(kind, final=True, permanent=True), suppress=True)

    assert (noted.reply, noted.suppression) == (None, "")
