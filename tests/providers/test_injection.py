"""Nothing that stands in a mail becomes a header field, a recipient or a part of a request, in any kind of the catalogue.

A request is looked at as its provider would: whatever is not known to be the text of a body is one line without controls, so
that a field nobody thought of here is checked too. `INJECTION_MAILS=5000` looks at as many mails as that.
"""

from __future__ import annotations

import asyncio
import base64
import functools
import os
import re
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from email import message_from_bytes, policy
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qsl, unquote

import httpx
import orjson
import pytest
from hypothesis import HealthCheck, Phase, given, settings

from bridge.mime.parse import parse
from bridge.model import Addressing, Email, Envelope, idempotency_key
from bridge.providers.api import ApiProvider
from bridge.providers.base import Call, Policy, Provider
from bridge.providers.catalogue import KINDS, adapter, settings_of
from bridge.providers.http import HttpProvider, transport_for
from bridge.providers.rest import RestProvider, RestSettings
from bridge.providers.smtp import SmtpProvider, SmtpSettings
from bridge.providers.template import PLACEHOLDERS
from bridge.sandbox.twins.gmail import service_account
from tests.providers.hostile import ANN, KNOWN, SENDER, HostileMail, hostile_mails

MAILS = int(os.environ.get("INJECTION_MAILS", "100"))
URL = "https://api.test/base"
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
# The texts of bodies, wherever they stand; nothing else may hold a line break.
BODIES = {
    "sendgrid": {"content[].value"},
    "mailgun": {"text", "html", "amp-html"},
    "postmark": {"TextBody", "HtmlBody", "[].TextBody", "[].HtmlBody"},
    "ses": {"Content.Simple.Body.Text.Data", "Content.Simple.Body.Html.Data"},
    "resend": {"text", "html", "[].text", "[].html"},
    "brevo": {"textContent", "htmlContent"},
    "mailjet": {"Messages[].TextPart", "Messages[].HTMLPart"},
    "sparkpost": {"content.text", "content.html", "content.amp_html"},
    "mailersend": {"text", "html", "[].text", "[].html"},
    "mailtrap": {"text", "html", "requests[].text", "requests[].html"},
    "mandrill": {"message.text", "message.html"},
    "smtp2go": {"text_body", "html_body"},
    "graph": {"message.body.content"},
    "gmail": set(),
    "azure": {"content.plainText", "content.html"},
    "scaleway": {"text", "html"},
    "zeptomail": {"textbody", "htmlbody"},
    "cloudflare": {"text", "html"},
    "postal": {"plain_body", "html_body"},
    "lettermint": {"text", "html", "[].text", "[].html"},
    "ahasend": {"text_content", "html_content", "amp_content"},
    "rest": {
        f"{table}{name}"
        for table in ("", "alone.", "among.")
        for name in ("body", "text", "html", "alternatives[].content")
    },
}
# Where a whole message stands in a request, as text or in base64.
MESSAGES = {
    "content.email_rfc822", "raw_message", "mime_message", "Content.Raw.Data", "mime_email", "data", "raw", "alone.raw",
}  # fmt: skip
SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "ses": {"access_key_id": "AKID", "region": "us-east-1", "secret_access_key": "secret"},
    "azure": {"api_key": base64.b64encode(b"secret").decode()},
    "graph": {"tenant": "t1", "client_id": "app1", "client_secret": "secret"},
    "scaleway": {"project_id": "p1"},
    "cloudflare": {"account_id": "acc1"},
    "ahasend": {"account_id": "acc1"},
}
# Beside the forms each kind has: settings without which, or with which, a mail has a say in more of the request.
MORE: Mapping[str, Sequence[Mapping[str, Any]]] = {
    "mailgun": [{"domain": "example.com"}],
    "gmail": [{"user": "shop@example.com"}],
    "graph": [{"user": "shop@example.com"}],
    "mailersend": [{"custom_headers": True}],
    "mailtrap": [{"stream": "sandbox", "inbox": "17"}],
}
TEMPLATE = {
    "alone": {name: f"{{{name}}}" for name in sorted(PLACEHOLDERS)},
    "among": {
        name: f"= {{{name}}} ="
        for name in ("text", "body", "html", "subject", "from", "from_name", "reply_to_line", "message_id", "date")
    },
}  # fmt: skip
REST: Sequence[Mapping[str, Any]] = [
    {"shape": "simple"}, {"shape": "full"}, {"shape": "raw"}, {"body": TEMPLATE}, {"content_type": "message/rfc822"},
]  # fmt: skip


