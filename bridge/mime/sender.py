"""A new sender for mail whose own no provider takes: `relay.from` and `relay.rewrite` (DESIGN 5). Pure.

`root@localhost` becomes an address that is verified, in the header and in the envelope; the old one goes to Reply-To, unless
there is one. Only From, Reply-To and Sender of the message's own header change, everything else keeps its octets, and nothing
that stands in the old From can begin another field or name another address.
"""

from __future__ import annotations

import binascii
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bridge.mime.addressing import a_label
from bridge.mime.compose import LINE, address_field
from bridge.mime.fields import body_start, header_end, read_fields, skip_mbox_line
from bridge.mime.headers import decode_words, header_text
from bridge.mime.mailboxes import parse_mailboxes
from bridge.mime.params import parse_value
from bridge.mime.transfer import decode_base64
from bridge.model import Mailbox, matches, split_address

MAX_NAME = 500  # characters of a display name that are kept
MAX_ADDRESS = 320  # octets of an old address that is worth a Reply-To (RFC 5321 4.5.3.1: 64 + 1 + 255)

_SETTING = re.compile(r'(?:"([^"\\]*)"|([^"<>]*?))\s*<([^<>]+)>')
_FIELD = re.compile(
    rb"^(from|reply-to|sender)[ \t]*+:([^\n]*+(?:\n[ \t][^\n]*+)*+)(?:\n|\Z)", re.IGNORECASE | re.MULTILINE
)
# RFC 2047 2 and 5 (3): what an encoded word in a display name may hold, so that every reader sees the same.
_WORD = r"(?=[!-~]{1,75}(?:\s|\Z))=\?[A-Za-z0-9_*.+-]+\?(?:[bB]\?[A-Za-z0-9+/=]*|[qQ]\?[A-Za-z0-9!*+/=_-]*)\?="
_ENCODED_NAME = re.compile(rf"\s*({_WORD}(?:\s+{_WORD})*)\s+<[^<>]*>\s*")
_ADDRESS = re.compile(
    r'(?:[^\s()<>\[\]:;@\\,"]+|"(?:[^"\\]|\\.)*")@(?:[^\s()<>\[\]:;@\\,"]+|\[[A-Za-z0-9.:-]+\])'
)  # one that stays one wherever it is written
_CONTROL = re.compile(rb"[\x00-\x1a\x1c-\x1f\x7f]")
_MARKS = re.compile(r'[<>@,;:()"\\]')


@dataclass(frozen=True, slots=True)
class Senders:
    """`default`: `relay.from`, None when unset; `rules`: (pattern of an address with * for any run of characters, new
    mailbox), first match wins."""

    default: Mailbox | None = None
    rules: tuple[tuple[str, Mailbox], ...] = ()


NO_SENDERS = Senders()


def parse_setting(text: str) -> Mailbox:
    """`Servers <noreply@example.com>` or a bare address, as the settings have checked it."""
    match = _SETTING.fullmatch(text.strip())
    return Mailbox(match[3].strip(), (match[1] or match[2] or "").strip()) if match else Mailbox(text.strip())


def is_usable(address: str) -> bool:
    """Whether a provider might take it: a full domain, which neither localhost nor an address literal is.

    An address literal without its brackets (`scanner@192.0.2.7`) is none either: no top-level domain is a number.
    """
    local, domain = split_address(address)
    labels = domain.lower().removesuffix(".").split(".")
    if not local or len(labels) < 2 or not all(labels):
        return False
    return not (
        domain.startswith("[") or labels[0] == "localhost" or labels[-1] == "localdomain" or labels[-1].isdigit()
    )


def rewrite_sender(raw: bytes, reverse_path: str, senders: Senders) -> tuple[bytes, str, str]:
    """(the mail, the reverse path, the old address: of the header, else of the envelope, "" when neither was replaced).

    `raw` begins with its header. The null reverse path stays. Nothing changed: the same objects.
    """
    if senders == NO_SENDERS:
        return raw, reverse_path, ""
    start = skip_mbox_line(raw)
    end = header_end(raw, start)
    fields = list(_FIELD.finditer(raw, start, end))
    old = _mailboxes(_values(fields, b"from"))
    address = old[0].email if old else ""
    new_path, new_from = _choose(reverse_path, address, senders)
    replaced = ""
    if new_from and not _is_already(old, new_from):
        raw, replaced = _with_sender(raw, start, end, fields, new_from), address
    if new_path and new_path.email.lower() != reverse_path.lower():
        reverse_path, replaced = new_path.email, replaced or reverse_path
    return raw, reverse_path, replaced


def from_addresses(raw: bytes) -> list[str]:
    """Every address of every From field. `raw` begins with its header."""
    start = skip_mbox_line(raw)
    fields = list(_FIELD.finditer(raw, start, header_end(raw, start)))
    return [mailbox.email for mailbox in _mailboxes(_values(fields, b"from")) if mailbox.email]


def _choose(reverse_path: str, address: str, senders: Senders) -> tuple[Mailbox | None, Mailbox | None]:
    """The new ones for the envelope and for the header, None where the old one stays.

    A rule that matches the envelope is for both, one that matches only the header for that; the default is for what is left.
    """
    new_from: Mailbox | None = None
    for pattern, new in senders.rules:
        if reverse_path and matches(pattern, reverse_path):
            return new, new
        if address and matches(pattern, address):
            new_from = new
            break
    new_path = senders.default if reverse_path and not is_usable(reverse_path) else None
    return new_path, new_from or (None if is_usable(address) else senders.default)


