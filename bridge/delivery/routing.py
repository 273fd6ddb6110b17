"""Routes: which providers may take whose mail, and whose nobody may. Rules only; the first match wins."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from bridge.mime.addressing import a_label
from bridge.model import matches, unquoted
from bridge.reply import Reply

NO_ROUTE = Reply(550, "5.7.1", "No route for this mail")
REFUSED_BY_ROUTE = Reply(550, "5.7.1", "Recipient refused by a route")


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """Empty: any. `sender` and `recipient` are patterns of addresses with `*`. `refuse`: what it takes is refused, and it has no
    providers."""

    providers: tuple[str, ...] = ()
    refuse: bool = False
    user: str = ""
    sender: str = ""
    recipient: str = ""
    listener: str = ""
    failover_unknown: bool = False

    def takes(self, *, user: str, listener: str, sender: str, recipient: str) -> bool:
        by_sender = not self.sender or matches(self.sender, sender)
        return by_sender and self.may_take(user=user, listener=listener, recipient=recipient)

    def may_take(self, *, user: str, listener: str, recipient: str) -> bool:
        """Whether there is a sender from whom it takes this."""
        return (
            (not self.user or self.user == user)
            and (not self.listener or self.listener == listener)
            and (not self.recipient or any(matches(self.recipient, one) for one in spellings(recipient)))
        )


def spellings(address: str) -> tuple[str, ...]:
    """The address as a pattern may have it, since who is refused must not get mail under another name: without the dot of the
    root and needless quotes, and with the A-labels and the U-labels of its domain (RFC 5890 2.3.2.1), beside what was written.
    """
    local, at, domain = address.removesuffix(".").rpartition("@")
    domains = [domain]
    if len(domain) <= 255 and not (domain.isascii() and "xn--" not in domain.lower()):
        label = a_label(domain)
        domains.append(label)
        with suppress(UnicodeError):
            domains.append(label.encode("ascii").decode("idna"))
    return tuple(dict.fromkeys(f"{one}{at}{name}" for one in (local, unquoted(local)) for name in domains))


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

    def choose(self, *, user: str, listener: str, sender: str, recipient: str) -> Route | Reply:
        """A route with providers, or why nobody may take it."""
        for route in self._routes:
            if route.takes(user=user, listener=listener, sender=sender, recipient=recipient):
                return REFUSED_BY_ROUTE if route.refuse else route
        return self._rest if self._rest.providers else NO_ROUTE

    def refusal(self, *, user: str, listener: str, sender: str, recipient: str) -> Reply | None:
        """At RCPT. `sender` "": known only with the header, so that only what is refused from everybody is refused here."""
        if sender:
            chosen = self.choose(user=user, listener=listener, sender=sender, recipient=recipient)
            return chosen if isinstance(chosen, Reply) else None
        for route in self._routes:
            if route.may_take(user=user, listener=listener, recipient=recipient):
                if not route.refuse:
                    return None
                if not route.sender:
                    return REFUSED_BY_ROUTE
        return None
