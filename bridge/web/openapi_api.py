"""What `/api/v1` is, for the OpenAPI document: from its table, the words of its handlers, and what they take."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bridge.web import numbers, operations
from bridge.web.api import LIMIT, MAX_ADDRESS, MAX_LIMIT, MAX_PAGE, MAX_PART, OPERATIONS, PART, PREFIX, Api
from bridge.web.asked import MAX_TEXT, SEARCHED, STATUSES

Schema = dict[str, Any]

_TEXT: Schema = {"type": "string"}
_ADDRESS: Schema = {"type": "string", "minLength": 3, "maxLength": MAX_ADDRESS, "pattern": r"^[!-~]+@[!-~]+$"}
_WORDS: Schema = {"type": "string", "maxLength": MAX_TEXT, "pattern": r"^[^\u0000]*$"}
_TIME: Schema = {"type": ["number", "string"], "description": "Seconds since 1970, or as RFC 3339 writes a time."}
_OWN: Schema = {"status": {"type": "string", "enum": list(STATUSES)}, "since": _TIME, "until": _TIME}
_SEARCH: Schema = {("q" if name == "text" else name): _OWN.get(name, _WORDS) for name in SEARCHED}
_LIMIT: Schema = {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": LIMIT}
PART_QUERY: Schema = {
    "limit": {"type": "integer", "minimum": 1, "maximum": MAX_PART, "default": PART},
    "page": {"type": "integer", "minimum": 1, "maximum": MAX_PAGE, "default": 1},
}
_QUERY: dict[str, Schema] = {
    "message": PART_QUERY,
    "messages": {**_SEARCH, "limit": _LIMIT, "before": _TEXT, "after": _TEXT},
    "export": {**_SEARCH, "before": _TEXT, "after": _TEXT},
    "suppressions": {"limit": _LIMIT, "after": _TEXT},
}
_PATH: Schema = {
    "queue_id": {"type": "string", "minLength": 1},
    "action": {"type": "string", "enum": list(operations.ACTIONS)},
    "address": _ADDRESS,
}
_CHOSEN: Schema = {
    "ids": {"type": "array", "items": _TEXT, "minItems": 1, "maxItems": operations.MAX_IDS},
    "filter": {"type": "object", "properties": _SEARCH, "additionalProperties": False, "minProperties": 1},
}
_BODY: dict[str, Schema] = {
    "act": {
        "properties": {**_CHOSEN, "before": _TEXT, "dry_run": {"type": "boolean"}, "provider": _TEXT,
                       "force": {"type": "boolean"}},
        "oneOf": [{"required": ["ids"]}, {"required": ["filter"]}],
    },
    "suppress": {"properties": {"address": _ADDRESS, "reason": _TEXT}, "required": ["address"]},
}  # fmt: skip
_SUMMARIES = {
    "messages": "List and search messages",
    "message": "A message with its events",
    "raw": "A message as it is stored",
    "act": "Retry, hold, release or drop messages",
    "export": "All messages of a search",
    "providers": "How the providers are",
    "suppressions": "The addresses that are not mailed",
    "suppress": "Mail an address no more",
    "unsuppress": "Mail an address again",
    "status": "The queue in numbers",
}
_ANSWERS = {"providers": numbers.providers.__doc__, "status": numbers.status.__doc__}
_TYPES = {"raw": "message/rfc822", "export": "application/x-ndjson"}
_FOUND = {"message", "raw", "act", "unsuppress"}  # or it is not there


def paths(error: Callable[[int], Schema]) -> Schema:
    """`error`: the description of an answer of this status."""
    found: Schema = {}
    for (method, path), name in OPERATIONS.items():
        described = found.setdefault(f"{PREFIX}{path.replace(':path', '')}", {})
        described[method.lower()] = _operation(name, path, error)
    return found


def _operation(name: str, path: str, error: Callable[[int], Schema]) -> Schema:
    asked, _, more = " ".join((getattr(Api, name).__doc__ or "").split()).partition(" -> ")
    more = " ".join((more, *(_ANSWERS.get(name) or "").split())).strip()
    body = _BODY.get(name)
    statuses = [401, 403, 422, 503, *([404] if name in _FOUND else []), *([400, 408, 413] if body else [])]
    answer: Schema = {"description": more or asked}
    if name != "unsuppress":
        kind = _TYPES.get(name, "application/json")
        answer["content"] = {kind: {"schema": {"type": "string" if name in _TYPES else "object"}}}
    good = {"unsuppress": ("204",), "suppress": ("200", "201")}.get(name, ("200",))
    return {
        "operationId": name,
        "summary": _SUMMARIES[name],
        "description": asked,
        "security": [{"key": []}],
        "parameters": [*_parameters(name, path)],
        **({"requestBody": _request(body)} if body else {}),
        "responses": {**dict.fromkeys(good, answer), **{str(status): error(status) for status in sorted(statuses)}},
    }


def _parameters(name: str, path: str) -> list[Schema]:
    inside = [
        {"name": one, "in": "path", "required": True, "description": "", "schema": schema}
        for one, schema in _PATH.items()
        if f"{{{one}" in path
    ]
    asked = _QUERY.get(name, {})
    return inside + [{"name": one, "in": "query", "description": "", "schema": schema} for one, schema in asked.items()]


def _request(body: Schema) -> Schema:
    schema = {"type": "object", "additionalProperties": False, **body}
    return {"required": True, "content": {"application/json": {"schema": schema}}}
