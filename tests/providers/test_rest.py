"""`kind = "rest"` over a real socket: what is sent, with which credentials, in which calls, and what the answer means."""

from __future__ import annotations

import base64
import logging
from dataclasses import replace
from typing import Any
from urllib.parse import unquote

import pytest

from bridge.mime.parse import parse
from bridge.model import Addressing, Attachment, Email, Envelope, Fault, Mailbox, idempotency_key
from bridge.providers.base import Policy
from bridge.providers.http import transport_for
from bridge.providers.rest import MAX_ENVELOPE_HEADER, OutcomeRule, RestProvider, RestSettings
from bridge.reply import Reply, parse_reply
from tests.providers.conftest import PLAIN, TO_ANN, Make, Serve, send
from tests.providers.scripted_http import Connection, Step, answer, close, hang
from tests.providers.test_shapes import RICH

ACCEPTED = answer(200, {"id": "abc"})
NOWHERE = "http://localhost:9/"
UNKNOWN_RECIPIENT = OutcomeRule(
    statuses=(422,),
    error="/error/code",
    equals="recipient_unknown",
    reply=Reply(550, "5.1.1", "No such recipient"),
    fault=Fault.RECIPIENT,
)
THREE = Addressing(
    reverse_path="shop@example.com",
    to=(Mailbox("ann@example.com", "Ann"),),
    cc=(Mailbox("bob@example.com"),),
    bcc=("cid@example.com",),
)


# What is sent.


async def test_a_plain_mail_is_posted_as_the_four_fields(serve: Serve, make: Make, email: Email) -> None:
    server = await serve(ACCEPTED)

    await send(make(server.url), email)

    request = server.requests[0]
    assert (request.method, request.path) == ("POST", "/send-email")
    assert request.json == {
        "to": "Ann <ann@example.com>",
        "from": "Shop <shop@example.com>",
        "subject": "Hello",
        "body": "The text.\n",
    }
    assert request.headers["content-type"] == "application/json"
    assert request.headers["idempotency-key"] == "Q1-key"
    assert request.headers["user-agent"].startswith("smtp-rest-bridge/")
    assert "authorization" not in request.headers


@pytest.mark.parametrize(
    ("settings", "name", "value"),
    [
        ({"auth": "bearer", "token": "t0k"}, "authorization", "Bearer t0k"),
        (
            {"auth": "basic", "username": "u", "password": "pä:s"},
            "authorization",
            "Basic " + base64.b64encode("u:pä:s".encode()).decode(),
        ),
        ({"auth": "header", "header": "X-Api-Key", "token": "t0k"}, "x-api-key", "t0k"),
        ({"headers": {"X-Team": "ops"}}, "x-team", "ops"),
        ({"headers": {"user-agent": "mine"}}, "user-agent", "mine"),
        ({"idempotency_header": "X-Request-Id"}, "x-request-id", "Q1-key"),
        ({"content_type": "application/vnd.mail+json"}, "content-type", "application/vnd.mail+json"),
    ],
)
async def test_headers_of_a_request(
    serve: Serve, make: Make, email: Email, settings: dict[str, Any], name: str, value: str
) -> None:
    server = await serve(ACCEPTED)

    await send(make(server.url, **settings), email)

    assert server.requests[0].headers[name] == value


async def test_without_an_idempotency_header_none_is_sent(serve: Serve, make: Make, email: Email) -> None:
    server = await serve(ACCEPTED)

    await send(make(server.url, idempotency_header=""), email)

    assert not [name for name in server.requests[0].headers if "idempotency" in name]


async def test_put_and_a_query_are_kept(serve: Serve, make: Make, email: Email) -> None:
    server = await serve(ACCEPTED)

    await send(make(server.url + "?v=2&x=%2F", method="PUT"), email)

    assert (server.requests[0].method, server.requests[0].path) == ("PUT", "/send-email?v=2&x=%2F")


async def test_a_retry_sends_the_same_bytes(serve: Serve, make: Make) -> None:
    server = await serve(answer(503), ACCEPTED)
    provider = make(server.url, shape="full")

    await send(provider, parse(RICH))
    await send(provider, parse(RICH))

    assert server.requests[0].body == server.requests[1].body


