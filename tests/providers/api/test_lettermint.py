"""Lettermint: the contract, and what only its API has."""

from __future__ import annotations

import orjson

from bridge.mime.parse import parse
from bridge.providers.base import Call
from tests.providers.api import mails
from tests.providers.api.contract import ApiContract, Bench
from tests.providers.api.mails import ANN, BOB, CAT, SENDER


class TestLettermint(ApiContract):
    kind = "lettermint"
    errors = {
        "unauthorized": "C",
        "forbidden": "C",
        "conflict": "U",
        "too_large": "B",
        "validation": "P",
        "too_many_requests": "R",
        "internal": "T",
        "unavailable": "T",
    }
    documented = frozenset(
        {"from", "to", "cc", "bcc", "reply_to", "subject", "text", "html", "headers", "headers.*"}
        | {"metadata", "metadata.*", "tag", "attachments"}
        | {f"attachments[].{key}" for key in ("filename", "content", "content_type", "content_id")}
    )

    async def test_the_request_of_the_documentation(self, bench: Bench) -> None:
        email = parse(mails.raw(mails.build(text="Hi\n", Subject="Hello", Reply_To=BOB, X_LM_Tag="welcome mail")))
        (call,) = bench.provider.calls(email, SENDER, (ANN,))
        request = bench.provider.build_request(email, call, queue_id="Q1", key="K1")

        assert request.headers["idempotency-key"] == "K1"
        assert orjson.loads(request.content) == {
            "from": f"The Shop <{SENDER}>",
            "to": [f"Ann Lee <{ANN}>"],
            "reply_to": [BOB],
            "subject": "Hello",
            "text": "Hi\n",
            "headers": {"Message-ID": "<1@example.com>", "X-LM-Preserve-Message-ID": "true"},
            "tag": "welcome-mail",
        }

    async def test_a_call_made_twice_with_one_key_mails_once(self, bench: Bench) -> None:
        first = await bench.send(mails.build())
        second = await bench.send(mails.build())

        assert first == second
        assert len(bench.mails) == 1

    async def test_what_stands_before_a_refused_mail_of_a_batch_is_sent_and_what_stands_behind_waits(
        self, bench: Bench
    ) -> None:
        good, bad = (parse(mails.raw(mails.build(To=to))) for to in (None, "bad@@example.org"))
        calls = []
        for number, (email, recipient) in enumerate(((good, ANN), (bad, "bad@@example.org"), (good, CAT))):
            (one,) = bench.provider.calls(email, SENDER, (recipient,))
            calls.append(Call(email=email, addressing=one, queue_id=f"Q{number}", key=f"K{number}"))

        found = await bench.provider.send_many(calls)

        assert [next(iter(o.values())).status for o in found] == ["sent", "deferred", "deferred"]
        assert [mail.recipients for mail in bench.mails] == [(ANN,)]
