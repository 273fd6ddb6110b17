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

from bridge.model import Attachment, Email

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
_ENDING = re.compile(r"\.([A-Za-z0-9]{1,10})\Z")
_NOT_PLAIN = re.compile(r"[^A-Za-z0-9 ._()+@-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What one form of a provider's insists on. Header names are lower case; one that ends in * is a prefix."""

    subject: bool = False  # not empty
    body: bool = False  # a text or an HTML part that is not empty
    html: bool = False  # an HTML part: made from the text
    filenames: bool = True  # every attachment has a name
    matching_endings: bool = False  # a file's ending agrees with its type
    ascii_filenames: bool = False
    reserved: frozenset[str] = frozenset()  # header fields that are refused, or have a field of their own
    only_headers: frozenset[str] = frozenset()  # if given, all others are refused
    headers_once: bool = True  # no header field twice
    max_headers: int = 0
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
        "attachments": _attachments(email.attachments, needs, notes),
        **_bodies(email, needs, notes),
    }
    same = all(getattr(email, name) == value for name, value in changes.items())
    return (email if same else replace(email, **changes)), tuple(notes)


def _headers(email: Email, needs: Needs, used: Collection[str], notes: list[str]) -> Iterator[tuple[str, str]]:
    kept: dict[str, tuple[str, str]] = {}
    for name, value in email.headers:
        lower = name.lower()
        if lower in used:
            continue
        if matches(lower, SIGNATURES):
            notes.append(f"{name} dropped, the provider builds and signs the mail anew")
        elif matches(lower, needs.reserved) or (needs.only_headers and not matches(lower, needs.only_headers)):
            notes.append(f"header {name} dropped, the provider refuses it")
        elif not needs.headers_once:
            yield name, value
        elif lower in kept:
            notes.append(f"header {name} stood there more than once, joined")
            first, before = kept[lower]
            kept[lower] = (first, f"{before}, {value}")
        else:
            kept[lower] = (name, value)
    most = needs.max_headers
    if most and len(kept) > most:
        notes.extend(f"header {name} dropped, the provider takes {most}" for name, _ in list(kept.values())[most:])
    yield from list(kept.values())[: most or None]


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
    if needs.body and not text.strip() and not html.strip():
        notes.append("empty body filled with a blank")
        text = text or " "
    if needs.least_text:
        text = "" if html.strip() and not text.strip() else text
        text, html = (_long_enough(body, needs.least_text, notes) for body in (text, html))
    if needs.html and not html.strip():
        notes.append("HTML made from the text, the provider wants some")
        html = f'<pre style="white-space: pre-wrap">{escape(text)}</pre>'
    return {"text": text, "html": html}


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
    if needs.matching_endings and name and not ending_agrees(name, attachment.content_type):
        name += ending_for(attachment.content_type)
        notes.append(f"attachment whose ending disagrees with its type {attachment.content_type} sent as {name}")
    return attachment if name == attachment.filename else replace(attachment, filename=name)


def ending_for(content_type: str) -> str:
    """`application/pdf` -> ".pdf"; ".bin" for what nobody knows."""
    kind = content_type.lower()
    return _FIRST_CHOICE.get(kind) or _TYPES.guess_extension(kind, strict=False) or ".bin"


def ending_of(name: str) -> str:
    """`report.PDF` -> "pdf", "" for none."""
    found = _ENDING.search(name)
    return found[1].lower() if found else ""


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
