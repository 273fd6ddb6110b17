"""The arguments of MAIL and RCPT, read strictly (RFC 5321 4.1.1.2, 4.1.1.3, 4.1.2; RFC 6531; RFC 3461 4.1-4.4; RFC 4954 5).

Values in, values or a `Reply` out. aiosmtpd's own reader goes through email._header_value_parser, which lets NUL, controls and
missing brackets pass and raises on others.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from bridge.mime.path import CONTROL, MAX_PATH, is_domain, is_local_part, is_utf8
from bridge.model import NO_WISH, Wish
from bridge.reply import MESSAGE_TOO_BIG, Reply
from bridge.smtp import replies

MAX_ENVID = 100  # characters before they became xtext (RFC 3461 4.4)
MAX_ORCPT = 500  # characters as they are sent, type included (RFC 3461 4.2)

_SOURCE_ROUTE = re.compile(r"@[^:<>\"]*:")  # RFC 5321 4.1.1.3, appendix C: accepted and ignored
# In a path that is written in angle brackets; a quoted local part may hold ">" and blanks.
_PATH = re.compile(r'[ \t]*<((?:"(?:[^"\\]|\\.)*"|[^"<>\\ \t])*)>(?:[ \t]+(.*))?', re.DOTALL)
_BARE_PATH = re.compile(r"[ \t]*([^<> \t]+)(?:[ \t]+(.*))?", re.DOTALL)  # MAIL FROM:ann@example.com SIZE=1
_XCHAR = r"(?:[\x21-\x2a\x2c-\x3c\x3e-\x7e]|\+[0-9A-F]{2})"  # RFC 3461 4
_XTEXT = re.compile(rf"{_XCHAR}*")
_SOME_XTEXT = re.compile(rf"{_XCHAR}+")
_HEX = re.compile(r"\+([0-9A-F]{2})")
_EMBEDDED = re.compile(r"\\x\{([0-9A-Fa-f]{1,6})\}")  # RFC 6533 3: `\x{FC}` is a code point
_KEYWORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]*")
_ADDRESS_TYPE = re.compile(r"[A-Za-z0-9-]+")
_BDAT = re.compile(r"([0-9]{1,15})(?:[ \t]+(LAST))?", re.IGNORECASE | re.ASCII)
_NOTIFY = re.compile(r"NEVER|(?:SUCCESS|FAILURE|DELAY)(?:,(?:SUCCESS|FAILURE|DELAY))*", re.IGNORECASE | re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class MailCommand:
    """`reverse_path` "" is the null one. `size` is 0 and `body` "" when not declared; `ret` and `envid` as in `Envelope`."""

    reverse_path: str
    size: int = 0
    body: str = ""
    smtputf8: bool = False
    ret: str = ""
    envid: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RcptCommand:
    """One recipient, and what the client wants to hear about it."""

    address: str
    wish: Wish = NO_WISH


def parse_mail(argument: str, *, hostname: str, max_size: int, bare: bool = False) -> MailCommand | Reply:
    """`FROM:<a@b> SIZE=1` -> MailCommand, or the reply that refuses it. A bare local part (root) gets our host name.

    `bare`: the angle brackets may be missing.
    """
    parts = _split_path(argument, "FROM:", bare)
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
        body=values.get("BODY", "").upper(),
        smtputf8="SMTPUTF8" in values,
        ret=values.get("RET", "").upper(),
        envid=values.get("ENVID", ""),
    )


def parse_rcpt(argument: str, *, hostname: str, smtputf8: bool, bare: bool = False) -> RcptCommand | Reply:
    """`TO:<a@b> NOTIFY=NEVER` -> RcptCommand, or the reply that refuses it.

    `<Postmaster>` gets our host name (RFC 5321 4.1.1.3).
    """
    parts = _split_path(argument, "TO:", bare)
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


def parse_bdat(argument: str) -> tuple[int, bool] | None:
    """`86 LAST` -> (86, True): octets that follow, and whether they are the end of the message (RFC 3030 2)."""
    match = _BDAT.fullmatch(argument)
    return (int(match[1]), bool(match[2])) if match else None


def leading_size(argument: bytes) -> int:
    """Of a BDAT that is not right: the size it begins with, 0 for none."""
    match = re.match(rb"[0-9]{1,20}(?=[ \t]|\Z)", argument)
    return int(match[0]) if match else 0


def _split_path(argument: str, keyword: str, bare: bool) -> tuple[str, str] | Reply:
    sender = keyword == "FROM:"
    if CONTROL.search(argument):
        return replies.SENDER_HAS_CONTROLS if sender else replies.RECIPIENT_HAS_CONTROLS
    match = None
    if argument[: len(keyword)].upper() == keyword:
        rest = argument[len(keyword) :]
        match = _PATH.fullmatch(rest) or (_BARE_PATH.fullmatch(rest) if bare else None)
    if not match:
        return replies.MAIL_SYNTAX if sender else replies.RCPT_SYNTAX
    route = _SOURCE_ROUTE.match(match[1])
    # A route that leads to nobody is malformed: without it the null path would be left.
    return (match[1][route.end() :] if route else "") or match[1], match[2] or ""


def _check_address(path: str, *, smtputf8: bool, sender: bool, bare_local: bool) -> Reply | None:
    malformed = replies.BAD_SENDER if sender else replies.BAD_RECIPIENT
    if not path.isascii():
        if not is_utf8(path):
            return malformed
        if not smtputf8:
            return replies.SENDER_NEEDS_SMTPUTF8 if sender else replies.RECIPIENT_NEEDS_SMTPUTF8
    if len(path.encode()) > MAX_PATH - 2:
        return malformed
    local, at, domain = path.rpartition("@")
    if not at:
        local, domain = path, ""
    if not is_local_part(local):
        return malformed
    if not at:
        return None if bare_local else malformed
    return None if is_domain(domain) else malformed


def _parameters(text: str) -> dict[str, str] | Reply:
    """`SIZE=1 SMTPUTF8` -> {"SIZE": "1", "SMTPUTF8": ""}; names upper-case, each at most once (RFC 5321 4.1.2)."""
    values: dict[str, str] = {}
    for word in filter(None, text.split(" ")):  # at no other blank: an address of any script may hold one
        name, equals, value = word.partition("=")
        if not _KEYWORD.fullmatch(name) or (equals and not value) or name.upper() in values:
            return replies.BAD_PARAMETER
        values[name.upper()] = value
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
    if len(value) > MAX_ORCPT or not _ADDRESS_TYPE.fullmatch(kind) or not is_utf8(encoded):
        return False
    international = kind.lower() == "utf-8"
    ascii_part = "".join(filter(str.isascii, encoded)) if international and smtputf8 else encoded
    return bool(_XTEXT.fullmatch(ascii_part)) and not _is_blank(encoded, embedded=international)


def _is_blank(encoded: str, *, embedded: bool) -> bool:
    decoded = _HEX.sub(lambda match: chr(int(match[1], 16)), encoded)
    if embedded:
        decoded = _EMBEDDED.sub(lambda match: chr(min(int(match[1], 16), 0x10FFFF)), decoded)
    return not decoded.strip()


# Also where they were not offered (HELO): clients send them all the same. AUTH= changes nothing: who sends is who logged in.
_MAIL_PARAMETERS = {
    "SIZE": re.compile(r"[0-9]{1,20}"),
    "BODY": re.compile(r"7BIT|8BITMIME|BINARYMIME", re.IGNORECASE | re.ASCII),
    "SMTPUTF8": re.compile(r""),
    "AUTH": _SOME_XTEXT,
    "RET": re.compile(r"FULL|HDRS", re.IGNORECASE | re.ASCII),
    "ENVID": _SOME_XTEXT,
}
