"""Scaleway Transactional Email, v1alpha1: https://www.scaleway.com/en/developers/api/transactional-email/"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import httpx

from bridge.mime.addressing import Caps
from bridge.mime.fidelity import Carries, Form
from bridge.mime.repair import Needs
from bridge.model import Addressing, Fault, Mailbox, Outcome
from bridge.providers.answers import id_of, pointed
from bridge.providers.api import ApiProvider, KeySettings, Outgoing, by_recipient, sent_outcome, without_empty
from bridge.providers.display import bcc_of, format_all, one_line
from bridge.providers.outcomes import Meaning, unknown
from bridge.providers.shapes import quoted


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalewaySettings(KeySettings):
    project_id: str = ""


class Scaleway(ApiProvider):
    kind = "scaleway"
    title = "Scaleway Transactional Email"
    docs = "https://www.scaleway.com/en/developers/api/transactional-email/"
    base_url = "https://api.scaleway.com"
    Settings = ScalewaySettings

    forms = (
        # 2 MB in all: unverified
        Form(name="json", carries=Carries(inline_images=False, type_parameters=False, max_size=2_000_000)),
    )
    caps = Caps(total=50)  # nothing is documented; what most APIs take
    takes_tags = takes_metadata = False
    needs = Needs(
        subject=True,
        body=True,
        least_text=10,  # subject, text and HTML, each if given
        headers_once=False,
        reserved=frozenset({"to", "cc", "bcc", "from", "subject", "reply-to", "content-*", "mime-version"}),
    )
    # The types are those of all their APIs; unverified for this one.
    codes = {
        "invalid_arguments": Meaning.CONTENT,
        "denied_authentication": Meaning.ACCOUNT,
        "permissions_denied": Meaning.ACCOUNT,
        "precondition_failed": Meaning.ACCOUNT,  # the domain is not checked
        "quotas_exceeded": Meaning.QUOTA,
        "too_many_requests": Meaning.RATE,
        "not_found": Meaning.ACCOUNT,
    }
    probe_wants_more = True
    notes = (
        "`region` is fr-par unless set.",
        "Which types of files are taken is not documented.",
        "Tags and metadata have no place here and are dropped.",
    )
    unverified = ("the size", "the number of recipients", "the error codes")

    # Request

    def auth_headers(self) -> dict[str, str]:
        return {"X-Auth-Token": self.settings.api_key}

    def json_request(self, mail: Outgoing) -> httpx.Request:
        email, to = mail.email, mail.addressing
        headers = [
            *email.headers,
            *(("Reply-To", value) for value in filter(None, [", ".join(format_all(email.reply_to))])),
        ]
        content = {
            "project_id": self.settings.project_id,
            "from": _person(mail.sender),
            "to": [_person(m) for m in to.to],
            "cc": [_person(m) for m in to.cc],
            "bcc": [_person(m) for m in bcc_of(to)],
            "subject": one_line(email.subject),
            "text": email.text,
            "html": email.html,
            "attachments": [
                {"name": a.filename, "type": a.content_type, "content": quoted(a.encoded)} for a in email.attachments
            ],
            "additional_headers": [{"key": name, "value": _ascii(name, value)} for name, value in headers],
        }
        return self.post(f"{self._path()}/emails", without_empty(content))

    def _path(self) -> str:
        return f"/transactional-email/v1alpha1/regions/{self.settings.region.lower() or 'fr-par'}"

    # Response

    def accepted(self, response: httpx.Response, body: Any, addressing: Addressing) -> dict[str, Outcome]:
        """One item for each recipient."""
        failed = self.meant(Meaning.TEMPORARY, response, body, "not taken for this recipient")
        items = pointed(body, "/emails")
        found = [
            (
                str(item.get("mail_rcpt")),
                failed if item.get("status") in ("failed", "canceled") else sent_outcome(id_of(item.get("id"))),
            )
            for item in (items if isinstance(items, list) else ())
            if isinstance(item, dict)
        ]
        return by_recipient(addressing, found, unknown("the answer names no verdict for this recipient"))

    def code(self, response: httpx.Response, body: Any) -> str:
        return id_of(pointed(body, "/type"))

    def meaning(self, response: httpx.Response, body: Any) -> Meaning | None:
        if response.status_code == 412:
            return Meaning.ACCOUNT
        argument = str(pointed(body, "/details/0/argument_name") or "")
        if self.code(response, body) == "invalid_arguments" and argument.partition("[")[0] in ("to", "cc", "bcc"):
            return Meaning.ADDRESS
        return super().meaning(response, body)

    def refused_together(self, outcomes: Any, addressing: Addressing) -> bool:
        return all(outcome.fault is Fault.RECIPIENT for outcome in outcomes.values())

    # Credentials: the list of domains

    def probe(self) -> httpx.Request:
        return self.get(f"{self._path()}/domains?project_id={self.settings.project_id}")


def _person(mailbox: Mailbox) -> dict[str, str]:
    name = one_line(mailbox.name)
    return {"email": mailbox.email} | ({"name": name} if name else {})


def _ascii(name: str, value: str) -> str:
    """Encoded words, as django-anymail found it to want them."""
    from bridge.mime.compose import address_field, text_field
    from bridge.mime.mailboxes import parse_mailboxes

    if value.isascii():
        return value
    field = address_field(name, parse_mailboxes(value)) if name == "Reply-To" else text_field(name, value)
    return field.decode("ascii").partition(":")[2].replace("\r\n", "").strip()