async def test_a_template_is_filled(serve: Serve, make: Make, email: Email) -> None:
    server = await serve(ACCEPTED)
    body = {
        "personal": {"to": "{to_objects}"},
        "title": "[bridge] {subject}",
        "text": "{text}",
        "cc": "{cc}",
        "track": False,
    }

    await send(make(server.url, body=body), email)

    assert server.requests[0].json == {
        "personal": {"to": [{"email": "ann@example.com", "name": "Ann"}]},
        "title": "[bridge] Hello",
        "text": "The text.\n",
        "track": False,
    }


async def test_message_rfc822_posts_the_bytes_with_the_envelope_in_headers(serve: Serve, make: Make) -> None:
    server = await serve(ACCEPTED)
    provider = make(server.url, shape="raw", content_type="message/rfc822")
    to = Addressing(reverse_path="", to=(), bcc=("ann@example.com", "jürgen@exämple.com", '"a,b%"@example.com'))

    await send(provider, parse(RICH), to)

    request = server.requests[0]
    assert request.body == RICH.replace(b"Bcc: secret@example.com\r\n", b"")
    assert request.headers["content-type"] == "message/rfc822"
    assert request.headers["x-envelope-from"] == "<>"
    assert request.headers["x-envelope-to"].startswith("ann@example.com, ")
    assert tuple(map(unquote, request.headers["x-envelope-to"].split(", "))) == to.recipients
    assert request.headers["x-message-key"] == "Q1-key"


def test_many_recipients_keep_the_envelope_header_short(make_offline: Make, email: Email) -> None:
    provider = make_offline(NOWHERE, shape="raw", content_type="message/rfc822")
    recipients = tuple(f"someone.number.{n}@example.com" for n in range(1000))

    calls = provider.calls(email, "shop@example.com", recipients)

    assert tuple(r for call in calls for r in call.recipients) == recipients
    assert 1 < len(calls) < 20
    for call in calls:
        request = provider.build_request(email, call, queue_id="Q", key="k")
        assert len(request.headers["x-envelope-to"]) <= MAX_ENVELOPE_HEADER


@pytest.fixture
def make_offline() -> Make:
    """Providers that never connect need no closing."""

    def build(url: str = NOWHERE, **settings: Any) -> RestProvider:
        transport = transport_for(url, Policy())
        return RestProvider("main", Policy(), RestSettings(url=url, **settings), transport=transport)

    return build


@pytest.mark.parametrize("text", ["a\r\nX-Evil: 1", "a\nb", "a\x00b"])
def test_a_mail_cannot_add_a_header_to_the_request(make_offline: Make, text: str) -> None:
    email = replace(parse(PLAIN), subject=text, sender=Mailbox("a@example.com", text), headers=(("X-A", text),))
    to = replace(TO_ANN, reverse_path=f"a{text}@example.com", to=(Mailbox("ann@example.com", text),))

    for settings in ({}, {"shape": "full"}, {"shape": "raw", "content_type": "message/rfc822"}):
        request = make_offline(**settings).build_request(email, to, queue_id="Q", key="k")
        assert not [v for _, v in request.headers.raw if set(v) & set(b"\r\n\0")]
        assert "x-evil" not in request.headers


# Which calls are made.


@pytest.mark.parametrize(
    ("settings", "calls"),
    [
        ({}, [("ann,bob", "", "cid")]),
        ({"shape": "full"}, [("ann,bob", "", "cid")]),
        ({"shape": "raw"}, [("ann,bob", "", "cid")]),
        ({"body": {"to": "{to}", "cc": "{cc}", "bcc": "{bcc}", "t": "{text}"}}, [("ann,bob", "", "cid")]),
        ({"body": {"to": "{to}", "t": "{text}"}}, [("ann,bob", "", ""), ("cid", "", "")]),
        ({"body": {"to": "{to}", "all": "{envelope_to}", "t": "{text}"}}, [("ann,bob", "", "cid")]),
        ({"body": {"to": "{to_email}", "t": "{text}"}}, [("ann", "", ""), ("bob", "", ""), ("cid", "", "")]),
    ],
)
def test_every_recipient_is_in_one_call_that_names_it(make_offline: Make, settings: Any, calls: Any) -> None:
    email = parse(PLAIN.replace(b"To: Ann <ann@example.com>", b"To: Ann <ann@example.com>, bob@example.com"))
    recipients = ("ann@example.com", "bob@example.com", "cid@example.com")

    made = make_offline(**settings).calls(email, "shop@example.com", recipients)

    short = [tuple(",".join(a.split("@")[0] for a in group) for group in _groups(call)) for call in made]
    assert short == calls


