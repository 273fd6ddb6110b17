"""What the adapters of the catalogue have in common: which form a mail is sent in, what is mended for it, how it is split
into calls, and how an answer becomes outcomes. An adapter is then its API's facts, in this order: documentation, settings,
limits, request, response.

All of it is pure but for the conversation, which stands in `http.py`.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any, ClassVar

import httpx
import orjson

import bridge
from bridge.clock import Clock
from bridge.mime.addressing import NO_CAPS, Caps, a_label, address, capped, unseen
from bridge.mime.fidelity import IMPOSSIBLE, Form, Loss, choose, losses
from bridge.mime.fields import strip_bcc
from bridge.mime.pieces import base64_of
from bridge.mime.repair import SIGNATURES, Needs, matches, repaired
from bridge.mime.rewrite import with_from, with_head, with_recipients, without_fields
from bridge.mime.seven_bit import is_seven_bit, seven_bit
from bridge.model import Addressing, Content, Email, Envelope, Fault, Mailbox, Outcome, Pieces, split_address
from bridge.providers.answers import is_html, json_of, reset_delay, retry_delay, words_of
from bridge.providers.base import Call, Policy, Unfit, Verified
from bridge.providers.body import json_body, json_text, request
from bridge.providers.display import sender_of
from bridge.providers.features import NOTHING, Features, Readers, read_features
from bridge.providers.http import HttpProvider
from bridge.providers.outcomes import Meaning, outcome_for_response, outcome_of
from bridge.providers.shapes import quoted
from bridge.reply import Reply, sent

NO_SENDER = Loss(
    "sender", "no sender", Reply(554, "5.6.0", "The message has neither a From address nor an envelope sender")
)

# What `seven_bit` cannot change.
_WORD = re.compile(r"[^\s<>()\[\]{}\",;:]+")
UNSAFE = {
    "signed": "a signed message with 8-bit content or long lines",
    "smtputf8": "an address with a non-ASCII local part",
    "structure": "8-bit content nested so deeply",
}

NO_DOMAIN = Loss("sender", "a From without a domain", Reply(553, "5.1.7", "The From address has no domain"))

ANYBODY = Envelope(reverse_path="", recipients=())


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiSettings:
    """What every kind of the catalogue has. `url`: instead of scheme and host of the documented endpoint. `batch`: messages
    in one request, at most (0: as many as the API takes). A field without repr is a secret."""

    url: str = ""
    region: str = ""
    batch: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class KeySettings(ApiSettings):
    api_key: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outgoing:
    """One mail as it goes out: mended, its features read, for the recipients of one call."""

    email: Email
    addressing: Addressing
    queue_id: str
    key: str
    features: Features = NOTHING

    @property
    def sender(self) -> Mailbox:
        """Who it is from: its From, or the reverse path where it has none."""
        return sender_of(self.email, self.addressing)


class ApiProvider(HttpProvider):
    """One kind of the catalogue. The class attributes are its facts; each number has its source beside it."""

    docs: ClassVar[str]  # the documentation of the call that sends
    title: ClassVar[str]  # what people call the service
    base_url: ClassVar[str] = ""
    regions: ClassVar[Mapping[str, str]] = {}  # region -> base address
    forms: ClassVar[tuple[Form, ...]]  # the preferred one first
    needs: ClassVar[Needs] = Needs()  # of the JSON form
    caps: ClassVar[Caps] = NO_CAPS  # of the JSON form
    raw_caps: ClassVar[Caps] = NO_CAPS
    raw_envelope: ClassVar[bool] = (
        True  # raw: recipients are named apart from the headers; else they are taken from them
    )
    raw_seven_bit: ClassVar[bool] = False  # raw: only 7-bit MIME is safe
    raw_drops: ClassVar[frozenset[str]] = frozenset()  # raw: header fields the API would act on, or that it replaces
    readers: ClassVar[Readers] = {}  # header fields that name a feature
    codes: ClassVar[Mapping[str, Meaning]] = {}  # the API's own error codes
    max_concurrency: ClassVar[int] = 0  # calls at once that the API bears, at most; 0: as many as the settings say
    takes_tags: ClassVar[bool] = True
    takes_metadata: ClassVar[bool] = True
    probe_wants_more: ClassVar[bool] = False  # the probe needs a permission that sending does not
    notes: ClassVar[tuple[str, ...]] = ()  # what else people should know, a sentence each, for the documentation
    unverified: ClassVar[tuple[str, ...]] = ()  # which of these facts no documentation confirms, in words
    Settings: ClassVar[type[ApiSettings]] = ApiSettings

    def __init__(
        self,
        name: str,
        policy: Policy,
        settings: Any,
        *,
        transport: httpx.AsyncBaseTransport,
        clock: Clock | None = None,
    ) -> None:
        most = self.max_concurrency or policy.concurrency
        policy = replace(policy, concurrency=min(policy.concurrency, most))
        super().__init__(name, policy, transport=transport, secrets=secrets_of(settings), clock=clock)
        self.settings = settings
        self.base = self.base_of(settings).rstrip("/")
        self.remote = httpx.URL(self.base).host
        self.max_batch = min(type(self).max_batch, settings.batch or type(self).max_batch)
        content = getattr(settings, "content", "auto")
        self._forms = tuple(form for form in self.forms if content in ("auto", form.name)) or self.forms
        self._headers = {
            "User-Agent": f"smtp-rest-bridge/{bridge.__version__}",
            "Accept": "application/json",
            "Content-Type": "application/json",
            **self.auth_headers(),
        }

    @classmethod
    def base_of(cls, settings: Any) -> str:
        """The base address that the settings mean."""
        return settings.url or cls.regions.get(settings.region.lower(), "") or cls.base_url

    def auth_headers(self) -> dict[str, str]:
        """The fixed headers with the credentials."""
        return {}

    # --- what it can carry, and in which calls

    def unfit(self, email: Email, envelope: Envelope) -> Unfit | None:
        found = self.losses(email, envelope)
        if not found:
            return None
        degradable = not any(loss.kind in IMPOSSIBLE for loss in found)
        return Unfit(reply=found[0].reply, losses=tuple(loss.text for loss in found), degradable=degradable)

    def losses(self, email: Email, envelope: Envelope) -> tuple[Loss, ...]:
        """What would be lost in the form the mail is sent in; an adapter adds what only its API loses."""
        form = self.form(email)
        found = losses(email, envelope, form.carries)
        if form.name == "raw" and self.raw_seven_bit:
            found = (*self._grown(email, form), *found)
        if not email.sender.email and not envelope.reverse_path:
            return (NO_SENDER, *found)
        if form.name == "json" and email.sender.email and "@" not in email.sender.email:
            return (NO_DOMAIN, *found)
        if form.name == "raw" and self.raw_seven_bit and not found:
            return self._unsafe(email)
        return found

    def _grown(self, email: Email, form: Form) -> tuple[Loss, ...]:
        """8-bit mail near the limit may be over it as 7-bit."""
        most = form.carries.max_size
        if not most or len(email.raw) <= most // 3 or len(email.raw) > most or email.raw.isascii():
            return ()
        size = len(seven_bit(email.raw)[0])
        if size <= most:
            return ()
        reply = Reply(552, "5.3.4", f"Message too big for the provider: {size} octets, limit {most}")
        return (Loss("size", f"{size} octets as 7-bit exceed the limit of {most}", reply),)

    def form(self, email: Email) -> Form:
        """The same for all calls of one mail and for every retry."""
        return choose(email, ANYBODY, self._forms) if len(self._forms) > 1 else self._forms[0]

    def _unsafe(self, email: Email) -> tuple[Loss, ...]:
        """8-bit mail that cannot be changed to 7-bit without harm: signed, for one."""
        problems = seven_bit(email.raw)[1]
        texts = (UNSAFE[problem] for problem in sorted(problems))
        return tuple(
            Loss("protection", text, Reply(554, "5.6.3", f"The provider cannot carry {text}")) for text in texts
        )

    def repairs(self, email: Email, envelope: Envelope) -> tuple[str, ...]:
        features = self.features(email)
        dropped = tuple(f"{what} not taken" for what in features.dropped) + self._unlabelled(email, features)
        if self.form(email).name == "raw":
            return (*dropped, *self._raw_repairs(email, envelope))
        return (*dropped, *self.mended(email)[1])

    def _unlabelled(self, email: Email, features: Features) -> tuple[str, ...]:
        tags, metadata = self.labels(self.form(email))
        found = ["tags dropped, the provider has none"] if features.tags and not tags else []
        found += ["metadata dropped, the provider has none"] if features.metadata and not metadata else []
        return tuple(found)

    def labels(self, form: Form) -> tuple[bool, bool]:
        """Whether tags and metadata have a place in this form."""
        return self.takes_tags, self.takes_metadata

    def _raw_repairs(self, email: Email, envelope: Envelope) -> tuple[str, ...]:
        signatures = dict.fromkeys(name for name, _ in email.headers if matches(name.lower(), SIGNATURES))
        found = [] if email.sender.email else ["From added, the mail had none"]
        if not self.raw_envelope:
            found += [f"{name} dropped, the recipient headers are written anew" for name in signatures]
        elif self.raw_drops & SIGNATURES:
            found += [f"{name} dropped, the provider signs the mail anew" for name in signatures]
        if self.raw_seven_bit and not is_seven_bit(email.raw):
            found.append("8-bit content and long lines encoded as 7-bit")
        return tuple(found)

    def mended(self, email: Email) -> tuple[Email, tuple[str, ...]]:
        """The mail as the JSON form carries it, and what was changed; an adapter adds what only its API wants."""
        return repaired(email, self.needs, used=self.features(email).used)

    def not_shown(self, email: Email, recipients: tuple[str, ...]) -> tuple[str, ...]:
        shows_all = self.form(email).name == "raw" and self.raw_envelope
        return () if shows_all else unseen(email, recipients)

    def calls(self, email: Email, reverse_path: str, recipients: tuple[str, ...]) -> tuple[Addressing, ...]:
        raw = self.form(email).name == "raw"
        apart = raw and self.raw_envelope
        found = address(email, reverse_path, recipients, carries_envelope=apart)
        caps = self.raw_caps if raw else self.caps
        return tuple(call for one in found for call in capped(one, caps, carries_envelope=apart))

    def features(self, email: Email) -> Features:
        return read_features(email.headers, self.readers)

    # --- requests

    def build_request(self, email: Email, addressing: Addressing, *, queue_id: str, key: str) -> httpx.Request:
        call = Call(email=email, addressing=addressing, queue_id=queue_id, key=key)
        mail = self.outgoing(call)
        return self.raw_request(mail) if self.form(email).name == "raw" else self.json_request(mail)

    def outgoing(self, call: Call) -> Outgoing:
        features = self.features(call.email)
        email = call.email if self.form(call.email).name == "raw" else self.mended(call.email)[0]
        return Outgoing(
            email=email, addressing=call.addressing, queue_id=call.queue_id, key=call.key, features=features
        )  # fmt: skip

    def json_request(self, mail: Outgoing) -> httpx.Request:
        raise NotImplementedError

    def raw_request(self, mail: Outgoing) -> httpx.Request:
        raise NotImplementedError

    def mime(self, mail: Outgoing) -> Content:
        """The message as it leaves: no Bcc, no header fields that name a feature, a From, and what the form wants beside."""
        raw = with_head(mail.email.raw, partial(self._head, mail))
        return seven_bit(raw)[0] if self.raw_seven_bit else raw

    def _head(self, mail: Outgoing, head: bytes) -> bytes:
        head = without_fields(strip_bcc(head), mail.features.used | self.raw_drops)
        if not mail.email.sender.email:
            head = with_from(head, mail.sender)
        if not self.raw_envelope:
            to = mail.addressing
            head = with_recipients(head, to=to.to, cc=to.cc, bcc=to.bcc)
        return head

    def mime_text(self, mail: Outgoing) -> str | Pieces:
        """The same for a JSON string."""
        return json_text(self.mime(mail))

    def mime_base64(self, mail: Outgoing) -> orjson.Fragment | Pieces:
        """The same as a JSON string of base64."""
        return quoted(base64_of(self.mime(mail)))

    def post(self, path: str, content: Any, headers: Mapping[str, str] | None = None) -> httpx.Request:
        """A POST of JSON (or of what is bytes already) to a path below the base address."""
        body = content if isinstance(content, bytes | Pieces) else json_body(content)
        return request("POST", httpx.URL(f"{self.base}{path}"), {**self._headers, **(headers or {})}, body)

    def get(self, path: str) -> httpx.Request:
        headers = {name: value for name, value in self._headers.items() if name != "Content-Type"}
        return httpx.Request("GET", httpx.URL(f"{self.base}{path}"), headers=headers)

    # --- responses

    def parse_response(self, response: httpx.Response, addressing: Addressing) -> dict[str, Outcome]:
        body = json_of(response.content)
        if 200 <= response.status_code <= 299 and not is_html(response):
            return self.accepted(response, body, addressing)
        return self.refused(response, body, addressing)

    @abstractmethod
    def accepted(self, response: httpx.Response, body: Any, addressing: Addressing) -> dict[str, Outcome]:
        """What a 2xx means for each recipient: some APIs refuse in it."""

    def refused(self, response: httpx.Response, body: Any, addressing: Addressing) -> dict[str, Outcome]:
        """What any other answer means; by default the same for all recipients."""
        return dict.fromkeys(addressing.recipients, self.outcome(response, body))

    def outcome(self, response: httpx.Response, body: Any) -> Outcome:
        """By the API's own code where it has a meaning here, else by the status (README, "Replies")."""
        meaning = self.meaning(response, body)
        if meaning is None and response.status_code < 300:  # an error with a good status, and a code that nobody knows
            meaning = Meaning.TEMPORARY
        if meaning is None:
            return outcome_for_response(response, now=self.clock.now(), secrets=self.secrets)
        return self.meant(meaning, response, body)

    def meaning(self, response: httpx.Response, body: Any) -> Meaning | None:
        """What the error says, None where the status says enough."""
        code = self.code(response, body)
        return self.codes.get(code) if code else None

    def code(self, response: httpx.Response, body: Any) -> str:
        """The API's own error code in an answer, "" for none."""
        return ""

    def meant(self, meaning: Meaning, response: httpx.Response, body: Any, words: str = "") -> Outcome:
        words = words or words_of(body, self.secrets)
        said = ": ".join(filter(None, (f"HTTP {response.status_code}", self.code(response, body), words)))
        return outcome_of(meaning, said, words=words, retry_after=self.wait(response, body))

    def wait(self, response: httpx.Response, body: Any) -> float | None:
        """Seconds the API asks us to wait, None where it does not say."""
        now = self.clock.now()
        found = retry_delay(response.headers, now)
        return reset_delay(response.headers, now) if found is None and response.status_code == 429 else found

    def read_probe(self, response: httpx.Response) -> Verified:
        if response.status_code == 403 and self.probe_wants_more:
            return Verified(ok=None, text="the key is known, but may not ask (HTTP 403); it may still send")
        return super().read_probe(response)

    def refused_whole(self, response: httpx.Response, calls: Sequence[Call]) -> list[dict[str, Outcome]] | None:
        """For `parse_batch`: what an answer about the request as a whole means. Refused for its content: None, so that the
        one it was refused for is found."""
        found = [self.parse_response(response, call.addressing) for call in calls]
        faults = {outcome.fault for outcomes in found for outcome in outcomes.values()}
        return None if faults & {Fault.MESSAGE, Fault.RECIPIENT} else found

    def sent_all(self, addressing: Addressing, message_id: str, detail: str = "") -> dict[str, Outcome]:
        return dict.fromkeys(addressing.recipients, sent_outcome(message_id, detail))


