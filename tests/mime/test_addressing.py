from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.mime.addressing import a_label, address, unseen
from bridge.model import Addressing, Email, Mailbox, merge_recipients, same_recipient_key, split_address


def email(to: str = "", cc: str = "") -> Email:
    boxes = [tuple(Mailbox(name, name.split("@")[0].title()) for name in field.split()) for field in (to, cc)]
    return Email(sender=Mailbox("ann@x"), to=boxes[0], cc=boxes[1])


def spell(calls: tuple[Addressing, ...]) -> list[str]:
    """`to | cc | bcc` of each call."""
    groups = [([m.email for m in call.to], [m.email for m in call.cc], call.bcc) for call in calls]
    return [" | ".join(" ".join(group) for group in call) for call in groups]


@pytest.mark.parametrize(
    ("to", "cc", "envelope", "calls"),
    [
        ("a@x", "b@x", "a@x b@x c@x", ["a@x | b@x | c@x"]),
        ("a@x b@x", "", "b@x a@x", ["a@x b@x |  | "]),  # the header's order
        ("a@X.org", "", "a@x.ORG", ["a@x.ORG |  | "]),  # the envelope's spelling
        ("ANN@x", "", "ann@x", ["ann@x |  | "]),
        ("Ann@x", "", "Ann@x ann@x", ["Ann@x |  | ann@x"]),
        ("ann@x", "Ann@x", "Ann@x ann@x", ["ann@x | Ann@x | "]),
        ("ANN@x Ann@x", "", "Ann@x ann@x", ["ann@x Ann@x |  | "]),  # exact before loose
        ("Ann@x Ann@x", "Ann@x", "Ann@x ann@x", ["Ann@x |  | ann@x"]),  # a repeated name takes no other's place
        ("a@x", "a@x", "a@x", ["a@x |  | "]),
        ("list@y", "b@x", "b@x", ["b@x |  | "]),  # no To in the envelope: Cc becomes To
        ("", "b@x", "b@x c@x", ["b@x |  | c@x"]),
        ("list@y", "", "a@x b@x", ["a@x |  | ", "b@x |  | "]),  # nobody visible: one call each
        ("", "", "a@x", ["a@x |  | "]),
        ("a@x", "", "a@x A@X a@x", ["a@x |  | A@X"]),
        ("a@müller.example", "", "a@xn--mller-kva.example", ["a@xn--mller-kva.example |  | "]),
        ("a@x", "", "", []),
    ],
)
def test_the_envelope_decides_who_is_mailed_and_the_header_who_is_shown(
    to: str, cc: str, envelope: str, calls: list[str]
) -> None:
    assert spell(address(email(to, cc), "s@x", envelope.split(), carries_envelope=False)) == calls


def test_a_quoted_local_part_with_a_blank_is_matched() -> None:
    (call,) = address(
        Email(sender=Mailbox(""), cc=(Mailbox('"a b"@x'),)), "", ('"a b"@X', "c@x"), carries_envelope=False
    )

    assert spell((call,)) == ['"a b"@X |  | c@x']


def test_a_call_that_carries_the_envelope_hides_everybody_in_one() -> None:
    assert spell(address(email("list@y"), "s@x", ("a@x", "b@x"), carries_envelope=True)) == [" |  | a@x b@x"]
    assert spell(address(email("a@x"), "s@x", ("a@x", "b@x"), carries_envelope=True)) == ["a@x |  | b@x"]


def test_display_names_and_the_reverse_path_go_along() -> None:
    (call,) = address(email("a@x"), "s@x", ("a@x",), carries_envelope=False)

    assert call == Addressing(reverse_path="s@x", to=(Mailbox("a@x", "A"),))


def test_unseen_are_the_displayed_addresses_that_nobody_mails() -> None:
    assert unseen(email("list@y a@x", "b@X c@z list@y"), ("a@x", "b@x", "d@x")) == ("list@y", "c@z")


boxes = st.builds(
    "{}@{}".format, st.sampled_from(["a", "A", "b", "B", "é", "É", '"a b"']), st.sampled_from(["x", "X", "y"])
)
lists = st.lists(boxes, max_size=6)


@given(lists, lists, lists, st.booleans())
def test_everybody_in_the_envelope_is_mailed_exactly_once_and_nobody_else(
    to: list[str], cc: list[str], envelope: list[str], carries: bool
) -> None:
    mail = Email(sender=Mailbox(""), to=tuple(map(Mailbox, to)), cc=tuple(map(Mailbox, cc)))
    calls = address(mail, "", envelope, carries_envelope=carries)

    mailed = [recipient for call in calls for recipient in call.recipients]
    assert sorted(mailed) == sorted(merge_recipients(envelope))


@given(lists, lists, lists, st.booleans())
def test_a_recipient_the_header_does_not_show_is_seen_by_nobody_else(
    to: list[str], cc: list[str], envelope: list[str], carries: bool
) -> None:
    mail = Email(sender=Mailbox(""), to=tuple(map(Mailbox, to)), cc=tuple(map(Mailbox, cc)))
    shown = {same_recipient_key(name).casefold() for name in (*to, *cc)}

    for call in address(mail, "", envelope, carries_envelope=carries):
        visible = [box.email for box in (*call.to, *call.cc)]
        if len(call.recipients) > 1:
            assert all(same_recipient_key(name).casefold() in shown for name in visible)
        exact = {same_recipient_key(name) for name in (*to, *cc)}
        hidden = [name for name in call.bcc if same_recipient_key(name) in exact]
        assert not hidden  # whoever is named exactly is shown
        assert all(split_address(name)[1] for name in call.recipients)


@pytest.mark.parametrize("domain", ["x\u2474y.example", "x\ufc5ey.example", "x\u037ay.example"])
def test_a_domain_that_would_become_two_addresses_as_a_labels_stays(domain: str) -> None:
    assert a_label(domain) == domain
