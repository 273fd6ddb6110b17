"""ZeptoMail: the contract, and what only its API has."""

from __future__ import annotations

import httpx
import orjson

from bridge.mime.parse import parse
from bridge.model import Addressing, Mailbox
from tests.providers.api import mails
from tests.providers.api.contract import EXPECTED, KEY, ApiContract, Bench, meant
from tests.providers.api.mails import ANN, BOB, SENDER


class TestZeptomail(ApiContract):
    kind = "zeptomail"
    errors = {
        "missing_field": "P",
        "bad_json": "P",
        "mime_type": "P",
        "unsupported": "P",
        "mail_template": "P",
        "credits_expired": "Q",
        "ip_not_allowed": "C",
        "trial_limit": "Q",
        "daily_limit": "Q",
        "account_blocked": "C",
        "domain_unverified": "C",
        "invalid_token": "C",
        "invalid_from": "C",
        "not_approved": "C",
        "some_new_error": "O",
        "too_many_requests": "R",
        "too_large": "B",
        "internal": "T",
    }
    documented = frozenset(
        {"from", "from.address", "from.name", "subject", "textbody", "htmlbody", "client_reference"}
        | {"reply_to", "reply_to[].address", "reply_to[].name", "mime_headers", "mime_headers.*"}
        | {f"{slot}{end}" for slot in ("to", "cc", "bcc") for end in ("", "[].email_address")}
        | {f"{slot}[].email_address.{key}" for slot in ("to", "cc", "bcc") for key in ("address", "name")}
        | {"attachments", "inline_images"}
        | {f"attachments[].{key}" for key in ("content", "mime_type", "name")}
        | {f"inline_images[].{key}" for key in ("content", "mime_type", "cid")}
    )
    takes_tags = takes_metadata = False
    has_probe = False

    async def test_the_request_of_the_documentation(self, bench: Bench) -> None:
        email = parse(mails.raw(mails.build(text="Hi\n", Subject="Hello", Reply_To=BOB, X_Order="17")))
        (call,) = bench.provider.calls(email, SENDER, (ANN,))
        request = bench.provider.build_request(email, call, queue_id="Q1", key="K1")

        assert request.headers["authorization"] == f"Zoho-enczapikey {KEY}"
        assert orjson.loads(request.content) == {
            "from": {"address": SENDER, "name": "The Shop"},
            "to": [{"email_address": {"address": ANN, "name": "Ann Lee"}}],
            "reply_to": [{"address": BOB}],
            "subject": "Hello",
            "textbody": "Hi\n",
            "client_reference": "Q1",
            "mime_headers": {"X-Order": "17"},
        }

    async def test_the_token_may_be_given_as_the_console_shows_it(self, sandbox: object, bench: Bench) -> None:
        provider = self.make(bench.sandbox, api_key=f"Zoho-enczapikey {KEY}")
        outcome = await Bench(provider, bench.sandbox).outcome()
        await provider.aclose()

        assert outcome.status == "sent"

    def test_an_error_with_a_good_status_is_an_error(self, bench: Bench) -> None:
        body = {"error": {"code": "TM_3501", "details": [{"code": "LE_101", "message": "x"}], "message": "x"}}
        outcomes = bench.provider.parse_response(
            httpx.Response(200, json=body), Addressing(reverse_path="", to=(Mailbox(ANN),))
        )

        assert meant(outcomes[ANN]) == EXPECTED["Q"]
