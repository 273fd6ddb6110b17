"""SparkPost: the contract, and what only its API has."""

from __future__ import annotations

import httpx
import orjson
import pytest

from bridge.mime.parse import parse
from bridge.model import Addressing, Mailbox
from tests.providers.api import mails
from tests.providers.api.contract import EXPECTED, KEY, ApiContract, Bench, meant
from tests.providers.api.mails import ANN, BOB, CAT, SENDER

ERRORS = {
    "missing_field": "P",
    "unconfigured_domain": "C",
    "dkim_key": "C",
    "invalid_value": "P",
    "unauthorized": "C",
    "forbidden": "C",
    "not_found": "C",
    "method_not_allowed": "C",
    "conflict": "P",
    "too_large": "B",
    "unsupported_media_type": "P",
    "quota": "Q",
    "daily_quota": "Q",
    "too_many_requests": "R",
    "internal": "T",
    "unavailable": "T",
}
COMMON = frozenset(
    {"options", "options.*", "recipients", "recipients[].address", "recipients[].address.email", "recipients[].tags"}
    | {"content", "campaign_id", "metadata", "metadata.*"}
)
HOSTILE = {
    "X-MSYS-API": orjson.dumps(
        {
            "cc": [{"email": "eve@example.org"}],
            "bcc": ["eve@example.org"],
            "archive": [{"email": "eve@example.org"}],
            "return_path": "eve@example.org",
            "options": {"return_path": "eve@example.org", "open_tracking": True},
        }
    ).decode()
}


class TestSparkpostRaw(ApiContract):
    kind = "sparkpost"
    errors = ERRORS
    documented = COMMON | {"content.email_rfc822"}
    carries_signed = carries_invitation = True
    split = 2100
    hostile = HOSTILE

    async def test_the_request_of_the_documentation(self, bench: Bench) -> None:
        email = parse(mails.raw(mails.build(Bcc=CAT)))
        (call,) = bench.provider.calls(email, SENDER, (ANN, CAT))
        request = bench.provider.build_request(email, call, queue_id="Q1", key="K1")
        content = orjson.loads(request.content)

        assert request.headers["authorization"] == KEY  # no Bearer
        assert content["recipients"] == [{"address": {"email": ANN}}, {"address": {"email": CAT}}]
        assert content["options"] == {
            "open_tracking": False,
            "click_tracking": False,
            "transactional": True,
            "perform_substitutions": False,
        }
        assert CAT not in content["content"]["email_rfc822"]

    async def test_template_marks_in_a_header_are_hidden_from_the_template_language(self, bench: Bench) -> None:
        message = mails.build(Subject="Hello {{name}}", X_Order="{{17}}", From=f'"The {{{{Shop}}}}" <{SENDER}>')
        mail = await bench.received(message)

        assert mail.subject == "Hello {{name}}"
        assert dict(mail.headers)["X-Order"] == "{{17}}"
        assert mail.sender_name == "The {{Shop}}"

    async def test_template_marks_that_cannot_be_hidden_are_refused(self, bench: Bench) -> None:
        raw = mails.raw(f"From: {SENDER}\r\nTo: <{{{{x}}}}@example.org>\r\nSubject: x\r\n\r\ntext\r\n".encode())

        assert bench.provider.unfit(parse(raw), mails.envelope())

    async def test_options_of_the_smtp_service(self, bench: Bench) -> None:
        value = (
            '{"campaign_id": "spring", "tags": ["a"], "metadata": {"order": 17}, "options": {"click_tracking": true}}'
        )
        mail = await bench.received(mails.build(X_MSYS_API=value))
        payload = bench.sandbox.received("sparkpost")[-1].payload

        assert (mail.tags, dict(mail.metadata)) == (("a",), {"order": "17"})
        assert (payload["campaign_id"], payload["options"]["click_tracking"]) == ("spring", True)
        assert payload["options"]["perform_substitutions"] is False

    async def test_a_bad_recipient_beside_a_good_one_is_told_apart(self, bench: Bench) -> None:
        outcomes = await bench.send(mails.build(), mails.envelope(ANN, "bad@@example.org"))

        assert outcomes[ANN].status == "sent"
        assert meant(outcomes["bad@@example.org"]) == EXPECTED["A"]

    def test_refusals_that_name_nobody_leave_all_unknown(self, bench: Bench) -> None:
        body = {"results": {"total_rejected_recipients": 1, "total_accepted_recipients": 1, "id": "1166"}}
        call = Addressing(reverse_path=SENDER, to=(Mailbox(ANN), Mailbox(BOB)))
        outcomes = bench.provider.parse_response(httpx.Response(200, json=body), call)

        assert {o.status for o in outcomes.values()} == {"unknown"}

    @pytest.mark.parametrize("body", [{}, {"results": {}}, [], "x"])
    def test_an_answer_without_counts_is_unknown(self, bench: Bench, body: object) -> None:
        call = Addressing(reverse_path=SENDER, to=(Mailbox(ANN),))

        assert bench.provider.parse_response(httpx.Response(200, json=body), call)[ANN].status == "unknown"

    async def test_a_key_that_may_not_ask_is_not_called_wrong(self, bench: Bench) -> None:
        verified = bench.provider.read_probe(httpx.Response(403))

        assert verified.ok is None


class TestSparkpostJson(ApiContract):
    kind = "sparkpost"
    settings = {"api_key": KEY, "content": "json"}
    errors = ERRORS
    documented = (
        COMMON
        | {
            "recipients[].address.header_to",
            "content.from",
            "content.from.email",
            "content.from.name",
            "content.subject",
        }
        | {f"content.{key}" for key in ("text", "html", "amp_html", "reply_to", "headers", "headers.*")}
        | {f"content.{kind}" for kind in ("attachments", "inline_images")}
        | {f"content.{kind}[].{key}" for kind in ("attachments", "inline_images") for key in ("name", "type", "data")}
    )
    hostile = HOSTILE

    async def test_every_copy_shows_the_same_to_and_cc(self, bench: Bench) -> None:
        await bench.send(mails.build(Cc=BOB), mails.envelope(ANN, BOB, CAT))
        payload = orjson.loads(bench.requests[-1].content)

        assert {r["address"]["header_to"] for r in payload["recipients"]} == {f"Ann Lee <{ANN}>"}
        assert payload["content"]["headers"]["CC"] == BOB

    async def test_template_marks_in_a_header_are_a_loss(self, bench: Bench) -> None:
        unfit = bench.provider.unfit(parse(mails.raw(mails.build(Subject="Hello {{name}}"))), mails.envelope())

        assert unfit
        assert "{{" in " ".join(unfit.losses)
