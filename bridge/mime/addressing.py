"""Who sees whom (DESIGN 3.4): the envelope decides who is mailed, the header's To and Cc only who is shown.

Nobody outside the envelope is ever in a call, everybody inside is in exactly one, and a recipient the header does not
show is seen by nobody else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache

from bridge.model import Addressing, Email, Mailbox, merge_recipients, split_address

Key = tuple[str, str]
KeyOf = Callable[[str], Key]


def address(
    email: Email, reverse_path: str, recipients: Sequence[str], *, carries_envelope: bool
) -> tuple[Addressing, ...]:
    """The calls that mail exactly these recipients. `carries_envelope`: the call names recipients apart from To and Cc."""
    recipients = merge_recipients(recipients)
    key_of = _keying(recipients)
    shown = _match((*email.to, *email.cc), recipients, key_of)
    in_to = {key_of(mailbox.email) for mailbox in email.to}
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
    key_of = _keying(recipients)
    shown = _match((*email.to, *email.cc), merge_recipients(recipients), key_of)
    missing = (mailbox.email for mailbox in (*email.to, *email.cc) if key_of(mailbox.email) not in shown)
    return tuple(dict.fromkeys(missing))


def _match(display: Iterable[Mailbox], recipients: Sequence[str], key_of: KeyOf) -> dict[Key, Mailbox]:
    """The displayed mailboxes that are in the envelope, in the header's order, in the envelope's spelling, each once.

    All exact matches first: `Ann@x` must not lose its place to an earlier `ANN@x`.
    """
    named = _by_key(display, key_of)
    exact = {key_of(recipient): recipient for recipient in reversed(recipients)}
    found = {key: exact[key] for key in named if key in exact}
    taken = set(found.values())
    loose: dict[Key, list[str]] = {}
    for recipient in reversed(recipients):
        if recipient not in taken:
            loose.setdefault(_loose(key_of(recipient)), []).append(recipient)
    for key in named:
        if key not in found and loose.get(_loose(key)):
            found[key] = loose[_loose(key)].pop()
    return {key: Mailbox(found[key], mailbox.name) for key, mailbox in named.items() if key in found}


def _by_key(display: Iterable[Mailbox], key_of: KeyOf) -> dict[Key, Mailbox]:
    """Each address once; of its display names the first that is not empty."""
    named: dict[Key, Mailbox] = {}
    for mailbox in display:
        key = key_of(mailbox.email)
        if key not in named or not named[key].name:
            named[key] = mailbox
    return named


def _keying(recipients: Iterable[str]) -> KeyOf:
    """How addresses are compared: RFC 5321 2.4, the local part as it is, the domain without case.

    A-labels (40 us each) are made only when the envelope names such a domain; else no U-label of a header could match.
    """
    domains = [split_address(recipient)[1] for recipient in recipients]
    if any(not domain.isascii() or "xn--" in domain.lower() for domain in domains):
        return _idn_key
    return _plain_key


def _plain_key(address: str) -> Key:
    local, domain = split_address(address)
    return (local, domain.lower())


def _idn_key(address: str) -> Key:
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
