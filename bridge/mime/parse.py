"""Raw bytes to an Email: never raises, whatever the bytes, and costs time linear in their number.

Trace fields (Received, Return-Path), Bcc and the MIME fields are left out of `Email.headers`; all other fields without a
place of their own are kept in order. A message inside the message stays whole, as an attachment.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

from bridge.mime.charset import decode, keeps_line_ends
from bridge.mime.fields import strip_bcc, summary, valid_name
from bridge.mime.headers import clean, decode_words
from bridge.mime.leaves import Choice, Leaf, choose, find_leaves
from bridge.mime.mailboxes import parse_mailboxes
from bridge.mime.params import TOKEN, clean_filename, write_type
from bridge.mime.pieces import LARGE, Slice, encoded_part
from bridge.mime.structure import DEFAULT_LIMITS, Limits, Part, parse_structure
from bridge.mime.transfer import decode_transfer
from bridge.model import Attachment, Email, Mailbox

__all__ = ["Costly", "Limits", "parse", "strip_bcc", "summary"]

NARROW_TEXT = 3  # times its octets: ASCII is copied, its line ends changed, and decoded
WIDE_TEXT = 8
_OWN_PLACE = frozenset({b"from", b"to", b"cc", b"reply-to", b"subject", b"date", b"message-id"})
_LEFT_OUT = frozenset({b"bcc", b"resent-bcc", b"return-path", b"received", b"mime-version", b"x-bridge-hops"})
# What the type itself says or what does not hold for the decoded payload.
_OWN_PARAMETERS = frozenset({"name", "boundary"})
_PROTECTED = frozenset(
    {"multipart/signed", "multipart/encrypted", "application/pkcs7-mime", "application/x-pkcs7-mime"}
)  # fmt: skip
_PATH_OR_CONTROL = re.compile(r"[/\\:*?\"<>|]+")


class Costly(Exception):
    """The message holds more than there is room for: it is mostly text. `octets`: so much."""

    def __init__(self, octets: int) -> None:
        super().__init__(octets)
        self.octets = octets


def parse(raw: bytes, limits: Limits = DEFAULT_LIMITS, *, room: int | None = None) -> Email:
    """The content of a message as people read it; what was odd is noted in `defects`.

    `room`: octets that it may hold while it is parsed and judged. Raises Costly when that may not be enough.
    """
    top = parse_structure(raw, limits)
    defects = list(top.defects)
    own, headers = _headers(top, defects)
    leaves = list(find_leaves(top))
    choice = choose(leaves)
    if room is not None and (needed := _cost(raw, choice)) > room:
        raise Costly(needed)
    charset = top.type.params.get("charset", "")
    return Email(
        sender=_sender(own.get(b"from", []), charset, defects),
        to=_mailboxes(own.get(b"to", []), charset),
        cc=_mailboxes(own.get(b"cc", []), charset),
        reply_to=_mailboxes(own.get(b"reply-to", []), charset),
        subject=decode_words(own.get(b"subject", [b""])[0], charset),
        date=decode_words(own.get(b"date", [b""])[0]),
        message_id=decode_words(own.get(b"message-id", [b""])[0]),
        text=_joined([_text(raw, leaf) for leaf in choice.text]),
        html=_text(raw, choice.html) if choice.html else "",
        alternatives=tuple((_typed_as_text(leaf), _text(raw, leaf)) for leaf in choice.alternatives),
        attachments=tuple(_attachment(raw, leaf, defects) for leaf in choice.attachments),
        headers=headers,
        raw=raw,
        protections=_protections(top),
        defects=tuple(dict.fromkeys(defects)),
        beyond=top.beyond,
    )


def _cost(raw: bytes, choice: Choice) -> int:
    """Octets that a message may hold at most while it is parsed and judged, its own included.

    Its files stay what they are in it. Text becomes characters: one emoji, and each of them takes four octets; for some
    providers it becomes HTML as well.
    """
    leaves = (*choice.text, *choice.alternatives, *((choice.html,) if choice.html else ()))
    return len(raw) + sum(_text_cost(raw, leaf.part) for leaf in leaves)


def _text_cost(raw: bytes, part: Part) -> int:
    plain = part.encoding not in ("base64", "quoted-printable") and keeps_line_ends(part.type.params.get("charset", ""))
    narrow = plain and all(piece.isascii() for piece in Slice(raw, part.body, part.end))
    return (part.end - part.body) * (NARROW_TEXT if narrow else WIDE_TEXT)


def _headers(top: Part, defects: list[str]) -> tuple[dict[bytes, list[bytes]], tuple[tuple[str, str], ...]]:
    """The raw values of the fields with a place of their own, and the others as text."""
    own: dict[bytes, list[bytes]] = {}
    others: list[tuple[str, str]] = []
    charset = top.type.params.get("charset", "")
    for name, value in top.fields:
        lower = name.lower()
        if lower in _OWN_PLACE:
            own.setdefault(lower, []).append(value)
        elif lower in _LEFT_OUT or lower.startswith(b"content-"):
            continue
        elif valid_name(name):
            others.append((name.decode("ascii"), decode_words(value, charset)))
        else:
            defects.append("header field with an invalid name, left out")
    return own, tuple(others)


def _sender(values: list[bytes], charset: str, defects: list[str]) -> Mailbox:
    found = _mailboxes(values, charset)
    if len(found) > 1:
        defects.append("more than one From address, the first counts")
    if found:
        return found[0]
    return Mailbox("", decode_words(values[0], charset)) if values else Mailbox("")


def _mailboxes(values: Sequence[bytes], charset: str) -> tuple[Mailbox, ...]:
    if len(values) == 1:
        return parse_mailboxes(values[0], charset)
    return tuple(mailbox for value in values for mailbox in parse_mailboxes(value, charset))


def _protections(top: Part) -> tuple[str, ...]:
    """Types of the parts that are signed or encrypted, the outermost first; messages inside are not looked into."""
    found: list[str] = []
    stack = [top]
    while stack:
        part = stack.pop()
        if part.content_type in _PROTECTED:
            found.append(part.content_type)
        stack.extend(reversed(part.children))
    return tuple(dict.fromkeys(found))


def _text(raw: bytes, leaf: Leaf) -> str:
    part = leaf.part
    body = decode_transfer(raw[part.body : part.end], part.encoding)
    charset = part.type.params.get("charset", "")
    if len(body) > LARGE and keeps_line_ends(charset):  # as characters it may be four times as large
        body = body.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    text = decode(body, charset)
    del body
    if "\r" in text:
        text = text.replace("\r\n", "\n")
    if "\r" in text:
        text = text.replace("\r", "\n")
    return text.replace("\x00", "") if "\x00" in text else text


def _joined(texts: Sequence[str]) -> str:
    if len(texts) < 2:
        return "".join(texts)
    return "\n".join(text if text.endswith("\n") else f"{text}\n" for text in texts if text)


def _typed_as_text(leaf: Leaf) -> str:
    """`text/calendar; method=REQUEST; charset=utf-8`: the content is text here, whatever charset it came in."""
    params = [(key, value) for key, value in _parameters(leaf.part) if key != "charset"]
    return write_type(leaf.content_type, (*params, ("charset", "utf-8")))


def _parameters(part: Part) -> tuple[tuple[str, str], ...]:
    if not part.typed:
        return ()
    own = part.type.params.items()
    return tuple((key, value) for key, value in own if key not in _OWN_PARAMETERS and TOKEN.fullmatch(key))


def _attachment(raw: bytes, leaf: Leaf, defects: list[str]) -> Attachment:
    part = leaf.part
    if part.opaque:
        return _unparsed(raw, part)
    encoded, size, clean_base64 = encoded_part(raw, part.body, part.end, part.encoding)
    if not clean_base64:
        defects.append("broken base64, decoded as far as it goes")
    content_id = clean(decode_words(part.first(b"content-id"))).strip("<> ")
    return Attachment(
        filename=leaf.name or _message_name(raw, part),
        content_type=_type_of(leaf),
        encoded=encoded,
        size=size,
        disposition=_disposition(leaf, content_id),
        content_id=content_id,
        parameters=_parameters(part),
    )


def _type_of(leaf: Leaf) -> str:
    """A file without a type is bytes; text without a name is text (RFC 2045 5.2)."""
    return "application/octet-stream" if leaf.name and not leaf.part.typed else leaf.content_type


def _disposition(leaf: Leaf, content_id: str) -> Literal["attachment", "inline"]:
    if leaf.disposition in ("", "inline") and leaf.related and content_id:
        return "inline"
    if leaf.disposition == "inline":
        return "inline"
    unnamed_text = not leaf.disposition and not leaf.name and leaf.content_type in ("text/plain", "text/html")
    return "inline" if unnamed_text else "attachment"


def _message_name(raw: bytes, part: Part) -> str:
    """By the subject, looked for in the first 64 KiB."""
    if part.content_type != "message/rfc822":
        return ""
    start = raw[part.body : min(part.end, part.body + 65536)]
    message = decode_transfer(start, part.encoding) if part.encoding == "base64" else start
    subject = _PATH_OR_CONTROL.sub("_", summary(message)[1])
    return clean_filename(f"{subject[:100].strip()}.eml") if subject else "message.eml"


def _unparsed(raw: bytes, part: Part) -> Attachment:
    """What lies beyond a limit, whole."""
    encoded, size, _ = encoded_part(raw, part.start, part.end, "")
    return Attachment(
        filename="unparsed.eml", content_type="application/octet-stream", encoded=encoded, size=size
    )  # fmt: skip