def _is_already(old: Sequence[Mailbox], new: Mailbox) -> bool:
    """A rule may well match the address that it gives."""
    return len(old) == 1 and old[0].email.lower() == new.email.lower() and new.name in ("", old[0].name)


def _values(fields: Iterable[re.Match[bytes]], name: bytes) -> list[bytes]:
    return [field[2] for field in fields if field[1].lower() == name]


def _mailboxes(values: Iterable[bytes], charset: str = "") -> list[Mailbox]:
    """Several fields count as one."""
    return [mailbox for value in values for mailbox in parse_mailboxes(value, charset)]


# --- the header


def _with_sender(raw: bytes, start: int, end: int, fields: Sequence[re.Match[bytes]], new: Mailbox) -> bytes:
    """One From in the place of the first, Reply-To beneath it, no Sender that says no more; where there was no From, both end
    the header."""
    values = _values(fields, b"from")
    charset = "" if b"".join(values).isascii() else _charset(raw, start, end)
    old = _mailboxes(values, charset)
    answered = any(value.strip() for value in _values(fields, b"reply-to"))
    reply_to = b"" if answered else _reply_to(values, old, new)
    written = _from(values, charset, old, new) + reply_to
    pieces: list[bytes] = []
    position = 0
    for field in fields:
        name = field[1].lower()
        if name == b"from" or (name == b"reply-to" and reply_to) or (name == b"sender" and _is_idle(field[2], old)):
            pieces.append(raw[position : field.start()])
            position = field.end()
        if name == b"from":
            pieces.append(written)
            written = b""
    head = b"".join((*pieces, raw[position:end]))
    return head + _at_the_end(head, written, bare=start == end == body_start(raw, end)) + raw[end:]


def _at_the_end(head: bytes, written: bytes, *, bare: bool) -> bytes:
    """`bare`: no header at all, not even the empty line that ends one.

    A header that is broken by a line which is none gets no empty line: that it is broken is for `stamp` to see.
    """
    if not written:
        return b""
    return (b"" if not head or head.endswith(b"\n") else b"\r\n") + written + (b"\r\n" if bare else b"")


def _is_idle(sender: bytes, old: Sequence[Mailbox]) -> bool:
    """RFC 5322 3.6.2: a Sender says who sent the mail where that is another than From; a bad one is refused by providers."""
    found = parse_mailboxes(sender)
    return not found or not is_usable(found[0].email) or found[0].email.lower() in {box.email.lower() for box in old}


def _from(values: Sequence[bytes], charset: str, old: Sequence[Mailbox], new: Mailbox) -> bytes:
    """With the old display name where the new mailbox has none."""
    if new.name:
        return address_field("From", [new])
    name = old[0].name if old else _name_alone(values, charset)
    return _field("From", Mailbox(new.email, name[:MAX_NAME]), _encoded_name(values, old))


def _reply_to(values: Sequence[bytes], old: Sequence[Mailbox], new: Mailbox) -> bytes:
    """The old mailboxes that can be answered."""
    kept = [box for box in old if _is_answerable(box.email) and box.email.lower() != new.email.lower()]
    boxes = [Mailbox(box.email, box.name[:MAX_NAME]) for box in kept]
    if len(boxes) == 1:
        return _field("Reply-To", boxes[0], _encoded_name(values, old))
    return address_field("Reply-To", boxes) if boxes else b""


def _field(name: str, mailbox: Mailbox, words: Sequence[str]) -> bytes:
    """`words`: the display name as encoded words that are kept as they stand."""
    if not words:
        return address_field(name, [mailbox])
    local, domain = split_address(mailbox.email)
    parts = [f"{name}:", *words, f"<{local}@{domain if domain.isascii() else a_label(domain)}>"]
    line = " ".join(parts)
    if len(line) > LINE:
        line = f"{name}: " + "\r\n ".join(parts[1:])
    return line.encode("utf-8", "replace") + b"\r\n"


def _encoded_name(values: Sequence[bytes], old: Sequence[Mailbox]) -> list[str]:
    """The display name of `=?utf-8?q?J=C3=B6rg?= <root@localhost>`, word by word; empty when it is written otherwise."""
    match = _ENCODED_NAME.fullmatch(header_text(values[0])) if len(values) == len(old) == 1 else None
    words = match[1].split() if match and len(old[0].name) <= MAX_NAME else []
    return words if all(map(_is_printable, words)) else []


def _is_printable(word: str) -> bool:
    """Some readers stumble over a line break within an encoded word. ESC belongs to ISO-2022-JP."""
    _, _, encoding, text, _ = word.split("?")
    octets = decode_base64(text.encode()) if encoding in "bB" else binascii.a2b_qp(text, header=True)
    return not _CONTROL.search(octets)


def _name_alone(values: Sequence[bytes], charset: str) -> str:
    """`From: Scanner on the second floor` has no address, but says who it is; "" for what may be a broken address."""
    name = decode_words(values[0], charset) if values else ""
    return "" if _MARKS.search(name) else name


def _is_answerable(email: str) -> bool:
    """An address with a domain that nobody reads as two, also where a domain is written as A-labels (IDNA takes the NFKC)."""
    return len(email.encode()) <= MAX_ADDRESS and bool(_ADDRESS.fullmatch(unicodedata.normalize("NFKC", email)))


def _charset(raw: bytes, start: int, end: int) -> str:
    """For raw 8-bit that is no UTF-8."""
    found = (value for name, value in read_fields(raw, start, end) if name.lower() == b"content-type")
    return parse_value(next(found, b"")).params.get("charset", "")
