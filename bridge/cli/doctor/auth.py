"""A login that lets everybody in, and knows who would have been."""

from __future__ import annotations

from collections.abc import Iterable

from bridge.cli.doctor.dialogue import Login
from bridge.cli.doctor.record import Record
from bridge.smtp import replies
from bridge.smtp.auth import Authenticator, User


class LearningAuth(Authenticator):
    """Lets everybody in, and notes who would have been."""

    def __init__(self, real: Authenticator, users: Iterable[User], record: Record) -> None:
        self.real = real
        self._known = {user.name: user for user in users}
        self._record = record
        self.user: User | None = None  # who would have logged in

    def __bool__(self) -> bool:
        return True

    async def check_password(self, name: str, password: bytes) -> User | None:
        return self._noted(name, await self.real.check_password(name, password))

    def check_cram_md5(self, name: str, challenge: bytes, digest: str) -> User | None:
        return self._noted(name, self.real.check_cram_md5(name, challenge, digest))

    def _noted(self, name: str, user: User | None) -> User:
        known, self.user = self._known.get(name), user
        if login := self._record.last(Login):
            hashed = bool(known and not known.password)
            self._record.amend_login(login, name=name, known=known is not None, right=user is not None, hashed=hashed)
        if user is None and self._known:
            self._record.refused(replies.BAD_CREDENTIALS)
        return User(name=name)
