"""How the conversation ended, where it ended too soon. Much of it is guessed, and said to be."""

from __future__ import annotations

from collections.abc import Iterator

from bridge.cli.doctor.content import wrong_end
from bridge.cli.doctor.dialogue import Command, Delivered, Dialogue, Ended, Handshake, Login, Setup, Stall
from bridge.cli.doctor.findings import Finding
from bridge.cli.doctor.rules.login import user
from bridge.cli.doctor.rules.transport import HTTP


def left_after_greeting(dialogue: Dialogue, setup: Setup) -> Iterator[Finding]:
    """It has read the list, and what it wants is not in it."""
    ended, commands = dialogue.first(Ended), dialogue.all(Command)
    if not ended or ended.by not in ("device", "quit") or not commands or dialogue.offered_all:
        return
    last = next((command for command in reversed(commands) if command.verb != "QUIT"), None)
    if last is None or last.verb not in ("EHLO", "HELO", "LHLO") or last.refusals or dialogue.brought_mail:
        return
    lacks = list(_not_offered(dialogue, setup))
    if (ended.by == "quit" and not lacks) or any(stall.where == "line" for stall in dialogue.all(Stall)):
        return
    again = "Run this again with --count 2: after such an end the next connection is offered everything."
    yield Finding(
        rule="left-after-ehlo",
        weight="guess",
        says="The device leaves right after the greeting. "
        + (
            f"My guess: it misses {' or '.join(lacks)} in the listener's answer to EHLO."
            if lacks
            else "Why, it does not say."
        ),
        do=(again,),
        settings=user("printer") if not setup.users and "AUTH" in lacks else (),
    )


def _not_offered(dialogue: Dialogue, setup: Setup) -> Iterator[str]:
    encrypted = any(shake.version for shake in dialogue.all(Handshake))
    if setup.policy.tls == "none":
        yield "STARTTLS"
    if not setup.users:
        yield "AUTH"
    elif not encrypted and not setup.policy.auth_without_tls:
        yield "AUTH (which is offered after STARTTLS only)"


def says_nothing(dialogue: Dialogue, setup: Setup) -> Iterator[Finding]:
    ended = dialogue.first(Ended)
    if (
        not ended
        or ended.by not in ("silence", "user", "device")
        or dialogue.first(Command)
        or dialogue.first(Handshake)
    ):
        return
    if ended.by == "device":
        yield Finding(
            rule="probe",
            weight="note",
            says="It connected and left without a word: a look whether the port is open (of a monitor, or before it sends).",
            do=("Run this with --count 2 to see what comes next.",),
        )
    else:
        yield Finding(
            rule="silent",
            weight="change",
            says="The device connects and says nothing, not even to the greeting.",
            do=(
                "Its port may be set for another protocol; or a firewall, a proxy or a virus scanner in between holds it back.",
            ),
        )


def stopped(dialogue: Dialogue, setup: Setup) -> Iterator[Finding]:
    ended, commands = dialogue.first(Ended), dialogue.all(Command)
    if not ended or not commands or dialogue.brought_mail or commands[-1].verb in HTTP:
        return
    last = commands[-1]
    if any(shake.late or not shake.version for shake in dialogue.all(Handshake)):
        return
    if ended.within_data and not any(wrong_end(stall.tail) for stall in dialogue.all(Stall)):
        yield Finding(
            rule="cut-off",
            weight="change",
            says="The device stopped in the middle of the message" + _how(ended),
            do=("A crash, a lost network, or a time limit of the device that is too short for what it sends.",),
        )
    elif ended.by in ("silence", "device") and last.verb not in ("EHLO", "HELO", "LHLO"):
        yield Finding(
            rule="stopped",
            weight="guess",
            says=f"After {last.verb} the device goes no further{_how(ended)}"
            + (" It may not like the answer to that." if last.verb != "AUTH" or not dialogue.all(Login) else ""),
        )
    elif ended.by == "silence":
        yield Finding(rule="stopped", weight="guess", says=f"After {last.verb} the device goes no further{_how(ended)}")
    elif ended.by == "doctor" and not any(command.refusals for command in commands):
        yield Finding(rule="stopped", weight="guess", says="The connection was ended from our side.")


def _how(ended: Ended) -> str:
    return {"silence": ": it says nothing more.", "device": ": it hangs up."}.get(ended.by, ".")


def no_mail(dialogue: Dialogue, setup: Setup) -> Iterator[Finding]:
    ended = dialogue.first(Ended)
    guessed = any(left_after_greeting(dialogue, setup))
    if ended and ended.by == "quit" and not dialogue.brought_mail and not guessed:
        weight_of = dialogue.commands("MAIL")
        yield Finding(
            rule="no-mail",
            weight="note",
            says="It said QUIT without having sent a message"
            + ("." if weight_of else ": a test of the connection, as many devices make one before they send."),
            do=() if weight_of else ("Run this with --count 2 to see what comes next.",),
        )


def delivered(dialogue: Dialogue, setup: Setup) -> Iterator[Finding]:
    count = len(dialogue.all(Delivered))
    if count:
        yield Finding(
            rule="mail",
            weight="note",
            says=f"It brought {'a message' if count == 1 else f'{count} messages'}, thrown away here.",
        )


ENDING = (left_after_greeting, says_nothing, stopped, no_mail, delivered)
