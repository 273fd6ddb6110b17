"""What a provider would lose of a message (DESIGN 3.8): found out before anything is sent, needing no network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal
from urllib.parse import quote

from bridge.mime.addressing import address
from bridge.mime.charset import utf8_size
from bridge.mime.repair import ending_of, is_blank, is_meaningful
from bridge.model import Attachment, Email, Envelope, split_address
from bridge.reply import Reply


@dataclass(frozen=True, slots=True, kw_only=True)
class Carries:
    """What the shape of one provider's call can express.

    `raw`: the MIME itself, so everything in it; the address and size limits hold all the same. `max_size`: octets, of the
    raw message or of the estimated payload (bodies plus attachments in base64), 0 for none known. `max_recipients`: in one
    call, 0 for none known. `envelope`: recipients are named apart from To and Cc. `alternative_types`: bodies beside text and
    HTML that can be carried one by one, `alternatives`: any. `type_parameters`: an attachment keeps the parameters of its
    type (`method` of an invitation). `endings`: the file endings that are taken, () for all. Signed and encrypted mail
    stays what it is with `raw` alone.
    """

    raw: bool = False
    html: bool = True
    headers: bool = True
    attachments: bool = True
    inline_images: bool = True
    alternatives: bool = False
    alternative_types: frozenset[str] = frozenset()
    text_with_html: bool = True
    type_parameters: bool = True
    endings: frozenset[str] = frozenset()
    reply_to: bool = True
    reply_tos: bool = True  # more than one
    names: bool = True
    smtputf8: bool = False
    envelope: bool = False
    max_size: int = 0
    max_recipients: int = 0


@dataclass(frozen=True, slots=True)
class Loss:
    """One thing that would be lost. `text` is for the log, `reply` is what the sender hears."""

    kind: str
    text: str
    reply: Reply


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """One way in which a provider takes mail."""

    name: Literal["raw", "json"]
    carries: Carries


# No part of the mail that could be left out.
IMPOSSIBLE = frozenset({"size", "smtputf8", "recipients", "sender", "endings"})


def choose(email: Email, envelope: Envelope, forms: Sequence[Form]) -> Form:
    """The first form that loses nothing; else the first that loses only what could be left out; else the first."""
    degradable: list[Form] = []
    for form in forms:
        found = losses(email, envelope, form.carries)
        if not found:
            return form
        if not any(loss.kind in IMPOSSIBLE for loss in found):
            degradable.append(form)
    return (*degradable, *forms)[0]


def losses(email: Email, envelope: Envelope, carries: Carries) -> tuple[Loss, ...]:
    """Everything that would be lost, the worst first; () when the message goes as it is."""
    found = [*_limits(email, envelope, carries)]
    if not carries.raw:
        found += [*_protections(email), *_content(email, carries), *_addresses(email, carries)]
    return tuple(found)


def payload_size(email: Email) -> int:
    """Octets of the content in a JSON call, about: bodies in UTF-8, attachments in base64."""
    texts = (email.text, email.html, *(content for _, content in email.alternatives))
    return sum(map(utf8_size, texts)) + sum(len(a.encoded) for a in email.attachments)


def _limits(email: Email, envelope: Envelope, carries: Carries) -> Iterator[Loss]:
    if carries.max_size and (size := len(email.raw) if carries.raw else payload_size(email)) > carries.max_size:
        reply = Reply(552, "5.3.4", f"Message too big for the provider: {size} octets, limit {carries.max_size}")
        yield Loss("size", f"{size} octets exceed the limit of {carries.max_size}", reply)
    if not carries.smtputf8 and _non_ascii_local_part(email, envelope):
        reply = Reply(553, "5.6.7", "The provider cannot carry a non-ASCII local part")
        yield Loss("smtputf8", "an address with a non-ASCII local part", reply)
    if carries.max_recipients and (most := _most_recipients(email, envelope, carries)) > carries.max_recipients:
        reply = Reply(554, "5.5.3", f"Too many recipients for the provider: limit {carries.max_recipients}")
        yield Loss("recipients", f"{most} recipients in one call exceed {carries.max_recipients}", reply)


def _non_ascii_local_part(email: Email, envelope: Envelope) -> bool:
    addresses = (envelope.reverse_path, *envelope.recipients, email.sender.email)
    return not all(split_address(address)[0].isascii() for address in addresses)


def _most_recipients(email: Email, envelope: Envelope, carries: Carries) -> int:
    direct = carries.raw or carries.envelope
    calls = address(email, envelope.reverse_path, envelope.recipients, carries_envelope=direct)
    return max((len(call.recipients) for call in calls), default=0)


def _protections(email: Email) -> Iterator[Loss]:
    for protection in email.protections:
        verb = "signed" if protection == "multipart/signed" else "encrypted or signed"
        yield _loss("protection", f"a {verb} message ({protection})")


def _content(email: Email, carries: Carries) -> Iterator[Loss]:
    if email.html and not carries.html:
        yield _loss("html", "an HTML body")
    if email.html and not carries.text_with_html and not is_blank(email.text):
        yield _loss("alternative", "a text beside the HTML")
    if not carries.alternatives:
        for content_type, _ in email.alternatives:
            if content_type.partition(";")[0] in carries.alternative_types:
                continue
            kind = "calendar" if content_type.startswith("text/calendar") else "alternative"
            yield _loss(kind, f"an alternative body ({content_type.partition(';')[0]})")
    yield from _attached(email.attachments, carries)
    inline = any(is_shown(a, email.html) for a in email.attachments)
    if email.attachments and not carries.attachments:
        yield _loss("attachments", "attachments")
    elif inline and not carries.inline_images:
        yield _loss("inline_images", "inline images")
    if not carries.headers and (names := _meaningful(email)):
        yield _loss("headers", f"header fields ({', '.join(names)})")


def _attached(attachments: Sequence[Attachment], carries: Carries) -> Iterator[Loss]:
    for attachment in attachments if carries.attachments else ():
        if not carries.type_parameters and any(key == "method" for key, _ in attachment.parameters):
            yield _loss("calendar", f"the method of an attached invitation ({attachment.content_type})")
        ending = ending_of(attachment.filename)
        if carries.endings and ending and ending not in carries.endings:
            yield Loss(
                "endings",
                f"an attachment with the ending .{ending}",
                Reply.safe(554, "5.6.1", f"The provider takes no attachments with the ending .{ending}"),
            )


def is_shown(attachment: Attachment, html: str) -> bool:
    """Whether it is an image (or what else) within the HTML: named there, or inline beside it and an image."""
    cid = attachment.content_id
    if not cid or not html:
        return False
    named = f"cid:{cid}" in html or f"cid:{quote(cid)}" in html
    return named or (attachment.disposition == "inline" and attachment.content_type.startswith("image/"))


def _meaningful(email: Email) -> tuple[str, ...]:
    names = dict.fromkeys(name.lower() for name, _ in email.headers)
    return tuple(name for name in names if is_meaningful(name))


def _addresses(email: Email, carries: Carries) -> Iterator[Loss]:
    if email.reply_to and not carries.reply_to and [m.email for m in email.reply_to] != [email.sender.email]:
        yield _loss("reply_to", "a Reply-To address")
    if len({m.email.lower() for m in email.reply_to}) > 1 and carries.reply_to and not carries.reply_tos:
        yield _loss("reply_to", "more than one Reply-To address")
    if not carries.names and any(mailbox.name for mailbox in (email.sender, *email.to, *email.cc)):
        yield _loss("names", "display names")


def _loss(kind: str, text: str) -> Loss:
    """RFC 3463 X.6.5: conversion with loss would be needed, and is not done."""
    return Loss(kind, text, Reply.safe(554, "5.6.5", f"The provider cannot carry {text}"))
