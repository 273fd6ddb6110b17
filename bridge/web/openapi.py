"""What the REST door and `/api/v1` (`openapi_api.py`) are, as an OpenAPI document (https://spec.openapis.org/oas/v3.1.1), with
examples."""

from __future__ import annotations

from typing import Any

from bridge import __version__
from bridge.web import openapi_api
from bridge.web.jobs import MOST
from bridge.web.order import MAX_KEY, MAX_SUBJECT

Schema = dict[str, Any]

PLAIN = {
    "to": "ann@example.com",
    "from": "Shop <shop@example.com>",
    "subject": "Your order 42",
    "body": "Thank you. It is on its way.",
}
WHOLE = {
    "to": ["Ann Lee <ann@example.com>", "bob@example.org"],
    "cc": "sales@example.com",
    "bcc": ["archive@example.com"],
    "from": "Shop <shop@example.com>",
    "reply_to": "help@example.com",
    "subject": "Your order 42",
    "body": "Thank you. The invoice is attached.",
    "html": '<p>Thank you. <img src="cid:logo" alt=""> The invoice is attached.</p>',
    "headers": {"X-Order": "42", "List-Unsubscribe": "<https://shop.example.com/u/42>"},
    "attachments": [
        {"filename": "invoice.pdf", "content_type": "application/pdf", "content": "JVBERi0xLjQK"},
        {"filename": "logo.png", "content_type": "image/png", "content": "iVBORw0KGgo=", "content_id": "logo"},
    ],
}
SEVERAL = {
    "messages": [
        {**PLAIN, "idempotency_key": "order-42"},
        {**PLAIN, "to": "bob@example.org", "subject": "Your order 43", "idempotency_key": "order-43"},
    ]
}
SENT = {"id": "1H4FQQZ5V5G2M8K0", "status": "sent"}
QUEUED = {"id": "1H4FQQZ5V5G2M8K0", "status": "queued"}
RESULTS = {
    "results": [
        {"code": 200, **SENT},
        {"code": 400, "error": {"code": "bad_request", "message": "is missing", "field": "messages[1].subject"}},
    ]
}
MESSAGE = {
    "id": "1H4FQQZ5V5G2M8K0",
    "status": "sent",
    "created_at": "2026-11-24T20:15:00Z",
    "finished_at": "2026-11-24T20:15:01Z",
    "from": "shop@example.com",
    "subject": "Your order 42",
    "message_id": "<1H4FQQZ5V5G2M8K0@bridge.example.com>",
    "size": 812,
    "recipients": [
        {
            "address": "ann@example.com",
            "status": "sent",
            "attempts": 1,
            "code": 250,
            "enhanced": "2.0.0",
            "text": "Ok: sent, id 3f1",
            "provider": "main",
            "provider_message_id": "3f1",
            "next_attempt_at": None,
        }
    ],
    "recipients_total": 1,
    "events": [
        {
            "at": "2026-11-24T20:15:01Z",
            "event": "sent",
            "address": "ann@example.com",
            "provider": "main",
            "code": 250,
            "enhanced": "2.0.0",
            "text": "Ok: sent, id 3f1",
        }
    ],
}

_STATUSES = ["queued", "deferred", "held", "sent", "delivered", "bounced", "expired", "dropped"]


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _text(description: str, **more: Any) -> Schema:
    return {"type": "string", "description": description, **more}


def _object(properties: Schema, *required: str, **more: Any) -> Schema:
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": properties,
        "required": list(required),
        **more,
    }


def _addresses(description: str) -> Schema:
    return {
        "description": f"{description} One address, several with commas between them, or a list with one in each.",
        "oneOf": [{"type": "string", "minLength": 1}, {"type": "array", "items": {"type": "string", "minLength": 1}}],
    }


_LINE = r"^[^\u0000-\u001f\u007f]*$"


def _schemas() -> Schema:
    """By name."""
    return {**_asked(), **_taken(), **_told(), "Became": _became()}


