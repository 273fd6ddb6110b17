"""What is mended in a mail so that a provider takes it, losing nothing that people read (DESIGN 3.8). Pure; each repair has a
sentence for the log."""

from __future__ import annotations

import mimetypes
import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from html import escape
from typing import Any

from bridge.mime.addressing import a_label
from bridge.model import Attachment, Email, Mailbox, split_address

# A mail built and signed anew carries no signature of the old one; these would only fail.
SIGNATURES = frozenset({"dkim-signature", "domainkey-signature", "arc-*", "x-google-dkim-signature"})
NO_SUBJECT = "(no subject)"
_TYPES = mimetypes.MimeTypes(strict=False)
for _kind, _suffix in (
    ("text/calendar", ".ics"), ("text/csv", ".csv"), ("message/rfc822", ".eml"), ("image/jpeg", ".jpg"),
    ("text/plain", ".txt"), ("image/webp", ".webp"), ("application/ms-tnef", ".dat"), ("text/x-amp-html", ".html"),
    ("image/jpg", ".jpg"), ("application/x-pdf", ".pdf"), ("application/x-zip-compressed", ".zip"),
    ("audio/mpeg", ".mp3"), ("text/vcard", ".vcf"), ("text/xml", ".xml"), ("application/pgp-signature", ".asc"),
):  # fmt: skip
    _TYPES.add_type(_kind, _suffix, strict=False)
