"""Every provider's webhook: verified as it signs, read as it tells."""

from __future__ import annotations

import asyncio
import base64
from dataclasses import replace
from typing import Any

import orjson
import pytest

from bridge.config.providers import KINDS
from bridge.providers.events import HOOKS, build_hook
from bridge.providers.events.base import (
    Call,
    Forged,
    HookSettings,
    Malformed,
    Received,
    Unverified,
    make_event,
    status_in,
    time_of,
)

from . import signing
from .samples import AT, BOB, ID, NO_USER, SAMPLES, hard_bounce
from .signing import NOW, SECRET, SUBSCRIBE, call, settings

# Those whose signature holds a time; the others are known by the ids of their events.
STAMPED = ("sendgrid", "mailgun", "resend", "ahasend", "lettermint")
SHARED = ("postmark", "brevo", "mailjet", "sparkpost", "smtp2go", "azure", "scaleway", "zeptomail")
WORDLESS = ("mailgun",)  # the body is not signed


async def amazon(url: str) -> bytes:
    assert url in (signing.CERTIFICATE, SUBSCRIBE)
    return signing.certificate()


async def nothing(url: str) -> bytes:
    raise AssertionError(f"{url} was fetched")


async def receive(kind: str, made: Call, fetch: Any = amazon) -> Received:
    return await build_hook(kind, settings(kind)).receive(made, fetch)


@pytest.mark.parametrize(("kind", "told", "meaning", "final", "permanent"), SAMPLES)
async def test_what_a_provider_tells_is_read(kind: str, told: Any, meaning: str, final: bool, permanent: bool) -> None:
    received = await receive(kind, call(kind, told))

    (event,) = received.events
    assert (event.kind, event.final, event.permanent) == (meaning, final, permanent)
    assert (event.recipient, event.provider_message_id.strip("<>")) == (BOB, ID)
    assert event.at == AT
    assert ID in event.raw
    if permanent and NO_USER in event.raw:
        assert (event.code, event.enhanced) == (550, "5.1.1")


@pytest.mark.parametrize("kind", HOOKS)
def test_every_kind_has_settings_for_what_it_needs(kind: str) -> None:
    names = {"secret": "webhook_secret", "key": "webhook_key", "topic": "webhook_topic"}
    hook = build_hook(kind, settings(kind))

    assert {names[need] for need in hook.needs} <= set(KINDS[kind].model_fields)
    with pytest.raises(ValueError, match=r"^no "):
        build_hook(kind, HookSettings())


@pytest.mark.parametrize("kind", HOOKS)
async def test_the_same_event_has_the_same_id_and_another_has_another(kind: str) -> None:
    made = [call(kind, told) for of, told, *_ in SAMPLES if of == kind]
    ids = [(await receive(kind, one)).events[0].event_id for one in made]
    again = [(await receive(kind, one)).events[0].event_id for one in made]

    assert ids == again
    assert len(set(ids)) >= len(ids) - 2  # samples of one kind of event may be the same event told otherwise


@pytest.mark.parametrize("kind", HOOKS)
async def test_what_is_not_signed_is_forged(kind: str) -> None:
    made = call(kind, hard_bounce(kind))
    bare = replace(made, headers={"content-type": made.header("content-type")})
    if kind in ("ses", "mailgun"):
        body = {k: v for k, v in orjson.loads(made.body).items() if k not in ("Signature", "signature")}
        bare = replace(bare, body=orjson.dumps(body))

    with pytest.raises(Forged):
        await receive(kind, bare)


@pytest.mark.parametrize("kind", sorted(set(HOOKS) - set(SHARED) - set(WORDLESS)))
async def test_a_body_that_was_changed_is_forged(kind: str) -> None:
    made = call(kind, hard_bounce(kind))
    changed = replace(made, body=made.body.replace(b"bob", b"eve"))
    assert changed.body != made.body

    with pytest.raises(Forged):
        await receive(kind, changed)


@pytest.mark.parametrize("kind", sorted(set(HOOKS) - {"ses"}))
async def test_another_secret_is_forged(kind: str) -> None:
    made = call(kind, hard_bounce(kind))
    secret = signing.WHSEC.replace("M", "N") if kind == "resend" else SECRET + "x"
    other = {
        "sendgrid": HookSettings(key=signing.public(signing.ec.generate_private_key(signing.ec.SECP256R1()))),
        "postal": HookSettings(key=signing.public(signing.rsa.generate_private_key(65537, 2048))),
    }.get(kind, replace(settings(kind), secret=secret))

    with pytest.raises(Forged):
        await build_hook(kind, other).receive(made, nothing)


