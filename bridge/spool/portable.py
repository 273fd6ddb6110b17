"""A message outside the spool: its mail as it is stored, and beside it, as JSON, all that a spool has to know to go on with it.

What is read was perhaps written by somebody else, so every field is checked. Lanes are not carried over, they are sorted anew
where the message arrives; only who may have mailed a recipient already (`bound_to`) stays. Times are seconds since the epoch.
"""

from __future__ import annotations

import hashlib
import re
import sqlite3
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from bridge.model import FAILED, UNRESOLVED, RecipientStatus, same_recipient_key
from bridge.spool.ids import time_of

FORMAT = "smtp-rest-bridge message"
LONGEST = 2000  # characters of a text
_UNTIL = 1e11  # the year 5138
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class NotPortable(ValueError):
    """What was read is no message that can be taken; the text says why, in one line."""


def _queue_id(text: str) -> str:
    if time_of(text) is None:
        raise ValueError("is no queue id")
    return text


def _one_line(text: str) -> str:
    if _CONTROL.search(text):
        raise ValueError("has control characters")
    return text


Line = Annotated[str, Field(max_length=LONGEST), AfterValidator(_one_line)]
Address = Annotated[Line, Field(min_length=1, max_length=1000)]
Moment = Annotated[float, Field(ge=0, le=_UNTIL, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0, lt=1 << 31)]
Number = Annotated[int, Field(ge=0, lt=1 << 63)]
_NOTIFY = r"^(NEVER|(SUCCESS|FAILURE|DELAY)(,(SUCCESS|FAILURE|DELAY))*)?$"
_ENHANCED = r"^([245]\.\d{1,3}\.\d{1,3})?$"


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")


class PortableRecipient(_Value):
    """`in_doubt`: an attempt was begun and its result is not known; `group`: those of one lost call carry the same number.
    `blocked_at`: on hold, or blocked by a fault of the account, since then."""

    address: Address
    status: RecipientStatus
    attempts: Count
    next_attempt_at: Moment | None
    expires_at: Moment
    blocked_at: Moment | None
    notify: Annotated[str, Field(pattern=_NOTIFY)]
    orcpt: Line
    notice: Literal["", "done", "failure", "delay", "success"]
    provider: Line
    provider_message_id: Line
    code: Annotated[int, Field(ge=200, le=599)] | None
    enhanced: Annotated[str, Field(pattern=_ENHANCED)]
    text: Line
    fault: Literal["", "recipient", "message", "provider", "account"]
    unknowns: Count
    group: Number | None
    in_doubt: bool
    bound_to: Line

    @property
    def waits(self) -> bool:
        return self.status in UNRESOLVED

    @property
    def tells(self) -> bool:
        """The sender is still to be told of him."""
        return self.notice in ("failure", "delay", "success")


class Portable(_Value):
    format: Literal["smtp-rest-bridge message"]
    version: Literal[1]
    queue_id: Annotated[str, AfterValidator(_queue_id)]
    size: Number
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    kind: Literal["mail", "dsn"]
    created_at: Moment
    expires_at: Moment
    reverse_path: Annotated[Line, Field(max_length=1000)]
    smtputf8: bool
    ret: Literal["", "FULL", "HDRS"]
    envid: Line
    client: Line
    helo: Line
    user: Line
    listener: Line
    protocol: Line
    source: Line
    message_id: Line
    subject: Line
    recipients: Annotated[tuple[PortableRecipient, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        keys = {same_recipient_key(one.address) for one in self.recipients}
        if len(keys) < len(self.recipients):
            raise ValueError("a recipient stands there twice")
        return self

    @property
    def open(self) -> bool:
        """Somebody is still to be mailed, or the sender to be told."""
        return any(one.waits or one.tells for one in self.recipients)

    @property
    def failed(self) -> bool:
        """Over, but may be retried by hand."""
        return not self.open and any(one.status in FAILED for one in self.recipients)

    def untold(self) -> Self:
        """Without what its sender is still to be told: whoever has it besides tells that."""
        recipients = tuple(
            one.model_copy(update={"notice": "done" if one.notice == "failure" else ""}) if one.tells else one
            for one in self.recipients
        )
        return self.model_copy(update={"recipients": recipients})

    def due_at_once(self) -> Self:
        recipients = tuple(one.model_copy(update={"next_attempt_at": None}) for one in self.recipients)
        return self.model_copy(update={"recipients": recipients})

    def late(self, now: float) -> tuple[str, ...]:
        """Who waits beyond the lifetime of the message, time on hold or blocked not counted."""
        return tuple(
            one.address
            for one in self.recipients
            if one.waits and now > one.expires_at + (0.0 if one.blocked_at is None else now - one.blocked_at)
        )

    def check_raw(self, raw: bytes) -> None:
        """Raises NotPortable: a line end that was changed on the way makes it another message."""
        if len(raw) != self.size or hashlib.sha256(raw).hexdigest() != self.sha256:
            raise NotPortable(f"the mail is not what was exported: {len(raw)} octets of {self.size}, or changed")


def parse(octets: bytes) -> Portable:
    """Raises NotPortable."""
    try:
        return Portable.model_validate_json(octets)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        message = re.sub(r"\s+", " ", str(first["msg"]))
        raise NotPortable(f"{place}: {message}" if place else message) from error


_KEPT = ("queue_id", "size", "kind", "created_at", "expires_at", "reverse_path", "ret", "envid", "client", "helo", "user",
         "listener", "protocol", "message_id", "subject")  # fmt: skip
_KEPT_OF_RECIPIENT = ("address", "status", "attempts", "next_attempt_at", "expires_at", "blocked_at", "notify", "orcpt",
                      "notice", "provider", "provider_message_id", "code", "enhanced", "text", "fault", "unknowns")  # fmt: skip


def from_rows(row: sqlite3.Row, recipients: Sequence[sqlite3.Row], raw: bytes) -> Portable:
    """Not validated: what is in the spool is to be got out of it, whatever it is."""
    values = _as_lines({name: row[name] for name in _KEPT})
    return Portable.model_construct(
        **values,
        format=FORMAT,
        version=1,
        sha256=hashlib.sha256(raw).hexdigest(),
        smtputf8=bool(row["smtputf8"]),
        source=_CONTROL.sub(" ", recipients[0]["source"]),
        recipients=portable_recipients(recipients),
    )


def portable_recipients(rows: Sequence[sqlite3.Row]) -> tuple[PortableRecipient, ...]:
    return tuple(_recipient(row) for row in rows)


def _recipient(row: sqlite3.Row) -> PortableRecipient:
    values = _as_lines({name: row[name] for name in _KEPT_OF_RECIPIENT})
    in_doubt = row["begun"] > 0
    bound = row["lane"][1:] if row["lane"].startswith("=") else row["provider"] if in_doubt else ""
    group = row["unknown_group"] if row["unknown_group"] is not None else row["epoch"] if in_doubt else None
    if row["leased_until"] is not None:
        values["next_attempt_at"] = row["due_at"]  # the other one is the end of the lease
    return PortableRecipient.model_construct(**values, group=group, in_doubt=in_doubt, bound_to=bound)


def _as_lines(values: dict[str, Any]) -> dict[str, Any]:
    """What is only shown may be anything in the spool."""
    return {
        name: _CONTROL.sub(" ", value)[:LONGEST] if isinstance(value, str) else value for name, value in values.items()
    }
