"""Gmail: the contract, and what only its API has: a service account that acts for a mailbox."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from bridge.mime.parse import parse
from bridge.model import Addressing, Mailbox
from bridge.providers.gmail import Gmail
from bridge.sandbox import Sandbox
from bridge.sandbox.twins.gmail import service_account
from tests.providers.api import mails
from tests.providers.api.contract import EXPECTED, ApiContract, Bench, meant
from tests.providers.api.mails import ANN, BOB, CAT, SENDER


class TestGmail(ApiContract):
    kind = "gmail"
    settings = {}
    wrong_key = {"service_account_file": "another"}
    errors = {
        "invalid_argument": "P",
        "invalid_to": "A",
        "failed_precondition": "C",
        "upload_too_large": "B",
        "auth_error": "C",
        "insufficient_permissions": "C",
        "access_not_configured": "C",
        "domain_policy": "C",
        "forbidden": "C",
        "rate_limit": "R",
        "user_rate_limit": "R",
        "daily_limit": "Q",
        "mailbox_limit": "Q",
        "quota_exceeded": "Q",
        "too_many_requests": "R",
        "not_found": "C",
        "too_large": "B",
        "backend_error": "T",
        "unavailable": "T",
    }
    documented = frozenset()  # the mail is the body
    takes_tags = takes_metadata = False
    carries_signed = carries_invitation = True

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.folder = tmp_path

    def make(self, sandbox: Sandbox, *, timeout: float = 5.0, **changed: Any) -> Gmail:
        content = service_account(f"{sandbox.twin_url('gmail')}/token")
        if changed.get("service_account_file") == "another":
            content["private_key"] = another_key()
        path = self.folder / f"{len(list(self.folder.iterdir()))}.json"
        path.write_bytes(orjson.dumps(content))
        made = super().make(sandbox, timeout=timeout, **{**changed, "service_account_file": str(path)})
        assert isinstance(made, Gmail)
        return made

    async def test_the_request_of_the_documentation(self, bench: Bench) -> None:
        await bench.send(mails.build(Bcc="eve@example.org"), mails.envelope(ANN, CAT))
        token, send = bench.requests

        assert b"grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&assertion=" in token.content
        assert send.url.path.endswith(f"/upload/gmail/v1/users/{SENDER}/messages/send")
        assert send.url.params["uploadType"] == "media"
        assert send.headers["content-type"] == "message/rfc822"
        assert f"Bcc: {CAT}\r\n".encode() in send.content  # taken out by Gmail
        assert b"eve@" not in send.content

    async def test_one_token_serves_a_mailbox_and_another_mailbox_gets_its_own(self, bench: Bench) -> None:
        for sender in (SENDER, SENDER, "office@example.com"):
            await bench.send(mails.build(From=sender))

        assert len([r for r in bench.requests if r.url.path.endswith("/token")]) == 2

    async def test_a_mailbox_of_the_settings_sends_for_all(self, bench: Bench) -> None:
        provider = self.make(bench.sandbox, user="relay@example.com")
        other = Bench(provider, bench.sandbox)
        await other.send(mails.build())
        await provider.aclose()

        assert "/users/relay@example.com/" in str(other.requests[-1].url)

    async def test_a_sender_that_is_no_mailbox_is_no_part_of_the_address_that_is_called(self, bench: Bench) -> None:
        for sender in ("..", "."):
            unfit = bench.provider.unfit(parse(mails.raw(f"From: {sender}\r\n\r\ntext\r\n".encode())), mails.envelope())
            assert unfit is not None
            assert (unfit.reply.enhanced, unfit.degradable) == ("5.1.7", False)

    async def test_a_bad_recipient_is_found_by_trying_each_alone(self, bench: Bench) -> None:
        outcomes = await bench.send(mails.build(), mails.envelope(ANN, "bad@@example.org"))

        assert outcomes[ANN].status == "sent"
        assert meant(outcomes["bad@@example.org"]) == EXPECTED["A"]

    def test_the_text_says_when_the_mailbox_may_send_again(self, bench: Bench) -> None:
        error = {
            "code": 429,
            "message": "User-rate limit exceeded.  Retry after 2099-01-01T00:00:00.000Z",
            "errors": [],
        }
        call = Addressing(reverse_path=SENDER, to=(Mailbox(ANN),))
        outcome = bench.provider.parse_response(httpx.Response(429, json={"error": error}), call)[ANN]

        assert outcome.quota
        assert outcome.retry_after
        assert outcome.retry_after > 86400 * 365

    async def test_the_recipient_fields_are_the_envelopes(self, bench: Bench) -> None:
        mail = await bench.received(mails.build(To=f"{ANN}, eve@example.org", Resent_To=BOB))

        assert ([email for email, _ in mail.to], mail.recipients) == ([ANN], (ANN,))
        assert bench.provider.not_shown(parse(mails.raw(mails.build(To=f"{ANN}, eve@example.org"))), (ANN,)) == (
            "eve@example.org",
        )


def another_key() -> str:
    from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    key = generate_private_key(public_exponent=65537, key_size=2048)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