_FIRST_CHOICE = {
    "image/jpeg": ".jpg", "text/plain": ".txt", "text/html": ".html", "audio/mpeg": ".mp3", "image/tiff": ".tif",
    "message/rfc822": ".eml", "application/octet-stream": ".bin", "application/ms-tnef": ".dat", "text/xml": ".xml",
}  # fmt: skip
# Types that say nothing about the name.
_ANY = frozenset(
    {"application/octet-stream", "application/x-octet-stream", "binary/octet-stream", "application/force-download"}
)
_ENDING = re.compile(r"(?<=.)\.([A-Za-z0-9]{1,10})\Z")  # `.profile` has none
_MEANINGFUL = frozenset({"in-reply-to", "references", "auto-submitted", "precedence"})
_BCC = re.compile(r"[^a-z]*(?:resent[^a-z]*)?bcc[^a-z]*")  # misspelt with marks: readers would see it
_NOT_PLAIN = re.compile(r"[^A-Za-z0-9 ._()+@-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What one form of a provider's insists on. Header names are lower case; one that ends in * is a prefix."""

    subject: bool = False  # not empty
    body: bool = False  # a text or an HTML part that is not empty
    html: bool = False  # an HTML part: made from the text
    filenames: bool = True  # every attachment has a name
    matching_endings: bool = False  # a file has an ending, and its type is one of that ending
    ascii_filenames: bool = False
    reserved: frozenset[str] = frozenset()  # header fields that are refused, or have a field of their own
    only_headers: frozenset[str] = frozenset()  # if given, all others are refused
    headers_once: bool = True  # no header field twice
    max_headers: int = 0
    max_value: int = 0  # octets of a header's value as it is written, encoded words included
    empty_values: bool = False  # header fields without a value are taken
    filled_files: bool = False  # no file of 0 octets
    least_text: int = 0  # characters of subject and bodies, where they are given
    max_subject: int = 0


Repaired = tuple[Email, tuple[str, ...]]


def matches(name: str, patterns: Collection[str]) -> bool:
    """Whether a lower-case header name is among them; `x-mc-*` stands for all that begin so."""
    return name in patterns or any(p[-1] == "*" and name.startswith(p[:-1]) for p in patterns)


def repaired(email: Email, needs: Needs, *, used: Collection[str] = ()) -> Repaired:
    """The mail as it is sent, and what was changed. `used`: header fields that were read as a provider's features."""
    notes: list[str] = []
    changes: dict[str, Any] = {
        "headers": tuple(_headers(email, needs, used, notes)),
        "subject": _subject(email.subject, needs, notes),
        "sender": _with_a_label(email.sender),
        "reply_to": tuple(_reply_to(email.reply_to, notes)),
        "attachments": _attachments(email.attachments, needs, notes),
        **_bodies(email, needs, notes),
    }
    same = all(getattr(email, name) == value for name, value in changes.items())
    return (email if same else replace(email, **changes)), tuple(notes)


def _headers(email: Email, needs: Needs, used: Collection[str], notes: list[str]) -> Iterator[tuple[str, str]]:
    kept: dict[str, tuple[str, str]] = {}
    for name, value in email.headers:
        lower = name.lower()
        if lower in used or _BCC.fullmatch(lower):
            continue
        if not value and not needs.empty_values:
            notes.append(f"header {name} dropped, it has no value")
            continue
        if matches(lower, SIGNATURES):
            notes.append(f"{name} dropped, the provider builds and signs the mail anew")
        elif matches(lower, needs.reserved) or (needs.only_headers and not matches(lower, needs.only_headers)):
            notes.append(f"header {name} dropped, the provider refuses it")
        elif needs.max_value and _written_length(value) > needs.max_value:
            notes.append(f"header {name} dropped, the provider takes {needs.max_value} octets")
        elif not needs.headers_once:
            yield name, value
        elif lower in kept:
            notes.append(f"header {name} stood there more than once, joined")
            first, before = kept[lower]
            kept[lower] = (first, f"{before}, {value}")
        else:
            kept[lower] = (name, value)
    most = needs.max_headers
    if not most or len(kept) <= most:
        yield from kept.values()
        return
    # What changes what programs do with the mail comes first.
    by_weight = sorted(kept.values(), key=lambda header: not is_meaningful(header[0].lower()))
    notes.extend(f"header {name} dropped, the provider takes {most}" for name, _ in by_weight[most:])
    yield from by_weight[:most]


def _reply_to(mailboxes: Iterable[Mailbox], notes: list[str]) -> Iterator[Mailbox]:
    """What is no address would have the whole mail refused."""
    for mailbox in mailboxes:
        written = _with_a_label(mailbox)
        if written.email.isascii() and split_address(written.email)[1]:
            yield written
        else:
            notes.append("a Reply-To dropped that has no domain, or is beyond ASCII")


def _with_a_label(mailbox: Mailbox) -> Mailbox:
    local, domain = split_address(mailbox.email)
    return mailbox if domain.isascii() else replace(mailbox, email=f"{local}@{a_label(domain)}")


def is_meaningful(name: str) -> bool:
    """Header fields (lower case) that change what programs do with a mail; X-Mailer and its like do not."""
    return name in _MEANINGFUL or name.startswith("list-")


def _written_length(value: str) -> int:
    """Octets as ASCII, or as encoded words: 75 and a blank for each 45 octets."""
    return len(value) if value.isascii() else (len(value.encode("utf-8", "replace")) // 42 + 1) * 76


def _subject(subject: str, needs: Needs, notes: list[str]) -> str:
    if needs.subject and not subject.strip():
        notes.append("empty subject filled")
        subject = NO_SUBJECT
    if needs.max_subject and len(subject) > needs.max_subject:
        notes.append(f"subject cut to {needs.max_subject} characters")
        subject = subject[: needs.max_subject]
    if 0 < len(subject) < needs.least_text:
        notes.append(f"subject of less than {needs.least_text} characters padded")
        subject = f"{subject} ".ljust(needs.least_text, ".")
    return subject


def _bodies(email: Email, needs: Needs, notes: list[str]) -> dict[str, str]:
    text, html = email.text, email.html
    if needs.body and is_blank(text) and is_blank(html):
        notes.append("empty body filled with a blank")
        text = text or " "
    if needs.least_text:
        text, html = (
            "" if not is_blank(other) and is_blank(body) else body for body, other in ((text, html), (html, text))
        )
        text, html = (_long_enough(body, needs.least_text, notes) for body in (text, html))
    if needs.html and is_blank(html):
        notes.append("HTML made from the text, the provider wants some")
        html = f'<pre style="white-space: pre-wrap">{escape(text)}</pre>'
    return {"text": text, "html": html}


def is_blank(text: str) -> bool:
    """`not text.strip()`, which would copy it."""
    return not text or text.isspace()


def _long_enough(body: str, least: int, notes: list[str]) -> str:
    if body and len(body.strip()) < least:
        notes.append(f"body of less than {least} characters padded")
        return f"{body.rstrip()}\n\n{'.' * (least - len(body.strip()))}\n"
    return body


# --- attachments


def _attachments(attachments: Iterable[Attachment], needs: Needs, notes: list[str]) -> tuple[Attachment, ...]:
    return tuple(_attachment(a, number, needs, notes) for number, a in enumerate(attachments, 1))


def _attachment(attachment: Attachment, number: int, needs: Needs, notes: list[str]) -> Attachment:
    name = attachment.filename
    if needs.filenames and not name:
        name = f"attachment-{number}{ending_for(attachment.content_type)}"
        notes.append(f"attachment without a name sent as {name}")
    if needs.ascii_filenames and not name.isascii():
        name = ascii_filename(name, number)
        notes.append(f"attachment with a non-ASCII name sent as {name}")
    if needs.matching_endings and name and not ending_of(name):
        name += ending_for(attachment.content_type)
        notes.append(f"attachment without an ending sent as {name}")
    if needs.matching_endings and not ending_agrees(name, attachment.content_type):
        # A name is what people see and programs go by, so it is the type that gives way.
        kind = type_of(name)
        notes.append(f"attachment {name} sent as {kind}, its type {attachment.content_type} disagrees with its ending")
        attachment = replace(attachment, content_type=kind)
    if needs.filled_files and not attachment.size:
        notes.append(f"empty attachment {name} sent with a line break in it")
        attachment = replace(attachment, encoded=b"DQo=", size=2)
    return attachment if name == attachment.filename else replace(attachment, filename=name)


def says_nothing(content_type: str) -> bool:
    """`application/octet-stream` and its like, which any file may have."""
    return content_type.lower() in _ANY


def ending_for(content_type: str) -> str:
    """`application/pdf` -> ".pdf"; ".bin" for what nobody knows."""
    kind = content_type.lower()
    return _FIRST_CHOICE.get(kind) or _TYPES.guess_extension(kind, strict=False) or ".bin"


def ending_of(name: str) -> str:
    """`report.PDF` -> "pdf", "" for none."""
    found = _ENDING.search(name)
    return found[1].lower() if found else ""


def type_of(name: str) -> str:
    """By its ending; `application/octet-stream` for what nobody knows."""
    guessed, _ = _TYPES.guess_type(f"x.{ending_of(name)}", strict=False)
    return guessed or "application/octet-stream"


def ending_agrees(name: str, content_type: str) -> bool:
    """Unknown endings and types that say nothing agree with everything; no ending agrees with nothing that has one."""
    kind = content_type.lower()
    if kind in _ANY:
        return bool(ending_of(name))
    known = {ending.lstrip(".") for ending in _TYPES.guess_all_extensions(kind, strict=False)}
    if not known:
        return bool(ending_of(name))
    if ending_of(name) in known:
        return True
    guessed, _ = _TYPES.guess_type(f"x.{ending_of(name)}", strict=False)
    return bool(ending_of(name)) and guessed is None


def ascii_filename(name: str, number: int = 1) -> str:
    """`Ärger ü.pdf` -> `Arger u.pdf`; `請求書.pdf` -> `attachment-1.pdf`."""
    stem, dot, suffix = name.rpartition(".")
    if not stem:
        stem, dot, suffix = name, "", ""
    plain = unicodedata.normalize("NFKD", stem.replace("ß", "ss")).encode("ascii", "ignore").decode()
    plain = _NOT_PLAIN.sub("_", plain).strip(" ._")
    suffix = _NOT_PLAIN.sub("", unicodedata.normalize("NFKD", suffix).encode("ascii", "ignore").decode())
    return f"{plain or f'attachment-{number}'}{dot if suffix else ''}{suffix}"
