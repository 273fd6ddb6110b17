"""What a program asks for in JSON, read strictly: each mistake is told with the field it stands in. Values in, values out.

400: the request cannot be read so; whether the message may be sent is looked at elsewhere.
"""

from __future__ import annotations

import binascii
import difflib
import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from bridge.mime.headers import clean
from bridge.mime.params import MAX_FILENAME, TOKEN, parse_value
from bridge.mime.strict import BadAddress, read_addresses
from bridge.mime.write import MESSAGE, Draft, File, can_be_message
from bridge.model import Mailbox, same_recipient_key
from bridge.web.errors import Problem, shown

FIELDS = ("to", "from", "subject", "body", "html", "cc", "bcc", "reply_to", "headers", "attachments")
FILE_FIELDS = ("filename", "content_type", "content", "content_id")
KEY_FIELD = "idempotency_key"  # of a message among several
MAX_SUBJECT = 10_000  # characters
MAX_VALUE = 100_000  # characters of a header
MAX_KEY = 255
_HASHED = 64 * 1024  # characters at a time
MAX_FILES = 500
# What other APIs call it.
_OTHER_NAMES = {
    "text": "body", "message": "body", "content": "body", "text_body": "body", "sender": "from", "recipient": "to",
    "recipients": "to", "html_body": "html", "files": "attachments", "name": "filename", "type": "content_type",
    "mime_type": "content_type", "data": "content", "cid": "content_id",
}  # fmt: skip
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,76}")
_OWN_FIELD = {"from": "from", "to": "to", "cc": "cc", "bcc": "bcc", "subject": "subject", "reply-to": "reply_to"}
_NOT_GIVEN = (
    "content-",
    "resent-",
    "mime-version",
    "received",
    "return-path",
    "date",
    "sender",
    "dkim-signature",
    "x-bridge-hops",
)
_NOT_A_LETTER = re.compile(r"[^a-z]")
_MESSAGE_ID = re.compile(r"<[!-;=?-~]{1,200}@[!-;=?-~]{1,200}>")
_CONTENT_ID = re.compile(r"[!-;=?-~]{1,250}")
_KEY = re.compile(r"[ -~]{1,255}")
_BLANKS = str.maketrans("", "", " \t\r\n")


@dataclass(slots=True, kw_only=True)
class Order:
    """One message that is to be sent. `recipients`: each address once, with the field it stands in. `key`: its own
    Idempotency-Key; `digest`: of what is asked. The draft is given up once it is written."""

    draft: Draft | None
    sender: str
    recipients: dict[str, str]
    key: str = ""
    digest: bytes = b""


def read_order(value: Any, *, max_recipients: int, among_others: bool = False) -> Order:
    """Raises Problem."""
    if not isinstance(value, dict):
        raise Problem(400, "must be an object" if among_others else "The body must be a JSON object")
    _known(value, (*FIELDS, KEY_FIELD) if among_others else FIELDS)
    sender = _sender(value)
    shown = {name: _addresses(value, name) for name in ("to", "cc", "bcc", "reply_to")}
    recipients = _recipients(shown, max_recipients)
    text, html = _text(value, "body"), _text(value, "html")
    if text is None and html is None:
        raise Problem(400, "is missing; give the text of the mail, or html", field="body")
    draft = Draft(
        sender=sender,
        to=_mailboxes(shown["to"]),
        cc=_mailboxes(shown["cc"]),
        reply_to=_mailboxes(shown["reply_to"]),
        subject=_line(_required(value, "subject"), "subject", MAX_SUBJECT),
        text=text,
        html=html,
        headers=tuple(_headers(value.get("headers", {}))),
        files=tuple(_files(value.get("attachments", []))),
    )
    return Order(
        draft=draft,
        sender=sender.email,
        recipients=recipients,
        key=read_key(value[KEY_FIELD], KEY_FIELD) if KEY_FIELD in value else "",
        digest=_digest(value),
    )


