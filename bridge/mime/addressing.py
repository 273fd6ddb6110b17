"""Who sees whom (DESIGN 3.4): the envelope decides who is mailed, the header's To and Cc only who is shown.

Nobody outside the envelope is ever in a call, everybody inside is in exactly one, and a recipient the header does not
show is seen by nobody else.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache

from bridge.model import Addressing, Email, Mailbox, merge_recipients, split_address

Key = tuple[str, str]


def address(
    email: Email, reverse_path: str, recipients: Sequence[str], *, carries_envelope: bool
) -> tuple[Addressing, ...]:
    """The calls that mail exactly these recipients. `carries_envelope`: the call names recipients apart from To and Cc."""
    recipients = merge_recipients(recipients)
    shown = _match((*email.to, *email.cc), recipients)
    in_to = {_key(mailbox.email) for mailbox in email.to}
    to = [mailbox for key, mailbox in shown.items() if key in in_to]
    cc = [mailbox for key, mailbox in shown.items() if key not in in_to]
    seen = {mailbox.email for mailbox in shown.values()}
    hidden = tuple(recipient for recipient in recipients if recipient not in seen)
    if not to:
        to, cc = cc, []
    if to or (carries_envelope and hidden):
        return (Addressing(reverse_path=reverse_path, to=tuple(to), cc=tuple(cc), bcc=hidden),)
    return tuple(Addressing(reverse_path=reverse_path, to=(Mailbox(recipient),)) for recipient in hidden)


def unseen(email: Email, recipients: Sequence[str]) -> tuple[str, ...]:
    """Addresses that To and Cc show but the envelope does not name: a JSON API cannot show them."""
    shown = _match((*email.to, *email.cc), merge_recipients(recipients))
    missing = (mailbox.email for mailbox in (*email.to, *email.cc) if _key(mailbox.email) not in shown)
    return tuple(dict.fromkeys(missing))


def _match(display: Iterable[Mailbox], recipients: Sequence[str]) -> dict[Key, Mailbox]:
    """The displayed mailboxes that are in the envelope, in the header's order, in the envelope's spelling, each once.

    All exact matches first: `Ann@x` must not lose its place to an earlier `ANN@x`.
    """
    named = _by_key(display)
    exact = {key: recipient for recipient in reversed(recipients) for key in (_key(recipient),)}
    found = {key: exact[key] for key in named if key in exact}
    taken = set(found.values())
    loose: dict[Key, list[str]] = {}
    for recipient in reversed(recipients):
        if recipient not in taken:
            loose.setdefault(_loose(_key(recipient)), []).append(recipient)
    for key in named:
        if key not in found and loose.get(_loose(key)):
            found[key] = loose[_loose(key)].pop()
    return {key: Mailbox(found[key], mailbox.name) for key, mailbox in named.items() if key in found}


def _by_key(display: Iterable[Mailbox]) -> dict[Key, Mailbox]:
    """Each address once; of its display names the first that is not empty."""
    named: dict[Key, Mailbox] = {}
    for mailbox in display:
        key = _key(mailbox.email)
        if key not in named or not named[key].name:
            named[key] = mailbox
    return named


def _key(address: str) -> Key:
    """RFC 5321 2.4: the local part as it is, the domain without case, in its A-label form."""
    local, domain = split_address(address)
    return (local, domain.lower() if domain.isascii() else _a_label(domain))


def _loose(key: Key) -> Key:
    return (key[0].casefold(), key[1])


@lru_cache(maxsize=256)
def _a_label(domain: str) -> str:
    if len(domain) > 255:  # the codec takes quadratic time
        return domain.lower()
    try:
        return domain.encode("idna").decode("ascii").lower()
    except UnicodeError:
        return domain.lower()
