"""Answers as they were seen, or as they may be: who is to blame, and who is not."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from bridge.mime.rewrite import without_fields
from bridge.model import Addressing, Mailbox, Outcome
from bridge.providers.api import ApiProvider, by_recipient, named_in, sent_outcome
from bridge.providers.base import Policy
from bridge.providers.catalogue import adapter, settings_of
from bridge.providers.outcomes import Meaning, outcome_of
from tests.providers.api.contract import EXPECTED, _defaults, meant

ANN, BOB = "ann@example.org", "bob@example.net"
CALL = Addressing(reverse_path="shop@example.com", to=(Mailbox(ANN), Mailbox(BOB)))


def provider(kind: str, **given: str) -> ApiProvider:
    settings = settings_of(kind, SimpleNamespace(**{**_defaults(kind), "url": "http://127.0.0.1:1", **given}))
    return adapter(kind)("main", Policy(), settings, transport=httpx.MockTransport(lambda _: httpx.Response(500)))


def read(kind: str, status: int, body: Any, **given: str) -> dict[str, Outcome]:
    answer = httpx.Response(status, json=body) if not isinstance(body, str) else httpx.Response(status, text=body)
    return provider(kind, **given).parse_response(answer, CALL)


@pytest.mark.parametrize(
    ("kind", "status", "body", "letter"),
    [
        ("cloudflare", 200, {"success": False, "errors": [{"code": 10999, "message": "new"}], "result": None}, "O"),
        ("mandrill", 200, {"status": "error", "code": 5, "name": "Unknown_Template", "message": "x"}, "O"),
        ("zeptomail", 200, {"error": {"code": "XX_1", "message": "x"}}, "O"),
        ("zeptomail", 201, {}, "U"),
        ("sendgrid", 200, "hello", "U"),
        ("resend", 200, {}, "U"),
        ("ses", 200, "OK", "U"),
        (
            "smtp2go",
            200,
            {"data": {"succeeded": 0, "failed": 2, "failures": ["Verification failed for <noreply@example.com>"]}},
            "C",
        ),
        ("smtp2go", 200, {"data": {"succeeded": 0, "failed": 2, "failures": ["something"]}}, "O"),
        (
            "mailgun",
            400,
            {"message": "'to' parameter is not a valid address. please check documentation"},
            "A",
        ),
        ("sendgrid", 400, {"errors": [{"message": "a valid email address", "field": "personalizations.0.to"}]}, "A"),
        ("mailtrap", 400, {"success": False, "errors": ["'to' address has an invalid domain"]}, "A"),
        ("mailtrap", 403, {"success": False, "errors": ["Sending from domain x.example is not allowed"]}, "C"),
        ("lettermint", 422, {"message": "x", "errors": {"to.1": ["not an address"]}}, "A"),
        ("ahasend", 400, {"message": "to[1].email is invalid"}, "A"),
        (
            "zeptomail",
            400,
            {"error": {"code": "TM_3201", "details": [{"code": "GE_102", "message": "x", "target": "to[1]"}]}},
            "A",
        ),
    ],
)
def test_what_an_answer_means(kind: str, status: int, body: Any, letter: str) -> None:
    given = {"region": "us-east-1", "access_key_id": "A", "secret_access_key": "B"} if kind == "ses" else {}
    outcomes = read(kind, status, body, **given)

    assert {meant(outcome) for outcome in outcomes.values()} == {EXPECTED[letter]}
    if letter == "A":  # so that the good one is tried alone
        assert provider(kind, **given).refused_together(outcomes, CALL)


def test_a_bad_request_of_ses_may_be_one_recipients() -> None:
    given = {"region": "us-east-1", "access_key_id": "A", "secret_access_key": "B"}
    outcomes = provider("ses", **given).parse_response(
        httpx.Response(400, headers={"x-amzn-errortype": "BadRequestException"}, json={"message": "Illegal address"}),
        CALL,
    )

    assert provider("ses", **given).refused_together(outcomes, CALL)


def test_the_words_of_an_answer_never_hold_the_key() -> None:
    body = {"data": {"error_code": "E_ApiResponseCodes.NON_VALIDATING_IN_PAYLOAD", "error": "key s3cret-key is bad"}}
    for outcome in read("smtp2go", 400, body, api_key="s3cret-key").values():
        assert "s3cret-key" not in outcome.detail + outcome.reply.text


def test_an_address_is_named_as_a_whole_or_not_at_all() -> None:
    texts = "[{'description': 'invalid recipient joann@x.org'}, {'x': \"<bob@x.org>: refused\"}]"

    assert named_in(texts, ["ann@x.org", "joann@x.org", "Bob@x.org"]) == ["joann@x.org", "Bob@x.org"]


def test_a_verdict_goes_to_the_spelling_it_names_before_any_other() -> None:
    call = Addressing(
        reverse_path="", to=(Mailbox("Ann@x.org"), Mailbox("ann@x.org"), Mailbox("b@m\u00fcller.example"))
    )
    refused = outcome_of(Meaning.ADDRESS)
    found = by_recipient(
        call,
        [("Ann@x.org", sent_outcome("1")), ("ann@x.org", refused), ("B@xn--mller-kva.example", sent_outcome("2"))],
        outcome_of(Meaning.LOST),
    )

    assert [found[r].status for r in call.recipients] == ["sent", "bounced", "sent"]


@pytest.mark.parametrize(
    "name", ['"X-MC-BccAddress"', "\ufeffX-MC-BccAddress", "X-MC-BccAddress\u00a0", "x-mc-bccaddress"]
)
def test_a_misspelt_instruction_is_taken_out_as_well(name: str) -> None:
    raw = f"From: a@b.example\r\n{name}: eve@example.org\r\nSubject: x\r\n\r\nbody".encode()

    assert b"eve@" not in without_fields(raw, {"x-mc-*"})
