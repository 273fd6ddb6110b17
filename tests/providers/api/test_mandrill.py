"""Mandrill: the contract, and what only its API has. Errors have HTTP status 500 and a name."""

from __future__ import annotations

import httpx
import orjson

from bridge.mime.parse import parse
from bridge.model import Addressing, Mailbox
from tests.providers.api import mails
from tests.providers.api.contract import EXPECTED, KEY, ApiContract, Bench, meant
from tests.providers.api.mails import ANN, BOB, CAT, SENDER

ERRORS = {
    "invalid_key": "C",
    "unauthorized": "C",
    "payment_required": "C",
    "unknown_subaccount": "C",
    "validation_error": "P",
    "general_error": "T",
    "service_unavailable": "T",
    "some_new_error": "T",
    "too_large": "B",
    "too_many_requests": "R",
}
HOSTILE = {
    "X-MC-BccAddress": "eve@example.org",
    "X-MC-ReturnPathDomain": "eve@example.org",
    "X-MC-MergeVars": '{"_rcpt": "eve@example.org"}',
}


class TestMandrillRaw(ApiContract):
    kind = "mandrill"
    errors = ERRORS
    documented = frozenset({"key", "raw_message", "to", "ip_pool"})
    carries_signed = carries_invitation = True
    hostile = HOSTILE

    async def test_the_request_of_the_documentation(self, bench: Bench) -> None:
        email = parse(mails.raw(mails.build(Bcc=CAT, X_MC_BccAddress="eve@example.org", X_MC_IpPool="fast")))
        shown, hidden = bench.provider.calls(email, SENDER, (ANN, CAT))
        request = bench.provider.build_request(email, shown, queue_id="Q1", key="K1")
        payload = orjson.loads(request.content)

        assert (payload["key"], payload["to"], payload["ip_pool"]) == (KEY, [ANN], "fast")
        assert hidden.recipients == (CAT,)
        assert payload["raw_message"].isascii()
        assert "X-MC-PreserveRecipients: true" in payload["raw_message"]
        assert "BccAddress" not in payload["raw_message"]
        assert CAT not in payload["raw_message"]

    async def test_tags_and_metadata_of_the_smtp_service(self, bench: Bench) -> None:
        mail = await bench.received(mails.build(X_MC_Tags="a,b", X_MC_Metadata='{"order": 17}', X_MC_Track="opens"))

        assert (mail.tags, dict(mail.metadata)) == (("a", "b"), {"order": "17"})
        assert "X-MC-Track: opens" in orjson.loads(bench.requests[-1].content)["raw_message"]

    async def test_each_recipient_has_its_own_verdict(self, bench: Bench) -> None:
        people = (ANN, "suppressed@example.org", "unsigned@example.org", "bad@@example.org")
        outcomes = await bench.send(mails.build(), mails.envelope(*people))

        assert outcomes[ANN].status == "sent"
        assert [meant(outcomes[r]) for r in people[1:]] == [EXPECTED["X"], EXPECTED["C"], EXPECTED["A"]]

    async def test_two_spellings_of_an_address_keep_their_own_verdicts(self, bench: Bench) -> None:
        email = parse(mails.raw(mails.build()))
        calls = bench.provider.calls(email, SENDER, ("Ann@example.org", "ann@example.org"))

        assert {call.recipients for call in calls} == {("Ann@example.org",), ("ann@example.org",)}

    def test_a_malformed_recipient_among_others_is_found_by_trying_each_alone(self, bench: Bench) -> None:
        call = Addressing(reverse_path=SENDER, to=(Mailbox(ANN), Mailbox(BOB)))
        text = 'Validation error: {"message":{"to":[{"email":"An email address must contain a single @"}]}}'
        body = {"status": "error", "code": -2, "name": "ValidationError", "message": text}
        outcomes = bench.provider.parse_response(httpx.Response(500, json=body), call)

        assert {meant(o) for o in outcomes.values()} == {EXPECTED["A"]}
        assert bench.provider.refused_together(outcomes, call)

    def test_reasons_say_who_is_to_blame_and_a_new_one_is_temporary(self, bench: Bench) -> None:
        call = Addressing(reverse_path=SENDER, to=(Mailbox(ANN),))
        letters = {"spam": "X", "unsub": "X", "custom": "X", "invalid": "A", "rule": "P", "unsigned": "C", "new": "O"}
        for reason, letter in {**letters, None: "O"}.items():
            body = [{"email": ANN, "status": "rejected", "reject_reason": reason, "_id": "x"}]
            found = bench.provider.parse_response(httpx.Response(200, json=body), call)
            assert meant(found[ANN]) == EXPECTED[letter], reason

    async def test_metadata_beyond_ascii_stay_json_in_the_header(self, bench: Bench) -> None:
        mail = await bench.received(mails.build(X_Bridge_Metadata="name=J\u00fcrgen"))

        assert dict(mail.metadata) == {"name": "J\u00fcrgen"}
        assert 'X-MC-Metadata: {"name": "J\\u00fcrgen"}' in orjson.loads(bench.requests[-1].content)["raw_message"]

    def test_what_is_queued_for_a_reason_was_taken_and_an_unknown_status_is_unknown(self, bench: Bench) -> None:
        call = Addressing(reverse_path=SENDER, to=(Mailbox(ANN), Mailbox(BOB), Mailbox(CAT)))
        body = [
            {"email": ANN, "status": "queued", "queued_reason": "hourly-quota-exhausted", "_id": "x"},
            {"email": BOB, "status": "something"},
        ]
        outcomes = bench.provider.parse_response(httpx.Response(200, json=body), call)

        assert [outcomes[r].status for r in (ANN, BOB, CAT)] == ["sent", "unknown", "unknown"]
        assert outcomes[ANN].detail == "hourly-quota-exhausted"


class TestMandrillJson(ApiContract):
    kind = "mandrill"
    settings = {"api_key": KEY, "content": "json"}
    errors = ERRORS
    documented = frozenset(
        {"key", "ip_pool", "message"}
        | {
            f"message.{name}"
            for name in ("html", "text", "subject", "from_email", "from_name", "to", "headers", "headers.*")
        }
        | {
            f"message.{name}"
            for name in ("tags", "metadata", "metadata.*", "preserve_recipients", "merge", "important")
        }
        | {f"message.to[].{name}" for name in ("email", "name", "type")}
        | {
            f"message.{kind}{end}"
            for kind in ("attachments", "images")
            for end in ("", "[].type", "[].name", "[].content")
        }
    )
    ascii_names = True
    hostile = HOSTILE

    async def test_everybody_sees_the_same_to_and_cc(self, bench: Bench) -> None:
        mail = await bench.received(mails.build(Cc=BOB), mails.envelope(ANN, BOB, CAT))

        assert ([email for email, _ in mail.to], [email for email, _ in mail.cc]) == ([ANN], [BOB])
        assert orjson.loads(bench.requests[-1].content)["message"]["preserve_recipients"] is True
