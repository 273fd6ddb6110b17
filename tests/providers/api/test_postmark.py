"""Postmark: the contract, and what only its API has."""

from __future__ import annotations

from typing import Any

import httpx
import orjson
import pytest

from bridge.mime.parse import parse
from bridge.model import Addressing, Mailbox
from bridge.providers.base import Call
from tests.providers.api import mails
from tests.providers.api.contract import EXPECTED, KEY, ApiContract, Bench, meant
from tests.providers.api.mails import ANN, BOB, CAT, SENDER

BOTH = Addressing(reverse_path=SENDER, to=(Mailbox(ANN), Mailbox(BOB)))


def one_each(bench: Bench, *recipients: str) -> list[Call]:
    email = parse(mails.raw(mails.build(To=None)))
    found = []
    for number, recipient in enumerate(recipients):
        (one,) = bench.provider.calls(email, SENDER, (recipient,))
        found.append(Call(email=email, addressing=one, queue_id=f"Q{number}", key=f"K{number}"))
    return found


class TestPostmark(ApiContract):
    kind = "postmark"
    errors = {
        "no_token": "C",
        "bad_token": "C",
        "blocked_network": "C",
        "invalid_email_request": "P",
        "invalid_from": "C",
        "invalid_to": "A",
        "sender_signature_not_found": "C",
        "sender_signature_not_confirmed": "C",
        "invalid_json": "P",
        "incompatible_json": "P",
        "not_allowed_to_send": "Q",
        "inactive_recipient": "X",
        "json_required": "P",
        "too_many_batch_messages": "O",
        "forbidden_attachment_type": "P",
        "account_is_pending": "C",
        "account_may_not_send": "C",
        "maintenance": "T",
        "not_found": "C",
        "payload_too_large": "B",
        "unsupported_media_type": "C",
        "rate_limit_exceeded": "R",
        "internal_server_error": "T",
        "service_unavailable": "T",
    }
    documented = frozenset(
        {"From", "To", "Cc", "Bcc", "Subject", "TextBody", "HtmlBody", "ReplyTo", "Tag", "Metadata", "Metadata.*"}
        | {"TrackOpens", "TrackLinks", "MessageStream", "Headers", "Headers[].Name", "Headers[].Value", "Attachments"}
        | {f"Attachments[].{key}" for key in ("Name", "Content", "ContentType", "ContentID")}
    )
    hostile = {"X-PM-Bcc": "eve@example.org", "X-PM-From": "eve@example.org", "X-PM-Server-Token": "eve@example.org"}

    async def test_the_request_of_the_documentation(self, bench: Bench) -> None:
        """Retyped from the facts."""
        message = mails.build(text="Hi\n", Subject="Hello", Cc=f'"Lee, Bob" <{BOB}>', Reply_To=[CAT], X_Order="17")
        email = parse(mails.raw(message))
        (call,) = bench.provider.calls(email, SENDER, (ANN, BOB, CAT))
        request = bench.provider.build_request(email, call, queue_id="Q1", key="K1")

        assert str(request.url).endswith("/email")
        assert request.headers["x-postmark-server-token"] == KEY
        assert request.headers["accept"] == request.headers["content-type"] == "application/json"
        assert orjson.loads(request.content) == {
            "From": f"The Shop <{SENDER}>",
            "To": f"Ann Lee <{ANN}>",
            "Cc": f'"Lee, Bob" <{BOB}>',
            "Bcc": CAT,
            "ReplyTo": CAT,
            "Subject": "Hello",
            "TextBody": "Hi\n",
            "Headers": [
                {"Name": "X-Order", "Value": "17"},
                {"Name": "Message-ID", "Value": "<1@example.com>"},
                {"Name": "X-PM-KeepID", "Value": "true"},
            ],
        }

    async def test_the_message_id_is_kept_unless_the_mail_wants_it_otherwise(self, bench: Bench) -> None:
        kept = await bench.received(mails.build())
        new = await bench.received(mails.build(X_PM_KeepID="false"))

        assert (kept.message_id, new.message_id) == ("<1@example.com>", "")

    async def test_an_inline_image_is_named_by_its_cid_and_a_file_is_not(self, bench: Bench) -> None:
        await bench.received(mails.with_parts())

        payload = bench.sandbox.received("postmark")[-1].payload
        assert [a.get("ContentID") for a in payload["Attachments"]] == ["cid:logo@shop", None, None]

    # --- features

    async def test_the_fields_of_the_smtp_service_are_read(self, bench: Bench) -> None:
        message = mails.build(
            X_PM_Tag="order, paid",
            X_PM_Metadata_Order="17",
            X_PM_Message_Stream="broadcast",
            X_PM_TrackOpens="true",
            X_PM_TrackLinks="htmlonly",
        )
        mail = await bench.received(message)

        payload = bench.sandbox.received("postmark")[-1].payload
        assert (mail.tags, mail.metadata) == (("order, paid",), {"order": "17"})
        assert [payload[key] for key in ("MessageStream", "TrackOpens", "TrackLinks")] == [
            "broadcast",
            True,
            "HtmlOnly",
        ]
        assert not [name for name, _ in mail.headers if name.lower().startswith("x-pm-")]

    async def test_what_is_beyond_the_limits_of_tags_and_metadata_goes_and_is_said(self, bench: Bench) -> None:
        pairs = "; ".join(f"k{n}={'v' * 90}" for n in range(12))
        message = mails.build(X_Bridge_Tag="a, b", X_Bridge_Metadata=f"{'x' * 21}=1; {pairs}")
        mail = await bench.received(message)

        assert mail.tags == ("a",)
        assert mail.metadata == {f"k{n}": "v" * 80 for n in range(10)}
        said = " ".join(bench.provider.repairs(parse(mails.raw(message)), mails.envelope()))
        assert "tag 'b' dropped" in said
        assert all(f"metadata '{key}' dropped" in said for key in ("x" * 21, "k10", "k11"))
        assert "metadata 'k0' cut" in said

    async def test_a_stream_that_is_no_name_is_not_taken(self, bench: Bench) -> None:
        message = mails.build(X_PM_Message_Stream="a b", X_PM_TrackLinks="all", X_PM_TrackOpens="perhaps")
        await bench.received(message)

        assert not {"MessageStream", "TrackLinks", "TrackOpens"} & set(bench.sandbox.received("postmark")[-1].payload)
        assert len(bench.provider.repairs(parse(mails.raw(message)), mails.envelope())) == 3

    # --- limits

    async def test_a_forbidden_kind_of_file_is_refused_before_it_is_sent(self, bench: Bench) -> None:
        message = mails.build()
        message.add_attachment(b"MZ", maintype="application", subtype="octet-stream", filename="setup.EXE")
        unfit = bench.provider.unfit(parse(mails.raw(message)), mails.envelope())

        assert unfit is not None
        assert (unfit.reply.enhanced, unfit.degradable) == ("5.6.1", False)

    async def test_a_file_without_name_or_type_gets_a_name_that_is_taken(self, bench: Bench) -> None:
        message = mails.build()
        message.add_attachment(b"\0\1", maintype="application", subtype="octet-stream")
        mail = await bench.received(message)

        assert [a.filename for a in mail.attachments] == ["attachment-1.dat"]

    async def test_a_body_of_more_than_five_megabytes_is_too_big(self, bench: Bench) -> None:
        line = "x" * 70 + "\n"
        content = f"From: {SENDER}\r\nTo: {ANN}\r\n\r\n{line * 72_000}".encode()
        unfit = bench.provider.unfit(parse(mails.raw(content)), mails.envelope())

        assert unfit is not None
        assert (unfit.reply.code, unfit.degradable) == (552, False)

    async def test_hidden_recipients_beyond_fifty_go_without_a_to(self, bench: Bench) -> None:
        people = [f"person{n}@example.org" for n in range(70)]
        await bench.send(mails.build(), mails.envelope(ANN, *people))

        assert [(len(mail.to), len(mail.bcc)) for mail in bench.mails] == [(1, 49), (0, 21)]

    # --- verdicts

    async def test_inactive_recipients_are_suppressed_and_the_others_sent(self, bench: Bench) -> None:
        gone = "suppressed@Example.org"
        outcomes = await bench.send(mails.build(To=f"{ANN}, {gone}"), mails.envelope(ANN, gone, BOB))

        assert {r: o.status for r, o in outcomes.items()} == {ANN: "sent", gone: "bounced", BOB: "sent"}
        assert meant(outcomes[gone]) == EXPECTED["X"]

    async def test_a_bad_recipient_costs_the_others_nothing(self, bench: Bench) -> None:
        bad = "invalid@refused.example"
        outcomes = await bench.send(mails.build(To=f"{ANN}, {bad}"), mails.envelope(ANN, bad))

        assert outcomes[ANN].status == "sent"
        assert meant(outcomes[bad]) == EXPECTED["A"]
        assert [mail.recipients for mail in bench.mails] == [(ANN,)]

    async def test_in_a_batch_each_mail_has_its_own_verdict(self, bench: Bench) -> None:
        calls = one_each(bench, ANN, "suppressed@example.org", "not-an-address", BOB)

        found = await bench.provider.send_many(calls)

        outcomes = {r: o for each in found for r, o in each.items()}
        assert (outcomes[ANN].status, outcomes[BOB].status) == ("sent", "sent")
        assert meant(outcomes["suppressed@example.org"]) == EXPECTED["X"]
        assert meant(outcomes["not-an-address"]) == EXPECTED["A"]
        assert len(bench.requests) == 1
        assert len({o.provider_message_id for o in (outcomes[ANN], outcomes[BOB])}) == 2

    @pytest.mark.parametrize(
        ("error", "letter"), [("bad_token", "C"), ("rate_limit_exceeded", "R"), ("maintenance", "T")]
    )
    async def test_a_batch_refused_as_a_whole_means_the_same_for_each(
        self, bench: Bench, error: str, letter: str
    ) -> None:
        bench.sandbox.fail(f"postmark={error}")
        found = await bench.provider.send_many(one_each(bench, ANN, BOB))

        assert {meant(o) for each in found for o in each.values()} == {EXPECTED[letter]}

    async def test_a_mail_for_several_is_in_no_batch(self, bench: Bench) -> None:
        """Else it could not be tried for each alone."""
        email = parse(mails.raw(mails.build(To=f"{ANN}, {BOB}")))
        (call,) = bench.provider.calls(email, SENDER, (ANN, BOB))

        assert bench.provider.batch_key(Call(email=email, addressing=call, queue_id="Q", key="K")) is None

    @pytest.mark.parametrize(
        ("body", "letters"),
        [
            (
                {
                    "To": ANN,
                    "SubmittedAt": "2026-11-22T07:25:01Z",
                    "MessageID": "b7bc2f4a",
                    "ErrorCode": 0,
                    "Message": "OK",
                },
                "ss",
            ),
            (
                {
                    "MessageID": "b7bc2f4a",
                    "ErrorCode": 0,
                    "Message": f"Message OK, but will not deliver to these inactive addresses: {BOB}, x@example.org. Inactive"
                    " recipients are ones that have generated a hard bounce or a spam complaint.",
                },
                "sX",
            ),
            ({"MessageID": "b7bc2f4a", "Message": "Message accepted, but delivery may be delayed"}, "ss"),
            ({"ErrorCode": 406, "Message": "You tried to send to a recipient that has been marked as inactive."}, "XX"),
            ({"ErrorCode": 999, "Message": "A code of the future"}, "OO"),
            ({"ErrorCode": 0, "Message": "OK"}, "UU"),
            ({"ErrorCode": "0"}, "UU"),
            ([], "UU"),
            (None, "UU"),
        ],
    )
    async def test_answers_of_200_are_read_for_each_recipient(self, bench: Bench, body: Any, letters: str) -> None:
        found = bench.provider.parse_response(httpx.Response(200, json=body), BOTH)

        wanted = [("sent", "250 2.0.0", None) if letter == "s" else EXPECTED[letter] for letter in letters]
        assert [meant(found[ANN]), meant(found[BOB])] == wanted

    async def test_a_batch_answer_of_another_length_is_lost(self, bench: Bench) -> None:
        answer = httpx.Response(200, json=[{"ErrorCode": 0, "MessageID": "1", "Message": "OK"}])
        found = bench.provider.parse_batch(answer, one_each(bench, ANN, BOB))

        assert found is not None
        assert {meant(o) for each in found for o in each.values()} == {EXPECTED["U"]}
