"""The commands: their order, their lines, and the addresses in them."""

from __future__ import annotations

import re
from collections.abc import Iterator

from bridge.cli.doctor.dialogue import Command, Delivered, Dialogue, Setup, Stall
from bridge.cli.doctor.findings import Finding, Setting, listener
from bridge.cli.doctor.rules.login import bracketed
from bridge.reply import MESSAGE_TOO_BIG, Reply
from bridge.smtp import replies

_PATH = re.compile(r"(FROM|TO):([ \t]*)(.*)", re.IGNORECASE | re.DOTALL)
_BAD_PATH = (replies.MAIL_SYNTAX, replies.RCPT_SYNTAX, replies.BAD_SENDER, replies.BAD_RECIPIENT)
_NEEDS_UTF8 = (replies.SENDER_NEEDS_SMTPUTF8, replies.RECIPIENT_NEEDS_SMTPUTF8)
_CONTROLS = (replies.SENDER_HAS_CONTROLS, replies.RECIPIENT_HAS_CONTROLS)
_MIB = 1 << 20


def no_greeting(dialogue: Dialogue, setup: Setup) -> Iterator[Finding]:
    if dialogue.refused(replies.NEED_HELO, to=("MAIL",)):
        yield Finding(
            rule="no-helo",
            weight="change",
            says="The device sends MAIL without HELO or EHLO before it (after STARTTLS it has to say it again).",
            reply=replies.NEED_HELO,
            do=(
                "No setting lets that through: update the device, or turn its encryption off if it only forgets it after that.",
            ),
        )


def helo_only(dialogue: Dialogue, setup: Setup) -> Iterator[Finding]:
    if dialogue.commands("HELO") and not dialogue.commands("EHLO", "LHLO"):
        yield Finding(
            rule="helo-only",
            weight="note",
            says="The device says HELO, not EHLO: an old client that can neither log in nor encrypt. It sends if its"
            " address is in `allowed_networks`.",
        )


def no_name(dialogue: Dialogue, setup: Setup) -> Iterator[Finding]:
    if dialogue.refused(replies.NEED_HOSTNAME):
        yield Finding(
            rule="no-hostname",
            weight="change",
            says="The device says EHLO or HELO without a name.",
            reply=replies.NEED_HOSTNAME,
            do=("On the device: give it a host name (in its network settings).",),
        )


def paths(dialogue: Dialogue, setup: Setup) -> Iterator[Finding]:
    """One finding for each kind of bad address and each reply to it, with the first line that shows it."""
    told: set[tuple[str, Reply | None]] = set()
    for command in dialogue.commands("MAIL", "RCPT"):
        for finding in _path(command, setup):
            if (finding.rule, finding.reply) not in told:
                told.add((finding.rule, finding.reply))
                yield finding


def _path(command: Command, setup: Setup) -> Iterator[Finding]:
    match = _PATH.match(command.argument)
    said = f"{command.verb} {command.argument[:80]}"
    for reply in command.refusals:
        if reply in _NEEDS_UTF8:
            yield Finding(
                rule="smtputf8",
                weight="change",
                says=f"An address holds other letters than ASCII, and the device does not ask for SMTPUTF8: {said}",
                reply=reply,
                do=("On the device: use addresses of ASCII letters only.",),
            )
        elif reply in _CONTROLS:
            yield Finding(
                rule="control-characters",
                weight="change",
                says="An address holds control characters.",
                reply=reply,
                do=("On the device: enter the address again.",),
            )
        elif reply in _BAD_PATH:
            yield _bad_path(command, reply, match, said, setup)
    if match and match[2] and not set(command.refusals) & set(_BAD_PATH):
        says = f"A blank stands before the address: {said} That is fine here."
        yield Finding(rule="blank-after-colon", weight="note", says=says)


