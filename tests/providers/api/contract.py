"""What every adapter of the catalogue promises (DESIGN 3 and 4), run over HTTP against its strict twin in the sandbox.

A provider's test file inherits `ApiContract` and gives its facts. The twin is written from the provider's documentation
and refuses what that does not name, so a request that is accepted there is one the documentation allows.
"""

from __future__ import annotations

import hashlib
import tracemalloc
from collections.abc import AsyncIterator, Iterator, Mapping
from types import SimpleNamespace
from typing import Any, ClassVar

import httpx
import orjson
import pytest

from bridge.mime import pieces
from bridge.mime.parse import parse
from bridge.model import Envelope, Fault, Outcome, idempotency_key
from bridge.providers import body
from bridge.providers.api import ApiProvider
from bridge.providers.base import Call, Policy
from bridge.providers.catalogue import adapter, settings_of
from bridge.providers.http import transport_for
from bridge.reply import Reply
from bridge.sandbox import Sandbox
from bridge.sandbox.mail import Mail
from bridge.sandbox.twins import twin_class
from tests.conftest import reserved_port
from tests.providers.api import mails
from tests.providers.api.mails import ANN, BOB, CAT, SENDER

KEY = "sandbox-secret-key"
QUEUE_ID = "4bX1yZ2"

# What the tables of the facts say of an error: T R Q C P and, for single recipients, A (address), X (suppressed or unknown).
EXPECTED: dict[str, tuple[str, str, Fault | None]] = {
    "T": ("deferred", "451 4.3.2", Fault.PROVIDER),
    "R": ("deferred", "451 4.4.5", Fault.PROVIDER),
    "Q": ("deferred", "451 4.3.5", Fault.ACCOUNT),
    "C": ("deferred", "451 4.3.5", Fault.ACCOUNT),
    "O": ("deferred", "451 4.3.0", Fault.PROVIDER),  # temporary, no better known
    "P": ("bounced", "554 5.6.0", Fault.MESSAGE),
    "S": ("bounced", "550 5.7.1", Fault.MESSAGE),
    "B": ("bounced", "552 5.3.4", Fault.MESSAGE),
    "A": ("bounced", "550 5.1.3", Fault.RECIPIENT),
    "N": ("bounced", "550 5.1.1", Fault.RECIPIENT),
    "X": ("bounced", "550 5.7.1", Fault.RECIPIENT),
    "U": ("unknown", "451 4.4.2", Fault.PROVIDER),
}


def meant(outcome: Outcome) -> tuple[str, str, Fault | None]:
    return outcome.status, f"{outcome.reply.code} {outcome.reply.enhanced}", outcome.fault


class Bench:
    """One provider and its twin. `send` does what the daemon does: fitness, calls, one request each."""

    def __init__(self, provider: ApiProvider, sandbox: Sandbox) -> None:
        self.provider = provider
        self.sandbox = sandbox
        self.requests: list[httpx.Request] = []
        inner = provider.transport.handle_async_request

        async def noted(request: httpx.Request) -> httpx.Response:
            self.requests.append(request)
            return await inner(request)

        provider.transport.handle_async_request = noted  # type: ignore[method-assign]  # only looks on

    async def send(self, message: Any, envelope: Envelope | None = None) -> dict[str, Outcome]:
        email, envelope = parse(mails.raw(message)), envelope or mails.envelope()
        unfit = self.provider.unfit(email, envelope)
        assert unfit is None, unfit
        outcomes: dict[str, Outcome] = {}
        for call in self.provider.calls(email, envelope.reverse_path, envelope.recipients):
            key = idempotency_key(QUEUE_ID, call.recipients)
            found = await self.provider.send(email, call, queue_id=QUEUE_ID, key=key)
            assert set(found) == set(call.recipients)
            assert not set(found) & set(outcomes), "a recipient in two calls"
            outcomes |= found
        assert set(outcomes) == set(envelope.recipients)
        return outcomes

    async def outcome(self, message: Any = None, envelope: Envelope | None = None) -> Outcome:
        """The one outcome of all recipients."""
        outcomes = await self.send(message or mails.build(), envelope)
        assert len({meant(outcome) for outcome in outcomes.values()}) == 1
        return next(iter(outcomes.values()))

    @property
    def mails(self) -> list[Mail]:
        found = [received.mail for received in self.sandbox.received(self.provider.kind)]
        assert all(found)
        return found  # type: ignore[return-value]

    async def received(self, message: Any, envelope: Envelope | None = None) -> Mail:
        """Sent without a complaint, as the one mail that the twin took."""
        before = len(self.mails)
        outcomes = await self.send(message, envelope)
        assert {o.status for o in outcomes.values()} == {"sent"}, outcomes
        assert len(self.mails) == before + 1
        return self.mails[-1]