def read_key(value: Any, field: str) -> str:
    """With or without the quotes that a structured field has (draft-ietf-httpapi-idempotency-key-header). Raises Problem."""
    key = _string(value, field)
    if len(key) > 1 and key[0] == key[-1] == '"':
        key = key[1:-1]
    if not _KEY.fullmatch(key):
        raise Problem(400, f"must be 1 to {MAX_KEY} printable ASCII characters", field=field)
    return key


def _digest(value: dict[str, Any]) -> bytes:
    """Without a copy of it: two that differ in anything but the order of their fields have different ones."""
    found = hashlib.sha256()
    stack: list[Any] = [{name: one for name, one in value.items() if name != KEY_FIELD}]
    while stack:
        one = stack.pop()
        found.update(f"{type(one).__name__} {len(one) if isinstance(one, str | dict | list) else one!r};".encode())
        if isinstance(one, str):
            for start in range(0, len(one), _HASHED):
                found.update(one[start : start + _HASHED].encode("utf-8", "surrogatepass"))
        elif isinstance(one, dict):
            stack += [inner for name in sorted(one) for inner in (one[name], name)]
        elif isinstance(one, list):
            stack += reversed(one)
    return found.digest()


def _known(value: dict[str, Any], names: tuple[str, ...], where: str = "") -> None:
    for name in value:
        if name not in names:
            raise Problem(400, f"There is no such field{nearest(name, names)}", field=f"{where}{clean(name)[:80]}")


def nearest(name: str, names: Iterable[str]) -> str:
    """`; did you mean "subject"?`, or nothing."""
    lower = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name[:80]).lower().replace("-", "_")
    known = list(names)
    close = [_OTHER_NAMES[lower]] if lower in _OTHER_NAMES else difflib.get_close_matches(lower, known, 1)
    return f'; did you mean "{close[0]}"?' if close and close[0] in known else ""


def _required(value: dict[str, Any], name: str) -> Any:
    if name not in value:
        raise Problem(400, "is missing", field=name)
    return value[name]


def _string(value: Any, field: str) -> str:
    if not isinstance(value, str):
        raise Problem(400, "must be a string", field=field)
    return value


def _line(value: Any, field: str, most: int) -> str:
    text = _string(value, field)
    if clean(text) != text.strip():
        raise Problem(400, "must be one line, without control characters", field=field)
    if len(text) > most:
        raise Problem(400, f"must have at most {most} characters", field=field)
    return text.strip()


def _text(value: dict[str, Any], name: str) -> str | None:
    if name not in value:
        return None
    text = _string(value[name], name)
    if "\0" in text:
        raise Problem(400, "must not hold the character U+0000", field=name)
    return text


# --- addresses


Found = list[tuple[Mailbox, str]]  # with the field of each


def _sender(value: dict[str, Any]) -> Mailbox:
    found = _read(_string(_required(value, "from"), "from"), "from")
    if len(found) != 1:
        raise Problem(400, "must be one address", field="from")
    return found[0]


def _addresses(value: dict[str, Any], name: str) -> Found:
    given = value.get(name, [])
    if isinstance(given, str):
        found = [(mailbox, name) for mailbox in _read(given, name)]
        if not found:
            raise Problem(400, "has no address", field=name)
        return found
    if not isinstance(given, list):
        raise Problem(400, "must be a string, or a list of them", field=name)
    listed: Found = []
    for number, one in enumerate(given):
        field = f"{name}[{number}]"
        read = _read(_string(one, field), field)
        if len(read) != 1:
            raise Problem(400, "must be one address; a name with a comma needs double quotes", field=field)
        listed.append((read[0], field))
    return listed


def _read(text: str, field: str) -> list[Mailbox]:
    try:
        return read_addresses(text)
    except BadAddress as error:
        raise Problem(400, str(error), field=field) from None


def _mailboxes(found: Found) -> tuple[Mailbox, ...]:
    return tuple(mailbox for mailbox, _ in found)


def _recipients(shown: dict[str, Found], most: int) -> dict[str, str]:
    first: dict[str, tuple[str, str]] = {}
    for name in ("to", "cc", "bcc"):
        for mailbox, field in shown[name]:
            first.setdefault(same_recipient_key(mailbox.email), (mailbox.email, field))
            if len(first) > most:
                raise Problem(400, f"A message may have {most} recipients", field=field)
    if not first:
        raise Problem(400, "is missing; a message needs a recipient", field="to")
    return dict(first.values())


