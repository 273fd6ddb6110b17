"""SMTP2GO: the contract, and what only its API has."""

from __future__ import annotations

import httpx
import orjson

from bridge.mime.parse import parse
from bridge.model import Addressing, Mailbox
from tests.providers.api import mails
from tests.providers.api.contract import EXPECTED, KEY, ApiContract, Bench, meant
from tests.providers.api.mails import ANN, BOB, CAT, SENDER

ERRORS = {
    "invalid_payload": "P",
    "invalid_recipient": "A",
    "permission_denied": "C",
    "invalid_key": "C",
    "sender_not_verified": "C",
    "some_new_error": "O",
    "unauthorized": "C",
    "payment_required": "Q",
    "forbidden": "C",
    "too_large": "B",
    "rate_limit": "R",
    "internal": "T",
}


class TestSmtp2goRaw(ApiContract):
    kind = "smtp2go"
    errors = ERRORS
    documented = frozenset({"mime_email"})
    takes_tags = takes_metadata = False
    carries_signed = carries_invitation = True
    has_probe = False
    split = 220

    async def test_who_must_not_be_seen_gets_a_call_of_their_own_and_no_bcc_field_is_sent(self, bench: Bench) -> None:
        await bench.send(mails.build(To=f"{ANN}, eve@example.org"), mails.envelope(ANN, BOB, CAT))

        assert [mail.recipients for mail in bench.mails] == [(ANN,), (BOB,), (CAT,)]
        assert [[email for email, _ in mail.to] for mail in bench.mails] == [[ANN], [BOB], [CAT]]

    async def test_a_failure_beside_a_success_is_that_recipients_own(self, bench: Bench) -> None:
        outcomes = await bench.send(
            mails.build(To=f"{ANN}, refused@example.org"), mails.envelope(ANN, "refused@example.org")
        )

        assert outcomes[ANN].status == "sent"
        assert meant(outcomes["refused@example.org"]) == EXPECTED["N"]

    def test_failures_that_name_nobody_leave_all_unknown(self, bench: Bench) -> None:
        body = {"request_id": "r", "data": {"succeeded": 1, "failed": 1, "failures": ["x"], "email_id": "1abc"}}
        call = Addressing(reverse_path=SENDER, to=(Mailbox(ANN), Mailbox(BOB)))

        outcomes = bench.provider.parse_response(httpx.Response(200, json=body), call)
        assert {o.status for o in outcomes.values()} == {"unknown"}

    async def test_the_reset_header_says_when_to_come_back(self, bench: Bench) -> None:
        bench.sandbox.fail("smtp2go=rate_limit:1")
        outcome = await bench.outcome()

        assert outcome.retry_after == 42


class TestSmtp2goJson(ApiContract):
    kind = "smtp2go"
    settings = {"api_key": KEY, "content": "json"}
    errors = ERRORS
    documented = frozenset(
        {"sender", "to", "cc", "bcc", "subject", "text_body", "html_body", "attachments", "inlines", "custom_headers"}
        | {"custom_headers[].header", "custom_headers[].value"}
        | {f"{kind}[].{key}" for kind in ("attachments", "inlines") for key in ("filename", "fileblob", "mimetype")}
    )
    takes_tags = takes_metadata = False
    has_probe = False
    split = 220

    async def test_the_request_of_the_documentation(self, bench: Bench) -> None:
        email = parse(mails.raw(mails.build(text="Hi\n", Subject="Hello", Reply_To=BOB)))
        (call,) = bench.provider.calls(email, SENDER, (ANN,))
        request = bench.provider.build_request(email, call, queue_id="Q1", key="K1")

        assert request.headers["x-smtp2go-api-key"] == KEY
        assert orjson.loads(request.content) == {
            "sender": f"The Shop <{SENDER}>",
            "to": [f"Ann Lee <{ANN}>"],
            "subject": "Hello",
            "text_body": "Hi\n",
            "custom_headers": [{"header": "Reply-To", "value": BOB}],
        }
