"""The command line of sendmail, as Postfix's sendmail(1) reads it: options, then recipients; what is harmless is ignored."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from bridge.cli.exits import EX_BAD_USAGE
from bridge.cli.sendmail.failure import Failure

Mode = Literal["mail", "smtp", "queue", "nothing"]

# Postfix's option letters, each with whether a value follows. -q and --long ones are looked at by hand.
_WITH_VALUE = frozenset("ABCFLNORVXbfhopr")
_ALONE = frozenset("GIUceimtvxs")
_NOTIFY = frozenset({"SUCCESS", "FAILURE", "DELAY"})
_MODES: dict[str, Mode] = {"m": "mail", "s": "smtp", "p": "queue", "i": "nothing", "h": "nothing", "H": "nothing"}
_BY_NAME: dict[str, Mode] = {"mailq": "queue", "newaliases": "nothing"}


@dataclass(slots=True)
class Options:
    """`sender` None: not given. `notify`, `ret`, `envid`: for RFC 3461, "" for not given. `address`: of the daemon."""

    mode: Mode = "mail"
    from_header: bool = False
    ignore_dots: bool = False
    verbose: bool = False
    eight_bit: bool = False
    sender: str | None = None
    full_name: str = ""
    notify: str = ""
    ret: str = ""
    envid: str = ""
    address: str = ""
    config: str = ""
    recipients: list[str] = field(default_factory=list)


def parse_options(arguments: Sequence[str], name: str = "sendmail") -> Options:
    """`name`: as what it was called, `mailq` and `newaliases` are modes. Raises Failure with EX_USAGE."""
    options = Options(mode=_BY_NAME.get(name, "mail"))
    rest = list(arguments)
    while rest and rest[0].startswith("-") and rest[0] != "-":
        text = rest.pop(0)
        if text == "--":
            break
        if text.startswith("--"):
            _long(options, text, rest)
        elif text.startswith("-q"):  # the daemon tries again by itself
            options.mode = "nothing"
        else:
            _short(options, text[1:], rest)
    options.recipients = rest
    # As Postfix refuses it: an option that comes late, or one that a web form has put there.
    if late := [text for text in rest if text.startswith("-")]:
        raise Failure(EX_BAD_USAGE, f"a recipient cannot begin with a hyphen: {late[0]}")
    return options


def _long(options: Options, text: str, rest: list[str]) -> None:
    name, _, value = text.partition("=")
    if name not in ("--address", "--config"):
        raise Failure(EX_BAD_USAGE, f"unknown option {name}")
    if not value and not rest:
        raise Failure(EX_BAD_USAGE, f"{name} needs a value")
    setattr(options, name[2:], value or rest.pop(0))


def _short(options: Options, letters: str, rest: list[str]) -> None:
    """`-tif ann@example.com` is three options."""
    while letters:
        letter, letters = letters[0], letters[1:]
        if letter in _ALONE:
            _switch(options, letter)
        elif letter in _WITH_VALUE:
            if not letters and not rest:
                raise Failure(EX_BAD_USAGE, f"-{letter} needs a value")
            _value(options, letter, letters or rest.pop(0))
            return
        else:
            raise Failure(EX_BAD_USAGE, f"-{letter} is not supported")


def _switch(options: Options, letter: str) -> None:
    if letter == "t":
        options.from_header = True
    elif letter == "i":
        options.ignore_dots = True
    elif letter == "v":
        options.verbose = True
    elif letter == "I":
        options.mode = "nothing"


def _value(options: Options, letter: str, value: str) -> None:
    if letter in "fr":
        options.sender = value.strip().removeprefix("<").removesuffix(">")
    elif letter == "F":
        options.full_name = value
    elif letter == "o":
        options.ignore_dots |= value.startswith("i")
    elif letter == "b":
        options.mode = _mode(value)
    elif letter == "B":
        options.eight_bit = _is_eight_bit(value)
    elif letter == "N":
        options.notify = _notify(value)
    elif letter == "R":
        options.ret = _ret(value)
    elif letter == "V":
        options.envid = _envid(value)


def _mode(value: str) -> Mode:
    if value[:1] not in _MODES:
        hint = "; the daemon is `smtp-bridge run`" if value[:1] in ("d", "D") else ""
        raise Failure(EX_BAD_USAGE, f"-b{value[:1]} is not supported{hint}")
    return _MODES[value[0]]


def _is_eight_bit(value: str) -> bool:
    if value.upper() not in ("8BITMIME", "7BIT"):
        raise Failure(EX_BAD_USAGE, "-B needs 8BITMIME or 7BIT")
    return value.upper() == "8BITMIME"


def _notify(value: str) -> str:
    words = value.upper().replace(" ", "").split(",")
    if words != ["NEVER"] and not set(words) <= _NOTIFY:
        raise Failure(EX_BAD_USAGE, "-N needs never, or some of success,failure,delay")
    return ",".join(words)


def _ret(value: str) -> str:
    if value.upper() not in ("FULL", "HDRS"):
        raise Failure(EX_BAD_USAGE, "-R needs full or hdrs")
    return value.upper()


def _envid(value: str) -> str:
    if not re.fullmatch(r"[\x20-\x7e]{1,100}", value):  # RFC 3461 4.4
        raise Failure(EX_BAD_USAGE, "-V needs up to 100 printable ASCII characters")
    return value
