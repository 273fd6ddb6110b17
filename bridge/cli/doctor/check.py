"""What `smtp-bridge doctor` found out about one thing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "note", "problem"]


@dataclass(frozen=True, slots=True)
class Check:
    """`subject`: what was looked at. `todo`: what to do about it, "" for nothing."""

    area: str
    level: Level
    subject: str
    text: str
    todo: str = ""


def ok(area: str, subject: str, text: str) -> Check:
    return Check(area, "ok", subject, text)


def note(area: str, subject: str, text: str, todo: str = "") -> Check:
    return Check(area, "note", subject, text, todo)


def problem(area: str, subject: str, text: str, todo: str) -> Check:
    return Check(area, "problem", subject, text, todo)
