"""MailerSend, v1 email and bulk-email: https://developers.mailersend.com/api/v1/email.html"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import httpx

from bridge.clock import Clock
from bridge.mime.addressing import Caps
from bridge.mime.charset import utf8_size
from bridge.mime.fidelity import Carries, Form, Loss
from bridge.mime.repair import Needs, Repaired, ending_for, ending_of, is_meaningful
from bridge.model import Addressing, Attachment, Email, Envelope, Fault, Mailbox, Outcome
from bridge.providers.answers import id_of, json_of, pointed, safe_words
from bridge.providers.api import ApiProvider, KeySettings, Outgoing, by_recipient, sent_outcome, without_empty
from bridge.providers.base import Call, Policy
from bridge.providers.display import bcc_of, one_line
from bridge.providers.features import cut
from bridge.providers.http import Exchange
from bridge.providers.outcomes import Meaning, unknown
from bridge.providers.shapes import quoted
from bridge.reply import Reply

MAX_BODY = 2_000_000  # text and HTML, each
BULK_BYTES = 50_000_000
POLL_S = 0.5  # until the first look at a bulk call; then twice as long each time
ENDINGS = frozenset(
    (
        "txt csv log css ics xml jpg jpe jpeg gif png bmp psd tif tiff svg indd ai eps doc docx rtf odt ott pdf pub "
        "pages mobi epub mp3 m4a m4v wma ogg flac wav aif aifc aiff mp4 mov avi mkv mpeg mpg wmv xls xlsx ods numbers "
        "odp ppt pptx pps key zip vcf eml p7c p7m p7s pgp asc sig"
    ).split()
)
# They have fields of their own.
_THREADS = frozenset({"in-reply-to", "references", "precedence"})
_NAME = re.compile(r"[A-Za-z0-9-]+")
_ID = re.compile(r"[A-Za-z0-9]{10,}")
_MAILBOX = re.compile(r"""[^\s'",\[\]{}:]+@[^\s'",\[\]{}:]+""")
_MSG_ID = re.compile(r"<([^<>\s]+)>")
_CODE = re.compile(r"#(MS\d{5})")
_MESSAGE = re.compile(r"message\.(\d+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class MailersendSettings(KeySettings):
    custom_headers: bool = False


class Mailersend(ApiProvider):
    kind = "mailersend"
    title = "MailerSend"
    docs = "https://developers.mailersend.com/api/v1/email.html"
    base_url = "https://api.mailersend.com"
    Settings = MailersendSettings

    # Limits: https://developers.mailersend.com/api/v1/email.html
    forms = (
        Form(
            name="json",
            # A file has an ending and no type: its type is made from it.
            carries=Carries(type_parameters=False, reply_tos=False, endings=ENDINGS, max_size=BULK_BYTES),
        ),
    )
    caps = Caps(to=50, cc=10, bcc=10)
    max_batch = 500  # 5 with a trial: https://developers.mailersend.com/api/v1/bulk-email.html
    max_batch_bytes = BULK_BYTES
    takes_metadata = False
    needs = Needs(
        subject=True,
        body=True,
        max_subject=998,
        only_headers=_THREADS,
    )
    # `#MS42207` at the end of a field's message. The first is confirmed, the others are unverified.
    codes = dict.fromkeys(("MS42207", "MS42208", "MS42222", "MS42225"), Meaning.ACCOUNT)
    probe_wants_more = True
    notes = (
        "Header fields of the mail's own are for Professional plans and up: set `custom_headers = true` there. Else they are "
        "left out (of List- and Auto-Submitted that is a loss), but for In-Reply-To, References and Precedence.",
        "At most 10 people may be hidden in a call, so mail with more of them becomes several calls.",
        "A bulk call is checked by MailerSend after it was taken: its result is asked for until it is known or `timeout` is "
        "over. Not known in time means not known whether it was sent; `batch = 1` avoids that. Trial accounts: `batch = 5`.",
        "Metadata have no place here and are dropped; of tags the first 5 go along.",
    )
    unverified = ("the error codes but `MS42207`",)

    def __init__(
        self,
        name: str,
        policy: Policy,
        settings: MailersendSettings,
        *,
        transport: httpx.AsyncBaseTransport,
        clock: Clock | None = None,
    ) -> None:
        super().__init__(name, policy, settings, transport=transport, clock=clock)
        if settings.custom_headers:
            taken = frozenset(
                {"to", "cc", "bcc", "from", "subject", "reply-to", "message-id", "content-*", "mime-version"}
            )
            self.needs = replace(self.needs, only_headers=frozenset(), reserved=taken)  # type: ignore[misc]

    def losses(self, email: Email, envelope: Envelope) -> tuple[Loss, ...]:
        found = (*super().losses(email, envelope), *self._unsaid(email))
        if any(utf8_size(body) > MAX_BODY for body in (email.text, email.html)):
            reply = Reply(552, "5.3.4", f"Message too big for the provider: a body of more than {MAX_BODY} octets")
            return (Loss("size", f"a body of more than {MAX_BODY} octets", reply), *found)
        return found

    def _unsaid(self, email: Email) -> tuple[Loss, ...]:
        """Header fields that mean something to programs, where the plan takes none."""
        names = dict.fromkeys(
            name for name, _ in email.headers if is_meaningful(name.lower()) and name.lower() not in _THREADS
        )
        if self.settings.custom_headers or not names:
            return ()
        text = f"the header {', '.join(names)}"
        return (Loss("headers", text, Reply.safe(554, "5.6.5", f"The provider cannot carry {text}")),)

    def mended(self, email: Email) -> Repaired:
        """A file without an ending would be refused."""
        mended, notes = super().mended(email)
        given = [a.filename for a in email.attachments]
        files = tuple(
            a
            if ending_of(a.filename) and (name or ending_of(a.filename) in ENDINGS)
            else replace(a, filename=_with_ending(a))
            for a, name in zip(mended.attachments, given, strict=True)
        )
        notes = (*notes, *self._changed(email))
        said = [f"attachment without an ending sent as {f.filename}" for f in files if f not in mended.attachments]
        return (replace(mended, attachments=files), (*notes, *said)) if said else (mended, notes)

    def _changed(self, email: Email) -> Iterator[str]:
        """What its fields cannot say."""
        for name, value in email.headers:
            lower = name.lower()
            if lower == "precedence" and value.strip().lower() != "bulk":
                yield f"header Precedence: {one_line(value)[:40]} dropped, the provider knows bulk alone"
            elif lower not in _THREADS and self.settings.custom_headers and not _NAME.fullmatch(name):
                yield f"header {name} dropped, the provider takes letters, digits and - in names"
        if any(mark in mailbox.name for mailbox in (email.sender, *email.to, *email.cc) for mark in ",;"):
            yield "commas and semicolons in names dropped, the provider refuses them"

    # Request

    def auth_headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.settings.api_key}", "X-Requested-With": "XMLHttpRequest"}

    def json_request(self, mail: Outgoing) -> httpx.Request:
        return self.post("/v1/email", self._content(mail))

    def batch_key(self, call: Call) -> Hashable | None:
        return "any"

    def build_batch(self, calls: Sequence[Call]) -> httpx.Request:
        return self.post("/v1/bulk-email", [self._content(self.outgoing(call)) for call in calls])

    def _content(self, mail: Outgoing) -> dict[str, Any]:
        email, to = mail.email, mail.addressing
        threads = {name.lower(): value for name, value in email.headers if name.lower() in _THREADS}
        others = [(n, v) for n, v in email.headers if n.lower() not in _THREADS and _NAME.fullmatch(n)]
        return without_empty(
            {
                "from": _person(mail.sender),
                "to": [_person(m) for m in to.to],
                "cc": [_person(m) for m in to.cc],
                "bcc": [_person(m) for m in bcc_of(to)],
                "reply_to": _person(email.reply_to[0]) if email.reply_to else None,
                "subject": one_line(email.subject),
                "text": email.text,
                "html": email.html,
                "attachments": [_attachment(a) for a in email.attachments],
                "tags": cut(mail.features.tags, most=5),
                "in_reply_to": next(iter(_MSG_ID.findall(threads.get("in-reply-to", ""))), ""),
                "references": [f"<{each}>" for each in _MSG_ID.findall(threads.get("references", ""))],
                "precedence_bulk": True if threads.get("precedence", "").lower() == "bulk" else None,
                "headers": [{"name": name, "value": one_line(value)} for name, value in others],
            }
        )

    # Response

    def accepted(self, response: httpx.Response, body: Any, addressing: Addressing) -> dict[str, Outcome]:
        message_id = id_of(response.headers.get("x-message-id"))
        suppressed = self.meant(Meaning.SUPPRESSED, response, body, "suppressed")
        warnings = pointed(body, "/warnings")
        for warning in warnings if isinstance(warnings, list) else ():
            if pointed(warning, "/type") == "ALL_SUPPRESSED":
                return dict.fromkeys(addressing.recipients, suppressed)
        named = [
            (str(pointed(person, "/email")), suppressed)
            for warning in (warnings if isinstance(warnings, list) else ())
            for person in pointed(warning, "/recipients") or ()
        ]
        paused = "held by the mail service: x-send-paused" if response.headers.get("x-send-paused") == "true" else ""
        return by_recipient(addressing, named, sent_outcome(message_id, paused))

    async def converse_batch(self, calls: Sequence[Call], exchange: Exchange) -> list[dict[str, Outcome]] | None:
        """Taken at once and checked later. What the check finds is asked for; not known in time is not known at all."""
        response = await exchange(await asyncio.to_thread(self.build_batch, calls))
        bulk_id = id_of(pointed(json_of(response.content), "/bulk_email_id"))
        if response.status_code != 202 or not bulk_id:
            return self.parse_batch(response, calls)
        pause = POLL_S
        while exchange.left > pause + POLL_S:
            await asyncio.sleep(pause)
            # Calls are few: 10 in a minute with the smallest plan. The last look is at the end of the time.
            pause = max(min(pause * 2, exchange.left - 2 * POLL_S), POLL_S)
            look = await exchange(self.get(f"/v1/bulk-email/{bulk_id}"), mails=False)
            data = pointed(json_of(look.content), "/data")
            if pointed(data, "/state") in ("completed", "failed"):
                return self._checked(look, data, calls)
        lost = unknown("the bulk call was taken, its result did not come in time")
        return [dict.fromkeys(call.addressing.recipients, lost) for call in calls]

    def parse_batch(self, response: httpx.Response, calls: Sequence[Call]) -> list[dict[str, Outcome]] | None:
        if 200 <= response.status_code <= 299:
            lost = unknown("the answer has no id of the bulk call")
            return [dict.fromkeys(call.addressing.recipients, lost) for call in calls]
        return self.refused_whole(response, calls)

    def _checked(self, response: httpx.Response, data: Any, calls: Sequence[Call]) -> list[dict[str, Outcome]]:
        wrong = {int(m[1]): errors for key, errors in _items(data, "validation_errors") if (m := _MESSAGE.match(key))}
        gone = frozenset(_MAILBOX.findall(str(pointed(data, "/suppressed_recipients") or "").lower()))
        ids = _ids(pointed(data, "/messages_id"), len(calls) - len(wrong))
        suppressed = self.meant(Meaning.SUPPRESSED, response, None, "suppressed")
        found: list[dict[str, Outcome]] = []
        failed = pointed(data, "/state") == "failed"
        for number, call in enumerate(calls):
            if number in wrong:
                words = safe_words(str(wrong[number]), self.secrets)
                meaning = self.codes.get(_code(words), Meaning.CONTENT)
                found.append(dict.fromkeys(call.addressing.recipients, self.meant(meaning, response, None, words)))
                continue
            sent = unknown("the bulk call failed, and not for this mail") if failed else sent_outcome(next(ids, ""))
            named = [(r, suppressed) for r in call.addressing.recipients if r.lower() in gone]
            found.append(by_recipient(call.addressing, named, sent))
        return found

    def code(self, response: httpx.Response, body: Any) -> str:
        return _code(str(pointed(body, "/errors") or ""))

    def meaning(self, response: httpx.Response, body: Any) -> Meaning | None:
        status = response.status_code
        if status in (408, 421):
            return Meaning.LATER
        if status == 429 and response.headers.get("x-apiquota-remaining") == "0":
            return Meaning.QUOTA
        found = super().meaning(response, body)
        fields = [name for name, _ in _items(body, "errors")]
        if found is None and status == 422 and fields and all(_is_recipient(name) for name in fields):
            return Meaning.ADDRESS
        return found

    def refused_together(self, outcomes: Mapping[str, Outcome], addressing: Addressing) -> bool:
        return all(outcome.fault is Fault.RECIPIENT for outcome in outcomes.values()) and not any(
            "suppressed" in outcome.reply.text for outcome in outcomes.values()
        )

    def wait(self, response: httpx.Response, body: Any) -> float | None:
        """`x-apiquota-reset` is when the day's calls begin anew."""
        reset = response.headers.get("x-apiquota-reset", "")
        if response.headers.get("x-apiquota-remaining") == "0" and "retry-after" not in response.headers and reset:
            try:
                moment = datetime.fromisoformat(reset)
            except ValueError:
                return super().wait(response, body)
            return max(0.0, moment.replace(tzinfo=moment.tzinfo or UTC).timestamp() - self.clock.now())
        return super().wait(response, body)

    # Credentials: the day's calls that are left, https://developers.mailersend.com/api/v1/account.html

    def probe(self) -> httpx.Request:
        return self.get("/v1/api-quota")


