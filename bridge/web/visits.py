"""Who is signed in on the web page: a random token in a cookie, kept here as long as the daemon runs. For the loop's thread."""

from __future__ import annotations

import hmac
import secrets
from collections import OrderedDict
from dataclasses import dataclass, field

COOKIE = "smtp_bridge"
LIFETIME_S = 12 * 3600.0  # since it was last used
MAX_VISITS = 1000  # those that were silent longest are forgotten first


@dataclass(slots=True)
class Visit:
    """`csrf` stands in every form: another site can send the cookie, but not know this."""

    key: str  # its name
    key_hash: str = field(repr=False)  # another key of that name is not the one that signed in
    csrf: str
    last: float

    def is_own(self, token: str) -> bool:
        return hmac.compare_digest(self.csrf.encode(), token.encode())


class Visits:
    def __init__(self) -> None:
        self._visits: OrderedDict[str, Visit] = OrderedDict()

    def begin(self, key: str, key_hash: str, now: float) -> str:
        """The cookie's value."""
        token = secrets.token_urlsafe(32)
        self._visits[token] = Visit(key, key_hash, secrets.token_urlsafe(24), now)
        while len(self._visits) > MAX_VISITS:
            self._visits.popitem(last=False)
        return token

    def find(self, token: str, now: float) -> Visit | None:
        visit = self._visits.get(token)
        if visit is None:
            return None
        if now - visit.last > LIFETIME_S:
            del self._visits[token]
            return None
        visit.last = now
        self._visits.move_to_end(token)
        return visit

    def end(self, token: str) -> None:
        self._visits.pop(token, None)