def measured(provider: ApiProvider, raw: bytes) -> tuple[httpx.Request, int]:
    """The request for a mail to Ann, and how many octets it took at most beside the raw message to build and stream it."""
    tracemalloc.start()
    try:
        email = parse(raw)
        (call,) = provider.calls(email, SENDER, (ANN,))
        request = provider.build_request(email, call, queue_id="Q", key="K")
        assert sum(map(len, request.stream)) == int(request.headers["content-length"])  # type: ignore[arg-type]
        return request, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def recipients_of(mails_received: list[Mail]) -> list[str]:
    return sorted(recipient for mail in mails_received for recipient in mail.recipients)


class ApiContract:
    kind: ClassVar[str]
    settings: ClassVar[Mapping[str, Any]] = {"api_key": KEY}  # beside url
    # documented error of the twin -> its letter (EXPECTED); every one the twin has
    errors: ClassVar[Mapping[str, str]]
    # every field of the facts that may ever be sent, as "a.b[].c"; a trailing ".*" is an object with names of our choice.
    # () for an API that takes no JSON.
    documented: ClassVar[frozenset[str]]
    takes_tags: ClassVar[bool] = True
    takes_metadata: ClassVar[bool] = True
    carries_signed: ClassVar[bool] = False  # signed mail arrives as it is
    carries_invitation: ClassVar[bool] = False
    carries_inline: ClassVar[bool] = True
    ascii_names: ClassVar[bool] = False  # file names arrive in ASCII
    carries_headers: ClassVar[bool] = True  # a header field of the mail's own, X-Order, arrives
    # header fields of the provider's own SMTP service with everything in them that must not be acted on
    hostile: ClassVar[Mapping[str, str]] = {}
    split: ClassVar[int] = 120  # recipients, some more than one call takes
    has_probe: ClassVar[bool] = True
    wrong_key: ClassVar[Mapping[str, Any]] = {"api_key": "wrong-key"}

    # --- fixtures

    @pytest.fixture
    async def sandbox(self) -> AsyncIterator[Sandbox]:
        with reserved_port() as port:
            async with Sandbox(key=KEY, port=port) as running:
                yield running

    @pytest.fixture
    async def bench(self, sandbox: Sandbox) -> AsyncIterator[Bench]:
        provider = self.make(sandbox)
        yield Bench(provider, sandbox)
        await provider.aclose()

    def make(self, sandbox: Sandbox, *, timeout: float = 5.0, **changed: Any) -> ApiProvider:
        cls = adapter(self.kind)
        url = sandbox.twin_url(self.kind)
        given = {**_defaults(self.kind), "url": url, **self.more_settings(sandbox), **self.settings, **changed}
        settings = settings_of(self.kind, SimpleNamespace(**given))
        policy = Policy(timeout=timeout)
        return cls("main", policy, settings, transport=transport_for(url, policy))

    def more_settings(self, sandbox: Sandbox) -> dict[str, Any]:
        """Settings that are known only when the sandbox runs."""
        return {}

    # --- the envelope decides (DESIGN 3.4)

    async def test_a_plain_mail_arrives(self, bench: Bench) -> None:
        mail = await bench.received(mails.build())

        assert mail.recipients == (ANN,)
        assert (mail.sender, [email for email, _ in mail.to], mail.cc, mail.bcc) == (SENDER, [ANN], (), ())
        assert mail.subject == "Your order, gr\u00fc\u00dfe \u65e5\u672c"
        assert mail.text.replace("\r\n", "\n").strip() == mails.TEXT.strip()

    async def test_who_is_only_in_a_header_is_not_mailed(self, bench: Bench) -> None:
        mail = await bench.received(
            mails.build(To=f"{ANN}, eve@example.org", Cc="mallory@example.org, " + BOB), mails.envelope(ANN, BOB)
        )

        assert sorted(mail.recipients) == [ANN, BOB]

    async def test_who_is_only_in_the_envelope_is_mailed_and_not_shown(self, bench: Bench) -> None:
        await bench.send(mails.build(Bcc=CAT), mails.envelope(ANN, BOB, CAT))

        assert recipients_of(bench.mails) == sorted([ANN, BOB, CAT])
        for mail in bench.mails:
            shown = {email for email, _ in (*mail.to, *mail.cc)}
            hidden = {BOB, CAT} - set(mail.recipients)
            assert not shown & hidden
            assert shown <= {ANN} or len(mail.recipients) == 1
            assert "bcc" not in {name.lower() for name, _ in mail.headers}

    async def test_no_header_names_a_recipient_and_nobody_sees_another(self, bench: Bench) -> None:
        await bench.send(mails.build(To="list@lists.example"), mails.envelope(ANN, BOB, CAT))

        assert recipients_of(bench.mails) == sorted([ANN, BOB, CAT])
        for mail in bench.mails:
            shown = {email for email, _ in (*mail.to, *mail.cc)} & {ANN, BOB, CAT}
            assert shown <= set(mail.recipients)
            assert not shown or len(mail.recipients) == 1

    async def test_a_cc_alone_stands_in_for_to(self, bench: Bench) -> None:
        mail = await bench.received(mails.build(To=None, Cc=f"Ann Lee <{ANN}>, {BOB}"), mails.envelope(ANN, BOB))

        assert sorted(mail.recipients) == [ANN, BOB]
        assert {email for email, _ in (*mail.to, *mail.cc)} == {ANN, BOB}
        assert not mail.bcc

    async def test_thirty_recipients_are_mailed_once_each(self, bench: Bench) -> None:
        people = [f"person{n}@example.org" for n in range(30)]
        message = mails.build(To=", ".join(people[:10]), Cc=", ".join(people[10:20]))

        outcomes = await bench.send(message, mails.envelope(*people))

        assert {o.status for o in outcomes.values()} == {"sent"}
        assert recipients_of(bench.mails) == sorted(people)
        for mail in bench.mails:
            assert not {email for email, _ in (*mail.to, *mail.cc)} & set(people[20:]) or len(mail.recipients) == 1

    async def test_more_recipients_than_a_call_takes_are_split_each_exactly_once(self, bench: Bench) -> None:
        people = [f"person{n}@example.org" for n in range(self.split)]
        message = mails.build(To=", ".join(people[: self.split // 2]))

        outcomes = await bench.send(message, mails.envelope(*people))

        assert {o.status for o in outcomes.values()} == {"sent"}
        assert recipients_of(bench.mails) == sorted(people)

    async def test_two_spellings_of_one_address_are_mailed_once_each(self, bench: Bench) -> None:
        message = mails.build(To="Ann@example.org, ann@example.org")

        outcomes = await bench.send(message, mails.envelope("Ann@example.org", "ann@example.org"))

        assert {o.status for o in outcomes.values()} == {"sent"}
        assert recipients_of(bench.mails) == ["Ann@example.org", "ann@example.org"]

    # --- the content

    async def test_bodies_inline_images_and_files_arrive(self, bench: Bench) -> None:
        if not self.carries_inline:
            email = parse(mails.raw(mails.with_parts()))
            unfit = bench.provider.unfit(email, mails.envelope())
            assert unfit
            assert "inline images" in " ".join(unfit.losses)
            return
        mail = await bench.received(mails.with_parts())

        assert "Hello <b>Ann</b>" in mail.html
        if bench.provider.form(parse(mails.raw(mails.with_parts()))).carries.text_with_html:
            assert mail.text.replace("\r\n", "\n").strip() == mails.TEXT.strip()
        by_type = {a.content_type.partition(";")[0]: a for a in mail.attachments}
        assert set(by_type) == {"image/png", "application/pdf", "text/csv"}
        image, pdf = by_type["image/png"], by_type["application/pdf"]
        assert (image.content_id, image.sha256) == ("logo@shop", hashlib.sha256(mails.PIXEL).hexdigest())
        assert pdf.sha256 == hashlib.sha256(mails.PDF).hexdigest()
        assert pdf.filename == ("Rechnung fur Arger.pdf" if self.ascii_names else "Rechnung f\u00fcr \u00c4rger.pdf")
        assert by_type["text/csv"].filename == "table.csv"

    async def test_a_file_of_five_megabytes_arrives_byte_for_byte(self, bench: Bench) -> None:
        content = hashlib.sha256(b"x").digest() * (5 * 1024 * 1024 // 32)
        message = mails.build()
        message.add_attachment(content, maintype="application", subtype="pdf", filename="scan.pdf")
        email = parse(mails.raw(message))
        if unfit := bench.provider.unfit(email, mails.envelope()):
            assert unfit.reply.code == 552  # its limit is below that
            return

        mail = await bench.received(message)

        assert [a.sha256 for a in mail.attachments] == [hashlib.sha256(content).hexdigest()]

    async def test_a_large_file_is_streamed_from_the_message_and_not_copied(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Read and built; then every byte is sent or hashed as `httpx.Request.stream` gives it, twice the same."""
        found = (mails.large(megabytes) for megabytes in (8, 4, 2, 1))
        raw = next(raw for raw in found if bench.provider.unfit(parse(raw), mails.envelope()) is None)

        streamed, peak = measured(bench.provider, raw)
        monkeypatch.setattr(pieces, "LARGE", 1 << 30)
        monkeypatch.setattr(body, "LARGE", 1 << 30)
        plain, plain_peak = measured(bench.provider, raw)

        assert b"".join(streamed.stream) == b"".join(streamed.stream) == b"".join(plain.stream)
        assert streamed.headers == plain.headers
        assert peak < 1_500_000  # however large the file
        assert plain_peak > len(raw)

    async def test_names_with_commas_quotes_and_umlauts_stay_one_address(self, bench: Bench) -> None:
        names = ['"Lee, Ann"', '"M\\"uller"', "=?utf-8?q?J=C3=BCrgen_Gro=C3=9F?="]
        addresses = [ANN, BOB, CAT]
        header = ", ".join(f"{name} <{address}>" for name, address in zip(names, addresses, strict=True))
        content = f'From: "Shop, The" <{SENDER}>\r\nTo: {header}\r\nSubject: x\r\n\r\ntext\r\n'.encode()

        mail = await bench.received(content, mails.envelope(*addresses))

        assert sorted(mail.recipients) == sorted(addresses)
        assert mail.sender == SENDER

    async def test_an_empty_mail_arrives(self, bench: Bench) -> None:
        mail = await bench.received(f"From: {SENDER}\r\nTo: {ANN}\r\n\r\n".encode())

        assert mail.recipients == (ANN,)

    async def test_a_header_field_of_the_mail_arrives_and_a_signature_of_old_does_not(self, bench: Bench) -> None:
        message = mails.build(X_Order="17", DKIM_Signature="v=1; a=rsa-sha256; d=example.com; b=abc")
        mail = await bench.received(message)

        headers = {name.lower(): value for name, value in mail.headers}
        assert headers.get("x-order") == ("17" if self.carries_headers else None)
        if bench.provider.form(parse(mails.raw(message))).name == "json":
            assert "dkim-signature" not in headers
            repairs = " ".join(bench.provider.repairs(parse(mails.raw(message)), mails.envelope()))
            assert "DKIM-Signature dropped" in repairs
            assert self.carries_headers or "X-Order" in repairs

    async def test_no_field_of_a_mail_can_start_another(self, bench: Bench) -> None:
        evil = "=?utf-8?q?x=0D=0ABcc=3A_eve=40example.org=0D=0A?="
        content = (
            f"From: {evil} <{SENDER}>\r\nTo: {evil} <{ANN}>\r\nSubject: {evil}\r\nX-Order: {evil}\r\n"
            f"X-Bridge-Tag: {evil}\r\nReply-To: {evil} <{SENDER}>\r\n\r\ntext\r\n"
        ).encode()

        mail = await bench.received(content)

        assert mail.recipients == (ANN,)
        assert "bcc" not in {name.lower() for name, _ in mail.headers}
        if bench.provider.form(parse(mails.raw(content))).name == "raw":
            return  # as it came: an encoded word is nobody's header
        values = [
            mail.subject,
            mail.sender_name,
            *mail.tags,
            *(name for _, name in mail.to),
            *(v for _, v in mail.headers),
        ]
        assert all("\r" not in value and "\n" not in value for value in values)

    async def test_signed_mail_is_carried_untouched_or_refused(self, bench: Bench) -> None:
        email = parse(mails.raw(mails.signed()))
        unfit = bench.provider.unfit(email, mails.envelope())

        assert (unfit is None) == self.carries_signed
        if unfit:
            assert (unfit.reply.code, unfit.reply.enhanced[:4]) == (554, "5.6.")
            return
        await bench.send(mails.signed())
        sent = bench.sandbox.received(self.kind)[-1].mail
        assert sent is not None
        import base64

        body = mails.signed().partition(b"\r\n\r\n")[2]
        assert base64.b64decode(sent.raw).endswith(body)

    async def test_an_invitation_is_carried_or_refused_never_turned_into_text(self, bench: Bench) -> None:
        email = parse(mails.raw(mails.invitation()))
        unfit = bench.provider.unfit(email, mails.envelope())

        assert (unfit is None) == self.carries_invitation
        if unfit:
            assert unfit.degradable
            assert "calendar" in " ".join(unfit.losses)

    async def test_a_local_part_beyond_ascii_is_refused_where_it_cannot_be_carried(self, bench: Bench) -> None:
        unfit = bench.provider.unfit(parse(mails.raw(mails.build())), mails.envelope("j\u00fcrgen@example.org"))

        assert unfit is None or unfit.reply.enhanced == "5.6.7"

    # --- features

    async def test_the_neutral_tag_and_metadata_are_mapped_and_taken_out_of_the_mail(self, bench: Bench) -> None:
        mail = await bench.received(mails.build(X_Bridge_Tag="welcome", X_Bridge_Metadata="order=17; shop=3"))

        assert (mail.tags == ("welcome",)) == self.takes_tags
        assert ({"order": "17", "shop": "3"}.items() <= dict(mail.metadata).items()) == self.takes_metadata
        message = mails.raw(mails.build(X_Bridge_Tag="welcome", X_Bridge_Metadata="order=17; shop=3"))
        repairs = bench.provider.repairs(parse(message), mails.envelope())
        # What has no place there is named; what has one may be written in another way than here (Resend's tags have names).
        has_tags, has_metadata = bench.provider.labels(bench.provider.form(parse(message)))
        assert ("tags dropped, the provider has none" in repairs) == (not has_tags)
        assert ("metadata dropped, the provider has none" in repairs) == (not has_metadata)
        assert has_tags or not self.takes_tags
        assert has_metadata or not self.takes_metadata
        assert not [name for name, _ in mail.headers if name.lower().startswith("x-bridge-")]
        assert b"X-Bridge-" not in b"".join(request.content for request in bench.requests)

    async def test_nothing_in_a_feature_names_adds_or_hides_anybody(self, bench: Bench) -> None:
        for name, value in self.hostile.items():
            message = mails.build(**{name.replace("-", "_"): value})
            mail = await bench.received(message)

            assert mail.recipients == (ANN,), name
            assert mail.sender == SENDER, name
            assert "eve@" not in orjson.dumps(bench.sandbox.received(self.kind)[-1].payload).decode(), name
            assert "eve@" not in repr(mail), name
            repairs = bench.provider.repairs(parse(mails.raw(message)), mails.envelope())
            assert any(name.lower() in repair.lower() for repair in repairs), name

    # --- retries, keys, secrets

    async def test_the_payload_is_the_same_byte_for_byte_at_every_retry(self, bench: Bench) -> None:
        message = mails.raw(mails.with_parts() if self.carries_inline else mails.build())
        email = parse(message)
        (call, *_) = bench.provider.calls(email, SENDER, (ANN,))
        again = parse(message)
        first = bench.provider.build_request(email, call, queue_id="Q", key="K")
        second = bench.provider.build_request(again, call, queue_id="Q", key="K")

        assert first.content == second.content
        assert first.headers == second.headers

    async def test_no_setting_changes_the_payload_under_a_key(self, sandbox: Sandbox) -> None:
        """A known key with another body is refused, so a restart with other settings must not change it."""
        providers = [self.make(sandbox), self.make(sandbox, timeout=9.0, batch=1)]
        if providers[0].idempotent:
            email = parse(mails.raw(mails.build(X_Bridge_Tag="a", X_Bridge_Metadata="b=2; a=1")))
            (call, *_) = providers[0].calls(email, SENDER, (ANN,))
            first, second = (p.build_request(email, call, queue_id="Q", key="K") for p in providers)
            names = [name for name in first.headers if name.endswith(("key", "id"))]
            assert first.content == second.content
            assert [first.headers[n] for n in names if n != "authorization"] == [second.headers[n] for n in names]
        for provider in providers:
            await provider.aclose()

    async def test_no_field_is_sent_that_the_documentation_does_not_name(self, bench: Bench) -> None:
        many = {
            "Reply-To": f"{BOB}",
            "X-Bridge-Tag": "a",
            "X-Bridge-Metadata": "k=v",
            "X-Order": "17",
            "References": "<0@example.com>",
        }
        messages = [mails.build(), mails.build(**{k.replace("-", "_"): v for k, v in many.items()})]
        messages += [mails.with_parts()] if self.carries_inline else []
        fit = [m for m in messages if bench.provider.unfit(parse(mails.raw(m)), mails.envelope()) is None]
        assert fit
        for message in fit:
            await bench.send(message, mails.envelope(ANN, BOB, CAT))

        sent = {path for request in bench.requests for path in paths_of(request)}
        assert {path for path in sent if not _allowed(path, self.documented)} == set()

    async def test_the_credentials_are_in_no_reply_and_no_detail(self, bench: Bench) -> None:
        for name in self.errors:
            bench.sandbox.fail(f"{self.kind}={name}:2")  # also after new credentials
            outcome = await bench.outcome()
            assert KEY not in outcome.detail + outcome.reply.text
            bench.sandbox.recover()

    # --- outcomes (DESIGN 4)

    async def test_every_documented_error_means_what_its_table_says(self, bench: Bench) -> None:
        assert set(self.errors) == set(twin_class(self.kind).errors)
        for name, letter in self.errors.items():
            bench.sandbox.fail(f"{self.kind}={name}:2")  # also after new credentials
            outcome = await bench.outcome()
            bench.sandbox.recover()
            assert meant(outcome) == EXPECTED[letter], (name, outcome)
            assert outcome.quota == (letter == "Q"), name

    async def test_a_wrong_key_defers_and_never_bounces(self, sandbox: Sandbox) -> None:
        provider = self.make(sandbox, **self.wrong_key)
        outcome = await Bench(provider, sandbox).outcome()
        await provider.aclose()

        assert meant(outcome) == EXPECTED["C"]

    async def test_retry_after_is_believed(self, bench: Bench) -> None:
        bench.sandbox.fail(f"{self.kind}=429:1,retry_after=77")
        outcome = await bench.outcome()

        assert outcome.status == "deferred"
        assert outcome.fault in (Fault.PROVIDER, Fault.ACCOUNT)
        assert outcome.retry_after == 77

    @pytest.mark.parametrize(
        ("failure", "letter"),
        [
            ("html:1,status=502", "U"),
            ("html:1,status=504", "U"),
            ("lost:1", "U"),
            ("reset:1", "U"),
            ("garbage:1", "U"),
            ("half:1", ""),
        ],
    )
    async def test_a_lost_answer_is_unknown(self, bench: Bench, failure: str, letter: str) -> None:
        bench.sandbox.fail(f"{self.kind}={failure}")
        outcome = await bench.outcome()

        assert outcome.status == "unknown" or (not letter and outcome.status == "sent")

    async def test_a_web_page_is_a_wrong_address_and_never_bounces(self, bench: Bench) -> None:
        bench.sandbox.fail(f"{self.kind}=html:1,status=200")
        outcome = await bench.outcome()

        assert outcome.status in ("deferred", "unknown")

    async def test_an_api_that_hangs_is_unknown_within_the_time(self, sandbox: Sandbox) -> None:
        provider = self.make(sandbox, timeout=0.3)
        sandbox.fail(f"{self.kind}=hang:1")
        outcome = await Bench(provider, sandbox).outcome()
        await provider.aclose()

        assert meant(outcome) == EXPECTED["U"]

    async def test_an_api_that_is_not_there_was_never_sent_to(self, sandbox: Sandbox) -> None:
        provider = self.make(sandbox)
        await sandbox.stop()
        outcome = await Bench(provider, sandbox).outcome()
        await provider.aclose()

        assert (outcome.status, outcome.fault) == ("deferred", Fault.PROVIDER)
        assert outcome.reply == Reply(451, "4.4.1", "Mail service cannot be reached, try again later")

    # --- batches

    async def test_several_mails_go_in_one_request(self, bench: Bench) -> None:
        provider = bench.provider
        if provider.max_batch == 1:
            return
        message = mails.build()
        email = parse(mails.raw(message))
        calls = []
        for number, recipient in enumerate((ANN, BOB, CAT)):
            (one,) = provider.calls(email, SENDER, (recipient,))
            calls.append(Call(email=email, addressing=one, queue_id=f"Q{number}", key=f"K{number}"))
        assert len({provider.batch_key(call) for call in calls}) == 1
        assert provider.batch_key(calls[0]) is not None

        found = await provider.send_many(calls)

        assert [set(outcomes) for outcomes in found] == [{ANN}, {BOB}, {CAT}]
        assert {o.status for outcomes in found for o in outcomes.values()} == {"sent"}
        posts = [request for request in bench.requests if request.method == "POST"]
        assert len(posts) == 1
        assert [mail.recipients for mail in bench.mails] == [(ANN,), (BOB,), (CAT,)]

    async def test_a_lost_batch_is_unknown_for_each(self, bench: Bench) -> None:
        provider = bench.provider
        if provider.max_batch == 1:
            return
        email = parse(mails.raw(mails.build()))
        calls = []
        for number, recipient in enumerate((ANN, BOB)):
            (one,) = provider.calls(email, SENDER, (recipient,))
            calls.append(Call(email=email, addressing=one, queue_id=f"Q{number}", key=f"K{number}"))
        bench.sandbox.fail(f"{self.kind}=lost")

        found = await provider.send_many(calls)

        assert {meant(o) for outcomes in found for o in outcomes.values()} == {EXPECTED["U"]}
        assert all(o.keyless for outcomes in found for o in outcomes.values())

    # --- credentials

    async def test_credentials_are_verified_without_a_mail(self, sandbox: Sandbox) -> None:
        good, bad = self.make(sandbox), self.make(sandbox, **self.wrong_key)
        right, wrong = await good.verify(), await bad.verify()
        for provider in (good, bad):
            await provider.aclose()

        assert (right.ok, wrong.ok) == ((True, False) if self.has_probe else (None, None))
        assert not sandbox.messages
        assert KEY not in right.text + wrong.text


def _defaults(kind: str) -> dict[str, Any]:
    """What the settings' own defaults are, from the adapter's."""
    from dataclasses import MISSING, fields

    found = {}
    for f in fields(adapter(kind).Settings):
        found[f.name] = f.default if f.default is not MISSING else f.default_factory()  # type: ignore[misc]
    return found


def paths_of(request: httpx.Request) -> Iterator[str]:
    """The fields of a JSON body, `personalizations[].to[].email`; the names of a form's parts."""
    kind = request.headers.get("content-type", "")
    if kind.startswith("application/json"):
        yield from _paths(orjson.loads(request.content), "")
    elif kind.startswith("multipart/form-data"):
        import re

        yield from (name.decode() for name in re.findall(rb'form-data; name="([^"]*)"', request.content))


def _paths(value: Any, at: str) -> Iterator[str]:
    if isinstance(value, dict):
        for name, inner in value.items():
            below = f"{at}.{name}" if at else name
            yield below
            yield from _paths(inner, below)
    elif isinstance(value, list):
        for inner in value:
            yield from _paths(inner, f"{at}[]")


def _allowed(path: str, documented: frozenset[str]) -> bool:
    if path in documented:
        return True
    return any(d.endswith("*") and path.startswith(d[:-1]) for d in documented)