@pytest.mark.parametrize("off", [-301, 301, -86400])
@pytest.mark.parametrize("kind", STAMPED)
async def test_what_was_signed_long_ago_is_a_replay(kind: str, off: int) -> None:
    with pytest.raises(Forged, match="too long ago"):
        await receive(kind, call(kind, hard_bounce(kind), signed_at=NOW + off))

    assert (await receive(kind, call(kind, hard_bounce(kind), signed_at=NOW - 299))).events


@pytest.mark.parametrize("stamp", ["", "abc", "-1800000000", "1800000000.0", "9" * 40, "١٨٠٠٠٠٠٠٠٠"])
async def test_a_time_that_is_none_is_forged(stamp: str) -> None:
    body = orjson.dumps(hard_bounce("lettermint"))
    header = f"t={stamp},v1={signing.hmac_hex(f'{stamp}.'.encode() + body)}"

    with pytest.raises(Forged):
        await receive("lettermint", Call(headers={"x-lettermint-signature": header}, body=body, now=NOW))


async def test_a_token_of_mailgun_that_comes_with_another_body_is_the_same_event() -> None:
    hook = build_hook("mailgun", settings("mailgun"))
    made = [hook.receive(Call(body=signing.mailgun(told, NOW, token="t" * 50)[1], now=NOW), nothing)
            for told in ({"event": "delivered", "recipient": BOB}, {"event": "complained", "recipient": BOB})]  # fmt: skip

    first, second = [(await one).events[0] for one in made]
    assert first.event_id == second.event_id == "t" * 50


@pytest.mark.parametrize(
    "given",
    [
        {"query": {"secret": SECRET}},
        {"headers": {"authorization": f"Bearer {SECRET}"}},
        {"headers": {"authorization": "Basic " + base64.b64encode(f"anyone:{SECRET}".encode()).decode()}},
        {"headers": {"x-webhook-secret": SECRET}},
    ],
)
async def test_a_secret_is_taken_from_where_providers_can_put_it(given: Any) -> None:
    made = Call(body=orjson.dumps(hard_bounce("postmark")), now=NOW, **given)

    assert (await receive("postmark", made)).events


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"query": {"secret": SECRET[:-1]}},
        {"query": {"secret": ""}},
        {"query": {"secret": "\udcff"}},
        {"headers": {"authorization": f"Basic {SECRET}"}},
        {"headers": {"authorization": "Basic %%%"}},
        {"headers": {"authorization": "Basic " + base64.b64encode(SECRET.encode()).decode()}},
    ],
)
async def test_another_secret_in_its_place_is_forged(given: Any) -> None:
    with pytest.raises(Forged):
        await receive("postmark", Call(body=orjson.dumps(hard_bounce("postmark")), now=NOW, **given))


@pytest.mark.parametrize("body", [b"", b"null", b"7", b'"x"', b"{", b"[1]", b"[[]]", b"\xff", b"[" * 2000])
@pytest.mark.parametrize("kind", ["postmark", "mailjet", "sparkpost", "azure", "zeptomail"])
async def test_what_is_no_event_is_malformed(kind: str, body: bytes) -> None:
    with pytest.raises(Malformed):
        await receive(kind, Call(headers={"x-webhook-secret": SECRET}, body=body, now=NOW))


@pytest.mark.parametrize("kind", HOOKS)
@pytest.mark.parametrize("odd", [None, 7, "x", [], {}, {"x": 1}, [1], True, "\u0000\n\u2028", 1e308])
async def test_odd_values_in_every_place_break_nothing(kind: str, odd: Any) -> None:
    """Each value of an event in turn is another one: it is read, ignored or malformed."""
    hook = build_hook(kind, settings(kind))
    for changed in _spoiled(hard_bounce(kind), odd):
        try:
            received = await hook.receive(call(kind, changed), amazon)
        except (Malformed, Forged):
            continue
        for event in received.events:
            assert len(event.recipient) <= 320
            assert event.recipient.isprintable() or not event.recipient.isascii()
            assert event.event_id


def _spoiled(value: Any, odd: Any) -> list[Any]:
    found = [odd]
    if isinstance(value, dict):
        found += [{**value, key: other} for key, inner in value.items() for other in _spoiled(inner, odd)]
    elif isinstance(value, list):
        found += [[other] for inner in value for other in _spoiled(inner, odd)]
    return found


