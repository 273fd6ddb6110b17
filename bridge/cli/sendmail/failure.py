"""Why sendmail ends with another status than 0."""

from __future__ import annotations

from bridge.cli.exits import (
    EX_DATAERR,
    EX_NOHOST,
    EX_NOPERM,
    EX_NOUSER,
    EX_PROTOCOL,
    EX_TEMPFAIL,
    EX_UNAVAILABLE,
)


class Failure(Exception):
    """`status` of sysexits.h; the text is one line."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


def status_of(code: int, enhanced: str) -> int:
    """What a reply of the daemon is to the caller; `enhanced` as in "5.1.1" (RFC 3463), "" for none."""
    if code < 500:
        return EX_TEMPFAIL
    by_detail = {"5.1.2": EX_NOHOST, "5.1.7": EX_DATAERR, "5.1.8": EX_DATAERR, "5.3.4": EX_DATAERR, "5.2.3": EX_DATAERR}
    by_subject = {"5.1": EX_NOUSER, "5.5": EX_PROTOCOL, "5.6": EX_DATAERR, "5.7": EX_NOPERM}
    if enhanced in by_detail:
        return by_detail[enhanced]
    if enhanced.rpartition(".")[0] in by_subject:
        return by_subject[enhanced.rpartition(".")[0]]
    return (
        {552: EX_DATAERR, 553: EX_NOUSER, 550: EX_NOUSER}.get(code, EX_UNAVAILABLE) if not enhanced else EX_UNAVAILABLE
    )
