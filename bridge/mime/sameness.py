"""What makes two mails the same, and what makes a mail one of many."""

from __future__ import annotations

import hashlib

from bridge.mime.fields import header_end, read_fields, skip_mbox_line, top_fields
from bridge.model import Email, Envelope, same_recipient_key

BULK_RECIPIENTS = 10  # more are a mailing, not a message to somebody
_IDENTITY = (b"message-id", b"date", b"subject")


def fingerprint(content: bytes, envelope: Envelope) -> bytes:
    """Equal for the same sender, recipients, Message-ID and body; empty for a mail that cannot be told from a new one.

    Where there is no Message-ID, Date and Subject stand for it; a mail without Message-ID and Date (a printer's) is like no
    other: two of them may well be two. What comes before the body differs from try to try (Received), so it does not count.
    """
    start = skip_mbox_line(content)
    end = header_end(content, start)
    known = {name.lower(): value.strip() for name, value in reversed(list(read_fields(content, start, end)))}
    message_id = known.get(b"message-id", b"").strip(b"<> \t")
    if not message_id and not known.get(b"date"):
        return b""
    identity = [message_id] if message_id else [known.get(name, b"") for name in _IDENTITY]
    recipients = sorted(same_recipient_key(recipient) for recipient in envelope.recipients)
    words = [envelope.reverse_path, *recipients]
    parts: list[bytes | memoryview] = [
        *(word.encode("utf-8", "surrogatepass") for word in words),
        *identity,
        memoryview(content)[end:],
    ]
    digest = hashlib.sha256()
    for part in parts:  # the body is not copied
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.digest()


def is_report(raw: bytes) -> bool:
    """A delivery report, ours or another system's: of its failure nobody is told, or two systems would tell each other for ever
    (RFC 3834 2; APIs cannot send the null reverse path that would say it)."""
    head = raw[: header_end(raw, skip_mbox_line(raw))].lower()
    if b"multipart/report" not in head and b"auto-replied" not in head:
        return False
    for name, value in top_fields(raw):
        name, value = name.lower(), value.lower()
        if name == b"content-type" and b"multipart/report" in value:
            return True
        if name == b"auto-submitted" and value.strip().startswith(b"auto-replied"):
            return True
    return False


def is_bulk(email: Email, envelope: Envelope) -> bool:
    """A mailing: by its recipients, or by what it says of itself (RFC 2369, RFC 2919, Precedence)."""
    if len(envelope.recipients) > BULK_RECIPIENTS:
        return True
    for name, value in email.headers:
        name = name.lower()
        if name in ("list-unsubscribe", "list-id") or (
            name == "precedence" and value.strip().lower() in ("bulk", "list", "junk")
        ):
            return True
    return False
