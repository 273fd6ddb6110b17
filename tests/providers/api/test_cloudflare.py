"""Cloudflare: the contract, and what only its API has."""

from __future__ import annotations

import orjson

from bridge.mime.parse import parse
from tests.providers.api import mails
from tests.providers.api.contract import EXPECTED, KEY, ApiContract, Bench, meant
from tests.providers.api.mails import ANN, BOB, CAT, SENDER

ERRORS = {
    "invalid_request_schema": "P",
    "invalid_email": "P",
    "sender_not_configured": "C",
    "suppressed": "X",
    "unauthorized": "C",
    "forbidden": "C",
    "not_entitled": "C",
    "sending_disabled": "C",
    "too_large": "P",
    "daily_quota": "Q",
    "rate_limit": "R",
    "internal_server": "T",
}
RAW_FIELDS = frozenset({"from", "recipients", "mime_message"})
JSON_FIELDS = frozenset(
    {"from", "from.address", "from.name", "subject", "text", "html", "headers", "headers.*", "attachments"}
    | {f"{slot}{end}" for slot in ("to", "cc", "bcc") for end in ("", "[].address", "[].name")}
    | {"reply_to", "reply_to.address", "reply_to.name"}
    | {f"attachments[].{key}" for key in ("content", "filename", "type", "disposition", "content_id")}
)


class TestCloudflareRaw(ApiContract):
    kind = "cloudflare"
    settings = {"api_key": KEY, "account_id": "acc1"}
    errors = ERRORS
    documented = RAW_FIELDS
    takes_tags = takes_metadata = False
    carries_signed = carries_invitation = True
    has_probe = False

    async def test_the_request_of_the_documentation(self, bench: Bench) -> None:
        email = parse(mails.raw(mails.build(Bcc=CAT)))
        (call,) = bench.provider.calls(email, "bounces@example.com", (ANN, CAT))
        request = bench.provider.build_request(email, call, queue_id="Q1", key="K1")

        assert request.url.path.endswith("/client/v4/accounts/acc1/email/sending/send_raw")
        content = orjson.loads(request.content)
        assert (content["from"], content["recipients"]) == ("bounces@example.com", [ANN, CAT])
        assert content["mime_message"].isascii()
        assert CAT not in content["mime_message"]

    async def test_a_bounce_at_once_is_that_recipients_own(self, bench: Bench) -> None:
        outcomes = await bench.send(mails.build(), mails.envelope(ANN, "gone@example.org"))

        assert outcomes[ANN].status == "sent"
        assert meant(outcomes["gone@example.org"]) == EXPECTED["N"]

    async def test_a_suppressed_recipient_costs_the_others_nothing(self, bench: Bench) -> None:
        """The API refuses the whole request for one of them."""
        outcomes = await bench.send(mails.build(), mails.envelope(ANN, "suppressed@example.org", BOB))

        assert (outcomes[ANN].status, outcomes[BOB].status) == ("sent", "sent")
        assert meant(outcomes["suppressed@example.org"]) == EXPECTED["X"]

    async def test_a_mail_without_reverse_path_goes_in_its_senders_name(self, bench: Bench) -> None:
        mail = await bench.received(mails.build(), mails.envelope(ANN, sender=""))

        assert mail.envelope_sender == SENDER

    async def test_eight_bit_content_is_sent_as_seven_bit(self, bench: Bench) -> None:
        content = f"From: {SENDER}\r\nTo: {ANN}\r\nSubject: x\r\n\r\n" + "gr\u00fc\u00dfe " * 5 + "\r\n"
        mail = await bench.received(content.encode())

        assert mail.text.strip() == ("gr\u00fc\u00dfe " * 5).strip()
        assert bench.requests[-1].content.isascii()


class TestCloudflareJson(ApiContract):
    kind = "cloudflare"
    settings = {"api_key": KEY, "account_id": "acc1", "content": "json"}
    errors = ERRORS
    documented = JSON_FIELDS
    takes_tags = takes_metadata = False
    has_probe = False

    async def test_the_request_of_the_documentation(self, bench: Bench) -> None:
        email = parse(mails.raw(mails.build(text="Hi\n", Subject="Hello", Reply_To=BOB, X_Order="17")))
        (call,) = bench.provider.calls(email, SENDER, (ANN,))
        request = bench.provider.build_request(email, call, queue_id="Q1", key="K1")

        assert orjson.loads(request.content) == {
            "from": {"address": SENDER, "name": "The Shop"},
            "to": [{"address": ANN, "name": "Ann Lee"}],
            "reply_to": BOB,
            "subject": "Hello",
            "text": "Hi\n",
            "headers": {"X-Order": "17"},
        }
