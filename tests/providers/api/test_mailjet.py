"""Mailjet: the contract, and what only its API has."""

from __future__ import annotations

import base64

import httpx
import orjson
import pytest

from bridge.mime.parse import parse
from bridge.model import Addressing, Email, Mailbox
from bridge.providers.base import Call
from tests.providers.api import mails
from tests.providers.api.contract import EXPECTED, KEY, ApiContract, Bench, meant
from tests.providers.api.mails import ANN, BOB, CAT, SENDER

TWO = Addressing(reverse_path=SENDER, to=(Mailbox(ANN), Mailbox(BOB)))


def calls_for(bench: Bench, email: Email, *recipients: str) -> list[Call]:
    found = []
    for number, recipient in enumerate(recipients):
        (one,) = bench.provider.calls(email, SENDER, (recipient,))
        found.append(Call(email=email, addressing=one, queue_id=f"Q{number}", key=f"K{number}"))
    return found


def refusal(*errors: dict[str, object]) -> httpx.Response:
    return httpx.Response(400, json={"Messages": [{"Status": "error", "Errors": list(errors)}]})


class TestMailjet(ApiContract):
    kind = "mailjet"
    settings = {"api_key": "public", "api_secret": KEY}
    wrong_key = {"api_secret": "wrong-key"}
    errors = {
        "bad_json": "P",
        "missing_property": "P",
        "wrong_type": "A",
        "wrong_value": "P",
        "wrong_length": "P",
        "array_too_small": "A",
        "array_too_big": "A",
        "payload_too_big": "B",
        "empty_string": "P",
        "bad_recipient": "A",
        "bad_sender_address": "P",
        "no_content": "P",
        "special_header": "P",
        "new_code": "O",
        "no_category": "C",
        "bad_key": "C",
        "key_suspended": "C",
        "sender_property": "C",
        "sender_forbidden": "C",
        "sender_not_validated": "C",
        "not_found": "C",
        "method_not_allowed": "C",
        "too_large": "B",
        "too_many_requests": "R",
        "internal": "T",
        "item_internal": "O",
        "unavailable": "T",
    }
    documented = frozenset(
        {"Messages"}
        | {f"Messages[].{slot}" for slot in ("From", "To", "Cc", "Bcc", "ReplyTo")}
        | {f"Messages[].{slot}.{key}" for slot in ("From", "ReplyTo") for key in ("Email", "Name")}
        | {f"Messages[].{slot}[].{key}" for slot in ("To", "Cc", "Bcc") for key in ("Email", "Name")}
        | {f"Messages[].{key}" for key in ("Subject", "TextPart", "HTMLPart", "Headers", "Headers.*", "CustomID")}
        | {f"Messages[].{key}" for key in ("EventPayload", "CustomCampaign", "DeduplicateCampaign", "TrackOpens")}
        | {f"Messages[].{key}" for key in ("TrackClicks", "Priority", "MonitoringCategory")}
        | {f"Messages[].{kind}" for kind in ("Attachments", "InlinedAttachments")}
        | {
            f"Messages[].{kind}[].{key}"
            for kind in ("Attachments", "InlinedAttachments")
            for key in ("ContentType", "Filename", "Base64Content")
        }
        | {"Messages[].InlinedAttachments[].ContentID"}
    )
    hostile = {
        "X-MJ-TemplateErrorReporting": "eve@example.org",
        "X-MJ-Vars": '{"to": "eve@example.org"}',
        "X-MJ-TemplateID": "eve@example.org",
        "X-MJ-ErrorMessage": "eve@example.org",
        "X-Mailjet-Segmentation": "eve@example.org",
        "X-Mailjet-TrackOpen": "eve@example.org",
        "X-Mailjet-Prio": "eve@example.org",
    }

    async def test_the_request_of_the_documentation(self, bench: Bench) -> None:
        """Retyped from the facts; both halves of the key in HTTP Basic."""
        email = parse(mails.raw(mails.build(text="Hi\n", Subject="Hello", Reply_To=f"Bob <{BOB}>", X_Order="17")))
        (call,) = bench.provider.calls(email, SENDER, (ANN, CAT))
        request = bench.provider.build_request(email, call, queue_id="Q1", key="K1")

        assert str(request.url).endswith("/v3.1/send")
        credentials = base64.b64encode(f"public:{KEY}".encode()).decode()
        assert request.headers["authorization"] == f"Basic {credentials}"
        assert orjson.loads(request.content) == {
            "Messages": [
                {
                    "From": {"Email": SENDER, "Name": "The Shop"},
                    "To": [{"Email": ANN, "Name": "Ann Lee"}],
                    "Bcc": [{"Email": CAT}],
                    "ReplyTo": {"Email": BOB, "Name": "Bob"},
                    "Subject": "Hello",
                    "TextPart": "Hi\n",
                    "Headers": {"X-Order": "17"},
                    "CustomID": "Q1",
                }
            ]
        }

    def test_both_halves_of_the_key_are_secrets(self, bench: Bench) -> None:
        assert KEY not in repr(bench.provider.settings)
        assert set(bench.provider.secrets) == {"public", KEY}

    async def test_inline_images_stand_apart_from_files(self, bench: Bench) -> None:
        await bench.send(mails.with_parts())
        (message,) = orjson.loads(bench.requests[-1].content)["Messages"]

        assert [a["ContentID"] for a in message["InlinedAttachments"]] == ["logo@shop"]
        assert [a["ContentType"] for a in message["Attachments"]] == ["application/pdf", "text/csv"]
        assert not [a for a in message["Attachments"] if "ContentID" in a]

    async def test_special_headers_are_taken_out_and_told(self, bench: Bench) -> None:
        special = {"User-Agent": "x", "X-Mailer": "x", "List-Id": "<l.example.com>", "X-Feedback-Id": "x"}
        message = mails.build(**{name.replace("-", "_"): value for name, value in special.items()}, Precedence="bulk")
        mail = await bench.received(message)
        repairs = " ".join(bench.provider.repairs(parse(mails.raw(message)), mails.envelope()))

        assert mail.headers == (("Precedence", "bulk"),)
        assert all(name in repairs for name in special)

    async def test_an_empty_header_is_left_out_and_told(self, bench: Bench) -> None:
        message = mails.build(X_Empty="", X_Order="17")
        mail = await bench.received(message)

        assert mail.headers == (("X-Order", "17"),)
        assert "X-Empty" in " ".join(bench.provider.repairs(parse(mails.raw(message)), mails.envelope()))

    async def test_a_long_subject_is_cut(self, bench: Bench) -> None:
        mail = await bench.received(mails.build(Subject="x" * 300))

        assert mail.subject == "x" * 255

    def test_more_than_one_reply_to_is_a_loss(self, bench: Bench) -> None:
        unfit = bench.provider.unfit(parse(mails.raw(mails.build(Reply_To=f"{ANN}, {BOB}"))), mails.envelope())

        assert unfit
        assert unfit.degradable

    # --- features

    async def test_the_fields_of_the_smtp_service(self, bench: Bench) -> None:
        fields = {
            "X-MJ-CustomID": "order-17",
            "X-MJ-EventPayload": "Eticket,1234",
            "X-Mailjet-Campaign": "spring",
            "X-Mailjet-DeduplicateCampaign": "1",
            "X-Mailjet-TrackOpen": "0",
            "X-Mailjet-TrackClick": "account_default",
            "X-Mailjet-Prio": "2",
            "X-MJ-MonitoringCategory": "orders",
        }
        mail = await bench.received(mails.build(**{name.replace("-", "_"): value for name, value in fields.items()}))
        (message,) = orjson.loads(bench.requests[-1].content)["Messages"]

        assert mail.headers == ()
        assert (message["CustomID"], message["EventPayload"]) == ("order-17", "Eticket,1234")
        assert (message["CustomCampaign"], message["DeduplicateCampaign"]) == ("spring", True)
        assert (message["TrackOpens"], message["TrackClicks"]) == ("disabled", "account_default")
        assert (message["Priority"], message["MonitoringCategory"]) == (2, "orders")

    def test_what_has_no_place_beside_the_providers_own_fields_is_told(self, bench: Bench) -> None:
        message = mails.build(X_Bridge_Tag="a, b", X_Bridge_Metadata="k=v", X_MJ_EventPayload="own")
        repairs = bench.provider.repairs(parse(mails.raw(message)), mails.envelope())

        assert "tag 'b' dropped, the provider takes one" in repairs
        assert "metadata dropped, X-MJ-EventPayload stands in their place" in repairs

    # --- verdicts

    async def test_a_batch_is_read_one_by_one_whatever_its_status(self, bench: Bench) -> None:
        email = parse(mails.raw(mails.build(To=None)))
        found = await bench.provider.send_many(calls_for(bench, email, ANN, "x@refused.example", BOB))

        assert [meant(o) for outcomes in found for o in outcomes.values()][1] == EXPECTED["A"]
        assert [next(iter(outcomes.values())).status for outcomes in found] == ["sent", "bounced", "sent"]
        assert [mail.recipients for mail in bench.mails] == [(ANN,), (BOB,)]
        assert len(bench.requests) == 1

    async def test_a_batch_refused_as_a_whole_is_halved(self, bench: Bench) -> None:
        bench.sandbox.fail("mailjet=payload_too_big:1")
        email = parse(mails.raw(mails.build(To=None)))
        found = await bench.provider.send_many(calls_for(bench, email, ANN, BOB))

        assert {o.status for outcomes in found for o in outcomes.values()} == {"sent"}
        assert len(bench.requests) == 3

    @pytest.mark.parametrize("error", ["bad_key", "key_suspended", "sender_not_validated", "too_many_requests"])
    async def test_a_batch_refused_for_the_account_is_not_tried_again_at_once(self, bench: Bench, error: str) -> None:
        bench.sandbox.fail(f"mailjet={error}")
        email = parse(mails.raw(mails.build(To=None)))
        found = await bench.provider.send_many(calls_for(bench, email, ANN, BOB))

        assert {o.status for outcomes in found for o in outcomes.values()} == {"deferred"}
        assert len(bench.requests) == 1

    def test_a_batch_with_a_verdict_missing_is_unknown(self, bench: Bench) -> None:
        calls = calls_for(bench, parse(mails.raw(mails.build(To=None))), ANN, BOB)
        body = {"Messages": [{"Status": "success", "To": [{"Email": ANN, "MessageID": 1}]}]}
        found = bench.provider.parse_batch(httpx.Response(200, json=body), calls)

        assert found
        assert {o.status for outcomes in found for o in outcomes.values()} == {"unknown"}

    async def test_one_bad_recipient_costs_the_others_nothing(self, bench: Bench) -> None:
        message = mails.build(To=f"{ANN}, x@refused.example", Cc=BOB)
        outcomes = await bench.send(message, mails.envelope(ANN, "x@refused.example", BOB))

        assert (outcomes[ANN].status, outcomes[BOB].status) == ("sent", "sent")
        assert meant(outcomes["x@refused.example"]) == EXPECTED["A"]

    async def test_a_mail_with_several_recipients_goes_in_no_batch(self, bench: Bench) -> None:
        email = parse(mails.raw(mails.build()))
        (call,) = bench.provider.calls(email, SENDER, (ANN, BOB))

        assert bench.provider.batch_key(Call(email=email, addressing=call, queue_id="Q", key="K")) is None

    async def test_a_sender_that_is_not_validated_never_bounces(self, bench: Bench) -> None:
        outcome = await bench.outcome(mails.build(From="shop@refused.example"))

        assert meant(outcome) == EXPECTED["C"]

    def test_each_recipient_has_an_id_of_its_own(self, bench: Bench) -> None:
        """Verbatim, but for the addresses; the ids do not fit into a float."""
        body = b"""{"Messages": [{"Status": "success", "CustomID": "", "To": [
            {"Email": "Ann@example.org", "MessageUUID": "123", "MessageID": 20547681647433000,
             "MessageHref": "https://api.mailjet.com/v3/message/20547681647433000"},
            {"Email": "bob@example.net", "MessageUUID": "124", "MessageID": 20547681647433001,
             "MessageHref": "https://api.mailjet.com/v3/message/20547681647433001"}], "Cc": [], "Bcc": []}]}"""
        outcomes = bench.provider.parse_response(httpx.Response(200, content=body), TWO)

        assert [outcomes[r].provider_message_id for r in (ANN, BOB)] == ["20547681647433000", "20547681647433001"]

    def test_of_several_errors_the_accounts_decides(self, bench: Bench) -> None:
        bad = {"ErrorCode": "mj-0013", "StatusCode": 400, "ErrorMessage": "x", "ErrorRelatedTo": ["To[0].Email"]}
        sender = {"ErrorCode": "send-0008", "StatusCode": 403, "ErrorMessage": "x", "ErrorRelatedTo": ["From"]}
        content = {"ErrorCode": "send-0010", "StatusCode": 400, "ErrorMessage": "x", "ErrorRelatedTo": ["TemplateID"]}

        for errors, letter in (((bad, sender), "C"), ((bad, content), "P"), ((bad,), "A")):
            outcomes = bench.provider.parse_response(refusal(*errors), TWO)
            assert {meant(o) for o in outcomes.values()} == {EXPECTED[letter]}

    @pytest.mark.parametrize(
        ("body", "letter"),
        [
            ({"Messages": []}, "U"),
            ({"Messages": [{"Status": "new"}]}, "U"),
            ({"Messages": [{}, {}]}, "U"),
            ({}, "U"),
            ([], "U"),
            ({"Messages": [{"Status": "error"}]}, "U"),
            ({"Messages": [{"Status": "error", "Errors": ["x"]}]}, "U"),
            ({"Messages": [{"Status": "error", "Errors": [{"ErrorCode": "mj-0999"}]}]}, "O"),
        ],
    )
    def test_an_answer_without_a_verdict_is_never_a_bounce(self, bench: Bench, body: object, letter: str) -> None:
        outcomes = bench.provider.parse_response(httpx.Response(200, json=body), TWO)

        assert {meant(o) for o in outcomes.values()} == {EXPECTED[letter]}
