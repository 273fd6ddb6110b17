"""Checks of one field of a payload: the value comes back, or a `Refusal` names the field. Pure."""

from __future__ import annotations

import binascii
import re
from collections.abc import Mapping
from typing import Any

import orjson

from bridge.model import same_recipient_key
from bridge.sandbox.addresses import check_address, parse_mailbox
from bridge.sandbox.exchange import Refusal

_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


def load_object(body: bytes) -> dict[str, Any]:
    try:
        content = orjson.loads(body)
    except orjson.JSONDecodeError:  # its text quotes the body
        raise Refusal(400, "invalid_json", "the body is not valid JSON in UTF-8") from None
    if not isinstance(content, dict):
        raise invalid("", "the body must be a JSON object")
    return content


def invalid(field: str, reason: str) -> Refusal:
    return Refusal(422, "validation_error", f"{field} {reason}".strip(), field)


def check_fields(
    content: Mapping[str, Any], required: tuple[str, ...], optional: tuple[str, ...], at: str = ""
) -> None:
    for name in content:
        if name not in required and name not in optional:
            raise invalid(f"{at}{name}", "is not a known field")
    for name in required:
        if name not in content:
            raise invalid(f"{at}{name}", "is required")


def text(value: Any, field: str) -> str:
    if not isinstance(value, str):
        raise invalid(field, "must be a string")
    if "\0" in value:
        raise invalid(field, "holds a NUL")
    return value


def line(value: Any, field: str) -> str:
    if _CONTROL.search(text(value, field)):
        raise invalid(field, "must be one line without control characters")
    return str(value)


def member(content: Mapping[str, Any], field: str) -> dict[str, Any]:
    value = content.get(field)
    if not isinstance(value, dict):
        raise invalid(field, "must be an object" if field in content else "is required")
    return value


def items(value: Any, field: str) -> list[Any]:
    if not isinstance(value, list):
        raise invalid(field, "must be a list")
    return value


def mailbox(value: Any, field: str) -> str:
    try:
        return parse_mailbox(text(value, field)).email
    except ValueError as error:
        raise invalid(field, str(error)) from None


def mailboxes(value: Any, field: str) -> tuple[str, ...]:
    if isinstance(value, str):
        return (mailbox(value, field),)
    if not isinstance(value, list):
        raise invalid(field, "must be a string or a list of strings")
    return tuple(mailbox(item, f"{field}[{index}]") for index, item in enumerate(value))


def bare_address(value: Any, field: str) -> str:
    try:
        check_address(text(value, field))
    except ValueError as error:
        raise invalid(field, str(error)) from None
    return str(value)


def displayed(value: Any, field: str) -> tuple[str, ...]:
    """The addresses of `[{"email", "name"}]`: what people read, so any text will do."""
    boxes = items(value, field)
    if not all(isinstance(box, dict) for box in boxes):
        raise invalid(field, "must be a list of objects")
    return tuple(text(box.get("email"), f"{field}[{index}].email") for index, box in enumerate(boxes))


def check_recipients(recipients: tuple[str, ...], most: int, fields: list[str]) -> None:
    if len(recipients) > most:
        raise invalid(fields[0], f"has more than {most} recipients with cc and bcc")
    seen: set[str] = set()
    for address, field in zip(recipients, fields, strict=True):
        if same_recipient_key(address) in seen:
            raise invalid(field, "names an address a second time")
        seen.add(same_recipient_key(address))


def decode_base64(value: Any, field: str) -> bytes:
    if value is None:
        raise invalid(field, "is required")
    try:
        return binascii.a2b_base64(text(value, field), strict_mode=True)
    except ValueError:
        raise invalid(field, "is not base64") from None
