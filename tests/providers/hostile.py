"""Mail that tries to write header fields, recipients or request lines of its own: what Hypothesis makes of the known tricks.

Each trick stands in every place that a mail has for text, raw, in encoded words, or in the forms of RFC 2231; the envelope
is one that `parse_mail` and `parse_rcpt` let through.
"""

from __future__ import annotations

import base64
import functools
from dataclasses import dataclass
from urllib.parse import quote

from hypothesis import strategies as st

from bridge.mime.trace import normalize_newlines, received_field, rfc5322_date, stamp
from bridge.model import Envelope, Origin, merge_recipients
from bridge.providers.catalogue import adapters
from bridge.smtp.syntax import MailCommand, RcptCommand, parse_mail, parse_rcpt

SENDER, ANN, BOB = "shop@example.com", "ann@example.org", "bob@example.net"
EVE = "eve@evil.example"
NOW = 1795750038.0

_BREAKS = (
    "\r\n", "\n", "\r", "\0", "\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\u2029", "\x7f", "\x1b", "\r\n\r\n", "\0\r\n ",
)  # fmt: skip
_FIELDS = (f"Bcc: {EVE}", f"To: {EVE}", f"X-Evil: {EVE}", "", "x")
_TEXTS = tuple(f"a{mark}{field}" for mark in _BREAKS for field in _FIELDS)


@dataclass(frozen=True)
class HostileMail:
    """As it comes in by DATA."""

    content: bytes
    reverse_path: str
    recipients: tuple[str, ...]

    @property
    def raw(self) -> bytes:
        """As the bridge keeps it (delivery/preparation.py)."""
        only = self.recipients[0] if len(self.recipients) == 1 else ""
        received = received_field(
            Origin(client="192.0.2.1", helo="c"), hostname="b.example", queue_id="Q", now=NOW, recipient=only
        )
        return stamp(
            normalize_newlines(self.content), received=received, date=rfc5322_date(NOW), message_id="<q@b.example>"
        )

    @property
    def envelope(self) -> Envelope:
        return Envelope(reverse_path=self.reverse_path, recipients=self.recipients, smtputf8=True)


# --- one text, in the ways a header can hold it


def q_word(text: str, charset: str = "utf-8") -> bytes:
    octets = text.encode(charset, "replace")
    return f"=?{charset}?q?{''.join(f'={octet:02X}' for octet in octets)}?=".encode()


def b_word(text: str, charset: str = "utf-8") -> bytes:
    return f"=?{charset}?b?{base64.b64encode(text.encode(charset, 'replace')).decode()}?=".encode()


def twice(text: str) -> bytes:
    return q_word(q_word(text).decode())


def escaped(text: str) -> bytes:
    return quote(text, safe="").encode()


_WORDS = (
    q_word, b_word, functools.partial(b_word, charset="utf-16"), functools.partial(b_word, charset="utf-7"),
    functools.partial(q_word, charset="iso-8859-1"), functools.partial(b_word, charset="utf-32"), twice,
)  # fmt: skip
_PLAIN = (
    b"word", b"Ann Lee", b" ", b"\t", b"\r\n ", b"\r\n\t", b"\r\n \r\n ", b'"', b"\\", b"<", b">", b",", b";",
    b":", b"(", b")", b"@",
    b"{{x}}", b"{", b"%0D%0A", b"\xff", b"\xc3\xa4", b"\xe2\x80\xae", b"\xc2\x85", b"\xef\xbc\x8c", b"=?utf-8?q?",
    b"?=", b"=0D=0A",
    b"=?utf-8?q?=0D?= =?utf-8?q?=0A?=", b"=?utf-8*en?b?DQo=?=", b"=?x?q?=0D=0A?=", b"<" + EVE.encode() + b">",
    EVE.encode(),
    b"<1@example.com>", b"\r\nBcc: " + EVE.encode(), b"\r\nX-Evil: 1", b"\nTo: " + EVE.encode(),
    b"\\u000d\\u000aBcc: x", b"../..", b"?a=b#c",
)  # fmt: skip
_pieces = st.one_of(
    st.sampled_from(_PLAIN),
    st.builds(lambda how, text: how(text), st.sampled_from(_WORDS), st.sampled_from(_TEXTS)),
    st.sampled_from(_TEXTS).map(lambda text: text.encode()),
)
values = st.lists(_pieces, max_size=4).map(b"".join)


