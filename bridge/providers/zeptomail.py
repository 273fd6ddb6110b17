"""ZeptoMail (Zoho), v1.1: https://www.zoho.com/zeptomail/help/api/email-sending.html"""

from __future__ import annotations

from typing import Any

import httpx

from bridge.mime.addressing import Caps
from bridge.mime.fidelity import Carries, Form
from bridge.mime.repair import Needs
from bridge.model import Addressing, Fault, Mailbox, Outcome
from bridge.providers.answers import id_of, pointed
from bridge.providers.api import ApiProvider, KeySettings, Outgoing, without_empty
from bridge.providers.display import bcc_of, header_object, one_line
from bridge.providers.outcomes import Meaning, unknown
from bridge.providers.shapes import is_image, quoted

_PREFIX = "Zoho-enczapikey "  # the console shows the token with it


class Zeptomail(ApiProvider):
    kind = "zeptomail"
    title = "ZeptoMail"
    docs = "https://www.zoho.com/zeptomail/help/api/email-sending.html"
    base_url = "https://api.zeptomail.com"
    # Data centres; the list is unverified.
    regions = {
        dc: f"https://api.zeptomail.{dc}" for dc in ("com", "eu", "in", "com.au", "jp", "ca", "sa", "com.cn")
    }  # fmt: skip
    Settings = KeySettings

    forms = (
        # 15 MB with attachments: unverified
        Form(name="json", carries=Carries(type_parameters=False, max_size=15_000_000)),
    )
    takes_tags = takes_metadata = False
    caps = Caps(total=50)  # nothing is documented; what most APIs take
    needs = Needs(
        subject=True,
        body=True,
        reserved=frozenset({"to", "cc", "bcc", "from", "subject", "reply-to", "content-*", "mime-version"}),
    )
    # By details[0].code, then by the code above it: https://www.zoho.com/transmail/help/api/error-codes.html
    codes = {
        "GE_102": Meaning.CONTENT,
        "SM_101": Meaning.CONTENT,
        "SM_120": Meaning.CONTENT,
        "UE_106": Meaning.CONTENT,
        "MTR_101": Meaning.CONTENT,
        "LE_101": Meaning.QUOTA,  # credits are used up
        "SERR_156": Meaning.ACCOUNT,  # this address of ours is not allowed
        "SM_133": Meaning.QUOTA,
        "SMI_115": Meaning.QUOTA,  # the day's limit
        "AE_101": Meaning.ACCOUNT,
        "SM_111": Meaning.ACCOUNT,  # the domain is not verified
        "SERR_157": Meaning.ACCOUNT,  # a wrong token
        "SM_113": Meaning.ACCOUNT,  # From; which of both is not told, so nobody's mail bounces for it
        "SM_128": Meaning.ACCOUNT,
        "TM_3201": Meaning.CONTENT,
        "TM_3301": Meaning.CONTENT,
        "TM_3601": Meaning.ACCOUNT,
        "TM_4001": Meaning.ACCOUNT,
        "TM_5001": Meaning.LATER,  # unverified
    }
    notes = (
        "The API has a batch call for templates with merge fields; mails of their own go one by one.",
        "`client_reference` is the queue id. Tags and metadata have no place here and are dropped.",
    )
    unverified = ("the size", "the number of recipients", "the list of regions", "the code `TM_5001`")

    # Request

    def auth_headers(self) -> dict[str, str]:
        return {"Authorization": _PREFIX + self.settings.api_key.removeprefix(_PREFIX)}

    def json_request(self, mail: Outgoing) -> httpx.Request:
        email, to = mail.email, mail.addressing
        inline = [a for a in email.attachments if a.disposition == "inline" and a.content_id and is_image(a)]
        content = {
            "from": _address(mail.sender),
            "to": [{"email_address": _address(m)} for m in to.to],
            "cc": [{"email_address": _address(m)} for m in to.cc],
            "bcc": [{"email_address": _address(m)} for m in bcc_of(to)],
            "reply_to": [_address(m) for m in email.reply_to],
            "subject": one_line(email.subject),
            "textbody": email.text,
            "htmlbody": email.html,
            "client_reference": mail.queue_id,
            "mime_headers": header_object(email.headers),
            "attachments": [
                {"content": quoted(a.encoded), "mime_type": a.content_type, "name": a.filename}
                for a in email.attachments
                if a not in inline
            ],
            "inline_images": [
                {"content": quoted(a.encoded), "mime_type": a.content_type, "cid": a.content_id} for a in inline
            ],
        }
        return self.post("/v1.1/email", without_empty(content))

    # Response

    def refused_together(self, outcomes: Any, addressing: Addressing) -> bool:
        return all(outcome.fault is Fault.RECIPIENT for outcome in outcomes.values())

    def accepted(self, response: httpx.Response, body: Any, addressing: Addressing) -> dict[str, Outcome]:
        if isinstance(body, dict) and "error" in body:
            return self.refused(response, body, addressing)
        request_id = id_of(pointed(body, "/request_id"))
        if not request_id and not pointed(body, "/data"):
            return dict.fromkeys(addressing.recipients, unknown("the answer has no request id"))
        return self.sent_all(addressing, request_id)

    def code(self, response: httpx.Response, body: Any) -> str:
        inner, outer = id_of(pointed(body, "/error/details/0/code")), id_of(pointed(body, "/error/code"))
        return inner if inner in self.codes else outer

    def meaning(self, response: httpx.Response, body: Any) -> Meaning | None:
        """A code nobody knows says nothing of the mail: temporary."""
        found = super().meaning(response, body)
        target = str(pointed(body, "/error/details/0/target") or "")
        if found is Meaning.CONTENT and target.partition("[")[0] in ("to", "cc", "bcc"):
            return Meaning.ADDRESS
        if found is None and self.code(response, body) and response.status_code in (200, 201, 400):
            return Meaning.TEMPORARY
        return found


def _address(mailbox: Mailbox) -> dict[str, str]:
    name = one_line(mailbox.name)
    return {"address": mailbox.email} | ({"name": name} if name else {})
