"""The AUTH exchange (RFC 4954): PLAIN (RFC 4616), LOGIN in its three spellings, CRAM-MD5 (RFC 2195).

Nothing a client sends here ever reaches a log or a reply, whatever it is.
"""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable

from bridge.reply import Reply
from bridge.smtp import replies
from bridge.smtp.auth import (
    AuthUnavailable,
    User,
    cram_md5_challenge,
    decode_base64,
    parse_cram_md5,
    parse_plain,
)
from bridge.smtp.logins import Visitor
from bridge.smtp.throttle import Crowded

Ask = Callable[[bytes], Awaitable[bytes]]  # send `334 base64(challenge)`, return the client's line


class Refused(Exception):
    """The exchange ended without a user; `reply` says why."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(str(reply))
        self.reply = reply


async def authenticate(mechanism: str, initial: bytes, *, ask: Ask, visitor: Visitor, hostname: str) -> User:
    """Run one exchange. `initial`: the initial response as sent, b"" when there was none. Raises Refused."""
    try:
        user = await _MECHANISMS[mechanism](initial, ask, visitor, hostname)
    except Crowded:
        raise Refused(replies.TOO_MANY_FAILED_LOGINS) from None
    except AuthUnavailable as error:
        raise Refused(replies.AUTH_UNAVAILABLE) from error
    if user is None:
        raise Refused(replies.BAD_CREDENTIALS)
    return user


async def _plain(initial: bytes, ask: Ask, visitor: Visitor, hostname: str) -> User | None:
    pair = parse_plain(_decode(initial or await ask(b"")))
    if pair is None:
        raise Refused(replies.BAD_CREDENTIALS_SYNTAX)
    return await visitor.check_password(*pair)


async def _login(initial: bytes, ask: Ask, visitor: Visitor, hostname: str) -> User | None:
    # The challenges as every client knows them; some compare them to the letter.
    name = _decode(initial or await ask(b"Username:"))
    password = _decode(await ask(b"Password:"))
    try:
        user_name = name.decode()
    except UnicodeDecodeError:
        raise Refused(replies.BAD_CREDENTIALS_SYNTAX) from None
    return await visitor.check_password(user_name, password)


async def _cram_md5(initial: bytes, ask: Ask, visitor: Visitor, hostname: str) -> User | None:
    if initial:
        raise Refused(replies.BAD_PARAMETER)  # RFC 2195: the server speaks first
    challenge = cram_md5_challenge(hostname)
    answer = parse_cram_md5(_decode(await ask(challenge)))
    if answer is None:
        raise Refused(replies.BAD_CREDENTIALS_SYNTAX)
    return await visitor.check_cram_md5(answer[0], challenge, answer[1])


def _decode(line: bytes) -> bytes:
    if line == b"*":
        raise Refused(replies.AUTH_CANCELLED)
    decoded = decode_base64(line)
    if decoded is None:
        raise Refused(replies.BAD_BASE64)
    return decoded


def challenge_text(challenge: bytes) -> Reply:
    """`334 ` and the challenge; an empty one is exactly `334 ` (RFC 4954 4)."""
    return Reply(334, "", base64.b64encode(challenge).decode())


_MECHANISMS = {"PLAIN": _plain, "LOGIN": _login, "CRAM-MD5": _cram_md5}
