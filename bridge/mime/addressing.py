"""Who sees whom (DESIGN 3.4): the envelope decides who is mailed, the header's To and Cc only who is shown.

Nobody outside the envelope is ever in a call, everybody inside is in exactly one, and a recipient the header does not
show is seen by nobody else.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from bridge.model import Addressing, Email, Mailbox, merge_recipients, split_address

# IDNA takes the NFKC, in which letters and digits of Unicode become "(1)", "1," or hold a blank.
_HOST = re.compile(r"[A-Za-z0-9._-]+")
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Caps:
    """Recipients in one call, at most: of all kinds together and of each; 0 for no limit. `once`: an address may stand there
    once whatever the case of its letters. `bcc_alone`: a call may have a Bcc and no To."""

    total: int = 0
    to: int = 0
    cc: int = 0
    bcc: int = 0
    once: bool = False
    bcc_alone: bool = False


NO_CAPS = Caps()


def capped(call: Addressing, caps: Caps, *, carries_envelope: bool = False) -> tuple[Addressing, ...]:
    """The call in as many as the caps want, each recipient in exactly one of them; deterministic.

    A Bcc goes beside those who are shown while there is room; the rest of them in calls without a To where the provider
    takes that, else each alone. `carries_envelope`: who is shown stands in the mail itself, so only the number counts.
    """
    if _within(call, caps):
        return (call,)
    repeated = _repeated(call.recipients) if caps.once else frozenset()
    to = [mailbox for mailbox in call.to if mailbox.email not in repeated]
    cc = [mailbox for mailbox in call.cc if mailbox.email not in repeated]
    bcc = [recipient for recipient in call.bcc if recipient not in repeated]
    found: list[Addressing] = []
    while to or cc or bcc:
        if carries_envelope or to or cc or caps.bcc_alone:
            found.append(_take(call.reverse_path, to, cc, bcc, caps))
        else:
            found += [_alone(call.reverse_path, Mailbox(address)) for address in bcc]
            bcc = []
    shown = {mailbox.email: mailbox for mailbox in (*call.to, *call.cc)}
    found += [_alone(call.reverse_path, shown.get(r, Mailbox(r))) for r in call.recipients if r in repeated]
    return tuple(found)


def hidden_alone(call: Addressing) -> tuple[Addressing, ...]:
    """The call without its Bcc, and one for each of them: for who might show a Bcc to the others."""
    shown = (replace(call, bcc=()),) if call.to else ()
    return (*shown, *(_alone(call.reverse_path, Mailbox(address)) for address in call.bcc))


def _within(call: Addressing, caps: Caps) -> bool:
    counts = (len(call.to), len(call.cc), len(call.bcc), len(call.recipients))
    fits = all(
        not most or count <= most for most, count in zip((caps.to, caps.cc, caps.bcc, caps.total), counts, strict=True)
    )
    return fits and not (caps.once and _repeated(call.recipients))


def _take(reverse_path: str, to: list[Mailbox], cc: list[Mailbox], bcc: list[str], caps: Caps) -> Addressing:
    """One call's worth, removed from the lists. Where no To is left, Cc stands for it."""
    if not to and cc:
        to[:], cc[:] = cc, []
    room = caps.total or len(to) + len(cc) + len(bcc)
    taken: list[list[Any]] = []
    slots: tuple[tuple[list[Any], int], ...] = ((to, caps.to), (cc, caps.cc), (bcc, caps.bcc))
    for slot, most in slots:
        count = min(len(slot), room, most or room)
        taken.append(slot[:count])
        del slot[:count]
        room -= count
    return Addressing(reverse_path=reverse_path, to=tuple(taken[0]), cc=tuple(taken[1]), bcc=tuple(taken[2]))


def _alone(reverse_path: str, mailbox: Mailbox) -> Addressing:
    return Addressing(reverse_path=reverse_path, to=(mailbox,))


def _repeated(recipients: Iterable[str]) -> frozenset[str]:
    """Those that another one before them equals but for the case of letters."""
    seen: set[str] = set()
    again: set[str] = set()
    for recipient in recipients:
        key = recipient.casefold()
        if key in seen:
            again.add(recipient)
        seen.add(key)
    return frozenset(again)


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
    return (local, domain.lower() if domain.isascii() else a_label(domain))


def _loose(key: Key) -> Key:
    return (key[0].casefold(), key[1])


@lru_cache(maxsize=256)
def a_label(domain: str) -> str:
    """`müller.example` -> `xn--mller-kva.example`; what cannot be one, or would be more than one address, stays, in
    lower case."""
    if len(domain) > 255:  # the codec takes quadratic time
        return domain.lower()
    try:
        label = domain.encode("idna").decode("ascii").lower()
    except UnicodeError:
        return domain.lower()
    return label if _HOST.fullmatch(label) else domain.lower()