def sent_outcome(message_id: str, detail: str = "") -> Outcome:
    return Outcome(status="sent", reply=sent(message_id), detail=detail, provider_message_id=message_id)


def secrets_of(settings: Any) -> tuple[str, ...]:
    """The values that must never be seen: those of fields without a repr."""
    found = (getattr(settings, f.name) for f in fields(settings) if not f.repr)
    return tuple(value for value in found if isinstance(value, str))


def without_empty(content: Mapping[str, Any]) -> dict[str, Any]:
    """Many APIs refuse an empty text, list or object."""
    return {key: value for key, value in content.items() if value not in ("", [], {}, (), None)}


def one_message_key(calls: Iterable[Call]) -> str:
    """The idempotency key of a batch: the same for the same calls in the same order."""
    import hashlib

    return "batch-" + hashlib.sha256("\n".join(call.key for call in calls).encode()).hexdigest()[:48]


def by_recipient(addressing: Addressing, found: Sequence[tuple[str, Outcome]], rest: Outcome) -> dict[str, Outcome]:
    """Verdicts that an API gives by address, whatever the case it writes them in; `rest` for who is not named."""
    exact = dict(found)
    loose = {_loose(address): outcome for address, outcome in found}
    return {r: exact.get(r) or loose.get(_loose(r), rest) for r in addressing.recipients}


def _loose(address: str) -> str:
    local, domain = split_address(address)
    return f"{local}@{domain if domain.isascii() else a_label(domain)}".lower()


def named_in(texts: str, recipients: Iterable[str]) -> list[str]:
    """The recipients that stand in a text as a whole address."""
    words = {word.strip(".'").lower() for word in _WORD.findall(texts)}
    return [recipient for recipient in recipients if recipient.lower() in words]
