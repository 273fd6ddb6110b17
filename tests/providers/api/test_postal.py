"""Postal: the contract, and what only its API has. It answers 200 to everything."""

from __future__ import annotations

import httpx
import orjson

from bridge.mime.parse import parse
from bridge.model import Addressing, Mailbox
from tests.providers.api import mails
from tests.providers.api.contract import EXPECTED, KEY, ApiContract, Bench, meant
from tests.providers.api.mails import ANN, BOB, SENDER

ERRORS = {
    "access_denied": "C",
    "invalid_key": "C",
    "suspended": "C",
    "unauthenticated_from": "C",
    "from_missing": "C",
    "no_recipients": "P",
    "no_content": "P",
    "too_many_to": "P",
    "too_many_cc": "P",
    "too_many_bcc": "P",
    "attachment_name": "P",
    "attachment_data": "P",
    "parameter_error": "P",
    "some_new_error": "O",
    "too_large": "B",
    "rate_limited": "R",
    "internal": "T",
}


class TestPostalRaw(ApiContract):
    kind = "postal"
    errors = ERRORS
    documented = frozenset({"mail_from", "rcpt_to", "data", "bounce"})
    takes_tags = takes_metadata = False
    carries_signed = carries_invitation = True

    async def test_each_recipient_has_the_id_of_its_own_copy(self, bench: Bench) -> None:
        outcomes = await bench.send(mails.build(), mails.envelope(ANN, BOB))

        assert [outcomes[r].provider_message_id for r in (ANN, BOB)] == ["1", "2"]

    async def test_a_mail_without_reverse_path_is_marked_as_a_bounce(self, bench: Bench) -> None:
        await bench.received(mails.build(), mails.envelope(ANN, sender=""))
        payload = orjson.loads(bench.requests[-1].content)

        assert (payload["mail_from"], payload["bounce"]) == (SENDER, True)

    async def test_eight_bit_mail_goes_byte_for_byte(self, bench: Bench) -> None:
        content = f"From: {SENDER}\r\nTo: {ANN}\r\nSubject: x\r\n\r\ngr\u00fc\u00dfe\r\n".encode()
        mail = await bench.received(content)

        assert mail.text == "gr\u00fc\u00dfe\n"

    def test_a_recipient_the_answer_does_not_name_is_unknown(self, bench: Bench) -> None:
        body = {"status": "success", "data": {"message_id": "x", "messages": {ANN.upper(): {"id": 7, "token": "t"}}}}
        call = Addressing(reverse_path=SENDER, to=(Mailbox(ANN), Mailbox(BOB)))
        outcomes = bench.provider.parse_response(httpx.Response(200, json=body), call)

        assert (outcomes[ANN].status, outcomes[ANN].provider_message_id) == ("sent", "7")
        assert meant(outcomes[BOB]) == EXPECTED["U"]


class TestPostalJson(ApiContract):
    kind = "postal"
    settings = {"api_key": KEY, "content": "json"}
    errors = ERRORS
    documented = frozenset(
        {"to", "cc", "bcc", "from", "subject", "tag", "reply_to", "plain_body", "html_body", "headers", "headers.*"}
        | {"attachments", "attachments[].name", "attachments[].content_type", "attachments[].data"}
    )
    takes_metadata = False
    carries_inline = False

    async def test_the_request_of_the_documentation(self, bench: Bench) -> None:
        email = parse(mails.raw(mails.build(text="Hi\n", Subject="Hello", Reply_To=BOB, X_Order="17")))
        (call,) = bench.provider.calls(email, SENDER, (ANN,))
        request = bench.provider.build_request(email, call, queue_id="Q1", key="K1")

        assert request.headers["x-server-api-key"] == KEY
        assert orjson.loads(request.content) == {
            "to": [f"Ann Lee <{ANN}>"],
            "from": f"The Shop <{SENDER}>",
            "subject": "Hello",
            "reply_to": BOB,
            "plain_body": "Hi\n",
            "headers": {"X-Order": "17"},
        }
