from __future__ import annotations

from typing import Any

import pytest

from bridge.sandbox.twins.schema import (
    Address,
    Anything,
    Base64,
    Either,
    Fields,
    Flag,
    Items,
    Kind,
    MailboxText,
    Nullable,
    Number,
    PayloadError,
    Table,
    Text,
    decode_base64,
)

BOX = Fields({"email": Address()}, {"name": Text(one_line=True)})
MAIL = Fields(
    {"from": BOX, "people": Items(Fields({"to": Items(BOX, least=1, most=2)}))},
    {"tags": Items(Text(most=3), most=2, unique=True), "headers": Table(Text(), key="[A-Za-z-]+", most=2, key_most=5)},
)
GOOD: dict[str, Any] = {"from": {"email": "a@x.example"}, "people": [{"to": [{"email": "b@x.example", "name": "B"}]}]}


def mistake(kind: Kind, value: Any) -> tuple[str, str]:
    with pytest.raises(PayloadError) as found:
        kind.check(value)
    assert str(found.value).startswith(found.value.at)
    return found.value.at, found.value.rule


def test_a_payload_that_fits_passes() -> None:
    MAIL.check(GOOD)
    MAIL.check({**GOOD, "tags": ["a", "b"], "headers": {"X-A": "1"}})


@pytest.mark.parametrize(
    ("changes", "at", "rule"),
    [
        ({"people": [{"to": [{"email": "b"}]}]}, "people[0].to[0].email", "format"),
        ({"people": [{"to": [{"email": "b@x.example", "nick": ""}]}]}, "people[0].to[0].nick", "unknown"),
        ({"people": [{"to": [{"name": ""}]}]}, "people[0].to[0].email", "required"),
        ({"people": [{"to": [{"email": "b@x.example", "name": "a\r\nb"}]}]}, "people[0].to[0].name", "format"),
        ({"people": [{"to": []}]}, "people[0].to", "limit"),
        ({"people": [{"to": [{"email": "b@x.example"}] * 3}]}, "people[0].to", "limit"),
        ({"people": {}}, "people", "type"),
        ({"people": ["x"]}, "people[0]", "type"),
        ({"from": None}, "from", "type"),
        ({"surprise": 1}, "surprise", "unknown"),
        ({"tags": ["a", "A"]}, "tags[1]", "format"),
        ({"tags": ["abcd"]}, "tags[0]", "limit"),
        ({"headers": {"X_A": ""}}, "headers.X_A", "format"),
        ({"headers": {"X-A": 1}}, "headers.X-A", "type"),
        ({"headers": {"X-Long": ""}}, "headers.X-Long", "limit"),
        ({"headers": {"A": "", "B": "", "C": ""}}, "headers", "limit"),
    ],
)
def test_the_first_mistake_is_named_with_its_path(changes: dict[str, Any], at: str, rule: str) -> None:
    assert mistake(MAIL, {**GOOD, **changes}) == (at, rule)


def test_a_path_may_be_written_with_dots() -> None:
    assert PayloadError("people[0].to[12].email", "x").dotted == "people.0.to.12.email"
    assert PayloadError("[3].To", "x").dotted == "3.To"


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (Text(one_of=("a", "b")), "a", "c"),
        (Text(pattern="[a-z]+"), "abc", "abc\n"),
        (Text(ascii=True), "a", "ä"),
        (Text(), "", None),
        (Number(least=1, most=5), 5, 6),
        (Number(), 0, True),
        (Number(), 1, 1.5),
        (Number(whole=False, least=0), 1.5, -0.5),
        (Flag(), False, 0),
        (Base64(most=3), "YWJj", "YWJjZA=="),
        (Base64(), "YQ==", "YQ"),
        (Base64(), "+/8=", "-_8="),
        (Base64(urlsafe=True), "-_8", "+/8="),
        (Base64(least=1), "YQ==", ""),
        (Address(), "a@x.example", "A <a@x.example>"),
        (Address(ascii=True), "a@x.example", "ä@x.example"),
        (MailboxText(), "A <a@x.example>", "a@x.example, b@x.example"),
        (MailboxText(most=2), '"A, B" <a@x.example>, b@x.example', "a@x.example,b@x.example,c@x.example"),
        (MailboxText(most=2), "a@x.example", ""),
        (Either(Text(), Items(Text())), ["a"], [1]),
        (Nullable(Text()), None, 1),
        (Table(Anything()), {"a": [None]}, []),
    ],
)
def test_each_kind_takes_what_fits_and_nothing_else(kind: Kind, good: Any, bad: Any) -> None:
    kind.check(good)

    mistake(kind, bad)


def test_base64_is_decoded_in_both_alphabets() -> None:
    assert decode_base64("+/8=") == b"\xfb\xff"
    assert decode_base64("-_8", urlsafe=True) == decode_base64("-_8=", urlsafe=True) == b"\xfb\xff"
