"""Logins in their turn: the Authenticator behind the throttle, for one client at a time or for all who try one name.

The wait comes before the check, whatever the password, so that neither parallel connections nor hanging up gain a guess.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from bridge.smtp.auth import Authenticator, User
from bridge.smtp.rates import network_of
from bridge.smtp.throttle import Attempt, Throttle

# Return when the future is done, or after so many seconds. Raises Crowded when the client has hung up meanwhile.
Pause = Callable[["asyncio.Future[None]", float], Awaitable[None]]
Check = Callable[[], Awaitable[User | None]]


class Logins:
    """What all sessions share. `throttle` None: nobody waits."""

    def __init__(self, auth: Authenticator, throttle: Throttle | None) -> None:
        self.auth = auth
        self.throttle = throttle
        self.checks: set[asyncio.Task[User | None]] = set()

    def __bool__(self) -> bool:
        """Whether anybody could log in."""
        return bool(self.auth)


@dataclass(frozen=True, slots=True, kw_only=True)
class Visitor:
    """One client at the door. `patience_s`: how long its session can wait."""

    logins: Logins
    client: str
    patience_s: float
    pause: Pause

    async def check_password(self, name: str, password: bytes) -> User | None:
        """The user, or None for a wrong name or password. Raises AuthUnavailable, Crowded."""
        auth, throttle = self.logins.auth, self.logins.throttle
        if throttle is None:
            return await auth.check_password(name, password)
        client = network_of(self.client)
        if throttle.is_free(name, client) and (user := auth.recall(name, password)):
            throttle.welcome(name, client)
            return user
        return await self._in_turn(throttle, name, client, lambda: auth.check_password(name, password))

    async def check_cram_md5(self, name: str, challenge: bytes, digest: str) -> User | None:
        """As `check_password`."""
        auth, throttle = self.logins.auth, self.logins.throttle

        async def check() -> User | None:
            return auth.check_cram_md5(name, challenge, digest)

        return await (check() if throttle is None else self._in_turn(throttle, name, network_of(self.client), check))

    async def _in_turn(self, throttle: Throttle, name: str, client: str, check: Check) -> User | None:
        signal = _Signal()
        attempt = throttle.enter(name, client, patience_s=self.patience_s, changed=signal.set)
        try:
            while seconds := throttle.ask(attempt):
                await self.pause(signal.next(), seconds)
        except BaseException:
            throttle.leave(attempt)
            raise
        # A client that hangs up now ends its session, not the check: it counts all the same.
        task = asyncio.create_task(_checked(throttle, attempt, check), name="login")
        self.logins.checks.add(task)
        task.add_done_callback(self.logins.checks.discard)
        return await asyncio.shield(task)


async def _checked(throttle: Throttle, attempt: Attempt, check: Check) -> User | None:
    good = None
    try:
        user = await check()
        good = user is not None
    finally:
        throttle.leave(attempt, good=good)
    return user


class _Signal:
    """Wakes who waits for `next`."""

    def __init__(self) -> None:
        self._future: asyncio.Future[None] | None = None

    def next(self) -> asyncio.Future[None]:
        self._future = asyncio.get_running_loop().create_future()
        return self._future

    def set(self) -> None:
        if self._future and not self._future.done():
            self._future.set_result(None)
