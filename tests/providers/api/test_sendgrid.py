"""SendGrid: the contract, and what only its API has."""

from __future__ import annotations

import orjson

from bridge.mime.parse import parse
from bridge.model import Fault
from bridge.providers.base import Call
from tests.providers.api import mails
from tests.providers.api.contract import EXPECTED, ApiContract, Bench, meant
from tests.providers.api.mails import ANN, BOB, SENDER


class TestSendgrid(ApiContract):
    kind = "sendgrid"
    errors = {
        "bad_request": "P",
        "unauthorized": "C",
        "maximum_credits_exceeded": "Q",
        "unverified_sender": "C",
        "access_forbidden": "C",
        "not_found": "C",
        "method_not_allowed": "C",
        "unacceptable": "C",
        "payload_too_large": "B",
        "too_many_requests": "R",
        "unsupported_media_type": "C",
        "wrong_region": "C",
        "internal_error": "T",
        "unavailable": "T",
    }
    documented = frozenset(
        {
            "personalizations",
            "from",
            "from.email",
            "from.name",
            "reply_to",
            "reply_to.email",
            "reply_to.name",
            "subject",
        }
        | {f"personalizations[].{slot}" for slot in ("to", "cc", "bcc")}
        | {f"personalizations[].{slot}[].{key}" for slot in ("to", "cc", "bcc") for key in ("email", "name")}
        | {
            "reply_to_list",
            "reply_to_list[].email",
            "reply_to_list[].name",
            "content",
            "content[].type",
            "content[].value",
        }
        | {"headers", "headers.*", "custom_args", "custom_args.*", "categories", "send_at", "ip_pool_name"}
        | {"personalizations[].custom_args", "personalizations[].custom_args.*"}
        | {"attachments"}
        | {f"attachments[].{key}" for key in ("content", "filename", "type", "disposition", "content_id")}
    )
    split = 1100
    hostile = {
        "X-SMTPAPI": orjson.dumps(
            {
                "to": ["eve@example.org"],
                "section": {"a": "eve@example.org"},
                "sub": {"a": ["eve@example.org"]},
                "filters": {"bcc": {"settings": {"enable": 1, "email": "eve@example.org"}}},
                "category": "ok",
            }
        ).decode()
    }

    async def test_the_request_of_the_documentation(self, bench: Bench) -> None:
        """Retyped from the facts: the least and the usual."""
        email = parse(mails.raw(mails.build(text="Hi\n", Subject="Hello", Reply_To=BOB, X_Order="17")))
        (call,) = bench.provider.calls(email, SENDER, (ANN,))
        request = bench.provider.build_request(email, call, queue_id="Q1", key="K1")

        assert str(request.url).endswith("/v3/mail/send")
        assert request.headers["authorization"].startswith("Bearer ")
        assert request.headers["accept"] == "application/json"  # else 406
        assert orjson.loads(request.content) == {
            "personalizations": [{"to": [{"email": ANN, "name": "Ann Lee"}], "custom_args": {"queue_id": "Q1"}}],
            "from": {"email": SENDER, "name": "The Shop"},
            "reply_to": {"email": BOB},
            "subject": "Hello",
            "content": [{"type": "text/plain", "value": "Hi\n"}],
            "headers": {"X-Order": "17", "Message-ID": "<1@example.com>"},
        }

    async def test_categories_and_arguments_of_the_smtp_service(self, bench: Bench) -> None:
        value = '{"category": ["a", "b"], "unique_args": {"order": 17}, "asm_group_id": 3, "ip_pool": "fast"}'
        mail = await bench.received(mails.build(X_SMTPAPI=value))

        assert mail.tags == ("a", "b")
        assert dict(mail.metadata)["order"] == "17"
        payload = bench.sandbox.received("sendgrid")[-1].payload
        assert (payload["asm"], payload["ip_pool_name"]) == ({"group_id": 3}, "fast")

    async def test_a_bad_recipient_is_found_by_trying_each_alone(self, bench: Bench) -> None:
        message = mails.build(To=f"{ANN}, a@b@c")
        bench.sandbox.fail("sendgrid=bad_request:1")
        outcomes = await bench.send(message, mails.envelope(ANN, BOB))

        assert {o.fault for o in outcomes.values()} == {Fault.MESSAGE}

    async def test_one_bad_mail_in_a_batch_costs_the_others_nothing(self, bench: Bench) -> None:
        provider = bench.provider
        email = parse(mails.raw(mails.build(To=None)))
        good = [f"person{n}@example.org" for n in range(6)]
        calls = []
        for number, recipient in enumerate([*good, "not-an-address"]):
            (one,) = provider.calls(email, SENDER, (recipient,))
            calls.append(Call(email=email, addressing=one, queue_id=f"Q{number}", key=f"K{number}"))

        found = await provider.send_many(calls)

        assert [next(iter(o.values())).status for o in found] == ["sent"] * 6 + ["bounced"]
        assert meant(found[-1]["not-an-address"]) == EXPECTED["A"]
        assert sorted(r for mail in bench.mails for r in mail.recipients) == sorted(good)

    async def test_the_rate_header_says_when_to_come_back(self, bench: Bench) -> None:
        bench.sandbox.fail("sendgrid=too_many_requests:1")
        outcome = await bench.outcome()

        assert outcome.retry_after is not None
        assert 50 < outcome.retry_after <= 61  # X-RateLimit-Reset, seconds of the epoch
