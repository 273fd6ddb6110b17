"""AhaSend: the contract, and what only its API has."""

from __future__ import annotations

import orjson

from bridge.mime.parse import parse
from tests.providers.api import mails
from tests.providers.api.contract import EXPECTED, KEY, ApiContract, Bench, meant
from tests.providers.api.mails import ANN, BOB, SENDER


class TestAhasend(ApiContract):
    kind = "ahasend"
    settings = {"api_key": KEY, "account_id": "acc1"}
    errors = {
        "bad_request": "P",
        "unauthorized": "C",
        "forbidden": "C",
        "not_found": "C",
        "in_progress": "U",
        "too_large": "B",
        "unprocessable": "P",
        "too_many_requests": "R",
        "internal": "T",
        "unavailable": "T",
    }
    documented = frozenset(
        {"from", "from.email", "from.name", "reply_to", "reply_to.email", "reply_to.name", "subject", "tags"}
        | {f"{slot}{end}" for slot in ("to", "cc", "bcc") for end in ("", "[].email", "[].name")}
        | {"text_content", "html_content", "amp_content", "headers", "headers.*", "attachments"}
        | {
            f"attachments[].{key}"
            for key in ("base64", "data", "content_type", "file_name", "content_disposition", "content_id")
        }
    )
    takes_metadata = False

    async def test_the_request_of_the_documentation(self, bench: Bench) -> None:
        email = parse(mails.raw(mails.build(text="Hi\n", Subject="Hello", Reply_To=BOB)))
        (call,) = bench.provider.calls(email, SENDER, (ANN,))
        request = bench.provider.build_request(email, call, queue_id="Q1", key="K1")

        assert request.url.path.endswith("/v2/accounts/acc1/messages/conversation")
        assert request.headers["idempotency-key"] == "K1"
        assert orjson.loads(request.content) == {
            "from": {"email": SENDER, "name": "The Shop"},
            "to": [{"email": ANN, "name": "Ann Lee"}],
            "reply_to": {"email": BOB},
            "subject": "Hello",
            "text_content": "Hi\n",
        }

    async def test_each_recipient_has_its_own_verdict(self, bench: Bench) -> None:
        outcomes = await bench.send(mails.build(), mails.envelope(ANN, "suppressed@example.org", "failed@example.org"))

        assert (outcomes[ANN].status, outcomes[ANN].provider_message_id) == ("sent", "<ann@ahasend.example>")
        assert meant(outcomes["suppressed@example.org"]) == EXPECTED["X"]
        assert meant(outcomes["failed@example.org"]) == EXPECTED["O"]

    async def test_a_call_made_twice_with_one_key_mails_once(self, bench: Bench) -> None:
        first = await bench.send(mails.build())
        second = await bench.send(mails.build())

        assert first == second
        assert len(bench.mails) == 1
