"""What an address and the parameters behind it may be: RFC 5321 4.1.2, 6531 3.3, 3461 4, 4954 5, and where the bridge bends.

Read character by character and without a line of bridge/smtp/syntax.py, so that the two can disagree.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

SPECIALS = set(' ()<>[]:;@\\,"')
MAIL_PARAMETERS = {"SIZE", "BODY", "SMTPUTF8", "AUTH", "RET", "ENVID"}
RCPT_PARAMETERS = {"NOTIFY", "ORCPT"}


class Refusal(Exception):
    """`reply`: as in "501 5.5.4"."""

    def __init__(self, reply: str) -> None:
        super().__init__(reply)
        self.reply = reply


@dataclass(frozen=True, kw_only=True)
class Mail:
    reverse_path: str
    smtputf8: bool
    binary: bool = False


def read_mail(argument: str, *, hostname: str, max_size: int, bodies: set[str]) -> Mail:
    """Raises Refusal. The parameters are looked at before the address."""
    path, words = split(argument, "FROM:", control="501 5.1.7")
    values = parameters(words)
    for name, value in values.items():
        check_mail_parameter(name, value, bodies)
    if len(from_xtext(values.get("ENVID", ""))) > 100:
        raise Refusal("501 5.5.4")
    if int(values.get("SIZE", "0")) > max_size:
        raise Refusal("552 5.3.4")
    smtputf8 = "SMTPUTF8" in values
    address = without_route(path)
    if path and not is_address(address, bare_local=True):
        raise Refusal(reason(address, "5.1.7", smtputf8=smtputf8, good=False))
    if path and not smtputf8 and not address.isascii():
        raise Refusal("553 5.6.7")
    sender = f"{address}@{hostname}" if address and "@" not in address else address
    return Mail(reverse_path=sender, smtputf8=smtputf8, binary=values.get("BODY", "").upper() == "BINARYMIME")


def read_rcpt(argument: str, *, hostname: str, smtputf8: bool) -> str:
    """The recipient. Raises Refusal. The address is looked at before the parameters."""
    path, words = split(argument, "TO:", control="501 5.1.3")
    address = without_route(path)
    postmaster = address.lower() == "postmaster"
    good = is_address(address, bare_local=postmaster)
    if not good or (not smtputf8 and not address.isascii()):
        raise Refusal(reason(address, "5.1.3", smtputf8=smtputf8, good=good))
    for name, value in parameters(words).items():
        check_rcpt_parameter(name, value, smtputf8=smtputf8)
    return f"{address}@{hostname}" if postmaster else address


def reason(address: str, malformed: str, *, smtputf8: bool, good: bool) -> str:
    """Eight-bit addresses of a client that did not say SMTPUTF8 hear that first, be they otherwise right or not."""
    foreign = not address.isascii() and is_utf8(address)
    return "553 5.6.7" if foreign and not smtputf8 else f"553 {malformed}"


def split(argument: str, keyword: str, *, control: str) -> tuple[str, str]:
    """`FROM:<a@b> SIZE=1` -> ("a@b", "SIZE=1")."""
    if any(unicodedata.category(c) in ("Cc", "Zl", "Zp") for c in argument):
        raise Refusal(control)
    rest = argument[len(keyword) :].lstrip(" ")
    if argument[: len(keyword)].upper() != keyword or not rest.startswith("<"):
        raise Refusal("501 5.5.4")
    end = end_of_path(rest)
    if rest[end + 1 : end + 2] not in ("", " "):
        raise Refusal("501 5.5.4")
    return rest[1:end], rest[end + 1 :]


def end_of_path(text: str) -> int:
    """Where the ">" is that no quoted local part holds. Raises Refusal."""
    quoted, position = False, 1
    while position < len(text):
        c = text[position]
        if quoted and c == "\\":
            position += 1
        elif c == '"':
            quoted = not quoted
        elif not quoted and c == ">":
            return position
        elif not quoted and c in "< \\":
            break
        position += 1
    raise Refusal("501 5.5.4")


def without_route(path: str) -> str:
    """RFC 5321 appendix C: `@a,@b:c@d` is c@d."""
    route, _, rest = path.partition(":")
    return rest if path.startswith("@") and rest and not set(route) & set('<>"') else path


def is_address(address: str, *, bare_local: bool) -> bool:
    local, at, domain = address.rpartition("@")
    if not at:
        local = address
    if not is_utf8(address) or len(address.encode()) > 254 or not is_local(local):
        return False
    return is_domain(domain) if at else bare_local


def is_local(local: str) -> bool:
    """Dots may stand anywhere; RFC 5321 wants an atom on both sides, some Japanese mailboxes have none."""
    if len(local) < 2 or local[0] != '"':
        return bool(local) and not set(local) & SPECIALS and not any(map(str.isspace, local))
    inside, closed, position = local[1:-1], local[-1] == '"', 0
    while position < len(inside):
        if inside[position] == "\\":
            position += 1
            closed = closed and " " <= inside[position : position + 1] <= "~"
        elif inside[position] == '"':
            return False
        position += 1
    return closed


def is_domain(domain: str) -> bool:
    if domain.startswith("["):
        inside = domain[1:-1]
        return (
            domain[-1] == "]"
            and 1 <= len(inside) <= 80
            and all(c.isascii() and (c.isalnum() or c in ":.-") for c in inside)
        )
    labels = (domain[:-1] if domain.endswith(".") else domain).split(".")
    return len(domain.encode()) <= 255 and all(map(is_label, labels))


def is_label(label: str) -> bool:
    """Letters and digits of any script with their marks and joiners (RFC 5892), hyphens within; underscores are for intranets."""
    word = "(?:L[MJ]*|_)"
    return bool(re.fullmatch(f"{word}(?:(?:{word}|-)*{word})?", "".join(map(kind, label))))


def kind(c: str) -> str:
    """L letter or digit, M mark, J joiner, else itself."""
    if c in "\u200c\u200d":
        return "J"
    return {"L": "L", "N": "L", "M": "M"}.get(unicodedata.category(c)[0], c if c in "_-" else "?")


def is_utf8(text: str) -> bool:
    return not any("\ud800" <= c <= "\udfff" for c in text)


# --- parameters


def parameters(words: str) -> dict[str, str]:
    """RFC 5321 4.1.2: `esmtp-keyword ["=" esmtp-value]`, each once."""
    found: dict[str, str] = {}
    for word in filter(None, words.split(" ")):
        name, equals, value = word.partition("=")
        letters = name.replace("-", "")
        if not name or name.startswith("-") or not (letters.isascii() and letters.isalnum()):
            raise Refusal("501 5.5.4")
        if name.upper() in found or bool(equals) != bool(value):
            raise Refusal("501 5.5.4")
        found[name.upper()] = value
    return found


def check_mail_parameter(name: str, value: str, bodies: set[str]) -> None:
    if name not in MAIL_PARAMETERS:
        raise Refusal("555 5.5.4")
    good = {
        "SIZE": value.isascii() and value.isdigit() and len(value) <= 20,
        "BODY": value.isascii() and value.upper() in bodies,
        "SMTPUTF8": value == "",
        "AUTH": bool(from_xtext(value)),
        "RET": value.isascii() and value.upper() in ("FULL", "HDRS"),
        "ENVID": bool(from_xtext(value)),
    }
    if not good[name]:
        raise Refusal("501 5.5.4")


def check_rcpt_parameter(name: str, value: str, *, smtputf8: bool) -> None:
    if name not in RCPT_PARAMETERS:
        raise Refusal("555 5.5.4")
    wishes = set(value.upper().split(",")) if value.isascii() else {""}
    wished = (wishes == {"NEVER"} and "," not in value) or wishes <= {"SUCCESS", "FAILURE", "DELAY"}
    if not (wished if name == "NOTIFY" else is_orcpt(value, smtputf8=smtputf8)):
        raise Refusal("501 5.5.4")


def is_orcpt(value: str, *, smtputf8: bool) -> bool:
    kind, semicolon, encoded = value.partition(";")
    letters = kind.replace("-", "x")
    if not semicolon or len(value) > 500 or not (letters.isascii() and letters.isalnum()) or not is_utf8(value):
        return False
    if kind.lower() == "utf-8" and smtputf8:
        encoded = "".join(c if c.isascii() else "x" for c in encoded)
    return bool(from_xtext(encoded).strip())


def from_xtext(text: str) -> str:
    """RFC 3461 4: printable ASCII without "+" and "=", and "+2B"; "" when it is none."""
    decoded, position = "", 0
    while position < len(text):
        c = text[position]
        if c == "+":
            digits = text[position + 1 : position + 3]
            if len(digits) != 2 or set(digits) - set("0123456789ABCDEF"):
                return ""
            c, position = chr(int(digits, 16)), position + 2
        elif not "!" <= c <= "~" or c == "=":
            return ""
        decoded, position = decoded + c, position + 1
    return decoded