def _person(mailbox: Mailbox) -> dict[str, str]:
    # A name must not hold a comma or a semicolon.
    name = one_line(mailbox.name).replace(",", " ").replace(";", " ").strip()
    return {"email": mailbox.email} | ({"name": name} if name else {})


def _attachment(attachment: Attachment) -> dict[str, Any]:
    inline = attachment.disposition == "inline" and attachment.content_id
    found = {
        "content": quoted(attachment.encoded),
        "filename": attachment.filename,
        "disposition": "inline" if inline else "attachment",
    }
    return found | ({"id": attachment.content_id} if inline else {})


def _with_ending(attachment: Attachment) -> str:
    """A name of our own must have one that is taken, too."""
    found = ending_for(attachment.content_type)
    stem = attachment.filename.removesuffix(found)
    return stem + (found if found.lstrip(".") in ENDINGS else ".txt")


def _items(body: Any, name: str) -> list[tuple[str, Any]]:
    found = pointed(body, f"/{name}")
    return list(found.items()) if isinstance(found, dict) else []


def _code(words: str) -> str:
    found = _CODE.search(words)
    return found[1] if found else ""


def _is_recipient(name: str) -> bool:
    """`to.0.email`"""
    parts = name.split(".")
    return parts[0] in ("to", "cc", "bcc") and len(parts) > 1


def _ids(text: Any, count: int) -> Iterator[str]:
    """A text that holds a list: `["6537...", "6538..."]`; nothing where there are more or fewer than mails."""
    found = _ID.findall(str(text or ""))
    return iter(found if len(found) == count else ())