def _asked() -> Schema:
    message = {
        "to": _addresses("Who gets it."),
        "from": _text("Who sends it: one address, which the key may send as.", minLength=1),
        "subject": _text("One line.", maxLength=MAX_SUBJECT, pattern=_LINE),
        "body": _text("The text of the mail. May be left out when there is html."),
        "html": _text("The same as HTML."),
        "cc": _addresses("Who gets a copy."),
        "bcc": _addresses("Who gets a copy that nobody sees."),
        "reply_to": _addresses("Where answers go."),
        "headers": {
            "type": "object",
            "description": "Further header fields, by name: a line of text, or a list of them.",
            "additionalProperties": {
                "oneOf": [_text("", pattern=_LINE), {"type": "array", "items": _text("", pattern=_LINE)}]
            },
        },
        "attachments": {"type": "array", "description": "Files.", "items": _ref("Attachment")},
    }
    needed = ("to", "from", "subject")
    either = {"anyOf": [{"required": ["body"]}, {"required": ["html"]}]}
    key = _text("As the header Idempotency-Key, of this message.", minLength=1, maxLength=MAX_KEY, pattern=r"^[!-~]+$")
    return {
        "Message": _object(message, *needed, **either),
        "Member": _object(message | {"idempotency_key": key}, *needed, **either),
        "Messages": _object(
            {"messages": {"type": "array", "minItems": 1, "maxItems": MOST, "items": _ref("Member"),
                          "description": f"Up to {MOST} messages; each is taken or refused by itself."}},
            "messages",
        ),
        "Attachment": _object(
            {
                "filename": _text("Its name.", maxLength=255, pattern=_LINE),
                "content_type": _text("Its type; told from the name when left out.", examples=["application/pdf"]),
                "content": _text("What it holds, in base64.", contentEncoding="base64"),
                "content_id": _text('By this the HTML shows it, as in <img src="cid:logo">.', maxLength=250),
            },
            "content",
        ),
    }  # fmt: skip


def _taken() -> Schema:
    return {
        "Taken": _object(
            {
                "id": _text("By this it is asked for at /messages/{id}."),
                "status": {"type": "string", "enum": ["sent", "queued"]},
                "recipients": {
                    "type": "array",
                    "items": _ref("Recipient"),
                    "description": "When they did not fare alike.",
                },
            },
            "id",
            "status",
        ),
        "Results": _object(
            {"results": {"type": "array", "items": _ref("Result"), "description": "One for each message, in order."}},
            "results",
        ),
        "Result": {
            "type": "object",
            "properties": {
                "code": {
                    "type": "integer",
                    "description": "The status that this message alone would have been answered.",
                },
                "id": _text("Of one that was taken."),
                "status": {"type": "string", "enum": ["sent", "queued"]},
                "error": _ref("Fault"),
                "recipients": {"type": "array", "items": _ref("Recipient")},
            },
            "required": ["code"],
        },
    }


def _told() -> Schema:
    """Of a recipient, and of what went wrong."""
    return {
        "Recipient": _object(
            {
                "address": _text(""),
                "field": _text("Where it stands in the request."),
                "status": {"type": "string", "enum": ["sent", "queued", "deferred", "refused"]},
                "code": {"type": "integer", "description": "SMTP's reply code."},
                "enhanced": _text("The enhanced status code (RFC 3463)."),
                "text": _text("What was said, by the provider or by the bridge."),
            },
            "address", "field", "status", "code", "enhanced", "text",
        ),
        "Fault": _object(
            {
                "code": _text("A word that stays the same.", examples=["bad_request", "refused"]),
                "message": _text("What is wrong."),
                "field": _text('Where in the request, as in "attachments[0].content"; empty when it is no field.'),
            },
            "code", "message", "field",
        ),
        "Error": _object(
            {"error": _ref("Fault"), "recipients": {"type": "array", "items": _ref("Recipient")}}, "error"
        ),
    }  # fmt: skip


def _became() -> Schema:
    time = {"type": ["string", "null"], "format": "date-time"}
    code = {"type": ["integer", "null"]}
    recipient = {
        "address": _text(""), "status": {"type": "string", "enum": _STATUSES}, "attempts": {"type": "integer"},
        "code": code, "enhanced": _text(""), "text": _text(""), "provider": _text(""),
        "provider_message_id": _text(""), "next_attempt_at": time,
    }  # fmt: skip
    event = {
        "at": time, "event": _text(""), "address": _text(""), "provider": _text(""), "code": code,
        "enhanced": _text(""), "text": _text(""),
    }  # fmt: skip
    message = {
        "id": _text(""), "status": _text("One word for all recipients: of those that are open, failed and sent, the first."),
        "created_at": time, "finished_at": time, "from": _text(""), "subject": _text(""), "message_id": _text(""),
        "size": {"type": "integer", "description": "Octets."},
        "recipients": {"type": "array", "items": _object(recipient, *recipient),
                       "description": "Of this page, in the order of the envelope."},
        "recipients_total": {"type": "integer", "description": "Of all pages."},
        "events": {"type": "array", "items": _object(event, *event),
                   "description": "Of these recipients and the whole message, in order of time."},
    }  # fmt: skip
    return _object(message, *message)