def _groups(call: Addressing) -> tuple[tuple[str, ...], ...]:
    return tuple(m.email for m in call.to), tuple(m.email for m in call.cc), call.bcc


def test_cc_goes_to_to_where_the_template_has_no_cc(make_offline: Make) -> None:
    email = parse(PLAIN.replace(b"Subject:", b"Cc: bob@example.com\r\nSubject:"))
    provider = make_offline(body={"to": "{to}", "bcc": "{bcc}", "t": "{text}"})

    (call,) = provider.calls(email, "shop@example.com", ("ann@example.com", "bob@example.com"))

    assert [m.email for m in call.to] == ["ann@example.com", "bob@example.com"]


@pytest.mark.parametrize(
    ("settings", "calls"),
    [
        ({}, 2),
        ({"shape": "full"}, 1),
        ({"shape": "raw"}, 1),
        ({"body": {"to": "{to}", "b": "{bcc}", "t": "{text}"}}, 2),
    ],
)
def test_recipients_nobody_shows_do_not_see_each_other(make_offline: Make, settings: Any, calls: int) -> None:
    made = make_offline(**settings).calls(parse(PLAIN), "", ("x@example.com", "y@example.com"))

    assert len(made) == calls


# What cannot be carried.


def multipart(kind: bytes, second: bytes) -> bytes:
    head = PLAIN.partition(b"\r\n\r\n")[0]
    parts = b"--b\r\n\r\nHi\r\n--b\r\nContent-Type: " + second + b"\r\n\r\nx\r\n--b--\r\n"
    return head + b"\r\nContent-Type: multipart/" + kind + b"; boundary=b\r\n\r\n" + parts


CALENDAR = multipart(b"alternative", b"text/calendar; method=REQUEST")
SIGNED = multipart(b"signed", b"application/pgp-signature")
NO_FROM = PLAIN.replace(b"From: Shop <shop@example.com>\r\n", b"")
TEXT_ONLY = {"body": {"to": "{to}", "subject": "{subject}", "text": "{text}"}}
EVERYTHING = {
    "body": {
        "to": "{to}",
        "text": "{text}",
        "html": "{html}",
        "reply": "{reply_to}",
        "headers": "{headers}",
        "files": "{attachments}",
        "more": "{alternatives}",
    }
}


@pytest.mark.parametrize(
    ("settings", "raw", "reply"),
    [
        ({}, PLAIN, ""),
        ({}, RICH, ""),
        ({}, CALENDAR, "554 5.6.5"),
        ({}, SIGNED, "554 5.6.5"),
        ({"shape": "full"}, CALENDAR, ""),
        ({"shape": "full"}, SIGNED, "554 5.6.5"),
        ({"shape": "raw"}, CALENDAR, ""),
        ({"shape": "raw"}, SIGNED, ""),
        (TEXT_ONLY, PLAIN, ""),
        (TEXT_ONLY, RICH, "554 5.6.5"),
        (EVERYTHING, RICH, ""),
        (EVERYTHING, CALENDAR, ""),
        (EVERYTHING, SIGNED, "554 5.6.5"),
        ({"body": {"to": "{to}", "mime": "{raw}"}}, SIGNED, ""),
        ({"max_size": 1000}, RICH, ""),
        ({"max_size": 5}, RICH, "552 5.3.4"),
        ({"max_size": 1000, "shape": "raw"}, RICH + b"x" * 1000, "552 5.3.4"),
    ],
)
def test_what_cannot_be_carried_is_refused_with_a_reply(
    make_offline: Make, settings: Any, raw: bytes, reply: str
) -> None:
    envelope = Envelope(reverse_path="shop@example.com", recipients=("ann@example.com",))

    unfit = make_offline(**settings).unfit(parse(raw), envelope)

    assert (str(unfit.reply)[:9] if unfit else "") == reply
    if unfit:
        assert unfit.losses
        assert unfit.degradable is (reply != "552 5.3.4")