def _json(text: str) -> bytes:
    """A JSON text with every character written as an escape: nothing in it is a control character yet."""
    return '"{}"'.format("".join(f"\\u{ord(character):04x}" for character in text)).encode()


# The headers of SMTP services hold JSON, whose escapes are read after the field was.
_json_texts = st.sampled_from(_TEXTS).map(_json)
_KEYS = (
    "category", "unique_args", "asm_group_id", "ip_pool", "to", "sub", "section", "filters", "campaign_id", "metadata",
    "tags", "options", "archive", "cc", "bcc", "recipients", "key", "X-MC-BccAddress", "from", "headers",
)  # fmt: skip
_json_values = st.one_of(
    _json_texts,
    st.lists(_json_texts, max_size=2).map(lambda items: b"[" + b",".join(items) + b"]"),
    st.tuples(st.one_of(_json_texts, st.just(b'"ip_pool"')), _json_texts).map(lambda pair: b"{%b:%b}" % pair),
)
json_objects = st.lists(st.tuples(st.sampled_from(_KEYS), _json_values), max_size=3).map(
    lambda pairs: b"{" + b",".join(b'"%b":%b' % (key.encode(), value) for key, value in pairs) + b"}"
)

# All that an adapter might take, each with what must not get through.
_everything = st.tuples(_json_texts, _json_texts).map(
    lambda pair: (
        b'{"category":[%b],"unique_args":{%b:%b},"ip_pool":%b,"campaign_id":%b,"tags":[%b],"metadata":{%b:%b},"options":{"ip_pool":%b}}'
        % (pair[0], *pair, *pair, pair[0], *pair, pair[1])
    )
)


# --- addresses


def _taken_recipient(address: str) -> bool:
    return isinstance(parse_rcpt(f"TO:<{address}>", hostname="b.example", smtputf8=True), RcptCommand)


def _taken_sender(address: str) -> bool:
    argument = f"FROM:<{address}> SMTPUTF8"
    found = parse_mail(argument, hostname="b.example", max_size=0)
    return isinstance(found, MailCommand) and found.reverse_path == address


_LOCALS = (
    "ann", "Ann", "a..b.", f'"x, {EVE}, y"', f'"x\\" <{EVE}>, \\"y"', '"a b"', '"\\\\"',
    "=?utf-8?q?=0D=0ABcc=3A?=", "a%0D%0Ab", "a\u2028b", "a\x85b",
    "\u2029", "a\u00a0b", "a\u3000b", f'"{EVE}"', "a\uff0cb", "a\uff20b", "{{x}}", "..", "a/../b", "a?b#c",
    "j\u00fcrgen", '"(c)"', "a'b", "*", '"\u2028"',
)  # fmt: skip
_DOMAINS = (
    "example.org", "EXAMPLE.org", "example.org.", "[192.0.2.1]", "m\u00fcller.example", "x\u2474y.example",
    "x\u2488evil.example",
    "x\ufc5ey.example", "evil.example\U0001f101bob.example", "stra\u00dfe.example", "x\u2028y.example",
    "\uff41.example", "xn--a.example", "a_b.example",
)  # fmt: skip
_written = st.one_of(
    st.tuples(st.sampled_from(_LOCALS), st.sampled_from(_DOMAINS)),
    st.tuples(st.text(min_size=1, max_size=6), st.sampled_from(_DOMAINS)),
    st.tuples(
        st.just("ann"),
        st.text(st.characters(categories=["L", "N", "M"]), min_size=1, max_size=4).map(
            lambda label: f"{label}.example"
        ),
    ),
).map("@".join)
recipients = st.lists(
    st.one_of(st.sampled_from((ANN, BOB)), _written.map(lambda address: address if _taken_recipient(address) else ANN)),
    min_size=1, max_size=4,
).map(merge_recipients)  # fmt: skip
reverse_paths = st.one_of(
    st.sampled_from((SENDER, SENDER, "")), _written.map(lambda address: address if _taken_sender(address) else SENDER)
)


