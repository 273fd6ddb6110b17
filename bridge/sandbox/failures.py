"""How the sandbox fails on purpose: a plan of failures, each used for the next so many requests.

As text (`--fail 503:3`): STATUS or MODE, then `:COUNT` (without it: until told to recover), then `,name=value` for
`retry_after`, `seconds`, `code`, `recipient` and, with html, `status`: `429:2,retry_after=30`, `html:1,status=502`.

`KIND=` before it keeps it to one provider's twin, `sendgrid=429:3`, which then answers as its documentation shows for
that status; a documented error may be named instead, `resend=daily_quota_exceeded:2`. `KIND.TARGET=` means calls that
send nothing, `graph.token=401:1`.

| mode | what the client sees | the message |
|---|---|---|
| status | an error answer of the API with that status, code and Retry-After | refused |
| html | a web page where JSON was due, as a proxy or a wrong address gives (status 200 unless said) | refused |
| garbage | bytes that are not HTTP, then the end | refused |
| hang | no answer for `seconds`, or for ever; then the end | refused |
| reset | the connection is reset once the request was read | refused |
| close_before_answer | the connection is closed once the request was read | refused |
| slow | the right answer, `seconds` (2) late | taken at once |
| half | the right answer, cut off in the middle of its body | taken |
| lost | the connection is closed instead of the answer | taken |
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args

from bridge.sandbox.twins import check_failure

Mode = Literal["status", "html", "garbage", "hang", "reset", "close_before_answer", "slow", "half", "lost"]
MODES: tuple[str, ...] = get_args(Mode)
_TAKING = frozenset({"slow", "half", "lost"})
_BODILESS = (204, 205, 304)
_LARGEST = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """One line of the plan. `count` None: until `recover`. `recipient`: only for messages to that address.

    `provider`: only for that twin, which may then know `error` by its name; `target` "" is what sends mail.

    Raises ValueError, with a text that says what is wrong, when the parts do not fit.
    """

    mode: Mode = "status"
    status: int = 0
    count: int | None = None
    retry_after: int | None = None
    seconds: float | None = None
    code: str = ""
    recipient: str = ""
    provider: str = ""
    target: str = ""
    error: str = ""

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"unknown mode {self.mode!r}; known: {', '.join(MODES)}")
        self._check_provider()
        self._check_status()
        for name, least in (("count", 1), ("retry_after", 0), ("seconds", 0)):
            value = getattr(self, name)
            if value is not None and not least <= value <= _LARGEST:
                raise ValueError(f"{name} must be {least} or more")

    def _check_provider(self) -> None:
        if not self.provider and (self.target or self.error):
            raise ValueError("an error or a target needs the provider that has it")
        if self.error and (self.mode != "status" or self.status):
            raise ValueError("a named error has no mode and no status")
        if self.provider and self.code:
            raise ValueError("code is for the sandbox's own API; name a documented error of the provider instead")

    def _check_status(self) -> None:
        if self.mode == "status" and not self.error and not 400 <= self.status <= 599:
            raise ValueError("status must be an error status, 400 to 599")
        if self.mode == "html" and self.status and (not 200 <= self.status <= 599 or self.status in _BODILESS):
            raise ValueError("status must be one with a body, 200 to 599")
        if self.mode not in ("status", "html") and self.status:
            raise ValueError(f"mode {self.mode} has no status")

    @property
    def takes(self) -> bool:
        """The message is recorded all the same; only its answer suffers."""
        return self.mode in _TAKING


_TYPES: dict[str, tuple[type, ...]] = {
    "mode": (str,),
    "status": (int,),
    "count": (int,),
    "retry_after": (int,),
    "seconds": (int, float),
    "code": (str,),
    "recipient": (str,),
    "provider": (str,),
    "target": (str,),
    "error": (str,),
}


def failure_from(values: dict[str, Any]) -> Failure:
    """A `Failure` from outside values, with its types checked. Raises ValueError naming the part."""
    for name, value in values.items():
        if name not in _TYPES:
            raise ValueError(f"unknown field {name!r}; known: {', '.join(_TYPES)}")
        if isinstance(value, bool) or not isinstance(value, _TYPES[name]):
            raise ValueError(f"{name} must be {' or '.join(kind.__name__ for kind in _TYPES[name])}")
    failure = Failure(**values)
    check_failure(failure)
    return failure


def parse_fail(text: str) -> Failure:
    """`503:3`, `hang:1`, `429:2,retry_after=30` -> Failure. Raises ValueError saying what is wrong with the text."""
    try:
        return failure_from(_parsed(text))
    except ValueError as error:
        raise ValueError(
            f"cannot use {text!r}: {error}; expected for example 503:3, hang:1 or sendgrid=429:3"
        ) from None


def _parsed(text: str) -> dict[str, Any]:
    head, *settings = text.split(",")
    scope, equals, rest = head.partition("=")
    what, colon, count = (part.strip() for part in (rest if equals else head).partition(":"))
    values = _meaning(what, named=bool(equals))
    if equals:
        provider, dot, target = (part.strip() for part in scope.partition("."))
        if not provider:
            raise ValueError("there is no provider before the '='")
        values |= {"provider": provider, "target": target} if dot else {"provider": provider}
    if colon:
        values["count"] = _number("count", count)
    for setting in settings:
        name, value = _setting(setting)
        if name in values:
            raise ValueError(f"{name} is given twice")
        values[name] = value
    return values


def _meaning(what: str, *, named: bool) -> dict[str, Any]:
    if _is_number(what):
        return {"status": int(what)}
    return {"error": what} if named and what and what not in MODES else {"mode": what}


def _setting(text: str) -> tuple[str, Any]:
    name, equals, value = (part.strip() for part in text.partition("="))
    if not equals:
        raise ValueError(f"{text!r} is not name=value")
    return name, _number(name, value) if name in ("status", "count", "retry_after", "seconds") else value


def _number(name: str, text: str) -> float:
    if _is_number(text):
        return int(text)
    whole, dot, part = text.partition(".")
    if name == "seconds" and dot and _is_number(whole) and _is_number(part):
        return float(text)
    raise ValueError(f"{name} must be a number, not {text!r}")


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 12


class FailurePlan:
    """Failures in the order given; the first that fits a request is used up by one."""

    def __init__(self) -> None:
        self._planned: list[Failure] = []

    def add(self, failure: Failure) -> None:
        self._planned.append(failure)

    def clear(self) -> None:
        self._planned.clear()

    def take(self, recipients: tuple[str, ...], *, provider: str = "", target: str = "send") -> Failure | None:
        """The failure for a request to these recipients, counted down; None when it goes well."""
        wanted = {address.lower() for address in recipients}
        for index, failure in enumerate(self._planned):
            if failure.provider not in ("", provider) or (failure.target or "send") != target:
                continue
            if not failure.recipient or failure.recipient.lower() in wanted:
                self._count_down(index, failure)
                return failure
        return None

    def _count_down(self, index: int, failure: Failure) -> None:
        if failure.count is None:
            return
        if failure.count == 1:
            del self._planned[index]
        else:
            self._planned[index] = replace(failure, count=failure.count - 1)

    def as_json(self) -> list[dict[str, Any]]:
        """What is still planned, without the parts that say nothing."""
        return [
            {f.name: getattr(failure, f.name) for f in fields(Failure) if _says(failure, f.name, f.default)}
            for failure in self._planned
        ]


def _says(failure: Failure, name: str, default: object) -> bool:
    return name == "mode" or getattr(failure, name) != default
