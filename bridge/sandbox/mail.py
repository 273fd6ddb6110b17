"""What an API understood of one message: the same for all twins, so that one test can look at all of them."""

from __future__ import annotations

import binascii
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

KEPT_RAW = 256 * 1024  # a larger raw message is kept as its sha256
Mailbox = tuple[str, str]  # address and display name, "" where there is none
Disposition = Literal["attachment", "inline"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Attachment:
    """`content_id` is without its brackets and without `cid:`."""

    filename: str
    content_type: str
    size: int
    sha256: str
    content_id: str = ""
    disposition: Disposition = "attachment"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mail:
    """One message as its readers would get it, and `recipients`: exactly the addresses that would be mailed.

    `to` and `cc` are what readers see, `bcc` the addresses that are mailed without being shown. `headers` are those that
    readers get besides From, To, Cc, Subject, Reply-To, Date, Message-ID and what describes the MIME structure.
    `message_id` is the one the client asked for, with its brackets. `envelope_sender` is None where the API has none.
    """

    sender: str
    sender_name: str = ""
    envelope_sender: str | None = None
    to: tuple[Mailbox, ...] = ()
    cc: tuple[Mailbox, ...] = ()
    bcc: tuple[str, ...] = ()
    recipients: tuple[str, ...]
    reply_to: tuple[Mailbox, ...] = ()
    subject: str = ""
    text: str = ""
    html: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    attachments: tuple[Attachment, ...] = ()
    tags: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    message_id: str = ""
    raw: str = ""  # base64 of the MIME, for APIs that take it, while it is not too large
    raw_sha256: str = ""
    idempotency_key: str = ""


def make_attachment(
    content: bytes,
    *,
    filename: str,
    content_type: str,
    content_id: str = "",
    disposition: Disposition = "attachment",
) -> Attachment:
    return Attachment(
        filename=filename,
        content_type=content_type,
        size=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        content_id=content_id.removeprefix("cid:").strip("<>"),
        disposition=disposition,
    )


def kept_raw(raw: bytes) -> str:
    """Base64 of a message that is small enough to be kept, else ""."""
    return binascii.b2a_base64(raw, newline=False).decode() if len(raw) <= KEPT_RAW else ""
