"""What the payload of an API may hold, said as values: the check finds the first thing that does not fit. Pure.

    ADDRESS = Fields({"email": Address()}, {"name": Text()})
    MAIL = Fields({"from": ADDRESS, "to": Items(ADDRESS, least=1, most=50)}, {"tags": Items(Text(most=255))})
    MAIL.check(payload)  # raises PayloadError: at "to[0].email", "is required"

A field that is not named is an error: the documentation does not know it either.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from bridge.sandbox.addresses import check_address, parse_mailbox, split_list

Rule = Literal["required", "unknown", "type", "limit", "format"]
_DOTTED = re.compile(r"\[(\d+)\]")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


class PayloadError(ValueError):
    """`at` is a path like `to[0].email`, "" for the payload as a whole; `rule` says what kind of mistake it is."""

    def __init__(self, at: str, reason: str, rule: Rule = "format") -> None:
        super().__init__(f"{at} {reason}".strip())
        self.at = at
        self.reason = reason
        self.rule = rule

    @property
    def dotted(self) -> str:
        """`to.0.email`"""
        return _DOTTED.sub(r".\1", self.at).lstrip(".")


class Kind(Protocol):
    """What one value may be. `check` raises PayloadError."""

    def check(self, value: Any, at: str = "") -> None: ...


@dataclass(frozen=True, slots=True)
class Fields:
    """An object with these fields and no others."""

    required: Mapping[str, Kind] = field(default_factory=dict)
    optional: Mapping[str, Kind] = field(default_factory=dict)

    def check(self, value: Any, at: str = "") -> None:
        if not isinstance(value, dict):
            raise PayloadError(at, "must be an object", "type")
        for name in value:
            if name not in self.required and name not in self.optional:
                raise PayloadError(_below(at, name), "is not a known field", "unknown")
        for name in self.required:
            if name not in value:
                raise PayloadError(_below(at, name), "is required", "required")
        for name, content in value.items():
            (self.required.get(name) or self.optional[name]).check(content, _below(at, name))


@dataclass(frozen=True, slots=True)
class Table:
    """An object with names of the client's choice; `key` is a pattern for the whole name."""

    of: Kind
    key: str = r"(?s:.*)"
    most: int | None = None
    key_most: int | None = None

    def check(self, value: Any, at: str = "") -> None:
        if not isinstance(value, dict):
            raise PayloadError(at, "must be an object", "type")
        _check_size(len(value), 0, self.most, at, "entries")
        for name, content in value.items():
            if not re.fullmatch(self.key, name):
                raise PayloadError(_below(at, name), "is not a name that may be used here")
            _check_size(len(name), 0, self.key_most, _below(at, name), "characters in its name")
            self.of.check(content, _below(at, name))


@dataclass(frozen=True, slots=True)
class Items:
    """A list; `unique` compares without regard to case."""

    of: Kind
    least: int = 0
    most: int | None = None
    unique: bool = False

    def check(self, value: Any, at: str = "") -> None:
        if not isinstance(value, list):
            raise PayloadError(at, "must be a list", "type")
        _check_size(len(value), self.least, self.most, at, "items")
        seen: set[str] = set()
        for index, item in enumerate(value):
            self.of.check(item, f"{at}[{index}]")
            if self.unique and str(item).lower() in seen:
                raise PayloadError(f"{at}[{index}]", "is there a second time")
            seen.add(str(item).lower())


@dataclass(frozen=True, slots=True)
class Text:
    """`pattern` is for the whole text; `one_line` forbids control characters but for the tab; `ascii` all beyond it."""

    least: int = 0
    most: int | None = None
    pattern: str = ""
    one_of: tuple[str, ...] = ()
    one_line: bool = False
    ascii: bool = False

    def check(self, value: Any, at: str = "") -> None:
        if not isinstance(value, str):
            raise PayloadError(at, "must be a string", "type")
        _check_size(len(value), self.least, self.most, at, "characters")
        if self.one_of and value not in self.one_of:
            raise PayloadError(at, f"must be one of {', '.join(self.one_of)}")
        if self.one_line and _CONTROL.search(value):
            raise PayloadError(at, "must be one line without control characters")
        if self.ascii and not value.isascii():
            raise PayloadError(at, "must be ASCII")
        if self.pattern and not re.fullmatch(self.pattern, value):
            raise PayloadError(at, "does not have the form it must have")


