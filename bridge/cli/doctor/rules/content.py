"""The message itself: what is missing in it, how its lines end, what the daemon says of it."""

from __future__ import annotations

from collections.abc import Iterator

from bridge.cli.doctor.content import wrong_end
from bridge.cli.doctor.dialogue import Delivered, Dialogue, Setup, Stall
from bridge.cli.doctor.findings import Finding, Setting, listener
from bridge.delivery.preparation import SENDER_NOT_ALLOWED as FROM_NOT_ALLOWED
from bridge.mime.sender import is_usable
from bridge.reply import MESSAGE_TOO_BIG
from bridge.smtp import replies

_ADDED = ("date", "message-id")


def never_ends(dialogue: Dialogue, setup: Setup) -> Iterator[Finding]:
    for stall in dialogue.all(Stall):
        end = wrong_end(stall.tail) if stall.where == "data" else ""
        if not end:
            continue
        yield Finding(
            rule="data-end",
            weight="change",
            says=f"The device ends the message with {end}.{end} and waits; only CRLF.CRLF ends one (RFC 5321 4.1.1.4), so the"
            " listener waits too, until the device gives up.",
            do=(
                f'No setting lets that through: change {end} to CRLF on the device ("\\r\\n" in a program of yours), or put'
                " msmtp or another sendmail in between.",
            ),
        )
        return


def bare_newlines(dialogue: Dialogue, setup: Setup) -> Iterator[Finding]:
    for delivered in dialogue.all(Delivered):
        newlines = delivered.content.newlines
        if not newlines.lf and not newlines.cr:
            continue
        what = " and ".join(
            f"{count} with {name} alone" for count, name in ((newlines.lf, "LF"), (newlines.cr, "CR")) if count
        )
        rejected = setup.policy.bare_newlines == "reject"
        yield Finding(
            rule="bare-newlines",
            weight="change" if rejected else "note",
            says=f"Of {newlines.lines} lines in the message end {what}."
            + (" The listener refuses that." if rejected else " That is fine here: each becomes CRLF."),
            reply=replies.BARE_NEWLINE if rejected else None,
            settings=(listener("bare_newlines", "normalize"),) if rejected else (),
        )
        return


def from_address(dialogue: Dialogue, setup: Setup) -> Iterator[Finding]:
    for delivered in dialogue.all(Delivered):
        sender = delivered.sender
        if not setup.sends or is_usable(sender):
            continue
        what = f"From is {sender}, which no provider takes" if sender else "The message has no From address"
        yield Finding(
            rule="from",
            weight="guess",
            says=f"{what}: providers want an address of a domain that is verified there.",
            do=("On the device: enter such an address as the sender.",),
            settings=(
                Setting(
                    table="relay",
                    key="from",
                    value="Device <device@example.com>",
                    remark="an address your provider knows",
                ),
            ),
        )
        return


def missing(dialogue: Dialogue, setup: Setup) -> Iterator[Finding]:
    for delivered in dialogue.all(Delivered):
        content = delivered.content
        added = [name for name in ("Date", "Message-ID") if not content.has(name.lower())]
        if added:
            yield Finding(
                rule="missing",
                weight="note",
                says=f"The message has no {' and no '.join(added)}; the bridge adds {'them' if added[1:] else 'it'}.",
            )
        if not content.has("to") and not content.has("cc"):
            yield Finding(
                rule="no-to",
                weight="note",
                says="The message has neither To nor Cc; with a JSON API each recipient gets a mail of its own.",
            )
        empty = [
            name for name, is_empty in (("subject", not content.subject), ("text", content.blank_body)) if is_empty
        ]
        if empty:
            yield Finding(
                rule="empty",
                weight="note",
                says=f"The message has no {' and no '.join(empty)}; some providers refuse that.",
            )
        if content.eight_bit:
            yield Finding(
                rule="eight-bit-header",
                weight="note",
                says=f"Other letters than ASCII stand unencoded in {', '.join(dict.fromkeys(content.eight_bit))}"
                f"{'' if content.has('mime-version') else ', and there is no MIME-Version'}; the bridge takes them for UTF-8,"
                " else for Windows-1252.",
            )
        return


def verdict(dialogue: Dialogue, setup: Setup) -> Iterator[Finding]:
    known = (MESSAGE_TOO_BIG, replies.BARE_NEWLINE, FROM_NOT_ALLOWED)  # other rules tell of these
    for delivered in dialogue.all(Delivered):
        if delivered.refusal and delivered.refusal not in known:
            yield Finding(
                rule="content",
                weight="change",
                says="The message as it is would be refused, without asking the provider.",
                reply=delivered.refusal,
                do=(
                    "docs/providers.md says what each provider can carry; `relay.degrade = true` lets losses through.",
                ),
            )
            return


CONTENT = (never_ends, bare_newlines, from_address, missing, verdict)