@dataclass(frozen=True)
class Case:
    kind: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return "-".join((self.kind, *(name if name == "body" else str(value) for name, value in self.settings.items())))


def cases(kind: str) -> Iterator[Case]:
    cls = adapter(kind)
    if "content" in {f.name for f in fields(cls.Settings)}:
        for form in cls.forms:
            yield Case(kind, {"content": form.name})
    else:
        yield Case(kind)
    for more in MORE.get(kind, ()):
        yield Case(kind, more)


CASES = [case for kind in KINDS for case in cases(kind)]
REST_CASES = [Case("rest", given) for given in REST]


def make(case: Case, folder: Path) -> HttpProvider:
    policy = Policy()
    transport = transport_for(URL, policy)
    if case.kind == "rest":
        return RestProvider("main", policy, RestSettings(url=URL, **case.settings), transport=transport)
    cls = adapter(case.kind)
    given = {f.name: f.default if f.default is not MISSING else f.default_factory() for f in fields(cls.Settings)}  # type: ignore[operator]
    given |= {
        "url": URL,
        **({"api_key": "secret"} if "api_key" in given else {}),
        **SETTINGS.get(case.kind, {}),
        **case.settings,
    }
    if case.kind == "gmail":
        (folder / "key.json").write_bytes(orjson.dumps(service_account(f"{URL}/token")))
        given["service_account_file"] = str(folder / "key.json")
    return cls("main", policy, settings_of(case.kind, SimpleNamespace(**given)), transport=transport)


