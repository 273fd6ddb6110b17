"""SMTP replies: the only status currency between the stages.

A `Reply` checks itself, so that no text of a provider or a client can split, fake or overlong a line on the wire
(RFC 5321 4.2, 4.5.3.1.5; RFC 3463 for the enhanced code).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_TEXT_OCTETS = 500
_ENHANCED = re.compile(r"[245]\.\d{1,3}\.\d{1,3}")
_UNPRINTABLE = re.compile(r"[^\x20-\x7e]+")
_NEEDS_ENHANCED = frozenset("245")


@dataclass(frozen=True, slots=True)
class Reply:
    """One SMTP reply: three-digit code, enhanced status code ("" where RFC 2034 has none), one line of text.

    Raises ValueError for a code that is none, for a class digit that disagrees with the code, and for text that is
    not one printable ASCII line of at most 500 octets. `Reply.safe` makes foreign text fit first.
    """

    code: int
    enhanced: str
    text: str

    def __post_init__(self) -> None:
        if not 200 <= self.code <= 599:
            raise ValueError(f"not an SMTP reply code: {self.code}")
        if self.enhanced:
            if not _ENHANCED.fullmatch(self.enhanced):
                raise ValueError(f"not an enhanced status code: {self.enhanced!r}")
            if self.enhanced[0] != str(self.code)[0]:
                raise ValueError(f"class of {self.enhanced} disagrees with {self.code}")
        if len(self.text) > MAX_TEXT_OCTETS or _UNPRINTABLE.search(self.text):
            raise ValueError("reply text is not one printable ASCII line of at most 500 octets")

    @classmethod
    def safe(cls, code: int, enhanced: str, text: str) -> Reply:
        """A reply whose text may come from outside: unprintable and non-ASCII runs become one blank, cut at 500 octets."""
        return cls(code, enhanced, _UNPRINTABLE.sub(" ", text).strip()[:MAX_TEXT_OCTETS])

    @property
    def temporary(self) -> bool:
        return 400 <= self.code <= 499

    @property
    def permanent(self) -> bool:
        return self.code >= 500

    def __str__(self) -> str:
        return " ".join(part for part in (str(self.code), self.enhanced, self.text) if part)

    def encode(self) -> bytes:
        """The line on the wire, with its CRLF; an empty challenge is `334 ` with its blank (RFC 4954 4)."""
        return (str(self) if self.text else f"{self} ").encode("ascii") + b"\r\n"


def parse_reply(line: str) -> Reply:
    """`"550 5.1.1 No such recipient"` -> Reply; the enhanced code may be left out. Raises ValueError."""
    match = re.fullmatch(r"([245]\d\d)(?: ([245]\.\d{1,3}\.\d{1,3}))?(?: (.*))?", line.strip())
    if not match:
        raise ValueError(f"not a reply: {line!r}; expected for example '550 5.1.1 No such recipient'")
    return Reply(int(match[1]), match[2] or "", match[3] or "")


# What the stages answer; the session's own protocol replies stand in smtp/.
LOCAL_ERROR = Reply(451, "4.3.0", "Local error, try again later")
SPOOL_FULL = Reply(452, "4.3.1", "Insufficient system storage")
NO_MEMORY = Reply(452, "4.3.1", "Insufficient memory, try again later")
TOO_MANY_HOPS = Reply(554, "5.4.6", "Too many hops, this message loops")
MESSAGE_TOO_BIG = Reply(552, "5.3.4", "Message size exceeds the limit")
SHUTTING_DOWN = Reply(421, "4.3.2", "Service shutting down, try again later")


def queued(queue_id: str) -> Reply:
    return Reply(250, "2.0.0", f"Ok: queued as {queue_id}")


def sent(provider_message_id: str) -> Reply:
    return Reply.safe(250, "2.0.0", f"Ok: sent, id {provider_message_id}" if provider_message_id else "Ok: sent")