async def test_a_batch_is_read_event_by_event_and_what_is_none_of_ours_is_counted() -> None:
    many = [{"event": "delivered", "email": f"r{n}@example.org", "sg_event_id": str(n)} for n in range(3000)]
    told = [*many, {"event": "group_resubscribe", "email": BOB}]

    received = await receive("sendgrid", call("sendgrid", told))
    assert (len(received.events), received.ignored) == (3000, 1)


# --- SNS

PEM = "/SimpleNotificationService-1.pem"


async def test_the_older_signature_of_sns_is_taken_as_well() -> None:
    headers, body = signing.sns(hard_bounce("ses"), NOW, version="1", Subject="Amazon SES")

    assert (await receive("ses", Call(headers=headers, body=body, now=NOW))).events


@pytest.mark.parametrize(
    "url",
    [
        f"http://sns.eu-west-1.amazonaws.com{PEM}",
        f"https://sns.eu-west-1.amazonaws.com.evil.example{PEM}",
        f"https://evil.example/sns.eu-west-1.amazonaws.com{PEM}",
        f"https://sns.eu-west-1.amazonaws.com@evil.example{PEM}",
        f"https://evil.example#@sns.eu-west-1.amazonaws.com{PEM}",
        f"https://sns.eu-west-1.amazonaws.com:8443{PEM}",
        f"https://sns.us-east-1.amazonaws.com{PEM}",
        f"https://s3.eu-west-1.amazonaws.com{PEM}",
        "https://sns.eu-west-1.amazonaws.com/a.pem",
        "https://sns.eu-west-1.amazonaws.com/SimpleNotificationService-1.txt",
        "https://sns.eu-west-1.amazonaws.com/SimpleNotificationService-x.pem",
        "https://sns.eu-west-1.amazonaws.com/SimpleNotificationService-1.pem?n=1",
        "https://sns.eu-west-1.amazonaws.com/SimpleNotificationService-1.pem#n",
        "https://sns.eu-west-1.amazonaws.com/a/../SimpleNotificationService-1.pem",
        f"https://sns.eu-west-1.amazonaws.com\\@evil.example{PEM}",
        "https://[::1/a.pem",
        "file:///etc/passwd.pem",
        "",
    ],
)
async def test_a_certificate_is_fetched_from_amazon_only(url: str) -> None:
    headers, body = signing.sns(hard_bounce("ses"), NOW, SigningCertURL=url)

    with pytest.raises(Forged, match="from elsewhere"):
        await receive("ses", Call(headers=headers, body=body, now=NOW), nothing)


async def test_another_topic_is_forged_before_anything_is_fetched() -> None:
    headers, body = signing.sns(hard_bounce("ses"), NOW, TopicArn=signing.TOPIC + "x")

    with pytest.raises(Forged, match="another topic"):
        await receive("ses", Call(headers=headers, body=body, now=NOW), nothing)


async def test_a_certificate_is_fetched_once_and_what_is_none_is_asked_for_again_after_a_minute() -> None:
    hook, fetched = build_hook("ses", settings("ses")), []

    async def fetch(url: str) -> bytes:
        fetched.append(url)
        if len(fetched) == 1:
            raise OSError("no route")
        return b"no certificate" if len(fetched) == 2 else signing.certificate()

    def at(now: float) -> Call:
        return replace(call("ses", hard_bounce("ses")), now=now)

    for now in (NOW, NOW + 59, NOW + 61, NOW + 100):
        with pytest.raises(Unverified):
            await hook.receive(at(now), fetch)
    assert len(fetched) == 2
    for _ in range(3):
        assert (await hook.receive(at(NOW + 122), fetch)).events
    assert len(fetched) == 3


async def test_certificates_are_fetched_few_at_a_time_and_none_of_them_twice() -> None:
    hook, fetched, gate = build_hook("ses", settings("ses")), [], asyncio.Event()

    async def fetch(url: str) -> bytes:
        fetched.append(url)
        await gate.wait()
        return signing.certificate()

    def naming(number: int) -> Call:
        url = signing.CERTIFICATE.replace("-1.pem", f"-{number:x}.pem")
        headers, body = signing.sns(hard_bounce("ses"), NOW, SigningCertURL=url)
        return Call(headers=headers, body=body, now=NOW)

    calls = [asyncio.create_task(hook.receive(naming(number % 4), fetch)) for number in range(12)]
    await asyncio.sleep(0)
    with pytest.raises(Unverified, match="other certificates"):
        await hook.receive(naming(4), fetch)
    gate.set()
    assert all(received.events for received in await asyncio.gather(*calls))
    assert sorted(fetched) == sorted(set(fetched))
    assert len(fetched) == 4
    assert (await hook.receive(naming(4), fetch)).events


