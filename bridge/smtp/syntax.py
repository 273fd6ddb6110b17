"""The arguments of MAIL and RCPT, read strictly (RFC 5321 4.1.1.2, 4.1.1.3, 4.1.2; RFC 6531; RFC 3461 4.1-4.4; RFC 4954 5).

Values in, values or a `Reply` out. aiosmtpd's own reader goes through email._header_value_parser, which lets NUL, controls and
missing brackets pass and raises on others.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from bridge.model import NO_WISH, Wish
from bridge.reply import MESSAGE_TOO_BIG, Reply
from bridge.smtp import replies

MAX_PATH = 256  # RFC 5321 4.5.3.1.3, brackets included
MAX_DOMAIN = 255
MAX_ENVID = 100  # characters before they became xtext (RFC 3461 4.4)
MAX_ORCPT = 500  # characters as they are sent, type included (RFC 3461 4.2)

# With the line and paragraph separators, which RFC 5198 2 keeps out too: some readers end a line at them.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_SOURCE_ROUTE = re.compile(r"@[^:<>\"]*:")  # RFC 5321 4.1.1.3, appendix C: accepted and ignored
# In a path that is written in angle brackets; a quoted local part may hold ">" and blanks.
_PATH = re.compile(r'[ \t]*<((?:"(?:[^"\\]|\\.)*"|[^"<>\\ \t])*)>(?:[ \t]+(.*))?', re.DOTALL)
_ATEXT = r"[^\x00-\x20\x7f\s()<>\[\]:;@\\,.\"]"  # no blank of any script either: to most readers it ends the address
_LOCAL = re.compile(rf'(?:{_ATEXT}+(?:\.{_ATEXT}+)*|"(?:[^"\\\x00-\x1f\x7f]|\\[\x20-\x7e])*")')
# Dots where the RFC has none ("a..b@", "a.@") come from real mailboxes of Japanese carriers; an API says no by itself.
_LENIENT_LOCAL = re.compile(rf"(?:{_ATEXT}|\.)+")
_LABEL = r"[^\W](?:[\w-]*[^\W])?"  # letters and digits of any script; underscores occur in host names inside companies
_DOMAIN = re.compile(rf"(?:_?{_LABEL})(?:\._?{_LABEL})*\.?")
_LITERAL = re.compile(r"\[[A-Za-z0-9:.\-]{1,80}\]")
_XTEXT = re.compile(r"(?:[\x21-\x2a\x2c-\x3c\x3e-\x7e]|\+[0-9A-F]{2})*")  # RFC 3461 4
_HEX = re.compile(r"\+([0-9A-F]{2})")
_EMBEDDED = re.compile(r"\\x\{([0-9A-Fa-f]{1,6})\}")  # RFC 6533 3: `\x{FC}` is a code point
_ADDRESS_TYPE = re.compile(r"[A-Za-z0-9-]+")
_NOTIFY = re.compile(r"NEVER|(?:SUCCESS|FAILURE|DELAY)(?:,(?:SUCCESS|FAILURE|DELAY))*", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class MailCommand:
    """`reverse_path` "" is the null one. `size` is 0 when not declared; `ret` and `envid` as in `Envelope`."""

    reverse_path: str
    size: int = 0
    smtputf8: bool = False
    ret: str = ""
    envid: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RcptCommand:
    """One recipient, and what the client wants to hear about it."""

    address: str
    wish: Wish = NO_WISH


def parse_mail(argument: str, *, hostname: str, max_size: int) -> MailCommand | Reply:
    """`FROM:<a@b> SIZE=1` -> MailCommand, or the reply that refuses it. A bare local part (root) gets our host name."""
    parts = _split_path(argument, "FROM:")
    if isinstance(parts, Reply):
        return parts
    path, parameters = parts
    values = _parameters(parameters)
    if isinstance(values, Reply):
        return values
    if refusal := _check_mail_parameters(values, max_size):
        return refusal
    if path and (refusal := _check_address(path, smtputf8="SMTPUTF8" in values, sender=True, bare_local=True)):
        return refusal
    if path and "@" not in path:
        path = f"{path}@{hostname}"
    return MailCommand(
        reverse_path=path,
        size=int(values.get("SIZE") or 0),
        smtputf8="SMTPUTF8" in values,
        ret=values.get("RET", "").upper(),
        envid=values.get("ENVID", ""),
    )


def parse_rcpt(argument: str, *, hostname: str, smtputf8: bool) -> RcptCommand | Reply:
    """`TO:<a@b> NOTIFY=NEVER` -> RcptCommand, or the reply that refuses it.

    `<Postmaster>` gets our host name (RFC 5321 4.1.1.3).
    """
    parts = _split_path(argument, "TO:")
    if isinstance(parts, Reply):
        return parts
    path, parameters = parts
    postmaster = path.lower() == "postmaster"
    if refusal := _check_address(path, smtputf8=smtputf8, sender=False, bare_local=postmaster):
        return refusal
    values = _parameters(parameters)
    if isinstance(values, Reply):
        return values
    if refusal := _check_rcpt_parameters(values, smtputf8=smtputf8):
        return refusal
    address = f"{path}@{hostname}" if postmaster else path
    notify = ",".join(dict.fromkeys(values.get("NOTIFY", "").upper().split(",")))
    orcpt = values.get("ORCPT", "")
    return RcptCommand(address=address, wish=Wish(notify, orcpt) if notify or orcpt else NO_WISH)


def _split_path(argument: str, keyword: str) -> tuple[str, str] | Reply:
    sender = keyword == "FROM:"
    if _CONTROL.search(argument):
        return replies.SENDER_HAS_CONTROLS if sender else replies.RECIPIENT_HAS_CONTROLS
    match = _PATH.fullmatch(argument[len(keyword) :]) if argument[: len(keyword)].upper() == keyword else None
    if not match:
        return replies.MAIL_SYNTAX if sender else replies.RCPT_SYNTAX
    path = _SOURCE_ROUTE.sub("", match[1], count=1) if match[1].startswith("@") else match[1]
    return path, match[2] or ""


def _check_address(path: str, *, smtputf8: bool, sender: bool, bare_local: bool) -> Reply | None:
    malformed = replies.BAD_SENDER if sender else replies.BAD_RECIPIENT
    if not path.isascii():
        if not _is_utf8(path):
            return malformed
        if not smtputf8:
            return replies.SENDER_NEEDS_SMTPUTF8 if sender else replies.RECIPIENT_NEEDS_SMTPUTF8
    if len(path.encode()) > MAX_PATH - 2:
        return malformed
    local, at, domain = path.rpartition("@")
    if not at:
        local, domain = path, ""
    if not (_LOCAL.fullmatch(local) or _LENIENT_LOCAL.fullmatch(local)):
        return malformed
    if not at:
        return None if bare_local else malformed
    return None if _is_domain(domain) else malformed


def _is_domain(domain: str) -> bool:
    if domain.startswith("["):
        return bool(_LITERAL.fullmatch(domain))
    return len(domain.encode()) <= MAX_DOMAIN and bool(_DOMAIN.fullmatch(domain))


def _is_utf8(text: str) -> bool:
    """False for the surrogates that stand for octets which were no UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _parameters(text: str) -> dict[str, str] | Reply:
    """`SIZE=1 SMTPUTF8` -> {"SIZE": "1", "SMTPUTF8": ""}; names upper-case, each at most once (RFC 5321 4.1.2)."""
    values: dict[str, str] = {}
    for word in filter(None, text.split(" ")):  # at no other blank: an address of any script may hold one
        name, equals, value = word.partition("=")
        name = name.upper()
        if not re.fullmatch(r"[A-Z0-9][A-Z0-9-]*", name) or (equals and not value) or name in values:
            return replies.BAD_PARAMETER
        values[name] = value
    return values


