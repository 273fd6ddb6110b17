"""Lettermint, v1 send and send/batch: https://docs.lettermint.co/api-reference"""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence
from typing import Any

import httpx

from bridge.mime.addressing import Caps
from bridge.mime.fidelity import Carries, Form
from bridge.mime.repair import Needs
from bridge.model import Addressing, Attachment, Fault, Outcome
from bridge.providers.answers import id_of, json_of, pointed
from bridge.providers.api import ApiProvider, KeySettings, Outgoing, one_message_key, sent_outcome, without_empty
from bridge.providers.base import Call
from bridge.providers.display import bcc_of, format_all, format_mailbox, header_object, one_line
from bridge.providers.features import one_tag
from bridge.providers.outcomes import Meaning, outcome_of, unknown
from bridge.providers.shapes import quoted, typed

_NOT_A_TAG = re.compile(r"[^A-Za-z0-9_-]+")


class Lettermint(ApiProvider):
    kind = "lettermint"
    title = "Lettermint"
    docs = "https://docs.lettermint.co/api-reference"
    base_url = "https://api.lettermint.co"
    Settings = KeySettings
    idempotent = True

    forms = (Form(name="json", carries=Carries()),)
    caps = Caps(total=50)  # nothing is documented; what most APIs take
    max_batch = 500
    needs = Needs(
        subject=True,
        body=True,
        reserved=frozenset({"to", "cc", "bcc", "from", "subject", "reply-to", "content-*", "mime-version", "x-lm-*"}),
    )
    readers = {"x-lm-tag": one_tag}
    notes = (
        "The Message-ID is kept.",
        "The first tag goes along, in letters, digits, - and _.",
        "A batch that fails in its middle has sent what stands before: those are counted as sent.",
    )
    unverified = ("the number of recipients",)

    # Request

    def auth_headers(self) -> dict[str, str]:
        return {"x-lettermint-token": self.settings.api_key}

    def json_request(self, mail: Outgoing) -> httpx.Request:
        return self.post("/v1/send", self._content(mail), {"Idempotency-Key": mail.key})

    def batch_key(self, call: Call) -> Hashable | None:
        return "any"

    def build_batch(self, calls: Sequence[Call]) -> httpx.Request:
        return self.post(
            "/v1/send/batch",
            [self._content(self.outgoing(call)) for call in calls],
            {"Idempotency-Key": one_message_key(calls)},
        )

    def _content(self, mail: Outgoing) -> dict[str, Any]:
        email, to = mail.email, mail.addressing
        headers: dict[str, Any] = header_object(email.headers)
        if email.message_id:
            headers |= {"Message-ID": email.message_id, "X-LM-Preserve-Message-ID": "true"}
        return without_empty(
            {
                "from": format_mailbox(mail.sender),
                "to": format_all(to.to),
                "cc": format_all(to.cc),
                "bcc": format_all(bcc_of(to)),
                "reply_to": format_all(email.reply_to),
                "subject": one_line(email.subject),
                "text": email.text,
                "html": email.html,
                "headers": headers,
                "metadata": dict(mail.features.metadata),
                "tag": _NOT_A_TAG.sub("-", next(iter(mail.features.tags), ""))[:64],
                "attachments": [_attachment(a) for a in email.attachments],
            }
        )

    # Response

    def accepted(self, response: httpx.Response, body: Any, addressing: Addressing) -> dict[str, Outcome]:
        return _verdict(body, addressing)

    def parse_batch(self, response: httpx.Response, calls: Sequence[Call]) -> list[dict[str, Outcome]] | None:
        """Taken in order; an error names those before it that were taken."""
        body = json_of(response.content)
        if response.status_code == 202 and isinstance(body, list):
            padded = [*body, *([None] * len(calls))]
            return [_verdict(item, call.addressing) for item, call in zip(padded, calls, strict=False)]
        done = {item.get("index"): item for item in _accepted_of(body)}
        found = [self.parse_response(response, call.addressing) for call in calls]
        refused = any(o.status == "bounced" for outcomes in found for o in outcomes.values())
        if refused and not done:
            return None
        return [
            _verdict(done[n], call.addressing) if n in done else self._left(outcomes, refused)
            for n, (call, outcomes) in enumerate(zip(calls, found, strict=True))
        ]

    def _left(self, outcomes: dict[str, Outcome], refused: bool) -> dict[str, Outcome]:
        """Behind the first that was taken one was refused, and which is not told: the next attempt finds out."""
        if not refused:
            return outcomes
        return dict.fromkeys(outcomes, outcome_of(Meaning.TEMPORARY, "a batch was refused for one of its messages"))

    def refused_together(self, outcomes: Any, addressing: Addressing) -> bool:
        return all(outcome.fault is Fault.RECIPIENT for outcome in outcomes.values())

    def meaning(self, response: httpx.Response, body: Any) -> Meaning | None:
        fields = pointed(body, "/errors")
        if response.status_code == 422 and isinstance(fields, dict) and fields and all(map(_is_recipient, fields)):
            return Meaning.ADDRESS
        # 409: the key is known with other content, or the first call with it is still at work.
        return Meaning.LOST if response.status_code == 409 else None

    # Credentials: `GET /ping` answers a sending token

    def probe(self) -> httpx.Request:
        return self.get("/v1/ping")


def _is_recipient(name: str) -> bool:
    """`to.1`, in a batch `3.to.1`"""
    return re.match(r"(?:\d+\.)?(?:to|cc|bcc)\.\d", name) is not None


def _accepted_of(body: Any) -> list[dict[str, Any]]:
    found = pointed(body, "/accepted") or pointed(body, "/details/accepted")
    return [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []


def _verdict(item: Any, addressing: Addressing) -> dict[str, Outcome]:
    message_id = id_of(pointed(item, "/message_id"))
    outcome = sent_outcome(message_id) if message_id else unknown("the answer has no message id")
    return dict.fromkeys(addressing.recipients, outcome)


def _attachment(attachment: Attachment) -> dict[str, Any]:
    found = {
        "filename": attachment.filename,
        "content": quoted(attachment.encoded),
        "content_type": typed(attachment),
    }
    return found | ({"content_id": attachment.content_id} if attachment.content_id else {})
