"""Mailtrap: the contract, and what only its API has."""

from __future__ import annotations

import orjson
import pytest

from bridge.mime.parse import parse
from bridge.providers.base import Call
from bridge.providers.mailtrap import Mailtrap, MailtrapSettings
from bridge.sandbox import Sandbox
from tests.providers.api import mails
from tests.providers.api.contract import EXPECTED, ApiContract, Bench, meant
from tests.providers.api.mails import ANN, BOB, CAT, SENDER


class TestMailtrap(ApiContract):
    kind = "mailtrap"
    errors = {
        "bad_request": "P",
        "unauthorized": "C",
        "domain_not_allowed": "C",
        "banned": "C",
        "too_large": "B",
        "unprocessable": "P",
        "too_many_requests": "R",
        "internal": "T",
        "unavailable": "T",
    }
    documented = frozenset(
        {"from", "from.email", "from.name", "reply_to", "reply_to.email", "reply_to.name", "subject", "text", "html"}
        | {f"{slot}{end}" for slot in ("to", "cc", "bcc") for end in ("", "[].email", "[].name")}
        | {"headers", "headers.*", "custom_variables", "custom_variables.*", "category", "attachments"}
        | {f"attachments[].{key}" for key in ("content", "filename", "type", "disposition", "content_id")}
    )
    ascii_names = True
    split = 1100
    has_probe = False

    async def test_the_request_of_the_documentation(self, bench: Bench) -> None:
        message = mails.build(
            text="Hi\n", Subject="Hello", Reply_To=f"{BOB}, {CAT}", X_Order="17", X_MT_Category="welcome"
        )
        email = parse(mails.raw(message))
        (call,) = bench.provider.calls(email, SENDER, (ANN,))
        request = bench.provider.build_request(email, call, queue_id="Q1", key="K1")

        assert request.url.path.endswith("/api/send")
        assert orjson.loads(request.content) == {
            "from": {"email": SENDER, "name": "The Shop"},
            "to": [{"email": ANN, "name": "Ann Lee"}],
            "subject": "Hello",
            "text": "Hi\n",
            "headers": {"X-Order": "17", "Reply-To": f"{BOB}, {CAT}"},
            "category": "welcome",
        }

    @pytest.mark.parametrize(("stream", "host"), [("transactional", "send"), ("bulk", "bulk"), ("sandbox", "sandbox")])
    def test_each_stream_has_a_host_of_its_own(self, stream: str, host: str) -> None:
        assert Mailtrap.base_of(MailtrapSettings(stream=stream)) == f"https://{host}.api.mailtrap.io"

    async def test_the_sandbox_has_an_inbox_and_one_id_for_all(self, sandbox: Sandbox) -> None:
        provider = self.make(sandbox, stream="sandbox", inbox="42")
        bench = Bench(provider, sandbox)
        outcomes = await bench.send(mails.build(), mails.envelope(ANN, BOB))
        await provider.aclose()

        assert bench.requests[0].url.path.endswith("/api/send/42")
        assert len({o.provider_message_id for o in outcomes.values()}) == 1

    async def test_each_recipient_has_its_own_id(self, bench: Bench) -> None:
        outcomes = await bench.send(mails.build(Cc=BOB), mails.envelope(CAT, ANN, BOB))

        assert len({o.provider_message_id for o in outcomes.values()}) == 3

    async def test_one_bad_mail_in_a_batch_costs_the_others_nothing(self, bench: Bench) -> None:
        email = parse(mails.raw(mails.build(To=None)))
        calls = []
        for number, recipient in enumerate((ANN, "blocked@example.org", BOB)):
            (one,) = bench.provider.calls(email, SENDER, (recipient,))
            calls.append(Call(email=email, addressing=one, queue_id=f"Q{number}", key=f"K{number}"))

        found = await bench.provider.send_many(calls)

        assert [next(iter(o.values())).status for o in found] == ["sent", "bounced", "sent"]
        assert meant(found[1]["blocked@example.org"]) == EXPECTED["A"]

    async def test_a_batch_that_is_refused_as_a_whole_is_read_by_its_status(self, bench: Bench) -> None:
        email = parse(mails.raw(mails.build()))
        (one,) = bench.provider.calls(email, SENDER, (ANN,))
        calls = [Call(email=email, addressing=one, queue_id=f"Q{n}", key=f"K{n}") for n in range(2)]
        bench.sandbox.fail("mailtrap=unauthorized:1")

        found = await bench.provider.send_many(calls)

        assert {meant(o) for outcomes in found for o in outcomes.values()} == {EXPECTED["C"]}

    async def test_variables_are_cut_to_what_the_api_takes(self, bench: Bench) -> None:
        pairs = "; ".join(f"k{n}={'v' * 90}" for n in range(20))
        mail = await bench.received(mails.build(X_Bridge_Metadata=pairs))

        assert 5 < len(mail.metadata) < 12
