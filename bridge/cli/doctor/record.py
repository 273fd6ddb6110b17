"""The dialogue while it goes on: steps are noted and lines shown, secrets never."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

from bridge.cli.doctor.dialogue import Command, Dialogue, Login, S, Step
from bridge.cli.screen import printable
from bridge.reply import Reply

Who = Literal["C", "S", "!"]
Show = Callable[[Who, str], None]  # a line of the client, one of ours, or a remark

HIDDEN = "********"
MAX_SHOWN = 400  # characters of a line
MAX_VERB = 10
_MECHANISM = re.compile(r"[A-Z0-9_-]{1,20}", re.IGNORECASE)  # RFC 4422 3.1
_MECHANISMS = frozenset(
    {"PLAIN", "LOGIN", "CRAM-MD5", "DIGEST-MD5", "NTLM", "XOAUTH2", "GSSAPI", "OAUTHBEARER", "SCRAM-SHA-1"}
)
_SECRET = frozenset({"PASS", "PASSWORD", "USER", "LOGIN"})  # of other protocols


class Record:
    """One connection's. `steps` is what the rules look at."""

    def __init__(self, client: str, show: Show, *, offered_all: bool = False) -> None:
        self.client = client
        self.show = show
        self.offered_all = offered_all
        self.steps: list[Step] = []
        self.bare_lf = False
        self._auth_seen = False
        self._command = -1  # where the running command stands among the steps
        self._warned: set[Reply] = set()

    def dialogue(self) -> Dialogue:
        return Dialogue(client=self.client, steps=tuple(self.steps), offered_all=self.offered_all, bare_lf=self.bare_lf)

    def add(self, step: Step) -> None:
        self.steps.append(step)

    def command(self, line: bytes, known: bool, faults: frozenset[str]) -> None:
        verb, argument = self.without_secrets(line, known)
        self._auth_seen = self._auth_seen or verb == "AUTH"
        self._command = len(self.steps)
        self.add(Command(verb=verb, argument=argument, faults=faults))
        self.show("C", f"{verb} {argument}".rstrip())

    def odd(self, text: str, *, fault: str) -> None:
        """A line that is no command, in our words."""
        self._command = len(self.steps)
        self.add(Command(verb=text, faults=frozenset({fault})))
        self.show("C", text)

    def secret(self) -> None:
        """A line within AUTH; how long it is would tell how long the password is."""
        self.show("C", f"{HIDDEN} (not shown)")

    def refused(self, reply: Reply) -> None:
        """What the daemon's listener answers to the running command, which goes on here all the same."""
        self._refuse(reply)
        if reply not in self._warned:
            self._warned.add(reply)
            self.show("!", f"the listener of your settings would answer: {reply}")

    def answered(self, code: int, lines: list[str], reply: Reply | None = None) -> None:
        if reply and code >= 400:
            self._refuse(reply)
        for line in lines[:-1]:
            self.show("S", f"{code}-{line}")
        self.show("S", f"{code} {lines[-1]}")

    def _refuse(self, reply: Reply) -> None:
        step = self.steps[self._command] if self._command >= 0 else None
        if isinstance(step, Command) and reply not in step.refusals:
            self.steps[self._command] = replace(step, refusals=(*step.refusals, reply))

    def last(self, kind: type[S]) -> S | None:
        return next((step for step in reversed(self.steps) if isinstance(step, kind)), None)

    def amend_login(self, login: Login, **facts: object) -> Login:
        """The login that goes on, with what is known of it by now."""
        amended = replace(login, **facts)  # type: ignore[arg-type]
        self.steps[self.steps.index(login)] = amended
        return amended

    def without_secrets(self, line: bytes, known: bool) -> tuple[str, str]:
        """(verb, argument) as they may be shown."""
        text = printable(line.decode("utf-8", "replace").strip(" \t"))
        word, _, argument = text.partition(" ")
        verb = word.upper()
        if verb.startswith("AUTH"):
            mechanism, blank, initial = argument.strip().partition(" ")
            if verb != "AUTH":  # glued together
                return "AUTH", HIDDEN
            return verb, f"{mechanism_shown(mechanism)}{f' {HIDDEN}' if blank and initial else ''}"
        if verb in _SECRET:
            return verb, HIDDEN
        if not known and (self._auth_seen or _may_be_secret(word, argument)):
            return HIDDEN, "(not shown: it may be a part of a login)"
        return (verb if known else word[:MAX_SHOWN]), argument.strip()[:MAX_SHOWN]


def _may_be_secret(word: str, argument: str) -> bool:
    """A command of some other server (XCLIENT, TURN, GET /) is letters; one word alone, or with a digit, may be anything."""
    if not (word.isascii() and word.isalpha() and len(word) <= MAX_VERB):
        return True
    return not argument and not word.isupper()


def mechanism_shown(mechanism: str) -> str:
    """It may be a secret that stands in the wrong place."""
    known = mechanism.upper() in _MECHANISMS or (_MECHANISM.fullmatch(mechanism) and mechanism.isupper())
    return mechanism if known or not mechanism else HIDDEN
