"""What SMTP's answers are over HTTP: a table."""

from __future__ import annotations

import pytest

from bridge.model import Answer
from bridge.reply import LOCAL_ERROR, MESSAGE_TOO_BIG, NO_MEMORY, SPOOL_FULL, parse_reply, queued, sent
from bridge.web.replies import said

FIELDS = {"ann@x.org": "to[0]", "bob@x.org": "cc"}
NO_SUCH = parse_reply("550 5.1.1 No such recipient")


@pytest.mark.parametrize(
    ("reply", "status", "code", "field"),
    [
        (LOCAL_ERROR, 503, "unavailable", ""),
        (SPOOL_FULL, 503, "unavailable", ""),
        (NO_MEMORY, 503, "unavailable", ""),
        (parse_reply("451 4.4.5 Too many requests"), 429, "too_many_requests", ""),
        (MESSAGE_TOO_BIG, 413, "too_large", ""),
        (NO_SUCH, 422, "refused", "to[0]"),
        (parse_reply("550 5.1.8 Bad sender"), 422, "refused", "from"),
        (parse_reply("554 5.6.0 Content rejected"), 422, "refused", ""),
    ],
)
def test_a_refusal(reply: object, status: int, code: str, field: str) -> None:
    found = said(Answer(reply=reply), "Q1", FIELDS)  # type: ignore[arg-type]

    assert (found.status, found.body["error"]["code"], found.body["error"]["field"]) == (status, code, field)
    assert found.body["error"]["message"] == str(reply)
    assert ("Retry-After" in found.headers) == (status in (429, 503))
    assert not found.promised


def test_the_one_who_is_to_blame_is_named() -> None:
    answer = Answer(reply=NO_SUCH, by_recipient={"bob@x.org": NO_SUCH})

    assert said(answer, "Q1", FIELDS).body["error"]["field"] == "cc"


def test_what_was_taken() -> None:
    each = {"ann@x.org": sent("1"), "bob@x.org": sent("1")}

    assert said(Answer(reply=sent("1"), by_recipient=each), "Q1", FIELDS).body == {"id": "Q1", "status": "sent"}
    found = said(Answer(reply=queued("Q1")), "Q1", FIELDS)
    assert (found.status, found.body) == (202, {"id": "Q1", "status": "queued"})


def test_a_duplicate_is_the_first_one() -> None:
    assert said(Answer(reply=queued("Q0")), "Q1", FIELDS).body["id"] == "Q0"


def test_who_fared_otherwise_is_told() -> None:
    each = {"ann@x.org": sent("1"), "bob@x.org": NO_SUCH}
    found = said(Answer(reply=sent("1"), by_recipient=each), "Q1", FIELDS)

    assert found.status == 200
    assert [(r["field"], r["status"], r["code"]) for r in found.body["recipients"]] == [
        ("to[0]", "sent", 250),
        ("cc", "refused", 550),
    ]