def _bad_path(command: Command, reply: Reply, match: re.Match[str] | None, said: str, setup: Setup) -> Finding:
    address = bracketed(command)
    if match and "<" not in match[3] and "@" in address and address.count("@") == 1:
        return Finding(
            rule="bare-address",
            weight="change",
            says=f"The address stands without angle brackets: {said}",
            reply=reply,
            settings=(listener("bare_addresses", True),),
        )
    if address.count("@") > 1:
        says = f"The address has more than one @: {said}"
        do = (
            "On the device: the sender's or recipient's address is wrong, or it adds its own domain to a whole address."
        )
    elif not address:
        says, do = f"There is no address: {said}", "On the device: enter the sender's and the recipient's address."
    elif "@" not in address:
        says = f"The address has no domain: {said}"
        do = "On the device: enter whole addresses (name@example.com), also in its address book."
    else:
        says, do = f"The address is not valid: {said}", "On the device: enter the address again."
    return Finding(rule="bad-address", weight="change", says=says, reply=reply, do=(do,))


def parameters(dialogue: Dialogue, setup: Setup) -> Iterator[Finding]:
    for reply in (replies.UNKNOWN_PARAMETER, replies.BAD_PARAMETER):
        if command := dialogue.refused(reply, to=("MAIL", "RCPT")):
            yield Finding(
                rule="parameter",
                weight="change",
                says=f"A parameter is not known, or its value is wrong: {command.verb} {command.argument[:120]}",
                reply=reply,
                do=("The listener does not offer it: the device should not send it. No setting lets it through.",),
            )


def too_large(dialogue: Dialogue, setup: Setup) -> Iterator[Finding]:
    declared = [
        int(found[1])
        for command in dialogue.commands("MAIL")
        if (found := re.search(r"\bSIZE=(\d{1,20})", command.argument, re.IGNORECASE))
    ]
    sizes = [*declared, *(each.content.size for each in dialogue.all(Delivered))]
    largest = max(sizes, default=0)
    if not dialogue.refused(MESSAGE_TOO_BIG) and not any(
        each.refusal == MESSAGE_TOO_BIG for each in dialogue.all(Delivered)
    ):
        return
    wanted = max(largest, setup.max_message_size) * 3 // 2 // _MIB + 1
    yield Finding(
        rule="too-large",
        weight="change",
        says=f"The message is too large: {largest / _MIB:.1f} MiB, and {setup.max_message_size / _MIB:.1f} MiB are taken.",
        reply=MESSAGE_TOO_BIG,
        do=(
            "Mind that the provider has a limit of its own (docs/providers.md); on a scanner: choose a lower resolution.",
        ),
        settings=(Setting(table="smtp", key="max_message_size", value=f"{wanted}MiB"),),
    )


def recipients(dialogue: Dialogue, setup: Setup) -> Iterator[Finding]:
    if dialogue.refused(replies.TOO_MANY_RECIPIENTS):
        yield Finding(
            rule="recipients",
            weight="change",
            says=f"The message has more than {setup.max_recipients} recipients.",
            reply=replies.TOO_MANY_RECIPIENTS,
            settings=(Setting(table="smtp", key="max_recipients", value=setup.max_recipients * 10),),
        )


def lines(dialogue: Dialogue, setup: Setup) -> Iterator[Finding]:
    faults = frozenset[str]().union(*(command.faults for command in dialogue.all(Command)))
    if "long" in faults:
        yield Finding(
            rule="long-line",
            weight="change",
            says="A command is longer than a line may be (RFC 5321 4.5.3.1: 512 octets; MAIL and RCPT 2048 here).",
            reply=replies.LINE_TOO_LONG,
            do=("On the device: shorten its name and the addresses. No setting lets that through.",),
        )
    if "controls" in faults:
        yield Finding(
            rule="garbled-line",
            weight="change",
            says="A command holds a NUL or a CR that does not end the line.",
            reply=replies.GARBLED,
            do=("No setting lets that through; if every line is so, the device may speak another protocol.",),
        )
    if dialogue.bare_lf:
        yield Finding(
            rule="lf-commands",
            weight="note",
            says="Commands end with LF alone, not CRLF. That is fine here; a message must end with CRLF.CRLF.",
        )
    if any(stall.where == "line" for stall in dialogue.all(Stall)):
        yield Finding(
            rule="open-line",
            weight="change",
            says="A command does not end with LF: the device waits for an answer to a line that is not over"
            + (" (it ends lines with CR alone)." if any(s.tail.endswith(b"\r") for s in dialogue.all(Stall)) else "."),
            do=("No setting lets that through; on the device: update it, or set its line ends to CRLF.",),
        )


ENVELOPE = (no_greeting, helo_only, no_name, paths, parameters, too_large, recipients, lines)