# --- headers and files


def _headers(value: Any) -> Iterable[tuple[str, str]]:
    if not isinstance(value, dict):
        raise Problem(400, 'must be an object, as in {"X-Shop": "42"}', field="headers")
    seen: set[str] = set()
    for name, given in value.items():
        field = f"headers.{clean(name)[:80]}"
        _check_header_name(name, field)
        if name.lower() in seen:
            raise Problem(400, "is given twice; give a list where it may stand more than once", field=field)
        seen.add(name.lower())
        for number, one in enumerate(given) if isinstance(given, list) else ((-1, given),):
            where = field if number < 0 else f"{field}[{number}]"
            text = _line(one, where, MAX_VALUE)
            if name.lower() == "message-id" and not (_MESSAGE_ID.fullmatch(text) and number < 1):
                raise Problem(400, "must be one id, as in <42@example.com>", field=where)
            yield name, text


def _check_header_name(name: str, field: str) -> None:
    lower = name.lower()
    if not _HEADER_NAME.fullmatch(name):
        raise Problem(400, "is not the name of a header", field=field)
    if own := _OWN_FIELD.get(lower):
        raise Problem(400, f'has a field of its own: "{own}"', field=field)
    if lower.startswith(_NOT_GIVEN) or _NOT_A_LETTER.sub("", lower) == "bcc":
        raise Problem(400, "is not for a client to give", field=field)


def _files(value: Any) -> Iterable[File]:
    if not isinstance(value, list):
        raise Problem(400, "must be a list", field="attachments")
    if len(value) > MAX_FILES:
        raise Problem(400, f"may have {MAX_FILES} files", field="attachments")
    for number, one in enumerate(value):
        where = f"attachments[{number}]"
        if not isinstance(one, dict):
            raise Problem(400, "must be an object", field=where)
        yield _file(one, where)


def _file(value: dict[str, Any], where: str) -> File:
    _known(value, FILE_FIELDS, f"{where}.")
    if "content" not in value:
        raise Problem(400, "is missing", field=f"{where}.content")
    content_id = _string(value.get("content_id", ""), f"{where}.content_id")
    content_id = content_id[1:-1] if content_id[:1] == "<" and content_id[-1:] == ">" else content_id
    if content_id and not _CONTENT_ID.fullmatch(content_id):
        raise Problem(400, "must be printable ASCII without blanks and brackets", field=f"{where}.content_id")
    file = File(
        filename=_line(value.get("filename", ""), f"{where}.filename", MAX_FILENAME),
        content=_decoded(value["content"], f"{where}.content"),
        content_type=_type(value.get("content_type", ""), f"{where}.content_type"),
        content_id=content_id,
    )
    if file.type.partition(";")[0].strip().lower() == MESSAGE and not can_be_message(file.content):
        raise Problem(400, "is not a message: it has a NUL or too long a line", field=f"{where}.content")
    return file


def _type(value: Any, field: str) -> str:
    text = _line(value, field, MAX_FILENAME)
    if not text:
        return ""
    given = parse_value(text.encode())
    kind, _, subtype = given.value.partition("/")
    if not (text.isascii() and TOKEN.fullmatch(kind) and TOKEN.fullmatch(subtype)):
        raise Problem(400, "is not a content type, as in application/pdf", field=field)
    if kind == "multipart" or (kind == "message" and given.value != MESSAGE):
        raise Problem(400, f"{shown(given.value)} is not the type of a file", field=field)
    if not all(TOKEN.fullmatch(name) and "*" not in name for name in given.params):
        raise Problem(400, "has a parameter that is none", field=field)
    return text


def _decoded(value: Any, field: str) -> bytes:
    text = _string(value, field)
    try:
        plain = text.translate(_BLANKS) if any(map(text.__contains__, " \t\r\n")) else text
        return binascii.a2b_base64(plain, strict_mode=True)
    except (binascii.Error, ValueError):
        raise Problem(400, "is not base64", field=field) from None
