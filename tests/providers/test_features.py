"""Header fields that name a provider's features: what is taken from them, and what never is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.providers.features import (
    NOTHING,
    Found,
    cut,
    ignored,
    json_keys,
    json_metadata,
    one_tag,
    option,
    prefixed_metadata,
    read_features,
    yes_or_no,
)

READERS = {
    "x-pm-tag": one_tag,
    "x-pm-metadata-*": prefixed_metadata("x-pm-metadata-"),
    "x-track": option("track", yes_or_no),
    "x-vars": json_metadata,
    "x-off": ignored,
    "x-api": json_keys({"category": lambda v: Found(tags=(v,)) if isinstance(v, str) else None}),
}


def test_a_mail_without_such_fields_asks_for_nothing() -> None:
    assert read_features((("Subject", "x"), ("X-Mailer", "y")), READERS) is NOTHING


def test_the_neutral_spelling_works_everywhere() -> None:
    headers = (
        ("X-Bridge-Tag", "welcome, new"),
        ("x-bridge-tag", "welcome"),
        ("X-BRIDGE-METADATA", "order=17; shop = 3"),
    )

    found = read_features(headers, {})

    assert found.tags == ("welcome", "new")
    assert found.metadata == {"order": "17", "shop": "3"}
    assert found.used == {"x-bridge-tag", "x-bridge-metadata"}
    assert found.dropped == ()


def test_metadata_may_be_json() -> None:
    found = read_features((("X-Bridge-Metadata", '{"order": 17, "gift": true, "list": [1]}'),), {})

    assert found.metadata == {"order": "17", "gift": "true"}


@pytest.mark.parametrize(
    ("header", "dropped"),
    [
        (("X-Bridge-Metadata", "no equals sign"), "x-bridge-metadata: no equals sign"),
        (("X-Bridge-Metadata", "{broken"), "x-bridge-metadata"),
        (("X-Track", "perhaps"), "x-track"),
        (("X-Off", "1"), "x-off"),
        (("X-API", "{"), "x-api"),
        (("X-API", '{"to": ["eve@example.org"]}'), "x-api: to"),
        (("X-API", '{"category": 5}'), "x-api: category"),
    ],
)
def test_what_cannot_be_used_is_reported_and_taken_out(header: tuple[str, str], dropped: str) -> None:
    found = read_features((header,), READERS)

    assert found.dropped == (dropped,)
    assert found.used == {header[0].lower()}
    assert (found.tags, found.metadata, found.options) == ((), {}, {})


def test_each_kind_of_reader() -> None:
    headers = (("X-PM-Tag", "a, b"), ("X-PM-Metadata-Order", "17"), ("X-Track", "yes"), ("X-Vars", '{"a": "b"}'))

    found = read_features(headers, READERS)

    assert found.tags == ("a, b",)
    assert found.metadata == {"order": "17", "a": "b"}
    assert found.options == {"track": True}


@given(st.lists(st.tuples(st.sampled_from([*READERS, "X-Bridge-Tag", "X-Bridge-Metadata"]), st.text()), max_size=5))
def test_no_value_breaks_it_and_none_has_more_than_one_line(headers: list[tuple[str, str]]) -> None:
    found = read_features(headers, READERS)

    for text in (*found.tags, *found.metadata, *found.metadata.values(), *found.dropped):
        assert not any(ord(c) < 32 for c in text)


def test_an_escape_in_json_starts_no_line() -> None:
    readers = {**READERS, "x-api": json_keys({"tag": one, "options": lambda v: Found(options={"a": {"b": v}, "n": 1})})}
    value = r'{"tag": "x\u000d\u000aBcc: eve@example.org", "options": "x\u2028y\u0000\u0085"}'

    found = read_features((("X-API", value), ("X-Vars", r'{"k\n": "v\r"}')), readers)

    assert found.tags == ("x Bcc: eve@example.org",)
    assert found.options == {"a": {"b": "x y "}, "n": 1}
    assert found.metadata == {"k ": "v "}


def one(value: str) -> Found:
    return Found(tags=(value,))


def test_tags_are_cut_to_what_a_provider_takes() -> None:
    assert cut(["abcdef", "b", "c"], most=2, length=3) == ["abc", "b"]