# --- the fields


_BCC = (
    b"Bcc",
    b"BCC",
    b"bcc ",
    b"Resent-Bcc",
    b'"Bcc"',
    b"\x01Bcc",
    b"Bcc\x00",
    b"=Bcc=",
    b"-bcc",
    b"Resent_Bcc",
    b"Bcc\t",
    b"B\xc3\xa9cc",
)
_NAMES = (
    b"X-Order", b"X-Order", b"References", b"In-Reply-To", b"List-Id", b"List-Unsubscribe", b"Message-ID", b"Date",
    b"Sender", b"Return-Path", b"Resent-To",
    b"Resent-Cc", b"Resent-From", b"Comments", b"X-\xff", b'X"', b"X'", b"X{{", b"x\\", b"Apparently-To",
    b"Errors-To", b"DKIM-Signature", b"Auto-Submitted",
    b"Subject", b"To", b"Cc", b"Reply-To", b"X-Mailer", b"Content-ID", b"Content-Type", b"Content-Disposition",
    b"X" * 80, b"Precedence",
)  # fmt: skip
_SERVICES = (
    "X-Bridge-Tag",
    "X-Bridge-Metadata",
    *sorted({name.replace("*", "Evil") for cls in adapters() for name in cls.readers}),
)


@st.composite
def _mailbox_lists(draw: st.DrawFn, shown: tuple[str, ...]) -> bytes:
    boxes = draw(st.lists(st.tuples(values, st.sampled_from((*shown, ANN, EVE)).map(str.encode)), max_size=3))
    written = []
    for name, address in boxes:
        how = draw(st.sampled_from((b"%b <%b>", b'"%b" <%b>', b"(%b) %b", b"%b:%b;", b"%b%b", b"%b\r\n <%b>")))
        written.append(how % (name, address))
    return b", ".join(written)


@st.composite
def _parameters(draw: st.DrawFn, kind: bytes, names: tuple[bytes, ...]) -> bytes:
    out = [kind]
    for name in draw(st.lists(st.sampled_from(names), max_size=3)):
        value = draw(values)
        text = draw(st.sampled_from(_TEXTS))
        out.append(
            draw(
                st.sampled_from((
                    b'%b="%b"' % (name, value), b"%b=%b" % (name, value), b"%b*=utf-8''%b" % (name, escaped(text)),
                    b"%b*0*=utf-8''%b; %b*1=\"%b\"" % (name, escaped(text), name, value),
                    b'%b="%b.txt"' % (name, q_word(text)),
                ))
            )
        )  # fmt: skip
    return b"; ".join(out)


_NAMES_OF_FILES = (b"filename", b"name", b"method", b"charset", b"x-evil")
_TYPES = (
    b"application/pdf",
    b"image/png",
    b"text/csv",
    b"text/calendar",
    b"message/rfc822",
    b"text/html",
    b"app\r\nX: y/z",
    b"a/b\x0bc",
    b"",
)


@st.composite
def _files(draw: st.DrawFn) -> bytes:
    kind = draw(_parameters(draw(st.sampled_from(_TYPES)), _NAMES_OF_FILES))
    disposition = draw(_parameters(draw(st.sampled_from((b"attachment", b"inline", b"x"))), _NAMES_OF_FILES))
    content_id = draw(st.one_of(values, values.map(lambda value: b"<%b>" % value), st.just(b"<logo>")))
    body = draw(st.sampled_from((b"aGVsbG8=", b"", b"=?utf-8?q?=0D=0A?=", b"Bcc: x\r\n\r\n\r\n")))
    return (
        b"Content-Type: %b\r\nContent-Disposition: %b\r\nContent-ID: %b\r\nContent-Transfer-Encoding: base64\r\n\r\n%b"
        % (kind, disposition, content_id, body)
    )  # fmt: skip


