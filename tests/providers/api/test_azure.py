"""Azure: the contract, and what only its API has: a signature or a token, and an operation that is looked at."""

from __future__ import annotations

import base64
import uuid
from typing import Any

import httpx
import orjson
import pytest

from bridge.mime.parse import parse
from bridge.model import Addressing, Mailbox
from bridge.providers.azure import signature
from bridge.sandbox import Sandbox
from tests.providers.api import mails
from tests.providers.api.contract import EXPECTED, KEY, ApiContract, Bench, meant
from tests.providers.api.mails import ANN, BOB, SENDER

ACCESS_KEY = base64.b64encode(KEY.encode()).decode()
ERRORS = {
    "bad_request": "P",
    "invalid_content": "P",
    "invalid_recipient": "A",
    "size_limit": "B",
    "invalid_sender": "C",
    "unauthorized": "C",
    "denied": "C",
    "forbidden": "C",
    "domain_not_linked": "C",
    "not_found": "C",
    "too_large": "B",
    "too_many_requests": "R",
    "internal": "T",
    "unavailable": "T",
}


class AzureContract(ApiContract):
    kind = "azure"
    errors = ERRORS
    documented = frozenset(
        {"senderAddress", "content", "content.subject", "content.plainText", "content.html", "recipients", "replyTo"}
        | {f"recipients.{slot}{end}" for slot in ("to", "cc", "bcc") for end in ("", "[].address", "[].displayName")}
        | {"replyTo[].address", "replyTo[].displayName", "headers", "headers.*", "attachments"}
        | {f"attachments[].{key}" for key in ("name", "contentType", "contentInBase64", "contentId")}
    )
    takes_tags = takes_metadata = False

    @pytest.mark.parametrize(
        ("failure", "status"),
        [
            ("lost:1", "sent"),
            ("html:1,status=502", "unknown"),
            ("reset:1", "unknown"),
            ("garbage:1", "unknown"),
            ("half:1", "sent"),
        ],
    )
    async def test_a_lost_answer_is_unknown(self, bench: Bench, failure: str, status: str) -> None:
        """Unless the operation, whose id is ours, tells what became of it."""
        bench.sandbox.fail(f"{self.kind}={failure}")
        outcome = await bench.outcome()

        assert outcome.status == status


class TestAzureWithKey(AzureContract):
    settings = {"api_key": ACCESS_KEY}
    wrong_key = {"api_key": base64.b64encode(b"wrong-key").decode()}

    async def test_the_request_of_the_documentation(self, bench: Bench) -> None:
        email = parse(mails.raw(mails.build(text="Hi\n", Subject="Hello", Reply_To=BOB, X_Order="17")))
        (call,) = bench.provider.calls(email, SENDER, (ANN,))
        request = bench.provider.build_request(email, call, queue_id="Q1", key="K1")

        assert request.url.path.endswith("/emails:send")
        assert request.url.params["api-version"] == "2025-09-01"
        assert uuid.UUID(request.headers["operation-id"]).version == 5
        assert orjson.loads(request.content) == {
            "senderAddress": SENDER,
            "content": {"subject": "Hello", "plainText": "Hi\n"},
            "recipients": {"to": [{"address": ANN, "displayName": "Ann Lee"}]},
            "replyTo": [{"address": BOB}],
            "headers": {"X-Order": "17"},
        }

    def test_the_signature_covers_path_host_date_and_content(self) -> None:
        """By the tutorial's recipe, computed here with other tools."""
        request = httpx.Request(
            "POST", "https://r.communication.azure.com/emails:send?api-version=2025-09-01", content=b"{}"
        )
        signed = signature(
            request, b"key", date="Mon, 23 Nov 2026 03:27:18 GMT", digest="RBNvo1WzZ4oRRq0W9+hknpT7T8If536DEMBg9hyq/4o="
        )

        import hashlib
        import hmac

        text = (
            "POST\n/emails:send?api-version=2025-09-01\n"
            "Mon, 23 Nov 2026 03:27:18 GMT;r.communication.azure.com;RBNvo1WzZ4oRRq0W9+hknpT7T8If536DEMBg9hyq/4o="
        )
        expected = base64.b64encode(hmac.new(b"key", text.encode(), hashlib.sha256).digest()).decode()
        assert (
            base64.b64encode(hashlib.sha256(b"{}").digest()).decode() == "RBNvo1WzZ4oRRq0W9+hknpT7T8If536DEMBg9hyq/4o="
        )
        assert signed["Authorization"].endswith(f"&Signature={expected}")

    def test_a_key_that_is_no_base64_is_one_clear_error(self, bench: Bench) -> None:
        with pytest.raises(ValueError, match="base64"):
            self.make(bench.sandbox, api_key="not base64!")

    async def test_a_call_made_twice_mails_once(self, bench: Bench) -> None:
        first = await bench.send(mails.build())
        second = await bench.send(mails.build())

        assert first == second
        assert len(bench.mails) == 1

    @pytest.mark.parametrize(("recipient", "letter"), [("suppressed@example.org", "X"), ("failed@example.org", "T")])
    async def test_an_operation_that_failed_is_told_by_its_error(
        self, bench: Bench, recipient: str, letter: str
    ) -> None:
        assert meant(await bench.outcome(mails.build(To=recipient), mails.envelope(recipient))) == EXPECTED[letter]

    async def test_an_operation_that_is_still_going_on_at_the_end_of_time_was_taken(self, sandbox: Sandbox) -> None:
        provider = self.make(sandbox, timeout=0.1)  # no time for a look
        outcome = await Bench(provider, sandbox).outcome()
        await provider.aclose()

        assert outcome.status == "sent"

    @pytest.mark.parametrize("where", ["http://192.0.2.1/steal", "not a url at all"])
    async def test_the_credentials_go_nowhere_else(self, bench: Bench, where: str) -> None:
        answer = httpx.Response(202, json={"status": "Running"}, headers={"operation-location": where})
        ours = httpx.URL(f"{bench.provider.base}/emails/operations/1")

        assert bench.provider._named(answer, ours) == ours  # type: ignore[attr-defined]

    async def test_the_senders_name_is_dropped_and_named(self, bench: Bench) -> None:
        repairs = bench.provider.repairs(parse(mails.raw(mails.build())), mails.envelope())

        assert "display name of the sender dropped" in " ".join(repairs)

    def test_an_answer_about_a_canceled_operation_is_temporary(self, bench: Bench) -> None:
        call = Addressing(reverse_path=SENDER, to=(Mailbox(ANN),))
        outcome = bench.provider.parse_response(httpx.Response(200, json={"status": "Canceled"}), call)[ANN]

        assert meant(outcome) == EXPECTED["O"]


class TestAzureWithToken(AzureContract):
    settings = {"api_key": "", "tenant": "contoso.example", "client_id": "app1", "client_secret": KEY}
    wrong_key = {"client_secret": "wrong-secret"}

    def more_settings(self, sandbox: Sandbox) -> dict[str, Any]:
        return {"authority": sandbox.twin_url("azure")}

    async def test_one_token_serves_many_mails(self, bench: Bench) -> None:
        for _ in range(3):
            await bench.send(mails.build())

        assert len([r for r in bench.requests if r.url.path.endswith("/token")]) == 1

    async def test_a_token_endpoint_that_is_away_is_the_providers(self, bench: Bench) -> None:
        bench.sandbox.fail("azure.token=503:1")

        assert meant(await bench.outcome()) == EXPECTED["T"]