@pytest.mark.parametrize(
    ("placeholder", "lost"),
    [("attachments", "attachments"), ("reply", "Reply-To"), ("html", "HTML"), ("headers", "list-unsubscribe")],
)
def test_what_a_template_does_not_name_is_a_loss(make_offline: Make, placeholder: str, lost: str) -> None:
    key = {"attachments": "files"}.get(placeholder, placeholder)
    body = {name: value for name, value in EVERYTHING["body"].items() if name != key}
    envelope = Envelope(reverse_path="shop@example.com", recipients=("ann@example.com",))

    unfit = make_offline(body=body).unfit(parse(RICH), envelope)

    assert unfit is not None
    assert len(unfit.losses) == 1
    assert lost in unfit.losses[0]


@pytest.mark.parametrize(
    ("reverse_path", "settings", "fits"),
    [("shop@example.com", {}, True), ("", {}, False), ("", {"shape": "full"}, False), ("", {"shape": "raw"}, True)],
)
def test_a_mail_without_any_sender_is_refused(make_offline: Make, reverse_path: str, settings: Any, fits: bool) -> None:
    envelope = Envelope(reverse_path=reverse_path, recipients=("ann@example.com",))

    unfit = make_offline(**settings).unfit(parse(NO_FROM), envelope)

    assert (unfit is None) == fits
    if unfit:
        assert (str(unfit.reply)[:9], unfit.degradable) == ("554 5.6.0", False)


# What the answer means.


@pytest.mark.parametrize(
    ("body", "pointer", "found"),
    [
        ({"id": "abc"}, "/id", "abc"),
        ({"id": 17}, "/id", "17"),
        ({"data": [{"id": "x"}]}, "/data/0/id", "x"),
        ({"status": "ok"}, "/id", ""),
        ({"id": {"a": 1}}, "/id", ""),
        ({"id": "abc"}, "", ""),
        (b"", "/id", ""),
        (b"OK", "/id", ""),
    ],
)
async def test_2xx_is_sent_with_or_without_the_id(
    serve: Serve, make: Make, email: Email, body: Any, pointer: str, found: str
) -> None:
    server = await serve(answer(200, body))

    outcome = await send(make(server.url, id=pointer), email)

    assert (outcome.status, outcome.provider_message_id) == ("sent", found)
    assert str(outcome.reply) == ("250 2.0.0 Ok: sent" + (f", id {found}" if found else ""))


async def test_a_web_page_with_200_is_a_wrong_url(serve: Serve, make: Make, email: Email) -> None:
    server = await serve(answer(200, b"<!doctype html><title>Welcome</title>", headers={"Content-Type": "text/html"}))

    outcome = await send(make(server.url), email)

    assert (outcome.status, outcome.fault, str(outcome.reply)[:9]) == ("deferred", Fault.ACCOUNT, "451 4.3.5")


def rule(reply: str = "550 5.7.1 no", fault: Fault = Fault.MESSAGE, **conditions: Any) -> OutcomeRule:
    return OutcomeRule(reply=parse_reply(reply), fault=fault, **conditions)


BODY = {"error": {"code": "bad_sender", "number": 7, "fatal": True, "text": "The Sender is not allowed"}}


@pytest.mark.parametrize(
    ("conditions", "matches"),
    [
        ({"statuses": (422,)}, True),
        ({"statuses": (400, 422)}, True),
        ({"statuses": (400,)}, False),
        ({"error": "/error/code"}, True),
        ({"error": "/error/other"}, False),
        ({"error": "/error/code", "equals": "bad_sender"}, True),
        ({"error": "/error/code", "equals": "bad"}, False),
        ({"error": "/error/number", "equals": "7"}, True),
        ({"error": "/error/fatal", "equals": "true"}, True),
        ({"error": "/error/text", "contains": "sender IS"}, True),
        ({"error": "/error/text", "contains": "recipient"}, False),
        ({"statuses": (422,), "error": "/error/code", "equals": "bad_sender", "contains": "bad"}, True),
        ({"statuses": (400,), "error": "/error/code", "equals": "bad_sender"}, False),
    ],
)
def test_a_rule_matches_all_that_it_gives(conditions: Any, matches: bool) -> None:
    assert rule(**conditions).matches(422, BODY) is matches
    assert not rule(error="/error/code").matches(422, None)


