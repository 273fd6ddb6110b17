"""Scaleway: the contract, and what only its API has."""

from __future__ import annotations

import httpx
import orjson

from bridge.mime.parse import parse
from tests.providers.api import mails
from tests.providers.api.contract import EXPECTED, KEY, ApiContract, Bench, meant
from tests.providers.api.mails import ANN, BOB, SENDER


class TestScaleway(ApiContract):
    kind = "scaleway"
    settings = {"api_key": KEY, "project_id": "p1"}
    errors = {
        "invalid_arguments": "P",
        "invalid_recipient": "A",
        "denied_authentication": "C",
        "permissions_denied": "C",
        "precondition_failed": "C",
        "quotas_exceeded": "Q",
        "not_found": "C",
        "too_large": "B",
        "too_many_requests": "R",
        "internal": "T",
        "unavailable": "T",
    }
    documented = frozenset(
        {"project_id", "from", "from.email", "from.name", "subject", "text", "html"}
        | {f"{slot}{end}" for slot in ("to", "cc", "bcc") for end in ("", "[].email", "[].name")}
        | {"attachments", "attachments[].name", "attachments[].type", "attachments[].content"}
        | {"additional_headers", "additional_headers[].key", "additional_headers[].value"}
    )
    takes_tags = takes_metadata = False
    carries_inline = False

    async def test_the_request_of_the_documentation(self, bench: Bench) -> None:
        email = parse(
            mails.raw(
                mails.build(text="Hello Ann, it is done\n", Subject="Your order 17", Reply_To=f"B\u00f6b <{BOB}>")
            )
        )
        (call,) = bench.provider.calls(email, SENDER, (ANN,))
        request = bench.provider.build_request(email, call, queue_id="Q1", key="K1")

        assert request.url.path.endswith("/transactional-email/v1alpha1/regions/fr-par/emails")
        assert orjson.loads(request.content) == {
            "project_id": "p1",
            "from": {"email": SENDER, "name": "The Shop"},
            "to": [{"email": ANN, "name": "Ann Lee"}],
            "subject": "Your order 17",
            "text": "Hello Ann, it is done\n",
            "additional_headers": [{"key": "Reply-To", "value": f"=?utf-8?b?QsO2Yg==?= <{BOB}>"}],
        }

    async def test_short_texts_are_padded_and_the_log_says_so(self, bench: Bench) -> None:
        message = mails.build(Subject="Hi", text="ok\n")
        mail = await bench.received(message)

        assert mail.subject.startswith("Hi ")
        assert mail.text.startswith("ok\n")
        assert len(mail.subject) >= 10
        assert "padded" in " ".join(bench.provider.repairs(parse(mails.raw(message)), mails.envelope()))

    async def test_an_invalid_recipient_costs_the_others_nothing(self, bench: Bench) -> None:
        outcomes = await bench.send(mails.build(), mails.envelope(ANN, "bad@@example.org"))

        assert outcomes[ANN].status == "sent"
        assert meant(outcomes["bad@@example.org"]) == EXPECTED["A"]

    async def test_a_recipient_that_failed_at_once_is_tried_again(self, bench: Bench) -> None:
        outcomes = await bench.send(mails.build(), mails.envelope(ANN, "failed@example.org"))

        assert (outcomes[ANN].status, outcomes[ANN].provider_message_id) == ("sent", "id-1")
        assert meant(outcomes["failed@example.org"]) == EXPECTED["O"]

    def test_a_key_that_may_not_ask_is_not_called_wrong(self, bench: Bench) -> None:
        assert bench.provider.read_probe(httpx.Response(403)).ok is None
