"""Microsoft Graph: the contract, and what only its API has: tokens, and large mail by a draft."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from email.message import EmailMessage
from typing import Any

import httpx
import orjson
import pytest

from bridge.mime.parse import parse
from bridge.providers.graph import MAX_RAW
from bridge.sandbox import Sandbox
from tests.providers.api import mails
from tests.providers.api.contract import EXPECTED, KEY, ApiContract, Bench, meant
from tests.providers.api.mails import ANN, BOB, CAT, SENDER

ERRORS = {
    "invalid_recipients": "A",
    "mime_invalid": "P",
    "mime_base64": "P",
    "invalid_header": "P",
    "request_body": "P",
    "message_size": "B",
    "submission_quota": "Q",
    "invalid_token": "C",
    "access_denied": "C",
    "request_denied": "C",
    "send_as_denied": "C",
    "message_limit": "Q",
    "quota": "Q",
    "invalid_user": "C",
    "not_found": "C",
    "no_mailbox": "C",
    "too_large": "B",
    "throttled": "R",
    "concurrency": "R",
    "too_many_requests": "R",
    "transient": "T",
    "server_busy": "T",
    "mailbox_store": "T",
}
LARGE = hashlib.sha256(b"x").digest() * (5 * 1024 * 1024 // 32)  # two pieces of an upload


def with_files(*files: tuple[str, bytes]) -> EmailMessage:
    message = mails.build()
    for name, content in files:
        message.add_attachment(content, maintype="application", subtype="pdf", filename=name)
    return message


class GraphContract(ApiContract):
    kind = "graph"
    settings = {"tenant": "contoso.example", "client_id": "app1", "client_secret": KEY}
    wrong_key = {"client_secret": "wrong-secret"}
    errors = ERRORS
    takes_tags = takes_metadata = False
    split = 520

    def more_settings(self, sandbox: Sandbox) -> dict[str, Any]:
        return {"authority": sandbox.twin_url("graph")}


class TestGraphMime(GraphContract):
    documented = frozenset(  # of the draft, for large mail
        {"subject", "body", "body.contentType", "body.content", "from", "from.emailAddress", "toRecipients"}
    )
    carries_signed = carries_invitation = True

    async def test_the_request_of_the_documentation(self, bench: Bench) -> None:
        await bench.send(mails.build(Bcc="eve@example.org"), mails.envelope(ANN, CAT))
        token, send = bench.requests

        assert token.url.path.endswith("/contoso.example/oauth2/v2.0/token")
        assert b"scope=https%3A%2F%2Fgraph.microsoft.com%2F.default" in token.content
        assert send.url.path.endswith(f"/v1.0/users/{SENDER}/sendMail")
        assert send.headers["content-type"] == "text/plain"
        raw = base64.b64decode(send.content)
        assert f"Bcc: {CAT}\r\n".encode() in raw
        assert b"eve@" not in raw

    async def test_a_sender_that_is_no_mailbox_is_no_part_of_the_address_that_is_called(self, bench: Bench) -> None:
        unfit = bench.provider.unfit(parse(mails.raw(b"From: ..\r\n\r\ntext\r\n")), mails.envelope())

        assert unfit is not None
        assert (unfit.reply.enhanced, unfit.degradable) == ("5.1.7", False)

    async def test_one_token_serves_many_mails_at_once(self, bench: Bench) -> None:
        await asyncio.gather(*(bench.provider.send(*one(bench, n), queue_id=f"Q{n}", key=f"K{n}") for n in range(8)))

        assert len(bench.mails) == 8
        assert len([r for r in bench.requests if r.url.path.endswith("/token")]) == 1

    async def test_a_token_that_is_refused_is_fetched_anew_once(self, bench: Bench) -> None:
        await bench.send(mails.build())
        bench.sandbox.fail("graph=invalid_token:1")
        outcome = await bench.outcome()

        assert outcome.status == "sent"
        assert [r.url.path.rpartition("/")[2] for r in bench.requests] == [
            "token",
            "sendMail",
            "sendMail",
            "token",
            "sendMail",
        ]

    @pytest.mark.parametrize(("failure", "letter"), [("429:1,retry_after=7", "R"), ("503:1", "T"), ("400:1", "C")])
    async def test_a_token_endpoint_that_refuses_never_bounces(self, bench: Bench, failure: str, letter: str) -> None:
        bench.sandbox.fail(f"graph.token={failure}")
        outcome = await bench.outcome()

        assert meant(outcome) == EXPECTED[letter]
        assert outcome.retry_after == (7 if letter == "R" else None)

    def test_no_more_than_four_calls_are_made_at_once(self, bench: Bench) -> None:
        assert bench.provider.policy.concurrency == 4

    # --- large mail

    async def test_large_mail_goes_by_a_draft_and_an_upload_in_pieces(self, bench: Bench) -> None:
        mail = await bench.received(with_files(("scan.pdf", LARGE), ("small.pdf", b"%PDF")))

        assert sorted((a.filename, a.sha256) for a in mail.attachments) == [
            ("scan.pdf", hashlib.sha256(LARGE).hexdigest()),
            ("small.pdf", hashlib.sha256(b"%PDF").hexdigest()),
        ]
        puts = [r for r in bench.requests if r.method == "PUT"]
        assert [r.headers["content-range"] for r in puts] == [
            f"bytes 0-3145727/{len(LARGE)}",
            f"bytes 3145728-{len(LARGE) - 1}/{len(LARGE)}",
        ]
        assert all("authorization" not in r.headers for r in puts)
        assert await drafts(bench) == []

    @pytest.mark.parametrize(
        ("failure", "letter"),
        [
            ("graph.draft=503:1", "T"),
            ("graph.upload=503:1", "T"),
            ("graph.upload=lost:1", ""),
            ("graph=send_as_denied:1", "C"),
            ("graph=invalid_recipients:1", "A"),
            ("graph=503:1", "T"),
        ],
    )
    async def test_a_draft_that_was_not_sent_is_removed(self, bench: Bench, failure: str, letter: str) -> None:
        bench.sandbox.fail(failure)
        outcome = await bench.outcome(with_files(("scan.pdf", LARGE)))

        assert not bench.mails
        assert outcome.status in ("deferred", "bounced")
        assert not letter or meant(outcome) == EXPECTED[letter]
        assert await drafts(bench) == []

    async def test_a_draft_whose_sending_may_have_worked_is_left_alone(self, bench: Bench) -> None:
        bench.sandbox.fail("graph=lost:1")
        outcome = await bench.outcome(with_files(("scan.pdf", LARGE)))

        assert meant(outcome) == EXPECTED["U"]
        assert "DELETE" not in [r.method for r in bench.requests]

    async def test_a_call_that_is_cut_off_leaves_no_draft(self, bench: Bench) -> None:
        bench.sandbox.fail("graph.upload=hang:1")
        email = parse(mails.raw(with_files(("scan.pdf", LARGE))))
        (call,) = bench.provider.calls(email, SENDER, (ANN,))
        task = asyncio.create_task(bench.provider.send(email, call, queue_id="Q", key="K"))
        while "PUT" not in [r.method for r in bench.requests]:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await bench.provider.aclose()

        assert bench.requests[-1].method == "DELETE"

    async def test_an_upload_address_that_is_not_encrypted_gets_nothing(self, bench: Bench) -> None:
        from bridge.providers.outcomes import Failed

        for text in ("http://192.0.2.1/steal", "ftp://x", ""):
            with pytest.raises(Failed):
                bench.provider._upload_url(text)  # type: ignore[attr-defined]

    async def test_signed_mail_that_is_too_large_for_mime_is_refused_and_says_why(self, bench: Bench) -> None:
        raw = mails.signed().replace(b"signed text", b"x" * (MAX_RAW + 1))
        unfit = bench.provider.unfit(parse(mails.raw(raw)), mails.envelope())

        assert unfit
        assert "too large to go as it is" in unfit.reply.text


class TestGraphJson(GraphContract):
    settings = {**GraphContract.settings, "content": "json", "save_to_sent_items": True}
    documented = (
        frozenset(
            {
                "message",
                "saveToSentItems",
                "message.subject",
                "message.body",
                "message.from",
                "message.from.emailAddress",
            }
        )
        | {"message.body.contentType", "message.body.content", "message.from.emailAddress.address"}
        | {"message.from.emailAddress.name", "message.internetMessageHeaders", "message.attachments"}
        | {f"message.internetMessageHeaders[].{key}" for key in ("name", "value")}
        | {
            f"message.{slot}{end}"
            for slot in ("toRecipients", "ccRecipients", "bccRecipients", "replyTo")
            for end in ("", "[].emailAddress", "[].emailAddress.address", "[].emailAddress.name")
        }
        | {
            f"message.attachments[].{key}"
            for key in ("@odata.type", "name", "contentType", "contentBytes", "isInline", "contentId")
        }
    )

    async def test_the_request_of_the_documentation(self, bench: Bench) -> None:
        email = parse(mails.raw(mails.build(text="Hi\n", Subject="Hello", Reply_To=BOB, X_Order="17")))
        (call,) = bench.provider.calls(email, SENDER, (ANN,))
        request = bench.provider.build_request(email, call, queue_id="Q1", key="K1")

        assert orjson.loads(request.content) == {
            "message": {
                "subject": "Hello",
                "body": {"contentType": "Text", "content": "Hi\n"},
                "from": {"emailAddress": {"address": SENDER, "name": "The Shop"}},
                "toRecipients": [{"emailAddress": {"address": ANN, "name": "Ann Lee"}}],
                "replyTo": [{"emailAddress": {"address": BOB}}],
                "internetMessageHeaders": [{"name": "X-Order", "value": "17"}],
            },
            "saveToSentItems": True,
        }

    async def test_bodies_inline_images_and_files_arrive(self, bench: Bench) -> None:
        """One body alone: a text beside the HTML is a loss."""
        unfit = bench.provider.unfit(parse(mails.raw(mails.with_parts())), mails.envelope())
        assert unfit
        assert "a text beside the HTML" in unfit.losses
        message = mails.build(text=None)
        message.set_content(mails.HTML, subtype="html")
        message.add_related(mails.PIXEL, "image", "png", cid="<logo@shop>", filename="logo.png", disposition="inline")
        mail = await bench.received(message)

        assert "Hello <b>Ann</b>" in mail.html
        assert [(a.content_id, a.disposition) for a in mail.attachments] == [("logo@shop", "inline")]

    async def test_what_a_header_means_to_programs_is_a_loss(self, bench: Bench) -> None:
        unfit = bench.provider.unfit(parse(mails.raw(mails.build(References="<0@example.com>"))), mails.envelope())

        assert unfit
        assert unfit.degradable


def one(bench: Bench, number: int) -> tuple[Any, Any]:
    email = parse(mails.raw(mails.build(Subject=f"mail {number}")))
    (call,) = bench.provider.calls(email, SENDER, (ANN,))
    return email, call


async def drafts(bench: Bench) -> list[str]:
    """What the mailbox still holds, asked with the provider's own token."""
    sent = next(r for r in reversed(bench.requests) if "authorization" in r.headers)
    url = f"{bench.provider.base}/v1.0/users/{SENDER}/messages"
    async with httpx.AsyncClient() as client:
        answer = await client.get(url, headers={"Authorization": sent.headers["authorization"]})
    return [item["id"] for item in answer.json()["value"]]