async def test_a_notification_of_an_hour_ago_is_a_replay() -> None:
    with pytest.raises(Forged, match="too long ago"):
        await receive("ses", call("ses", hard_bounce("ses"), signed_at=NOW - 3601))

    assert (await receive("ses", call("ses", hard_bounce("ses"), signed_at=NOW - 3500))).events


async def test_a_subscription_to_our_topic_is_confirmed() -> None:
    visited: list[str] = []

    async def fetch(url: str) -> bytes:
        visited.append(url)
        return signing.certificate()

    headers, body = signing.confirmation(NOW)
    received = await receive("ses", Call(headers=headers, body=body, now=NOW), fetch)

    assert (received.events, visited) == ((), [signing.CERTIFICATE, SUBSCRIBE])


@pytest.mark.parametrize(
    ("topic", "url"),
    [
        (signing.TOPIC + "2", SUBSCRIBE),
        (signing.TOPIC, "https://evil.example/"),
        (signing.TOPIC, "http://169.254.169.254/"),
    ],
)
async def test_no_other_subscription_is(topic: str, url: str) -> None:
    async def fetch(asked: str) -> bytes:
        assert asked == signing.CERTIFICATE
        return signing.certificate()

    headers, body = signing.confirmation(NOW, topic=topic, url=url)

    with pytest.raises(Forged):
        await receive("ses", Call(headers=headers, body=body, now=NOW), fetch)


async def test_several_recipients_are_several_events() -> None:
    told = {"eventType": "Delivery", "mail": {"messageId": ID}, "delivery": {"recipients": ["a@x.org", "b@x.org"]}}

    received = await receive("ses", call("ses", told))
    assert [event.recipient for event in received.events] == ["a@x.org", "b@x.org"]
    assert len({event.event_id for event in received.events}) == 2


async def test_who_of_several_opened_it_is_not_told() -> None:
    told = {"eventType": "Open", "mail": {"messageId": ID, "destination": ["a@x.org", "b@x.org"]}, "open": {}}

    (event,) = (await receive("ses", call("ses", told))).events
    assert event.recipient == ""


# --- others' ways


async def test_event_grid_is_answered_with_its_code() -> None:
    told = [{"eventType": "Microsoft.EventGrid.SubscriptionValidationEvent", "data": {"validationCode": "ABC-1"}}]

    assert (await receive("azure", call("azure", told))).answer == {"validationResponse": "ABC-1"}
    with pytest.raises(Forged):
        await receive("azure", replace(call("azure", told), headers={}))


async def test_an_empty_event_of_sparkpost_only_asks() -> None:
    received = await receive("sparkpost", call("sparkpost", [{"msys": {}}]))

    assert (received.events, received.ignored) == ((), 1)


async def test_mandrill_signs_the_address_as_well() -> None:
    headers, body = signing.mandrill(hard_bounce("mandrill"), NOW, url="https://elsewhere.example/")
    with pytest.raises(Forged):
        await receive("mandrill", Call(headers=headers, body=body, now=NOW))

    hook = build_hook("mandrill", HookSettings(secret=SECRET))
    received = await hook.receive(Call(headers=headers, body=body, now=NOW, url="https://elsewhere.example/"), nothing)
    assert received.events


async def test_the_older_signature_of_postal_is_taken_as_well() -> None:
    headers, body = signing.postal(hard_bounce("postal"), NOW, sha1=True)

    assert (await receive("postal", Call(headers=headers, body=body, now=NOW))).events


async def test_smtp2go_may_send_a_form() -> None:
    body = b"event=bounce&bounce=hard&rcpt=bob%40example.org&email_id=1x&context=550+5.1.1+no"
    headers = {"x-webhook-secret": SECRET, "content-type": "application/x-www-form-urlencoded"}

    (event,) = (await receive("smtp2go", Call(headers=headers, body=body, now=NOW))).events
    assert (event.recipient, event.permanent, event.enhanced) == (BOB, True, "5.1.1")


