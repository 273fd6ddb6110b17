"""What an address in an envelope may be (RFC 5321 4.1.2, RFC 6531), wherever it comes in: read strictly, but for the dots that
real mailboxes have where the RFC has none.
"""

from __future__ import annotations

import re
import unicodedata

MAX_PATH = 256  # RFC 5321 4.5.3.1.3, brackets included
MAX_DOMAIN = 255

# With the line and paragraph separators, which RFC 5198 2 keeps out too: some readers end a line at them.
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_ATEXT = r"[^\x00-\x20\x7f\s()<>\[\]:;@\\,.\"]"  # no blank of any script either: to most readers it ends the address
_LOCAL = re.compile(rf'(?:{_ATEXT}+(?:\.{_ATEXT}+)*|"(?:[^"\\\x00-\x1f\x7f]|\\[\x20-\x7e])*")')
# Dots where the RFC has none ("a..b@", "a.@") come from real mailboxes of Japanese carriers; an API says no by itself.
_LENIENT_LOCAL = re.compile(rf"(?:{_ATEXT}|\.)+")
# Letters and digits of any script, and underscores, which occur in host names inside companies. Each label can be read in one way
# only: with two, a domain of 85 labels has 2**85.
_LABEL = r"\w(?:[\w-]*\w)?"
_DOMAIN = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\.?")
_JOINERS = "\u200c\u200d"
_LITERAL = re.compile(r"\[[A-Za-z0-9:.\-]{1,80}\]")


def is_address(address: str) -> bool:
    """Whether mail can be addressed to it: `local@domain`."""
    local, at, domain = address.rpartition("@")
    return (
        bool(at)
        and is_utf8(address)
        and len(address.encode()) <= MAX_PATH - 2
        and not CONTROL.search(address)
        and is_local_part(local)
        and is_domain(domain)
    )


def is_local_part(local: str) -> bool:
    return bool(_LOCAL.fullmatch(local) or _LENIENT_LOCAL.fullmatch(local))


def is_domain(domain: str) -> bool:
    if domain.startswith("["):
        return bool(_LITERAL.fullmatch(domain))
    return len(domain.encode()) <= MAX_DOMAIN and bool(_DOMAIN.fullmatch(_without_marks(domain)))


def _without_marks(domain: str) -> str:
    """Vowel signs and joiners are part of the letter before them (RFC 5892 2.1, A.1, A.2); `\\w` does not know them."""
    if domain.isascii():
        return domain
    letters: list[str] = []
    for c in domain:
        follows = letters and letters[-1].isalnum()
        if not (follows and (c in _JOINERS or unicodedata.category(c).startswith("M"))):
            letters.append(c)
    return "".join(letters)


def is_utf8(text: str) -> bool:
    """False for the surrogates that stand for octets which were no UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
