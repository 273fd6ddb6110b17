"""MailerSend: the contract, and what only its API has. Its bulk calls are checked after they were taken."""

from __future__ import annotations

import httpx
import orjson
import pytest

from bridge.mime.parse import parse
from bridge.model import Addressing, Mailbox
from bridge.providers.base import Call
from bridge.sandbox import Sandbox
from tests.providers.api import mails
from tests.providers.api.contract import EXPECTED, KEY, ApiContract, Bench, meant
from tests.providers.api.mails import ANN, BOB, CAT, SENDER


def calls_to(bench: Bench, *recipients: str) -> list[Call]:
    email = parse(mails.raw(mails.build(To=None)))
    found = []
    for number, recipient in enumerate(recipients):
        (one,) = bench.provider.calls(email, SENDER, (recipient,))
        found.append(Call(email=email, addressing=one, queue_id=f"Q{number}", key=f"K{number}"))
    return found


class TestMailersend(ApiContract):
    kind = "mailersend"
    errors = {
        "bad_request": "P",
        "unauthorized": "C",
        "forbidden": "C",
        "not_found": "C",
        "method_not_allowed": "C",
        "timeout": "T",
        "too_large": "B",
        "misdirected": "T",
        "validation": "P",
        "invalid_recipient": "A",
        "domain_unverified": "C",
        "trial_limit": "C",
        "too_many_requests": "R",
        "daily_quota": "Q",
        "internal": "T",
        "unavailable": "T",
    }
    documented = frozenset(
        {"from", "from.email", "from.name", "reply_to", "reply_to.email", "reply_to.name", "subject", "text", "html"}
        | {f"{slot}{end}" for slot in ("to", "cc", "bcc") for end in ("", "[].email", "[].name")}
        | {"attachments", "tags", "in_reply_to", "references", "precedence_bulk"}
        | {f"attachments[].{key}" for key in ("filename", "content", "disposition", "id")}
    )
    takes_metadata = False
    carries_headers = False

    async def test_the_request_of_the_documentation(self, bench: Bench) -> None:
        message = mails.build(
            text="Hi\n",
            Subject="Hello",
            Reply_To=BOB,
            In_Reply_To="<0@example.com>",
            References="<a@example.com> <0@example.com>",
            Precedence="bulk",
            From=f'"Shop, The" <{SENDER}>',
        )
        email = parse(mails.raw(message))
        (call,) = bench.provider.calls(email, SENDER, (ANN,))
        request = bench.provider.build_request(email, call, queue_id="Q1", key="K1")

        assert orjson.loads(request.content) == {
            "from": {"email": SENDER, "name": "Shop  The"},
            "to": [{"email": ANN, "name": "Ann Lee"}],
            "reply_to": {"email": BOB},
            "subject": "Hello",
            "text": "Hi\n",
            "in_reply_to": "0@example.com",
            "references": ["<a@example.com>", "<0@example.com>"],
            "precedence_bulk": True,
        }

    async def test_header_fields_go_where_the_plan_takes_them(self, sandbox: Sandbox) -> None:
        provider = self.make(sandbox, custom_headers=True)
        bench = Bench(provider, sandbox)
        mail = await bench.received(mails.build(X_Order="17", References="<0@example.com>"))
        await provider.aclose()

        assert mail.headers == (("X-Order", "17"),)

    async def test_more_hidden_people_than_ten_become_several_calls(self, bench: Bench) -> None:
        people = [f"person{n}@example.org" for n in range(25)]
        await bench.send(mails.build(), mails.envelope(ANN, *people))

        assert all(len(mail.bcc) <= 10 for mail in bench.mails)
        assert len(bench.mails) == 16  # Ann and ten hidden, then fifteen alone

    async def test_suppressed_recipients_are_told_apart(self, bench: Bench) -> None:
        some = await bench.send(mails.build(), mails.envelope(ANN, "suppressed@example.org"))
        every = await bench.send(mails.build(), mails.envelope("suppressed@example.org"))

        assert some[ANN].status == "sent"
        assert meant(some["suppressed@example.org"]) == meant(every["suppressed@example.org"]) == EXPECTED["X"]
        assert len(bench.mails) == 1

    async def test_a_file_without_an_ending_gets_one(self, bench: Bench) -> None:
        message = mails.build()
        message.add_attachment(b"%PDF", maintype="application", subtype="pdf", filename="scan")
        mail = await bench.received(message)

        assert [a.filename for a in mail.attachments] == ["scan.pdf"]

    async def test_a_file_with_an_ending_that_is_not_taken_is_refused(self, bench: Bench) -> None:
        message = mails.build()
        message.add_attachment(b"MZ", maintype="application", subtype="octet-stream", filename="setup.exe")
        unfit = bench.provider.unfit(parse(mails.raw(message)), mails.envelope())

        assert unfit
        assert ".exe" in unfit.reply.text

    async def test_each_mail_of_a_bulk_call_has_its_own_result(self, bench: Bench) -> None:
        found = await bench.provider.send_many(calls_to(bench, ANN, "bad@@example.org", "suppressed@example.org", CAT))
        outcomes = [next(iter(o.values())) for o in found]

        assert [outcome.status for outcome in outcomes] == ["sent", "bounced", "bounced", "sent"]
        assert meant(outcomes[1]) == EXPECTED["P"]
        assert meant(outcomes[2]) == EXPECTED["X"]
        assert len({outcome.provider_message_id for outcome in outcomes} - {""}) == 2

    @pytest.mark.parametrize("failure", ["validation:1", "400:1", "too_large:1"])
    async def test_a_bulk_call_refused_as_a_whole_is_halved(self, bench: Bench, failure: str) -> None:
        bench.sandbox.fail(f"mailersend={failure}")
        found = await bench.provider.send_many(calls_to(bench, ANN, BOB))

        assert {o.status for outcomes in found for o in outcomes.values()} == {"sent"}

    def test_a_bulk_call_that_failed_is_not_called_sent(self, bench: Bench) -> None:
        data = {"state": "failed", "validation_errors": None, "messages_id": None}
        found = bench.provider._checked(httpx.Response(200), data, calls_to(bench, ANN, BOB))  # type: ignore[attr-defined]

        assert {o.status for outcomes in found for o in outcomes.values()} == {"unknown"}

    async def test_a_bulk_call_whose_result_does_not_come_is_unknown(self, sandbox: Sandbox) -> None:
        provider = self.make(sandbox, timeout=0.8)  # no time for a look
        found = await provider.send_many(calls_to(Bench(provider, sandbox), ANN, BOB))
        await provider.aclose()

        assert {meant(o) for outcomes in found for o in outcomes.values()} == {EXPECTED["U"]}
        assert all(o.keyless for outcomes in found for o in outcomes.values())

    async def test_the_reset_of_the_days_quota_says_when_to_come_back(self, bench: Bench) -> None:
        bench.sandbox.fail("mailersend=daily_quota:1")
        outcome = await bench.outcome()

        assert outcome.retry_after is not None
        assert outcome.retry_after > 86400 * 365

    @pytest.mark.parametrize("quota", ["", "0"])
    def test_too_many_calls_are_a_rate_and_no_calls_left_a_quota(self, bench: Bench, quota: str) -> None:
        headers = {"retry-after": "30"} | ({"x-apiquota-remaining": quota} if quota else {})
        call = Addressing(reverse_path=SENDER, to=(Mailbox(ANN),))
        outcome = bench.provider.parse_response(httpx.Response(429, headers=headers), call)[ANN]

        assert meant(outcome) == EXPECTED["Q" if quota else "R"]
        assert outcome.retry_after == 30

    def test_a_paused_domain_has_taken_the_mail(self, bench: Bench) -> None:
        headers = {"x-send-paused": "true", "x-message-id": "abc"}
        call = Addressing(reverse_path=SENDER, to=(Mailbox(ANN),))
        outcome = bench.provider.parse_response(httpx.Response(202, headers=headers), call)[ANN]

        assert (outcome.status, outcome.provider_message_id) == ("sent", "abc")
        assert "paused" in outcome.detail
        assert KEY not in outcome.detail