async def test_our_queue_id_comes_back() -> None:
    told = [{"event": "delivered", "email": BOB, "queue_id": "Q17"}]

    assert (await receive("sendgrid", call("sendgrid", told))).events[0].queue_id == "Q17"
    mailjet = [{"event": "sent", "email": BOB, "CustomID": "Q18"}]
    assert (await receive("mailjet", call("mailjet", mailjet))).events[0].queue_id == "Q18"


@pytest.mark.parametrize("key", ["", "x", "AAAA", signing.public(signing.ec_key())[:-8]])
def test_a_key_that_is_none_is_told_at_once(key: str) -> None:
    for kind in ("sendgrid", "postal"):
        with pytest.raises(ValueError, match="key"):
            build_hook(kind, HookSettings(key=key))
    with pytest.raises(ValueError, match="not an EC key"):
        build_hook("sendgrid", HookSettings(key=signing.public(signing.rsa_key())))
    with pytest.raises(ValueError, match="ARN"):
        build_hook("ses", HookSettings(topic="mail-events"))


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (1_800_000_000, 1.8e9),
        ("1800000000", 1.8e9),
        (1_800_000_000_500, 1_800_000_000.5),
        ("2027-01-15T08:00:00Z", 1.8e9),
        ("2027-01-15T08:00:00.000+00:00", 1.8e9),
        ("2027-01-15 08:00:00 UTC", 1.8e9),
        ("2027-01-15 08:00:00", 1.8e9),
        ("2027-01-15T08:00:00.0000000Z", 1.8e9),
        ("yesterday", None),
        (True, None),
        (float("inf"), None),
        (-5, None),
        (None, None),
    ],
)
def test_times_are_read_in_every_form(value: Any, seconds: float | None) -> None:
    assert time_of(value) == seconds


@pytest.mark.parametrize(
    ("text", "code", "enhanced"),
    [
        ("smtp; 550 5.1.1 <bob@example.org>: no", 550, "5.1.1"),
        ("550-5.1.1 The email account", 550, "5.1.1"),
        ("host mx[192.0.2.4] said: 452 4.2.2 full", 452, "4.2.2"),
        ("connection to 5.1.1.2 failed", None, ""),
        ("no answer", None, ""),
        ("rejected 5.7.1.", None, "5.7.1"),
    ],
)
def test_codes_are_found_in_the_words_of_servers(text: str, code: int | None, enhanced: str) -> None:
    assert status_in(text) == (code, enhanced)


def test_an_event_without_an_id_is_known_by_what_it_says() -> None:
    one = make_event("opened", {"a": 1, "b": 2}, recipient=BOB)
    same = make_event("opened", {"b": 2, "a": 1}, recipient=BOB)
    other = make_event("opened", {"a": 1, "b": 3}, recipient=BOB)

    assert one.event_id == same.event_id != other.event_id


@pytest.mark.parametrize("form", [True, False])
def test_zeptomail_signs_the_json_in_a_form_or_not(form: bool) -> None:
    told = next(told for kind, told, *_ in SAMPLES if kind == "zeptomail")
    headers, body = signing.zeptomail(told, NOW, form=form)
    hook = build_hook("zeptomail", HookSettings(secret=SECRET))
    call = Call(headers=headers, body=body, now=NOW)
    hook.verify(call)

    assert [event.kind for event in hook.parse(call).events] == ["bounced"]
    with pytest.raises(Forged):
        hook.verify(replace(call, body=body + b" "))
    with pytest.raises(Forged):
        hook.verify(replace(call, headers={**headers, "producer-signature": "ts=1;s=;s-algorithm=none"}))
    with pytest.raises(Forged):
        build_hook("zeptomail", HookSettings(secret=SECRET + "x")).verify(call)


def test_zeptomail_may_say_one_thing_without_a_list() -> None:
    told = {"event_data": {"object": "hardbounce", "details": {"diagnostic_message": "550 no", "time": "2026-11-24"}}}
    message = {**told, "email_info": {"to": [{"email_address": {"address": "bob@example.org"}}]}}
    hook = build_hook("zeptomail", HookSettings(secret=SECRET))
    (event,) = hook.read({"event_name": "hardbounce", "event_message": message})

    assert (event.recipient, event.permanent, event.code) == ("bob@example.org", True, 550)


def test_ahasend_tells_what_the_other_server_said() -> None:
    told = next(told for kind, told, *_ in SAMPLES if kind == "ahasend" and told["type"] == "message.bounced")
    (event,) = build_hook("ahasend", signing.settings("ahasend")).read(told)

    assert (event.code, event.enhanced, event.text) == (550, "5.1.1", NO_USER)
