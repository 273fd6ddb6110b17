"""ZeptoMail, v1.1: https://www.zoho.com/zeptomail/help/api/email-sending.html"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from bridge.sandbox.exchange import Answer, Response, json_response
from bridge.sandbox.mail import Mail
from bridge.sandbox.twins._reading import emails, file, other_headers, people
from bridge.sandbox.twins.base import Call, Route, Twin
from bridge.sandbox.twins.schema import Address, Base64, Fields, Flag, Items, PayloadError, Table, Text

_ADDRESS = Fields({"address": Address()}, {"name": Text(one_line=True)})
_PEOPLE = Items(Fields({"email_address": _ADDRESS}), most=500)
_NAME = Text(least=1, one_line=True)
PAYLOAD = Fields(
    {
        "from": _ADDRESS,
        "to": Items(Fields({"email_address": _ADDRESS}), least=1, most=500),
        "subject": Text(least=1, one_line=True),
    },
    {
        "cc": _PEOPLE,
        "bcc": _PEOPLE,
        "reply_to": Items(_ADDRESS),
        "textbody": Text(least=1),
        "htmlbody": Text(least=1),
        "track_clicks": Flag(),
        "track_opens": Flag(),
        "client_reference": Text(one_line=True),
        "mime_headers": Table(Text(one_line=True), key=r"[!-9;-~]+"),
        "attachments": Items(Fields({"content": Base64(), "mime_type": _NAME, "name": _NAME})),
        "inline_images": Items(Fields({"content": Base64(), "mime_type": _NAME, "cid": _NAME})),
        "bounce_address": Address(),
    },
)


def _answer(status: int, code: str, detail: str, message: str, target: str = "") -> Answer:
    details = [{"code": detail, "message": message, "target": target}] if detail else []
    error = {"code": code, "details": details, "message": message, "request_id": "2518.1d"}
    return Answer(status=status, body={"error": error})


class ZeptoMail(Twin):
    kind = "zeptomail"
    errors: ClassVar[Mapping[str, Answer]] = {
        "missing_field": _answer(400, "TM_3201", "GE_102", "This field cannot be empty", "subject"),
        "bad_json": _answer(400, "TM_3301", "SM_101", "Invalid JSON"),
        "mime_type": _answer(400, "TM_3301", "SM_120", "Invalid mimetype"),
        "unsupported": _answer(400, "TM_3501", "UE_106", "Invalid value"),
        "mail_template": _answer(400, "TM_3501", "MTR_101", "Invalid template"),
        "credits_expired": _answer(403, "TM_3501", "LE_101", "Credits expired"),
        "ip_not_allowed": _answer(403, "TM_3601", "SERR_156", "IP not allowed"),
        "trial_limit": _answer(403, "TM_3601", "SM_133", "Trial sending limit reached"),
        "daily_limit": _answer(429, "TM_3601", "SMI_115", "Daily sending limit reached"),
        "account_blocked": _answer(403, "TM_3601", "AE_101", "Account is blocked"),
        "domain_unverified": _answer(403, "TM_4001", "SM_111", "Sender domain is not verified"),
        "invalid_token": _answer(401, "TM_4001", "SERR_157", "Invalid API Token found"),
        "invalid_from": _answer(400, "TM_4001", "SM_113", "Invalid from address"),
        "not_approved": _answer(403, "TM_4001", "SM_128", "Account is not approved"),
        "some_new_error": _answer(400, "TM_3501", "XX_999", "An error that no table knows"),
        "too_many_requests": Answer(status=429, body={"message": "Too many requests"}),
        "too_large": Answer(status=413, body={"message": "Request entity too large"}),
        "internal": _answer(500, "TM_5001", "", "Internal error"),
    }

    def routes(self) -> Sequence[Route]:
        return (Route("POST", "/v1.1/email", self._send, target="send"),)

    def authorize(self, call: Call) -> None:
        scheme, _, token = call.header("authorization").partition(" ")
        if scheme != "Zoho-enczapikey" or not self.is_key(token):
            raise self.error("invalid_token")

    def error_body(self, status: int, message: str = "") -> Response:
        return _answer(status, "TM_5001", "", message or "error").response()

    def invalid(self, error: PayloadError) -> Response:
        return _answer(400, "TM_3201", "GE_102", str(error), error.at).response()

    def _send(self, call: Call) -> Response:
        payload = call.json()
        PAYLOAD.check(payload)
        if not payload.get("textbody") and not payload.get("htmlbody"):
            raise PayloadError("htmlbody", "cannot be empty", "required")
        request_id = call.accept(_read(payload))
        data = [{"code": "EM_104", "additional_info": [], "message": "Email request received"}]
        return json_response({"data": data, "message": "OK", "request_id": request_id, "object": "email"}, status=201)


def _read(payload: dict[str, Any]) -> Mail:
    to, cc, bcc = (
        people((item["email_address"] for item in payload.get(slot, [])), email="address")
        for slot in ("to", "cc", "bcc")
    )
    return Mail(
        sender=payload["from"]["address"],
        sender_name=payload["from"].get("name", ""),
        to=to,
        cc=cc,
        bcc=emails(bcc),
        recipients=emails(to + cc + bcc),
        reply_to=people(payload.get("reply_to", []), email="address"),
        subject=payload["subject"],
        text=payload.get("textbody", ""),
        html=payload.get("htmlbody", ""),
        headers=other_headers(payload.get("mime_headers", {})),
        attachments=(
            *(file(a, name="name", kind="mime_type", inline=False) for a in payload.get("attachments", [])),
            *(file(a, kind="mime_type", cid="cid", inline=True) for a in payload.get("inline_images", [])),
        ),
    )