@pytest.mark.parametrize(
    ("rules", "status", "reply", "fault"),
    [
        ((rule("451 4.7.1 later", Fault.MESSAGE, statuses=(422,)),), "deferred", "451 4.7.1 later", Fault.MESSAGE),
        (
            (rule("550 5.7.1 no", statuses=(422,)), rule("554 5.6.0 x", statuses=(422,))),
            "bounced",
            "550 5.7.1 no",
            Fault.MESSAGE,
        ),
        (
            (rule(statuses=(400,)), rule("451 4.3.5 key", Fault.ACCOUNT, error="/error/code")),
            "deferred",
            "451 4.3.5 key",
            Fault.ACCOUNT,
        ),
        ((), "bounced", "554 5.6.0 Message refused by the mail service", Fault.MESSAGE),
    ],
)
async def test_the_first_rule_that_matches_comes_before_the_table(
    serve: Serve, make: Make, email: Email, rules: Any, status: str, reply: str, fault: Fault
) -> None:
    server = await serve(answer(422, BODY, headers={"Retry-After": "9"}))

    outcome = await send(make(server.url, outcomes=rules), email)

    assert (outcome.status, str(outcome.reply), outcome.fault) == (status, reply, fault)


async def test_a_rule_may_find_an_error_in_an_answer_of_200(serve: Serve, make: Make, email: Email) -> None:
    server = await serve(answer(200, BODY))

    outcome = await send(make(server.url, outcomes=(rule(statuses=(200,), error="/error/code"),)), email)

    assert (outcome.status, outcome.fault) == ("bounced", Fault.MESSAGE)


@pytest.mark.parametrize("fault", [Fault.ACCOUNT, Fault.PROVIDER])
def test_a_rule_cannot_bounce_mail_for_a_fault_of_the_account_or_provider(fault: Fault) -> None:
    with pytest.raises(ValueError, match="never bounces"):
        rule("550 5.7.1 no", fault)


def test_a_rule_cannot_declare_mail_sent() -> None:
    with pytest.raises(ValueError, match="4xx or a 5xx"):
        rule("250 2.0.0 ok")


# One recipient refused, and the answer does not say which.


def refuse(*addresses: str) -> Step:
    async def step(connection: Connection) -> bool:
        body = connection.server.requests[-1].body
        refused = any(a.encode() in body for a in addresses)
        return await (answer(422, {"error": {"code": "recipient_unknown"}}) if refused else ACCEPTED)(connection)

    return step


async def test_one_refused_recipient_costs_the_others_nothing(serve: Serve, make: Make, email: Email) -> None:
    server = await serve(refuse("bob@"))
    provider = make(server.url, outcomes=(UNKNOWN_RECIPIENT,))

    outcomes = await provider.send(email, THREE, queue_id="Q1", key=idempotency_key("Q1", THREE.recipients))

    assert {r: (o.status, o.fault) for r, o in outcomes.items()} == {
        "ann@example.com": ("sent", None),
        "bob@example.com": ("bounced", Fault.RECIPIENT),
        "cid@example.com": ("sent", None),
    }
    assert [r.json["to"] for r in server.requests[1:]] == [
        "Ann <ann@example.com>",
        "bob@example.com",
        "cid@example.com",
    ]
    assert all(r.json.keys().isdisjoint({"cc", "bcc"}) for r in server.requests[1:])
    keys = [r.headers["idempotency-key"] for r in server.requests]
    assert keys == [idempotency_key("Q1", r) for r in (THREE.recipients, *([a] for a in THREE.recipients))]


async def test_a_later_attempt_for_one_recipient_repeats_its_own_call(serve: Serve, make: Make, email: Email) -> None:
    server = await serve(refuse("bob@"))
    provider = make(server.url, shape="full", outcomes=(UNKNOWN_RECIPIENT,))
    await provider.send(email, THREE, queue_id="Q1", key="k")

    for recipient in THREE.recipients:
        (call,) = provider.calls(email, THREE.reverse_path, (recipient,))
        await provider.send(email, call, queue_id="Q1", key=idempotency_key("Q1", call.recipients))

    assert [r.body for r in server.requests[1:4]] == [r.body for r in server.requests[4:]]