@st.composite
def _bodies(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """(the fields of MIME, the body)."""
    text = b"Content-Type: text/plain; charset=utf-8\r\n\r\nHello,\r\nthe text.\r\n"
    html = b'Content-Type: text/html\r\n\r\n<p>Hello <img src="cid:logo"></p>\r\n'
    which = draw(st.sampled_from(("plain", "plain", "eight", "mixed", "mixed", "none")))
    if which == "none":
        return b"", b""
    if which != "mixed":
        return b"", b"Hello,\r\nthe text\r\n" if which == "plain" else b"Hello,\r\n\xc3\xa4\xff\x00\r\n"
    parts = [text, *([html] if draw(st.booleans()) else []), *draw(st.lists(_files(), max_size=2))]
    body = b"".join(b"--b1\r\n%b\r\n" % part for part in parts) + b"--b1--\r\n"
    kind = draw(st.sampled_from((b"mixed", b"related", b"alternative")))
    return b"MIME-Version: 1.0\r\nContent-Type: multipart/%b; boundary=b1\r\n" % kind, body


@st.composite
def hostile_mails(draw: st.DrawFn) -> HostileMail:
    mailed = draw(recipients)
    sender = draw(reverse_paths)
    lists = _mailbox_lists(mailed)
    paths = st.sampled_from((b"..", b"me", b"a/../../b@x", b"?@x"))
    given = [
        (b"From", draw(st.one_of(st.just(b"The Shop <shop@example.com>"), _mailbox_lists((SENDER,)), values, paths))),
        (b"To", draw(st.one_of(lists, lists, values))),
        (b"Subject", draw(values)),
    ]  # fmt: skip
    more = st.one_of(
        st.tuples(st.sampled_from(_NAMES), values),
        st.tuples(st.sampled_from(_BCC), st.one_of(st.just(EVE.encode()), values)),
        st.tuples(st.sampled_from((b"Cc", b"Reply-To", b"To", b"Resent-To")), lists),
        st.tuples(st.sampled_from(_SERVICES).map(str.encode), st.one_of(values, json_objects)),
        st.tuples(st.sampled_from((b"X-SMTPAPI", b"X-MSYS-API", b"X-Mailgun-Variables")), _everything),
    )
    given += draw(st.lists(more, max_size=5))
    given = draw(st.sampled_from((given, given[1:], given[::-1])))
    described, body = draw(_bodies())
    colon = draw(st.sampled_from((b": ", b":", b" : ", b":\r\n ")))
    head = b"".join(name + colon + value + b"\r\n" for name, value in given)
    return HostileMail(content=head + described + b"\r\n" + body, reverse_path=sender, recipients=mailed)


def _known(*lines: bytes, mailed: str = ANN) -> HostileMail:
    content = b"\r\n".join((*lines, b"", b"text", b""))
    return HostileMail(content=content, reverse_path=SENDER, recipients=(mailed,))


_CALENDAR = (
    b"MIME-Version: 1.0\r\nContent-Type: multipart/alternative; boundary=b\r\n\r\n"
    b"--b\r\n\r\ntext\r\n--b\r\nContent-Type: text/calendar\r\n\r\nBEGIN:VCALENDAR\r\n--b--"
)
_FROM = b"From: shop@example.com"
# What was found once.
KNOWN = (
    _known(_FROM, b'X-SMTPAPI: {"category": "x\\r\\nBcc: eve@evil.example", "ip_pool": "a\\nb"}'),
    _known(_FROM, b'X-MSYS-API: {"tags": ["x\\r\\ny"], "campaign_id": "x\\ny", "options": {"ip_pool": "x\\ny"}}'),
    _known(_FROM, "Reply-To: J\u00fcrgen <eve@x\u2474y.example>".encode()),
    _known(_FROM, "To: ann@x\ufc5ey.example".encode(), mailed="ann@x\ufc5ey.example"),
    _known(b"From: .."),
    _known(b"From: shop@x_", _CALENDAR),
    _known(b"From: shop@a/b", _CALENDAR),
    _known(_FROM, b"Subject: a", b" ", b"\tBcc: eve@evil.example", b"From mbox", b"Bcc: eve@evil.example"),
)