_ERRORS = {
    400: (
        "The request cannot be read: no JSON, a wrong type, a field that is missing or unknown.",
        "bad_request",
        "must be a string",
        "subject",
    ),
    401: ("No key, or one that is not known.", "unauthorized", "A key is needed: Authorization: Bearer KEY", ""),
    403: (
        "The key may not do that, or not send as this sender.",
        "forbidden",
        "The key shop may not send as ann@example.com",
        "from",
    ),
    404: (
        "There is no such message, or it is another key's.",
        "not_found",
        "There is no such message, or no longer",
        "",
    ),
    408: ("The body came too slowly.", "timeout", "The body came too slowly", ""),
    413: ("Too large.", "too_large", "The message is larger than 26214400 octets", ""),
    415: (
        "Not JSON, by its Content-Type.",
        "unsupported_media_type",
        "The body must be JSON: send it with Content-Type: application/json",
        "",
    ),
    422: (
        "Refused for good, by the bridge or the provider; or a key that was used for another request.",
        "refused",
        "550 5.1.1 No such recipient",
        "to",
    ),
    429: ("Too many for now.", "too_many_requests", "The key shop has sent as many as it may for now", ""),
    503: (
        "Not now; nothing was sent or kept. Ask again after the time in Retry-After.",
        "unavailable",
        "452 4.3.1 Insufficient system storage",
        "",
    ),
}


def _error(status: int) -> Schema:
    text, code, message, field = _ERRORS[status]
    example = {"error": {"code": code, "message": message, "field": field}}
    headers = {"Retry-After": {"schema": {"type": "integer"}, "description": "Seconds."}}
    return {
        "description": text,
        "content": {"application/json": {"schema": _ref("Error"), "example": example}},
        **({"headers": headers} if status in (429, 503) else {}),
    }


def _answer(text: str, schema: Schema, examples: Schema) -> Schema:
    shown = {name: {"value": value} for name, value in examples.items()}
    return {"description": text, "content": {"application/json": {"schema": schema, "examples": shown}}}


def _send() -> Schema:
    return {
        "operationId": "sendEmail",
        "summary": "Send a mail",
        "description": "One message, or several in `messages`. It goes the way of mail that came by SMTP: what is answered 200 or"
        " 202 is not lost. Several are answered 200 with a result for each.",
        "security": [{"key": []}],
        "parameters": [
            {
                "name": "Idempotency-Key",
                "in": "header",
                "required": False,
                "description": "The same request with the same key within 24 hours is answered as the first time,"
                " and not sent again.",
                "schema": {"type": "string", "minLength": 1, "maxLength": MAX_KEY, "pattern": r"^[!-~]+$"},
                "example": "order-42",
            }
        ],
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": {"oneOf": [_ref("Message"), _ref("Messages")]},
                    "examples": {
                        "plain": {"summary": "A plain mail", "value": PLAIN},
                        "whole": {"summary": "Everything", "value": WHOLE},
                        "several": {"summary": "Several at once", "value": SEVERAL},
                    },
                }
            },
        },
        "responses": {
            "200": _answer(
                "A provider took it; or the results of several.",
                {"oneOf": [_ref("Taken"), _ref("Results")]},
                {"sent": SENT, "several": RESULTS},
            ),
            "202": _answer("It is in the queue and will be sent.", _ref("Taken"), {"queued": QUEUED}),
            **{str(status): _error(status) for status in (400, 401, 403, 408, 413, 415, 422, 429, 503)},
        },
    }


def _show() -> Schema:
    return {
        "operationId": "getMessage",
        "summary": "What became of a message",
        "description": "A key with the scope `send` sees the messages that it sent itself; `read` and `manage` see all.",
        "security": [{"key": []}],
        "parameters": [
            {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}, "example": SENT["id"]},
            *(
                {"name": name, "in": "query", "description": text, "schema": openapi_api.PART_QUERY[name]}
                for name, text in (("limit", "How many recipients."), ("page", "Which of so many; the first is 1."))
            ),
        ],
        "responses": {
            "200": _answer("The message.", _ref("Became"), {"sent": MESSAGE}),
            **{str(status): _error(status) for status in (401, 403, 404, 422, 503)},
        },
    }


def document() -> Schema:
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "smtp-rest-bridge",
            "version": __version__,
            "description": "Send mail with four fields of JSON. Every error says in which field it is:"
            ' `{"error": {"code", "message", "field"}}`.',
        },
        "paths": {"/send-email": {"post": _send()}, "/messages/{id}": {"get": _show()}, **openapi_api.paths(_error)},
        "components": {
            "schemas": _schemas(),
            "securitySchemes": {
                "key": {"type": "http", "scheme": "bearer", "description": "An [[http.key]] of the settings."}
            },
        },
    }