async def test_alone_a_refused_recipient_is_refused_in_one_call(serve: Serve, make: Make, email: Email) -> None:
    server = await serve(refuse("ann@"))

    outcome = await send(make(server.url, outcomes=(UNKNOWN_RECIPIENT,)), email)

    assert (outcome.status, str(outcome.reply)) == ("bounced", "550 5.1.1 No such recipient")
    assert len(server.requests) == 1


async def test_a_refused_message_is_not_tried_for_each_recipient(serve: Serve, make: Make, email: Email) -> None:
    server = await serve(answer(422, {"error": {"code": "spam"}}))

    outcomes = await make(server.url, outcomes=(UNKNOWN_RECIPIENT,)).send(email, THREE, queue_id="Q1", key="k")

    assert {o.fault for o in outcomes.values()} == {Fault.MESSAGE}
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("failure", "failed", "rest"),
    [
        (close, ("unknown", "4.4.2", Fault.PROVIDER), ("deferred", "4.4.5", Fault.PROVIDER)),
        (answer(503), ("deferred", "4.3.2", Fault.PROVIDER), ("deferred", "4.3.2", Fault.PROVIDER)),
        (answer(401), ("deferred", "4.3.5", Fault.ACCOUNT), ("deferred", "4.3.5", Fault.ACCOUNT)),
    ],
)
async def test_a_failure_on_the_way_leaves_the_rest_untried(
    serve: Serve, make: Make, email: Email, failure: Step, failed: Any, rest: Any
) -> None:
    """So that at most one recipient is unknown, and that one is repeated alone under the same key."""
    server = await serve(refuse("bob@"), refuse("bob@"), failure)

    outcomes = await make(server.url, outcomes=(UNKNOWN_RECIPIENT,)).send(email, THREE, queue_id="Q1", key="k")

    found = [(o.status, o.reply.enhanced, o.fault) for o in outcomes.values()]
    assert found == [("sent", "2.0.0", None), failed, rest]
    assert len(server.requests) == 3


async def test_calls_for_each_recipient_share_the_time_of_the_call(serve: Serve, make: Make, email: Email) -> None:
    server = await serve(refuse("bob@"), refuse("bob@"), hang)

    outcomes = await make(server.url, timeout=0.3, outcomes=(UNKNOWN_RECIPIENT,)).send(
        email, THREE, queue_id="Q1", key="k"
    )

    assert [o.status for o in outcomes.values()] == ["sent", "unknown", "deferred"]


# Secrets.

SECRETS = ("t0k-secret", "p4ss-secret", "h34d-secret")


def test_no_secret_is_shown_by_a_repr(make_offline: Make) -> None:
    settings = RestSettings(url=NOWHERE, token=SECRETS[0], password=SECRETS[1], headers={"X-Key": SECRETS[2]})

    assert not [s for s in SECRETS if s in repr(settings)]


@pytest.mark.parametrize("status", [400, 401, 403, 422, 500, 503])
async def test_no_secret_an_answer_repeats_gets_anywhere(
    serve: Serve,
    make: Make,
    email: Email,
    status: int,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.WARNING)
    basic = base64.b64encode(b"u:p4ss-secret").decode()
    words = f"You sent {' and '.join(SECRETS[1:])} and {basic}"
    server = await serve(answer(status, {"message": words}))
    provider = make(server.url, auth="basic", username="u", password=SECRETS[1], headers={"X-Key": SECRETS[2]})

    outcome = await send(provider, email)

    everything = f"{outcome!r}{caplog.text}{''.join(capsys.readouterr())}"
    assert "You sent" in everything
    assert not [s for s in (*SECRETS, basic) if s in everything]


def test_idempotent_only_if_the_settings_say_so(make_offline: Make) -> None:
    assert make_offline(NOWHERE).idempotent is False
    assert make_offline(NOWHERE, idempotent=True).idempotent is True


def test_attachments_are_sent_as_they_came(make_offline: Make, email: Email) -> None:
    attachment = Attachment(filename="ü.pdf", content_type="application/pdf", encoded=b"QUJD", size=3)
    request = make_offline(NOWHERE).build_request(
        replace(email, attachments=(attachment,)), TO_ANN, queue_id="Q", key="k"
    )

    assert (
        '"attachments":[{"filename":"ü.pdf","content_type":"application/pdf","content":"QUJD"}]'
        in request.content.decode()
    )
