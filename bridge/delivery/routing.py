"""Routes: which providers may take whose mail. Rules only; the first match wins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bridge.model import matches
from bridge.reply import Reply

NO_ROUTE = Reply(550, "5.7.1", "No route for this mail")


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """Empty: any. `sender` and `recipient` are patterns of addresses with `*`."""

    providers: tuple[str, ...]
    user: str = ""
    sender: str = ""
    recipient: str = ""
    listener: str = ""
    failover_unknown: bool = False

    def takes(self, *, user: str, listener: str, sender: str, recipient: str) -> bool:
        return (
            (not self.user or self.user == user)
            and (not self.listener or self.listener == listener)
            and (not self.sender or matches(self.sender, sender))
            and (not self.recipient or matches(self.recipient, recipient))
        )


class Routes:
    """The routes of the settings, then what remains for everybody else's mail.

    That is every provider in order but those that only routes of users name: credentials of one user never serve another's.
    """

    def __init__(self, routes: Sequence[Route], providers: Sequence[str]) -> None:
        self._routes = tuple(routes)
        private = {name for route in routes if route.user for name in route.providers}
        public = {name for route in routes if not route.user for name in route.providers}
        rest = tuple(name for name in providers if name not in private - public)
        self._rest = Route(providers=rest)

    def choose(self, *, user: str, listener: str, sender: str, recipient: str) -> Route | None:
        """None when nobody may take it."""
        for route in self._routes:
            if route.takes(user=user, listener=listener, sender=sender, recipient=recipient):
                return route
        return self._rest if self._rest.providers else None
