"""Delivery status notifications: what became of a message, told to its sender. Pure.

RFC 3464 within the multipart/report of RFC 6522: a text for people, a status for programs, and what was sent. RFC 3461 says
what is reported and returned, RFC 6533 how addresses that ASCII cannot write are given, RFC 3834 that no program answers.

Whatever stands in addresses, replies and parameters: lines end with CRLF and have at most 998 octets, no text ends a field,
begins another or ends a part, and the same input gives the same octets. They are 7-bit, but for an address that needs UTF-8
and for 8-bit mail that is returned.
"""

from __future__ import annotations

import binascii
import hashlib
import re
import textwrap
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from bridge.mime.addressing import a_label
from bridge.mime.compose import LINE, MAX_LINE, address_field
from bridge.mime.fields import header_end, skip_mbox_line, strip_bcc, summary
from bridge.mime.headers import clean
from bridge.mime.trace import HOPS, count_hops, has_bare_newline, hops_told, normalize_newlines, rfc5322_date
from bridge.model import Mailbox, split_address
from bridge.reply import Reply

Action = Literal["failed", "delayed", "relayed"]

MAX_PART = 254  # octets of a local part or domain: RFC 5321 4.5.3.1.3 allows both together no more
MAX_PARAMETER = 500  # octets of a decoded ORCPT or ENVID: RFC 3461 4.2 and 4.4 allow no more encoded
NOBODY = "MAILER-DAEMON"  # written where an address is empty, as in Postfix

# The most serious first: it decides the subject.
_SUBJECTS: dict[Action, str] = {
    "failed": "Undelivered Mail Returned to Sender",
    "delayed": "Delayed Mail (still being retried)",
    "relayed": "Successful Mail Delivery Report",
}
_INTRODUCTIONS: dict[Action, str] = {
    "failed": "Your message could not be sent to the recipients named here, and is not tried again. The reason stands "
    "beneath each. If it tells you nothing, ask your postmaster and pass this notice on.",
    "delayed": "Your message has not been sent to the recipients named here yet, but is still being tried. There is "
    "nothing you have to do, and no need to send it again.",
    "relayed": "Your message was handed on for the recipients named here. The service that took it delivers it from "
    "there, and may not tell when it arrives.",
}
_CLASSES: dict[Action, str] = {"failed": "5", "delayed": "4", "relayed": "2"}
_NEVER_TRIED: dict[Action, str] = {"failed": "4.4.7", "delayed": "4.4.1", "relayed": "2.0.0"}
_UNTRIED: dict[Action, str] = {
    "failed": "It could not be tried before its time was over.",
    "delayed": "It could not be tried yet.",
    "relayed": "It was taken.",
}

