"""More recipients than a call takes: several calls, each recipient in exactly one, and nobody sees a Bcc."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.mime.addressing import Caps, capped
from bridge.model import Addressing, Mailbox


def addressing(to: int = 0, cc: int = 0, bcc: int = 0) -> Addressing:
    return Addressing(
        reverse_path="a@x",
        to=tuple(Mailbox(f"to{n}@x", f"To {n}") for n in range(to)),
        cc=tuple(Mailbox(f"cc{n}@x") for n in range(cc)),
        bcc=tuple(f"bcc{n}@x" for n in range(bcc)),
    )


def shape(call: Addressing) -> tuple[int, int, int]:
    return len(call.to), len(call.cc), len(call.bcc)


@pytest.mark.parametrize(
    ("call", "caps", "shapes"),
    [
        (addressing(3), Caps(), [(3, 0, 0)]),
        (addressing(3), Caps(total=3), [(3, 0, 0)]),
        (addressing(7), Caps(total=3), [(3, 0, 0), (3, 0, 0), (1, 0, 0)]),
        (addressing(1, 4), Caps(total=3), [(1, 2, 0), (2, 0, 0)]),  # where no To is left, Cc stands for it
        (
            addressing(1, 0, 5),
            Caps(total=3),
            [(1, 0, 2), (1, 0, 0), (1, 0, 0), (1, 0, 0)],
        ),  # a Bcc is never beside others
        (addressing(1, 0, 5), Caps(total=3, bcc_alone=True), [(1, 0, 2), (0, 0, 3)]),
        (addressing(1, 0, 12), Caps(to=50, cc=10, bcc=10), [(1, 0, 10), (1, 0, 0), (1, 0, 0)]),
    ],
)
def test_how_calls_are_split(call: Addressing, caps: Caps, shapes: list[tuple[int, int, int]]) -> None:
    assert [shape(one) for one in capped(call, caps)] == shapes


def test_with_an_envelope_of_its_own_only_the_number_counts() -> None:
    calls = capped(addressing(1, 1, 5), Caps(total=3), carries_envelope=True)

    assert [len(call.recipients) for call in calls] == [3, 3, 1]


def test_two_spellings_of_an_address_go_in_two_calls_where_one_may_stand_once() -> None:
    call = Addressing(reverse_path="", to=(Mailbox("Ann@x", "Ann"), Mailbox("bob@x"), Mailbox("ann@x", "Little Ann")))

    assert [one.to for one in capped(call, Caps(once=True))] == [
        (Mailbox("Ann@x", "Ann"), Mailbox("bob@x")),
        (Mailbox("ann@x", "Little Ann"),),
    ]


CAPS = st.builds(
    Caps,
    total=st.integers(0, 5),
    to=st.integers(0, 4),
    cc=st.integers(0, 4),
    bcc=st.integers(0, 4),
    bcc_alone=st.booleans(),
)


@given(st.integers(0, 12), st.integers(0, 12), st.integers(0, 12), CAPS)
def test_everybody_is_in_exactly_one_call_within_the_caps(to: int, cc: int, bcc: int, caps: Caps) -> None:
    call = addressing(to + 1, cc, bcc)  # a JSON call always has a To

    calls = capped(call, caps)

    assert sorted(r for one in calls for r in one.recipients) == sorted(call.recipients)
    hidden = set(call.bcc)
    for one in calls:
        counts = (*shape(one), len(one.recipients))
        assert all(not cap or n <= cap for n, cap in zip(counts, (caps.to, caps.cc, caps.bcc, caps.total), strict=True))
        shown = {m.email for m in (*one.to, *one.cc)}
        assert not shown & hidden or len(one.recipients) == 1
        assert one.to or caps.bcc_alone
    assert calls == capped(call, caps)