def _check_mail_parameters(values: dict[str, str], max_size: int) -> Reply | None:
    for name, value in values.items():
        if name not in _MAIL_PARAMETERS:
            return replies.UNKNOWN_PARAMETER
        if not _MAIL_PARAMETERS[name].fullmatch(value):
            return replies.BAD_PARAMETER
    if len(_HEX.sub("x", values.get("ENVID", ""))) > MAX_ENVID:
        return replies.BAD_PARAMETER
    return MESSAGE_TOO_BIG if max_size and int(values.get("SIZE") or 0) > max_size else None


def _check_rcpt_parameters(values: dict[str, str], *, smtputf8: bool) -> Reply | None:
    for name, value in values.items():
        if name == "NOTIFY":
            good = bool(_NOTIFY.fullmatch(value))
        elif name == "ORCPT":
            good = _is_orcpt(value, smtputf8=smtputf8)
        else:
            return replies.UNKNOWN_PARAMETER
        if not good:
            return replies.BAD_PARAMETER
    return None


def _is_orcpt(value: str, *, smtputf8: bool) -> bool:
    """`rfc822;b+40example.org`: a type, and an address in xtext that is not empty (RFC 3461 4.2).

    Of type utf-8 a character may stand there as `\\x{FC}`, or under SMTPUTF8 as it is (RFC 6533 3).
    """
    kind, _, encoded = value.partition(";")
    if len(value) > MAX_ORCPT or not _ADDRESS_TYPE.fullmatch(kind) or not _is_utf8(encoded):
        return False
    international = kind.lower() == "utf-8"
    ascii_part = "".join(filter(str.isascii, encoded)) if international and smtputf8 else encoded
    return bool(_XTEXT.fullmatch(ascii_part)) and not _is_blank(encoded, embedded=international)


def _is_blank(encoded: str, *, embedded: bool) -> bool:
    decoded = _HEX.sub(lambda match: chr(int(match[1], 16)), encoded)
    if embedded:
        decoded = _EMBEDDED.sub(lambda match: chr(min(int(match[1], 16), 0x10FFFF)), decoded)
    return not decoded.strip()


# Also where they were not offered (HELO): clients send them all the same. BODY and AUTH= change nothing: content is taken
# as it comes, and who sends is who logged in.
_MAIL_PARAMETERS = {
    "SIZE": re.compile(r"[0-9]{1,20}"),
    "BODY": re.compile(r"7BIT|8BITMIME", re.IGNORECASE),
    "SMTPUTF8": re.compile(r""),
    "AUTH": _XTEXT,
    "RET": re.compile(r"FULL|HDRS", re.IGNORECASE),
    "ENVID": _XTEXT,
}
