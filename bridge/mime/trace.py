"""What a relay adds and counts: Received, Date and Message-ID (RFC 5321 4.4, RFC 6409 8), and CRLF line ends.

Only the message's own header is looked at. Bytes of the body never change and never become header.
"""

from __future__ import annotations

import functools
import re
import sys
import time

from bridge.mime.fields import header_end, read_fields, skip_mbox_line, strip_stray_bcc
from bridge.mime.headers import clean
from bridge.model import Origin

HOPS = "X-Bridge-Hops"  # how many a message took before it came over HTTP, where no Received field is told
_HOP = re.compile(
    rb"^(?:received[ \t]*+:|x-bridge-hops[ \t]*+:[ \t]*+([0-9]{1,5})(?![0-9]))", re.IGNORECASE | re.MULTILINE
)
_NOT_A_TOKEN = re.compile(r"[^A-Za-z0-9.:_\[\]+-]+")
_NOT_IN_COMMENT = re.compile(r"[^A-Za-z0-9 .,:_/=+()-]+")
_PARENTHESES = re.compile(r"[^()]*+(?:\([^()]*+\)[^()]*+)*+")  # in pairs, one level deep
_NOT_AN_ADDRESS = re.compile(r"[^!-~]|[<>()\\]")
_BARE_CR = re.compile(rb"\r(?!\n)")
_NO_NEWLINES = bytes(set(range(256)) - set(b"\r\n"))  # two passes, where counting each takes three
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def rfc5322_date(now: float) -> str:
    """`Mon, 23 Nov 2026 03:27:18 +0000`, in English whatever the locale."""
    return _at_second(int(now))


@functools.lru_cache(maxsize=16)
def _at_second(now: int) -> str:
    t = time.gmtime(now)
    day = f"{_DAYS[t.tm_wday]}, {t.tm_mday:02} {_MONTHS[t.tm_mon - 1]} {t.tm_year:04}"
    return f"{day} {t.tm_hour:02}:{t.tm_min:02}:{t.tm_sec:02} +0000"


def count_hops(raw: bytes) -> int:
    """How many hops the message says it took: its Received fields (RFC 5321 6.3), and what `HOPS` says."""
    start = skip_mbox_line(raw)
    return sum(int(told) if told else 1 for told in _HOP.findall(raw[start : header_end(raw, start)]))


def hops_told(raw: bytes) -> bool:
    """Whether the message, or one before it, came from another bridge over HTTP."""
    start = skip_mbox_line(raw)
    return any(_HOP.findall(raw[start : header_end(raw, start)]))


def stamp(raw: bytes, *, received: str, date: str, message_id: str) -> bytes:
    """With the Received field on top, then Date and Message-ID if missing; `message_id` with or without <>.

    Where no empty line ends the header (a message that begins with its body, a header broken by a line that is none),
    one is put there, so that nobody after us takes body for header. An mbox `From ` line is kept as X-Mailbox-Line.
    """
    start = skip_mbox_line(raw)
    end = header_end(raw, start)
    names = {name.lower() for name, _ in read_fields(raw, start, end)}
    added = [_ascii(received)]
    if start:
        added.append(b"X-Mailbox-Line: " + raw[:start].strip())
    if b"date" not in names:
        added.append(b"Date: " + _ascii(date))
    if b"message-id" not in names:
        added.append(b"Message-ID: <" + _ascii(message_id).strip(b"<>") + b">")
    head = b"\r\n".join((*added, b""))
    if raw.startswith((b"\r\n", b"\n"), end):
        return head + (raw[start:] if start else raw)
    header = raw[start:end]
    if header and not header.endswith(b"\n"):
        header += b"\r\n"
    return b"".join((head, header, b"\r\n", strip_stray_bcc(raw[end:]) if header else raw[end:]))


def _ascii(text: str) -> bytes:
    """Folded text is kept as it is folded; a bare line break would begin another field."""
    lines = (clean(line) for line in text.rstrip("\r\n").split("\r\n"))
    return "\r\n\t".join(line for line in lines if line).encode("ascii", "replace")


def received_field(
    origin: Origin, *, hostname: str, queue_id: str, now: float, recipient: str = "", tls: str = ""
) -> str:
    """RFC 5321 4.4, folded, without the last line break. `recipient` only when there is one: more would show a Bcc."""
    secured = _NOT_IN_COMMENT.sub("", tls or origin.tls)[:120]
    if not _PARENTHESES.fullmatch(secured):
        secured = secured.replace("(", "").replace(")", "")
    secured = f"\r\n\t(using {secured})" if secured else ""
    sent_to = _NOT_AN_ADDRESS.sub("", recipient) if recipient.isascii() else ""
    receiver = f" for <{sent_to[:320]}>" if sent_to else ""
    return (
        f"Received: from {_token(origin.helo)} ({_client(origin.client)}){secured}\r\n"
        f"\tby {_token(hostname)} with {_token(origin.protocol)} id {_token(queue_id)}{receiver};\r\n"
        f"\t{rfc5322_date(now)}"
    )


def _token(text: str) -> str:
    """What a client said of itself: letters, digits and a few marks, at most 255 of them."""
    return _NOT_A_TOKEN.sub("_", text)[:255] or "unknown"


def _client(client: str) -> str:
    if not client or client == "unix":
        return "local"
    if client == "unknown":  # behind a proxy of the operator's that does not say
        return client
    return f"[IPv6:{_token(client)}]" if ":" in client else f"[{_token(client)}]"


def has_bare_newline(raw: bytes, start: int = 0, end: int = sys.maxsize) -> bool:
    """Whether a CR or LF stands alone (RFC 5321 2.3.8)."""
    if start or end < len(raw):
        counts = raw.count(b"\n", start, end), raw.count(b"\r", start, end)
        return counts[0] != counts[1] or _BARE_CR.search(raw, start, end) is not None
    ends = raw.translate(None, _NO_NEWLINES)
    return ends.count(b"\n") * 2 != len(ends) or _BARE_CR.search(raw) is not None


def normalize_newlines(raw: bytes) -> bytes:
    """Every lone CR or LF becomes CRLF; the same object when there is none."""
    if not has_bare_newline(raw):
        return raw
    return raw.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\r\n")


def iso8601(now: float) -> str:
    """`2026-11-23T03:27:18Z`."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now))