@functools.cache
def corpus() -> tuple[tuple[HostileMail, Email], ...]:
    """What was found once and what Hypothesis makes, the same at every run, parsed once for all kinds."""
    found = {mail: parse(mail.raw) for mail in KNOWN}

    @settings(
        max_examples=MAILS, derandomize=True, database=None, deadline=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(hostile_mails())
    def keep(mail: HostileMail) -> None:
        found[mail] = parse(mail.raw)

    keep()
    return tuple(found.items())


BENIGN = HostileMail(
    content=b"From: Shop <shop@example.com>\r\nTo: ann@example.org\r\nSubject: x\r\n\r\ntext\r\n",
    reverse_path=SENDER,
    recipients=(ANN,),
)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("injection")


# --- what a request says


def body_of(request: httpx.Request) -> bytes:
    return request.content


@dataclass
class Seen:
    """A request as its provider reads it. `texts`: every text with its place, names of objects too."""

    texts: list[tuple[str, str]] = field(default_factory=list)
    messages: list[bytes] = field(default_factory=list)  # whole messages in it


def look(request: httpx.Request, kind: str) -> Seen:
    seen = Seen()
    content, sent_type = body_of(request), request.headers["content-type"]
    if sent_type == "application/json":
        for path, text in walk(orjson.loads(content), ""):
            if path in MESSAGES and kind != "rest":
                seen.messages.append(text.encode() if "\n" in text else base64.b64decode(text, validate=True))
            elif path in MESSAGES:
                seen.messages.append(base64.b64decode(text, validate=True))
            else:
                seen.texts.append((path, text))
    elif sent_type == "application/x-www-form-urlencoded":
        seen.texts += parse_qsl(content.decode("ascii"), keep_blank_values=True, strict_parsing=True, errors="strict")
    elif sent_type.startswith("multipart/form-data"):
        look_at_form(sent_type, content, seen)
    elif sent_type == "message/rfc822":
        seen.messages.append(content)
    else:
        assert (sent_type, kind) == ("text/plain", "graph")
        seen.messages.append(base64.b64decode(content, validate=True))
    return seen


def walk(value: Any, at: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield f"{at} name", name
            yield from walk(inner, f"{at}.{name}" if at else name)
    elif isinstance(value, list):
        for inner in value:
            yield from walk(inner, f"{at}[]")
    elif isinstance(value, str):
        yield at, value


PART_HEAD = re.compile(
    rb'Content-Disposition: form-data; name="([^"\r\n]*)"(?:; filename="([^"\r\n]*)"\r\nContent-Type: ([!-~]+/[!-~]+))?'
)


def look_at_form(sent_type: str, content: bytes, seen: Seen) -> None:
    """By its boundary, and nothing but what our own parts have."""
    boundary = re.fullmatch(r"multipart/form-data; boundary=([a-z0-9-]+)", sent_type)
    assert boundary
    line = b"--" + boundary[1].encode()
    parts = content.split(line)
    assert parts[0] == b""
    assert parts[-1] == b"--\r\n"
    for part in parts[1:-1]:
        head, _, inner = part.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        match = PART_HEAD.fullmatch(head)
        assert match, head
        name = match[1].decode()
        seen.texts.append(("name", name))
        if match[2] is None:
            seen.texts.append((name, inner.removesuffix(b"\r\n").decode()))
            continue
        seen.texts += [("filename", match[2].decode()), ("type", match[3].decode())]
        if name == "message":
            seen.messages.append(inner.removesuffix(b"\r\n"))


# --- who is named

SLOTS = re.compile(r"(?:to|cc|bcc)(?:addresses|recipients|emails|objects)?|recipients|rcptto|envelopeto")
QUOTED = r'"(?:[^"\\]|\\.)*"'
LIST_ITEM = re.compile(rf'(?:{QUOTED}|[^",])+')
NAMED = re.compile(rf'(?:{QUOTED}|[^"<>])*<((?:{QUOTED}|[^"<>])+)>\s*')
BLANK = " \t"  # others may stand in a local part
ONE_ADDRESS = re.compile(rf'(?:{QUOTED}|[^\s"(),:;<>@\[\]\\]+)@(?:\[[^\s\]]+\]|[^\s"(),:;<>@\[\]\\]+)')


def recipients_in(texts: Sequence[tuple[str, str]]) -> Iterator[str]:
    """Every address that stands in a field for recipients, whatever the API."""
    for path, text in texts:
        words = [re.sub(r"[^a-z]", "", word.lower()) for word in path.removesuffix(" name").split(".")]
        if path.endswith(" name") or not any(SLOTS.fullmatch(word) for word in words):
            continue
        if words[0] == "replyto" or "headers" in words[:-1] or "internetmessageheaders" in words:
            continue
        if words[-1] in ("name", "displayname", "type", "headerto", "tags", "queueid", "toname", "key"):
            continue
        yield from addresses_in(text)


def addresses_in(text: str) -> Iterator[str]:
    """Of a list as it stands in a header."""
    for item in LIST_ITEM.findall(text):
        match = NAMED.fullmatch(item.strip(BLANK))
        yield match[1].strip(BLANK) if match else item.strip(BLANK)


def same(address: str) -> str:
    """For a comparison: domains as A-labels, where they can be."""
    local, _, domain = address.rpartition("@")
    try:
        written = domain.encode("idna").decode() if not domain.isascii() and len(domain) < 200 else domain
    except UnicodeError:
        written = domain
    return f"{local}@{written.lower() if re.fullmatch('[A-Za-z0-9._-]+', written) else domain.lower()}"


# --- the rules


def check_texts(seen: Seen, kind: str) -> None:
    for path, text in seen.texts:
        if path in BODIES[kind]:
            assert "\0" not in text, path
        else:
            assert not CONTROL.search(text), (path, text)


def check_recipients(seen: Seen, addressing: Addressing, *, apart: bool) -> None:
    found = list(recipients_in(seen.texts))
    if not apart:
        (raw,) = seen.messages
        found += [address for value in recipient_values(raw) for address in addresses_in(plain(value))]
        items = message_from_bytes(raw, policy=policy.compat32).raw_items()
        theirs = [
            _octets(value).decode("utf-8", "replace") for name, value in items if name.lower() in ("to", "cc", "bcc")
        ]
        assert {a for value in theirs for a in addresses_in(plain(value))} <= set(found)
    check_named(found, addressing)


def _octets(text: str) -> bytes:
    """Of what the standard library's reader gives: surrogates stand for octets beyond ASCII."""
    return text.encode("utf-8", "surrogateescape")


def recipient_values(raw: bytes) -> list[str]:
    """Also of fields with a blank before the colon, where the standard library's reader sees the header's end."""
    head = re.sub(rb"\r\n(?=[ \t])", b"", raw.partition(b"\r\n\r\n")[0]).decode("utf-8", "replace")
    return re.findall(r"^(?:to|cc|bcc)[ \t]*:([^\r\n]*)", head, re.IGNORECASE | re.MULTILINE)


def plain(value: str) -> str:
    """Unfolded, without its encoded words."""
    return re.sub(r"=\?[^?\s]+\?[bBqQ]\?[^?\s]*\?= ", "word ", re.sub(r"\r?\n(?=[ \t])", "", value))


def check_named(found: Sequence[str], addressing: Addressing) -> None:
    assert {same(address) for address in found} == {same(address) for address in addressing.recipients}
    for address in found:
        assert ONE_ADDRESS.fullmatch(address) or address in addressing.recipients, address


def check_request(request: httpx.Request) -> None:
    for name, value in request.headers.raw:
        assert re.fullmatch(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name)
        assert re.fullmatch(rb"[ -~]*", value), (name, value)
    assert re.fullmatch(rb"[!-~]+", request.url.raw_path)
    assert (request.url.scheme, request.url.host, request.url.fragment) == ("https", "api.test", "")


def check_path(request: httpx.Request, benign: httpx.Request, email: Email, envelope: Envelope) -> None:
    """The sender, or its domain, may be one segment of the path, and nothing else of the mail."""
    path, _, query = request.url.raw_path.decode().partition("?")
    wanted_path, _, wanted_query = benign.url.raw_path.decode().partition("?")
    assert query == wanted_query
    segments, wanted = path.split("/"), wanted_path.split("/")
    assert len(segments) == len(wanted), path
    for segment, other in zip(segments, wanted, strict=True):
        if segment != other:
            assert unquote(other) in (SENDER, "example.com")
            sender = email.sender.email or envelope.reverse_path
            assert same(sender).endswith(same(unquote(segment)).removeprefix("@")), segment
            assert unquote(segment) not in (".", "..", "")


BCC = re.compile(r"[^a-z]*(?:resent[^a-z]*)?bcc[^a-z]*")  # also misspelt with marks
FIELD_LINE = re.compile(rb"([^\s:]+)[ \t]*:")
# What the bridge, or a form that must be 7-bit, adds; X-Mailbox-Line stands for a line `From ...` of an mbox.
ADDED = {
    b"received",
    b"date",
    b"message-id",
    b"from",
    b"to",
    b"cc",
    b"mime-version",
    b"content-type",
    b"content-transfer-encoding",
    b"x-mailbox-line",
}
MANDRILL = {b"x-mc-preserverecipients", b"x-mc-tags", b"x-mc-metadata", b"x-mc-track", b"x-mc-important"}


def own_fields(content: bytes) -> Counter[bytes]:
    """The lines that may begin a field of the mail's own header, up to the first empty line."""
    head = content.replace(b"\r\n", b"\n").replace(b"\r", b"\n").partition(b"\n\n")[0]
    return Counter(_plain_name(match[1]) for line in head.split(b"\n") if (match := FIELD_LINE.match(line)))


def _plain_name(name: bytes) -> bytes:
    return re.sub(rb"[^!-~]", b"?", name).lower()


def check_message(raw: bytes, mail: HostileMail, addressing: Addressing, *, apart: bool, added: set[bytes]) -> None:
    """By two readers that are not ours: no field more than the mail had, and no Bcc but that of the call."""
    allowed = own_fields(mail.content)
    for name in added:
        allowed[name] += 1
    for reader in (policy.compat32, policy.default):
        message = message_from_bytes(raw, policy=reader)
        names = [name for name, _ in message.raw_items()]
        found = Counter(_plain_name(_octets(name)) for name in names)
        assert not found - allowed, found - allowed
        assert marked_bcc(names) in ([], [] if apart or not addressing.bcc else ["Bcc"])
    check_lines(raw.replace(b"\r\n", b"\n").partition(b"\n\n")[0], allowed)
    lines = raw.partition(b"\r\n\r\n")[0].split(b"\r\n")
    assert marked_bcc([line.partition(b":")[0].decode("latin-1") for line in lines]) == (
        [] if apart or not addressing.bcc else ["Bcc"]
    )


def check_lines(head: bytes, allowed: Counter[bytes]) -> None:
    """Also as one reads who takes a lone CR for a line break."""
    found = Counter(_plain_name(m[1]) for line in re.split(rb"[\r\n]", head) if (m := FIELD_LINE.match(line)))
    assert not found - allowed, found - allowed


def marked_bcc(names: Sequence[str]) -> list[str]:
    return [name for name in names if BCC.fullmatch(name.lower()) and name[:1] not in " \t"]


def sent_apart(provider: Provider, email: Email) -> bool:
    """Whether recipients are named apart from a message's header."""
    return not isinstance(provider, ApiProvider) or provider.form(email).name == "json" or provider.raw_envelope


def check(provider: HttpProvider, case: Case, mail: HostileMail, email: Email, benign: httpx.Request) -> list[Call]:
    """One mail, all its calls. A mail that is refused is not sent, unless `relay.degrade` allows it."""
    envelope = mail.envelope
    unfit = provider.unfit(email, envelope)
    provider.repairs(email, envelope)
    if unfit and not unfit.degradable:
        return []
    calls = [
        Call(email=email, addressing=one, queue_id="Q", key=idempotency_key("Q", one.recipients))
        for one in provider.calls(email, envelope.reverse_path, envelope.recipients)
    ]
    mailed = [recipient for call in calls for recipient in call.addressing.recipients]
    assert sorted(mailed) == sorted(mail.recipients)
    for call in calls:
        request = provider.build_request(email, call.addressing, queue_id=call.queue_id, key=call.key)
        check_request(request)
        check_path(request, benign, email, envelope)
        seen = look(request, case.kind)
        check_texts(seen, case.kind)
        apart = sent_apart(provider, email)
        if request.headers.get("content-type") == "message/rfc822" and case.kind == "rest":
            to = [unquote(address) for address in request.headers["x-envelope-to"].split(", ")]
            assert unquote(request.headers["x-envelope-from"]) in (envelope.reverse_path or "<>",)
            assert to == list(call.addressing.recipients)
        else:
            check_recipients(seen, call.addressing, apart=apart)
        added = ADDED | (set() if apart else {b"bcc"}) | (MANDRILL if case.kind == "mandrill" else set())
        for raw in seen.messages:
            check_message(raw, mail, call.addressing, apart=apart, added=added)
    return calls


# --- the tests


def test_every_kind_is_looked_at() -> None:
    assert {case.kind for case in CASES} == set(KINDS)
    assert set(BODIES) == {*KINDS, "rest"}


@pytest.mark.parametrize("case", [*CASES, *REST_CASES], ids=str)
def test_no_mail_writes_more_than_its_own_fields_into_a_request(case: Case, folder: Path) -> None:
    provider = make(case, folder)
    email = parse(BENIGN.raw)
    (one,) = provider.calls(email, SENDER, (ANN,))
    benign = provider.build_request(email, one, queue_id="Q", key="K")
    sent = 0

    for mail, email in corpus():
        try:
            sent += bool(check(provider, case, mail, email, benign))
        except Exception as error:
            pytest.fail(f"{type(error).__name__}: {error}\n{mail}")
    assert sent > len(corpus()) // 10


BATCHING = [case for case in CASES if adapter(case.kind).max_batch > 1]


@pytest.mark.parametrize("case", BATCHING, ids=str)
def test_no_mail_of_a_batch_does(case: Case, folder: Path) -> None:
    provider = make(case, folder)
    assert isinstance(provider, ApiProvider)
    groups: dict[Any, list[Call]] = {}
    for mail, email in corpus():
        unfit = provider.unfit(email, mail.envelope)
        if unfit and not unfit.degradable:
            continue
        for one in provider.calls(email, mail.reverse_path, mail.recipients):
            call = Call(email=email, addressing=one, queue_id="Q", key=idempotency_key("Q", one.recipients))
            if (key := provider.batch_key(call)) is not None:
                groups.setdefault(key, []).append(call)
    batches = [calls[n : n + 20] for calls in groups.values() for n in range(0, len(calls), 20)]

    assert batches
    for calls in batches:
        request = provider.build_batch(calls)
        check_request(request)
        seen = look(request, case.kind)
        try:
            check_texts(seen, case.kind)
            named = Counter(map(same, recipients_in(seen.texts)))
            assert named == Counter(same(r) for call in calls for r in call.addressing.recipients)
        except AssertionError as error:
            pytest.fail(f"{error}\n{[call.email.raw for call in calls]}")


# --- a smarthost


class Smarthost:
    """Takes everything and keeps each line of a command, and each message, as it came."""

    def __init__(self) -> None:
        self.commands: list[bytes] = []
        self.messages: list[bytes] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 smart.example\r\n")
        try:
            while line := await reader.readline():
                self.commands.append(line)
                if line.startswith(b"EHLO"):
                    writer.write(b"250-smart.example\r\n250-8BITMIME\r\n250-DSN\r\n250 SMTPUTF8\r\n")
                elif line == b"DATA\r\n":
                    writer.write(b"354 go\r\n")
                    self.messages.append(await reader.readuntil(b"\r\n.\r\n"))
                    writer.write(b"250 2.0.0 Ok: queued as A1B2\r\n")
                else:
                    writer.write(b"250 2.0.0 Ok\r\n")
        finally:
            writer.close()


@pytest.fixture
async def smarthost() -> AsyncIterator[tuple[SmtpProvider, Smarthost]]:
    kept = Smarthost()
    server = await asyncio.start_server(kept.serve, "127.0.0.1", 0, limit=1 << 20)
    given = SmtpSettings(host="127.0.0.1", port=server.sockets[0].getsockname()[1], tls="none")
    provider = SmtpProvider("main", Policy(timeout=5), given)
    yield provider, kept
    await provider.aclose()
    server.close()


async def test_a_smarthost_hears_the_envelope_and_nothing_else(smarthost: tuple[SmtpProvider, Smarthost]) -> None:
    provider, kept = smarthost
    for mail, email in corpus():
        if provider.unfit(email, mail.envelope):
            continue
        for one in provider.calls(email, mail.reverse_path, mail.recipients):
            kept.commands.clear()
            kept.messages.clear()
            outcomes = await provider.send(email, one, queue_id="Q", key="K")
            try:
                assert {outcome.status for outcome in outcomes.values()} == {"sent"}, outcomes
                check_dialogue(kept.commands, one)
                (message,) = kept.messages
                raw = re.sub(rb"^\.", b"", message.removesuffix(b".\r\n"), flags=re.MULTILINE)
                check_message(raw, mail, one, apart=True, added=ADDED)
            except AssertionError as error:
                pytest.fail(f"{error}\n{mail}")


def check_dialogue(commands: Sequence[bytes], one: Addressing) -> None:
    mail, *rcpts, data = [command for command in commands if not command.startswith((b"EHLO", b"RSET", b"NOOP"))]
    international = not all(address.isascii() for address in (one.reverse_path, *one.recipients))
    options = " BODY=8BITMIME" + " SMTPUTF8" * international
    assert mail.decode() == f"MAIL FROM:<{unescaped(one.reverse_path)}>{options}\r\n"
    assert [rcpt.decode() for rcpt in rcpts] == [f"RCPT TO:<{unescaped(r)}>\r\n" for r in one.recipients]
    assert data == b"DATA\r\n"


def unescaped(address: str) -> str:
    """Without needless backslashes, which mean the same (RFC 5321 4.1.2); aiosmtplib leaves them out."""
    return re.sub(r'\\([^"\\])', r"\1", address)