_ATOM = re.compile(r'[^\s()<>\[\]:;@\\,"]+')
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"')
_LITERAL = re.compile(r"\[[A-Za-z0-9.:]+\]")
_NOT_IN_DOMAIN = re.compile(r'[\s()<>\[\]:;@\\,"]')
_NOT_IN_HOST = re.compile(r"[^A-Za-z0-9.:_\[\]-]+")
_NOT_IN_TOKEN = re.compile(r"[^!-;=?-~]+")  # printable, no blank and no <>
_MESSAGE_ID = re.compile(r"<[!-;=?-~]{1,450}@[!-;=?-~]{1,450}>")
_ADDRESS_TYPE = re.compile(r"[A-Za-z0-9_-]{1,60}")
_XTEXT = re.compile(rb"\+([0-9A-F]{2})")
_EMBEDDED = re.compile(r"\\x\{([0-9A-Fa-f]{1,6})\}")  # RFC 6533 3
# Neither 7bit nor 8bit of RFC 2045 2.7 and 2.8 allow them. For data with no bare line break.
_NO_TEXT_LINES = re.compile(rb"\0|[^\r\n]{%d}" % (MAX_LINE + 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Reported:
    """One recipient of a notice. Times are seconds since the epoch."""

    address: str
    action: Action
    reply: Reply | None  # of the last attempt; None when there was none
    provider: str = ""  # its name in the settings
    remote_mta: str = ""  # host of the API or smarthost, "" when not known
    orcpt: str = ""  # `type;xtext` as the client sent it
    last_attempt_at: float | None = None
    will_retry_until: float | None = None  # delayed only


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """What is told to one sender about one message. Times are seconds since the epoch.

    Raises ValueError when nobody is reported: RFC 3464 2.1 wants one recipient at least.
    """

    queue_id: str  # of the message reported
    sender: Mailbox  # From of the notice
    recipient: str  # To of the notice: the envelope sender of the message
    hostname: str  # Reporting-MTA
    message_id: str  # of the notice itself, without <>
    now: float  # Date
    arrived_at: float  # Arrival-Date
    envid: str = ""  # xtext, as the client sent it
    ret: str = ""  # "", "FULL", "HDRS"
    reported: tuple[Reported, ...]
    raw: bytes = field(repr=False)  # the message reported, as stored
    max_size: int = 1 << 20  # octets; a message above this is returned as its header alone

    def __post_init__(self) -> None:
        if not self.reported:
            raise ValueError("a notice reports one recipient at least")


def build_notice(notice: Notice) -> bytes:
    """The whole message. Whether one may be sent at all (never for a null reverse path) is for the caller to know."""
    returned = _returned_message(notice)
    parts = (
        _text_part(notice, whole=bool(returned)),
        _status_part(notice),
        returned or _returned_header(notice.raw),
    )
    boundary = _boundary(b"".join(parts))
    mark = boundary.encode("ascii")
    body = b"".join(b"--%b\r\n%b\r\n" % (mark, part) for part in parts) + b"--%b--\r\n" % mark
    return b"".join((*_header(notice, boundary, body.isascii()), b"\r\n", body))


def build_text(notice: Notice) -> bytes:
    """The part for people alone, as a plain mail, for APIs that carry no report."""
    return b"".join((*_common_fields(notice), _text_part(notice, whole=False)))


def status_of(reported: Reported) -> str:
    """The enhanced status code (RFC 3463): of the last reply, in the class of the action.

    Only an expired message that was never tried is `failed` with a code of another class: 4.4.7, delivery time expired.
    """
    if reported.reply is None or reported.action == "relayed":
        return _NEVER_TRIED[reported.action]
    enhanced = reported.reply.enhanced
    detail = enhanced[1:] if enhanced.startswith(("4", "5")) else ".0.0"
    return _CLASSES[reported.action] + detail


def _header(notice: Notice, boundary: str, seven_bit: bool) -> Iterator[bytes]:
    yield from _common_fields(notice)
    yield _field("Content-Type", f'multipart/report; report-type=delivery-status; boundary="{boundary}"')
    yield _field("Content-Transfer-Encoding", "" if seven_bit else "8bit")  # RFC 2045 6.4: no less than the parts'


def _common_fields(notice: Notice) -> Iterator[bytes]:
    actions = {reported.action for reported in notice.reported}
    message_id, _ = summary(notice.raw)
    answered = message_id if _MESSAGE_ID.fullmatch(message_id) else ""
    yield address_field("From", [Mailbox(_address(notice.sender.email), notice.sender.name)])
    yield address_field("To", [Mailbox(_address(notice.recipient))])
    yield _field("Subject", next(subject for action, subject in _SUBJECTS.items() if action in actions))
    yield _field("Date", rfc5322_date(notice.now))
    yield _field("Message-ID", f"<{_token(notice.message_id)}>")
    yield _field("In-Reply-To", answered)
    yield _field("References", answered)
    yield _field("Auto-Submitted", "auto-replied")
    # Over HTTP the null reverse path is lost, so a notice that goes round like its message is known by this alone.
    yield _field(HOPS, str(count_hops(notice.raw)) if hops_told(notice.raw) else "")
    yield _field("MIME-Version", "1.0")


def _boundary(content: bytes) -> str:
    """A hash of the content, hashed anew until it does not occur in it."""
    digest = hashlib.sha256(content).digest()
    while (boundary := f"report-{digest.hex()[:40]}").encode("ascii") in content:
        digest = hashlib.sha256(digest).digest()
    return boundary


def _text_part(notice: Notice, *, whole: bool) -> bytes:
    """For people. `whole`: all of the message is attached."""
    content = "\r\n".join((*_text(notice, whole), "")).encode("utf-8", "replace")
    return _part(f"text/plain; charset={'us-ascii' if content.isascii() else 'utf-8'}", content)


def _text(notice: Notice, whole: bool) -> Iterator[str]:
    yield from _wrapped(f"This is the mail system of {_host(notice.hostname)}.")
    for action, introduction in _INTRODUCTIONS.items():
        told = [reported for reported in notice.reported if reported.action == action]
        if told:
            yield ""
            yield from _wrapped(introduction)
        for reported in told:
            yield from ("", f"<{_address(reported.address)}>")
            for sentence in _account(reported):
                yield from _wrapped(sentence, indent="    ")
    yield ""
    yield "The message is attached." if whole else "The header of the message is attached, without its text."


def _account(reported: Reported) -> Iterator[str]:
    """What happened with one recipient, in sentences."""
    reply = reported.reply
    if reply is None:
        yield _UNTRIED[reported.action]
    else:
        if reported.action == "failed" and reply.temporary:
            yield "It could not be sent before its time was over. The last try:"
        yield f"{_service(reported)}: {reply}"
    if reported.action == "delayed" and reported.will_retry_until is not None:
        yield f"It is tried until {rfc5322_date(reported.will_retry_until)}."


def _service(reported: Reported) -> str:
    """Whose words follow; ours where no service is known."""
    provider = clean(reported.provider).encode("ascii", "replace").decode()[:MAX_PART]
    host = _host(reported.remote_mta) if reported.remote_mta else ""
    if provider and host and provider != host:
        return f"{provider} ({host}) answered"
    return f"{provider or host} answered" if provider or host else "The reason"


def _status_part(notice: Notice) -> bytes:
    """For programs: a group of fields for the message, and one for each recipient."""
    groups = (_message_fields(notice), *(_recipient_fields(reported) for reported in notice.reported))
    content = b"\r\n".join(_fields(group) for group in groups)
    return _part(f"message/{'' if content.isascii() else 'global-'}delivery-status", content)


def _message_fields(notice: Notice) -> Iterator[tuple[str, str]]:
    """RFC 3464 2.2."""
    envid = _decode_xtext(notice.envid)
    yield "Original-Envelope-Id", envid if envid.isascii() else ""
    yield "Reporting-MTA", f"dns; {_host(notice.hostname)}"
    yield "Arrival-Date", rfc5322_date(notice.arrived_at)
    yield "X-Smtp-Rest-Bridge-Queue-Id", _token(notice.queue_id)


def _recipient_fields(reported: Reported) -> Iterator[tuple[str, str]]:
    """RFC 3464 2.3."""
    address = _address(reported.address)
    yield "Original-Recipient", _original_recipient(reported.orcpt)
    yield "Final-Recipient", f"{'rfc822' if address.isascii() else 'utf-8'}; {address}"
    yield "Action", reported.action
    yield "Status", status_of(reported)
    yield "Remote-MTA", f"dns; {_host(reported.remote_mta)}" if reported.remote_mta else ""
    yield "Diagnostic-Code", f"smtp; {reported.reply}" if reported.reply else ""
    yield "Last-Attempt-Date", _date(reported.last_attempt_at)
    yield "Will-Retry-Until", _date(reported.will_retry_until) if reported.action == "delayed" else ""


def _original_recipient(orcpt: str) -> str:
    """`type; address` as the sender wrote it, decoded; "" for what is none (RFC 3464 2.3.1: then the field is left out)."""
    kind, _, encoded = orcpt.partition(";")
    address = _decode_xtext(encoded)
    if kind.lower() == "utf-8":
        address = _printable(_EMBEDDED.sub(_character, address))
    if not _ADDRESS_TYPE.fullmatch(kind) or not address:
        return ""
    if not address.isascii() and kind.lower() not in ("rfc822", "utf-8"):
        return ""
    return f"{kind if address.isascii() else 'utf-8'}; {address}"


def _character(match: re.Match[str]) -> str:
    """RFC 6533 3: `\\x{FC}` is a code point; what is beyond them stays as it is."""
    code = int(match[1], 16)
    return chr(code) if code <= 0x10FFFF else match[0]


def _decode_xtext(text: str) -> str:
    """RFC 3461 4: `+2B` is an octet. "" for what is not one line of printable UTF-8 of a sensible length."""
    octets = _XTEXT.sub(lambda match: bytes.fromhex(match[1].decode()), text.encode("utf-8", "surrogatepass"))
    try:
        return _printable(octets.decode("utf-8"))
    except UnicodeDecodeError:
        return ""


def _printable(text: str) -> str:
    text = text.strip(" ")
    return text if clean(text) == text and len(text.encode("utf-8", "replace")) <= MAX_PARAMETER else ""


def _returned_message(notice: Notice) -> bytes:
    """The whole message as a part, without Bcc; b"" when it is not to be returned, or is too large.

    RFC 3461 4.3: RET speaks of failures only. What cannot stand in lines of 998 octets is not returned either.
    """
    raw = notice.raw
    failed = any(reported.action == "failed" for reported in notice.reported)
    if not failed or notice.ret == "HDRS" or len(raw) > notice.max_size:
        return b""
    if has_bare_newline(raw) or _NO_TEXT_LINES.search(raw):
        return b""
    raw = strip_bcc(raw)
    start = skip_mbox_line(raw)
    # RFC 6532 3.7, RFC 6533 3: with UTF-8 in its header it is no message/rfc822
    header = raw[start : header_end(raw, start)]
    return _part("message/global" if not header.isascii() and _is_utf8(header) else "message/rfc822", raw)


def _returned_header(raw: bytes) -> bytes:
    """The header as a part, without Bcc. Octets that are no UTF-8 and lines that are too long are encoded (RFC 6522 4)."""
    raw = strip_bcc(raw)
    start = skip_mbox_line(raw)
    header = normalize_newlines(raw[start : header_end(raw, start)])
    kind = "text/rfc822-headers"
    if not header.isascii() and _is_utf8(header):
        kind = "message/global-headers"
    if _NO_TEXT_LINES.search(header) or not _is_utf8(header):
        quoted = binascii.b2a_qp(header).replace(b"=\n", b"=\r\n")
        return _part(kind, quoted, encoding="quoted-printable")
    return _part(kind, header)


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _part(content_type: str, content: bytes, *, encoding: str = "") -> bytes:
    encoding = encoding or ("" if content.isascii() else "8bit")
    return _fields([("Content-Type", content_type), ("Content-Transfer-Encoding", encoding)]) + b"\r\n" + content


def _fields(fields: Iterable[tuple[str, str]]) -> bytes:
    return b"".join(_field(name, value) for name, value in fields)


def _field(name: str, value: str) -> bytes:
    """One field, folded at its blanks, each of which stays; b"" without a value. The value is one line without controls."""
    if not value:
        return b""
    first, *words = value.split(" ")
    lines = [f"{name}: {first}"]
    for word in words:
        if word and len(lines[-1]) + 1 + len(word) > LINE:
            lines.append("")
        lines[-1] += f" {word}"
    return "\r\n".join(lines).encode("utf-8", "replace") + b"\r\n"


def _wrapped(text: str, indent: str = "") -> list[str]:
    return textwrap.wrap(
        text, LINE, initial_indent=indent, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def _address(address: str) -> str:
    """One address that stays one wherever it is written: at most 254 octets of each part, quoted where it must be."""
    local, domain = split_address(clean(address))
    local, domain = _cut(local), _domain(domain)
    if not domain and not local.strip('" '):
        return NOBODY
    if not _ATOM.fullmatch(local) and not _QUOTED.fullmatch(local):
        escaped = local.replace("\\", "\\\\").replace('"', '\\"')
        local = f'"{escaped}"'
    return f"{local}@{domain}" if domain else local


def _domain(domain: str) -> str:
    """As A-labels where they say the same: then the address needs no UTF-8."""
    domain = _cut(domain)
    if _LITERAL.fullmatch(domain):
        return domain
    # Some characters become `@`, `,` or `(` in an A-label; they do so here already, before the marks are taken out.
    domain = _cut(_NOT_IN_DOMAIN.sub("_", unicodedata.normalize("NFKC", domain)))
    if domain.isascii():
        return domain
    label = a_label(domain)
    if len(label) > MAX_PART:
        return domain.encode("ascii", "replace").decode()
    return label if _reads_as(label, domain.lower()) else domain


def _reads_as(label: str, domain: str) -> bool:
    """`strasse.example` is not stra\u00dfe.example, whatever IDNA 2003 makes of it."""
    try:
        return label.encode("ascii").decode("idna") == domain
    except UnicodeError:
        return False


def _cut(text: str) -> str:
    return text.encode("utf-8", "replace")[:MAX_PART].decode("utf-8", "ignore")


def _host(name: str) -> str:
    name = _cut(name)
    return _NOT_IN_HOST.sub("_", name if name.isascii() else a_label(name)) or "unknown"


def _token(text: str) -> str:
    return _NOT_IN_TOKEN.sub("_", text)[: 2 * MAX_PART] or "unknown"


def _date(at: float | None) -> str:
    return "" if at is None else rfc5322_date(at)
