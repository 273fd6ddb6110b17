"""A raw message as its readers would get it, by the standard library's parser: a witness of its own, apart from
bridge.mime, so that a mistake there cannot hide here. Nothing in a message makes it raise.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from email import message_from_bytes, policy
from email.header import decode_header, make_header
from email.message import Message
from email.parser import BytesHeaderParser
from email.utils import getaddresses
from functools import partial
from typing import Any, TypeVar

from bridge.sandbox.mail import Attachment, Mail, Mailbox, kept_raw, make_attachment

# These have a field of their own in Mail, or describe the structure.
_SHOWN_ELSEWHERE = frozenset(
    (
        "from",
        "to",
        "cc",
        "subject",
        "reply-to",
        "date",
        "message-id",
        "mime-version",
        "content-type",
        "content-transfer-encoding",
        "content-disposition",
        "content-id",
    )
)
_LINE_END = re.compile(r"\r\n?|\n")
_VERBATIM = policy.SMTP.clone(refold_source="none", cte_type="8bit")

T = TypeVar("T")


def mail_from_mime(raw: bytes, recipients: Sequence[str] | None, *, envelope_sender: str | None = None) -> Mail:
    """`recipients` is the envelope; None: an API that mails whom To, Cc and Bcc name and takes the Bcc header out.

    With an envelope a Bcc header stays among the headers, since readers would get it. Line ends of texts are LF. For tags
    and such use `dataclasses.replace`.
    """
    message = _parse(raw)
    to, cc, hidden = (_mailboxes(message, name) for name in ("to", "cc", "bcc"))
    sender, sender_name = next(iter(_mailboxes(message, "from")), ("", ""))
    shown = {email.lower() for email, _ in to + cc}
    named = [email for email, _ in to + cc + hidden]
    mailed = _unique(named) if recipients is None else tuple(dict.fromkeys(recipients))
    text, html, attachments = _content(message)
    return Mail(
        sender=sender,
        sender_name=sender_name,
        envelope_sender=envelope_sender,
        to=to,
        cc=cc,
        bcc=tuple(address for address in mailed if address.lower() not in shown),
        recipients=mailed,
        reply_to=_mailboxes(message, "reply-to"),
        subject=next(_values(message, "subject"), ""),
        text=text,
        html=html,
        headers=tuple(_other_headers(message, without_bcc=recipients is None)),
        attachments=attachments,
        message_id=next(_values(message, "message-id"), ""),
        raw=kept_raw(raw),
        raw_sha256=hashlib.sha256(raw).hexdigest(),
    )


def _or_else(read: Callable[[], T], otherwise: Callable[[], T]) -> T:
    """The parsers of `email` raise all kinds of errors on odd input, RecursionError among them: none is worth a log line
    here, because the second way is always there and never raises."""
    try:
        return read()
    except Exception:
        return otherwise()


def _parse(raw: bytes) -> Message:
    return _or_else(
        lambda: message_from_bytes(raw, policy=policy.default),
        # So deep that it cannot be parsed: everything below its head is one text.
        lambda: BytesHeaderParser(policy=policy.compat32).parsebytes(raw),
    )


def _raw_headers(message: Message) -> Iterator[tuple[str, str]]:
    """As they stand in the message, unfolded; octets beyond ASCII are read as UTF-8 (RFC 6532)."""
    for name, value in message.raw_items():
        yield _clean(name), "".join(_LINE_END.split(_clean(str(value)))).strip()


def _clean(text: str) -> str:
    """Without surrogates, which stand for octets that were not decoded."""
    octets = _or_else(lambda: text.encode("utf-8", "surrogateescape"), lambda: text.encode("utf-8", "replace"))
    return octets.decode("utf-8", "replace")


def _values(message: Message, wanted: str) -> Iterator[str]:
    return (_decoded(name, value) for name, value in _raw_headers(message) if name.lower() == wanted)


def _decoded(name: str, value: str) -> str:
    return _clean(_or_else(lambda: str(policy.default.header_factory(name, value)), lambda: _decoded_words(value)))


def _decoded_words(value: str) -> str:
    return _or_else(lambda: str(make_header(decode_header(value))), lambda: value)


def _other_headers(message: Message, *, without_bcc: bool) -> Iterator[tuple[str, str]]:
    for name, value in _raw_headers(message):
        if name.lower() not in _SHOWN_ELSEWHERE and not (without_bcc and name.lower() == "bcc"):
            yield name, _decoded(name, value)


def _mailboxes(message: Message, wanted: str) -> tuple[Mailbox, ...]:
    found = [
        box
        for name, value in _raw_headers(message)
        if name.lower() == wanted
        for box in _or_else(partial(_parsed_mailboxes, name, value), partial(_loose_mailboxes, value))
    ]
    return tuple((_clean(email), _clean(name)) for email, name in found if email)


def _parsed_mailboxes(name: str, value: str) -> list[Mailbox]:
    header: Any = policy.default.header_factory(name, value)
    return [(box.addr_spec, box.display_name) for box in header.addresses]


def _loose_mailboxes(value: str) -> list[Mailbox]:
    pairs: list[Mailbox] = _or_else(lambda: getaddresses([value]), lambda: [])
    return [(email, _decoded_words(name)) for name, email in pairs]


def _unique(addresses: Sequence[str]) -> tuple[str, ...]:
    """Each once, without regard to case, as it is written first."""
    return tuple({address.lower(): address for address in reversed(addresses)}.values())[::-1]


def _content(message: Message) -> tuple[str, str, tuple[Attachment, ...]]:
    """The first plain text and the first HTML that are no attachments, and all the rest."""
    bodies: dict[str, str] = {}
    attachments = []
    for part in _leaves(message):
        kind = _content_type(part)
        is_body = kind in ("text/plain", "text/html") and not _is_attached(part)
        if is_body and kind not in bodies:
            bodies[kind] = _text(part)
        else:
            attachments.append(_attachment(part))
    return bodies.get("text/plain", ""), bodies.get("text/html", ""), tuple(attachments)


def _leaves(message: Message) -> Iterator[Message]:
    """Parts without parts; a message that is attached is one, whatever it holds."""
    waiting = [message]
    while waiting:
        part = waiting.pop()
        children = _children(part)
        if isinstance(children, list) and not _content_type(part).startswith("message/"):
            waiting.extend(child for child in reversed(children) if isinstance(child, Message))
        else:
            yield part


def _children(part: Message) -> Any:
    """Not a list for a part without parts; reading one in an odd charset may raise."""
    return _or_else(lambda: part.get_payload(), lambda: None)


def _is_attached(part: Message) -> bool:
    return _disposition(part) == "attachment" or bool(_filename(part))


def _disposition(part: Message) -> str:
    return _or_else(lambda: part.get_content_disposition() or "", lambda: "")


def _filename(part: Message) -> str:
    return _clean(_or_else(lambda: part.get_filename() or "", lambda: ""))


def _content_type(part: Message) -> str:
    return _clean(_or_else(part.get_content_type, lambda: "application/octet-stream"))


def _octets(part: Message) -> bytes:
    children = _children(part)
    if isinstance(children, list):
        messages = [child for child in children if isinstance(child, Message)]
        return _or_else(lambda: b"".join(child.as_bytes(policy=_VERBATIM) for child in messages), lambda: b"")
    content = _or_else(lambda: part.get_payload(decode=True), lambda: None)
    return content if isinstance(content, bytes) else b""


def _text(part: Message) -> str:
    octets = _octets(part)
    charset = _or_else(lambda: part.get_content_charset() or "utf-8", lambda: "utf-8")
    text = _or_else(lambda: octets.decode(charset, "replace"), lambda: octets.decode("utf-8", "replace"))
    return _LINE_END.sub("\n", _clean(text))


def _attachment(part: Message) -> Attachment:
    content_id = next(_values(part, "content-id"), "")
    disposition = _disposition(part)
    return make_attachment(
        _octets(part),
        filename=_filename(part),
        content_type=_content_type(part),
        content_id=content_id,
        disposition="inline" if disposition == "inline" or (content_id and not disposition) else "attachment",
    )
