"""Addresses as they stand in a header, read strictly: one mailbox, `ann@example.com` or `Ann <ann@example.com>`.

What a header may not hold without quotes (RFC 5322 3.2.3) is refused here too, so that a client that forgets to quote a
display name hears of it in the sandbox and not from a real API.
"""

from __future__ import annotations

import re

from bridge.model import Mailbox

MAX_CHARACTERS = 1000  # also keeps the patterns' backtracking small
MAX_ADDRESS_OCTETS = 254  # RFC 5321 4.5.3.1.3: a path of 256 with its brackets
MAX_LOCAL_OCTETS = 64  # RFC 5321 4.5.3.1.1
_QUOTED = r'"(?:[^"\\]|\\.)*"'
_NAME_ADDR = re.compile(rf'((?:{_QUOTED}|[^"<>,;:@\\])*)<((?:{_QUOTED}|[^"<>])+)>')
_ADDR_SPEC = re.compile(rf'(?:{_QUOTED}|[^\s"(),:;<>@\[\\\]]+)@(?:\[[A-Za-z0-9:.]+\]|[\w-]+(?:\.[\w-]+)*)')
_LIST_ITEM = re.compile(rf'(?:{_QUOTED}|[^",])+')
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_QUOTED_PAIR = re.compile(r"\\(.)")


def parse_mailbox(text: str) -> Mailbox:
    """Raises ValueError with a reason that does not repeat the text."""
    if len(text) > MAX_CHARACTERS:
        raise ValueError("is too long for an address")
    if _CONTROL.search(text):
        raise ValueError("holds a control character")
    match = _NAME_ADDR.fullmatch(text.strip())
    name, email = (match[1].strip(), match[2].strip()) if match else ("", text.strip())
    check_address(email)
    return Mailbox(email, _QUOTED_PAIR.sub(r"\1", name[1:-1]) if name.startswith('"') else name)


def check_address(email: str) -> None:
    """Raises ValueError unless it is one bare `local@domain`."""
    if len(email) > MAX_CHARACTERS or not _ADDR_SPEC.fullmatch(email):
        raise ValueError("is not one email address")
    if len(email.encode()) > MAX_ADDRESS_OCTETS:
        raise ValueError(f"is an address of more than {MAX_ADDRESS_OCTETS} octets")
    if len(email.rpartition("@")[0].encode()) > MAX_LOCAL_OCTETS:
        raise ValueError(f"has a local part of more than {MAX_LOCAL_OCTETS} octets")


def split_list(text: str) -> list[str]:
    """`a@x, "b,c"@y` -> both, without blanks; commas inside quotes separate nothing."""
    return [item.strip() for item in _LIST_ITEM.findall(text) if item.strip()]