@dataclass(frozen=True, slots=True)
class Number:
    """`whole` refuses fractions; JSON's true and false are no numbers."""

    least: float | None = None
    most: float | None = None
    whole: bool = True

    def check(self, value: Any, at: str = "") -> None:
        if isinstance(value, bool) or not isinstance(value, int if self.whole else (int, float)):
            raise PayloadError(at, "must be an integer" if self.whole else "must be a number", "type")
        if self.least is not None and value < self.least:
            raise PayloadError(at, f"must be {self.least} or more", "limit")
        if self.most is not None and value > self.most:
            raise PayloadError(at, f"must be {self.most} or less", "limit")


@dataclass(frozen=True, slots=True)
class Flag:
    def check(self, value: Any, at: str = "") -> None:
        if not isinstance(value, bool):
            raise PayloadError(at, "must be a boolean", "type")


@dataclass(frozen=True, slots=True)
class Base64:
    """`most` counts the octets it stands for. `urlsafe` is the other alphabet, its padding optional."""

    least: int = 0
    most: int | None = None
    urlsafe: bool = False

    def check(self, value: Any, at: str = "") -> None:
        if not isinstance(value, str):
            raise PayloadError(at, "must be a string", "type")
        _check_size(len(decode_base64(value, at, urlsafe=self.urlsafe)), self.least, self.most, at, "octets")


@dataclass(frozen=True, slots=True)
class Address:
    """One bare `local@domain`."""

    most: int = 320
    ascii: bool = False

    def check(self, value: Any, at: str = "") -> None:
        Text(most=self.most, ascii=self.ascii).check(value, at)
        try:
            check_address(value)
        except ValueError as error:
            raise PayloadError(at, str(error)) from None


@dataclass(frozen=True, slots=True)
class MailboxText:
    """`ann@example.com` or `Ann <ann@example.com>`; with `most` above 1 a list with commas between."""

    most: int = 1
    least: int = 1

    def check(self, value: Any, at: str = "") -> None:
        Text(one_line=True).check(value, at)
        boxes = split_list(value) if self.most > 1 else [value]
        _check_size(len(boxes), self.least, self.most, at, "addresses")
        for box in boxes:
            try:
                parse_mailbox(box)
            except ValueError as error:
                raise PayloadError(at, str(error)) from None


@dataclass(frozen=True, slots=True)
class Either:
    """The first kind whose check passes; the last one's complaint when none does."""

    first: Kind
    second: Kind

    def check(self, value: Any, at: str = "") -> None:
        try:
            self.first.check(value, at)
        except PayloadError:
            self.second.check(value, at)


@dataclass(frozen=True, slots=True)
class Nullable:
    of: Kind

    def check(self, value: Any, at: str = "") -> None:
        if value is not None:
            self.of.check(value, at)


@dataclass(frozen=True, slots=True)
class Anything:
    def check(self, value: Any, at: str = "") -> None:
        pass


def decode_base64(value: str, at: str = "", *, urlsafe: bool = False) -> bytes:
    """Strictly; only the URL-safe form may lack its padding. Raises PayloadError."""
    if urlsafe:
        if "+" in value or "/" in value:
            raise PayloadError(at, "is not base64url")
        value = value.rstrip("=").translate(str.maketrans("-_", "+/"))
        value += "=" * (-len(value) % 4)
    try:
        return binascii.a2b_base64(value, strict_mode=True)
    except ValueError:
        raise PayloadError(at, "is not base64url" if urlsafe else "is not base64") from None


def _below(at: str, name: str) -> str:
    return f"{at}.{name}" if at else name


def _check_size(size: int, least: int, most: int | None, at: str, what: str) -> None:
    if size < least:
        raise PayloadError(at, f"must have {least} {what} or more", "limit")
    if most is not None and size > most:
        raise PayloadError(at, f"must have {most} {what} or fewer", "limit")
