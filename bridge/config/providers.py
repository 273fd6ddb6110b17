"""The settings of the providers: `rest` and `capture` stand here, the catalogue in `kinds.py`. `KINDS` names them all."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Union, get_args

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, SecretStr

from bridge.config.body import DESCRIPTION, Body
from bridge.config.kinds import CATALOGUE
from bridge.config.provider_base import (
    AllowHttp,
    CaFile,
    Keepalive,
    ProviderBase,
    Proxy,
    check_url,
    kind_field,
    url_problems,
)
from bridge.config.section import Problem, Section
from bridge.config.types import (
    HeaderName,
    JsonPointer,
    List,
    ReplyText,
    Secret,
    Size,
    check_header_name,
    decode_json,
    mask_url,
)
from bridge.model import Fault
from bridge.providers.template import check_template

# Set by the HTTP client, or by a key of their own; a second one would contradict the first.
_RESERVED_HEADERS = frozenset({"content-length", "transfer-encoding", "connection", "host", "content-type"})


class CaptureProvider(ProviderBase):
    kind: Literal["capture"] = kind_field()


def _statuses(statuses: tuple[int, ...]) -> tuple[int, ...]:
    if any(not 100 <= status <= 599 for status in statuses):
        raise ValueError("an HTTP status is a number from 100 to 599")
    return statuses


def _number_as_text(value: Any) -> Any:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


CodeText = Annotated[str, BeforeValidator(_number_as_text)]


class OutcomeRule(Section):
    """A response that matches all that is given here means `reply`."""

    table: ClassVar[str] = "provider.outcome"

    status: Annotated[tuple[int, ...], List, AfterValidator(_statuses)] = Field(
        default=(), description="The HTTP status, or a list of them. Empty: any."
    )
    error: JsonPointer = Field(
        default="",
        description="JSON pointer to the error in the answer; without `equals` and `contains` it only has to be there.",
    )
    equals: CodeText = Field(default="", description="What stands at `error`, exactly. Empty: anything.")
    contains: str = Field(
        default="", description="A part of what stands at `error`, in any case of letters. Empty: anything."
    )
    reply: ReplyText = Field(
        description="What the sender is told: a 4xx is tried again, a 5xx is final.",
        examples=["550 5.1.1 No such recipient"],
    )
    fault: Fault = Field(
        description="Who is to blame: recipient or message (4xx or 5xx), provider or account (4xx: no mail is lost for them).",
        examples=["recipient"],
    )

    def problems(self) -> Iterator[Problem]:
        if not self.status and not self.error:
            yield "", "give 'status' or 'error', or the rule would match every response"
        if (self.equals or self.contains) and not self.error:
            yield "error", "says where 'equals' or 'contains' looks, and is missing"
        if self.equals and self.contains:
            yield "contains", "give either 'equals' or 'contains'"
        if self.fault in (Fault.PROVIDER, Fault.ACCOUNT) and self.reply.permanent:
            yield "reply", f"a fault of the {self.fault} never bounces mail; give a 4xx"


def _check_headers(headers: dict[str, SecretStr]) -> dict[str, SecretStr]:
    for name in headers:
        check_header_name(name)
        if not name or name.lower() in _RESERVED_HEADERS:
            raise ValueError(f"the header {name!r} cannot be set here")
    if len({name.lower() for name in headers}) < len(headers):
        raise ValueError("the same header stands here twice")
    return headers


def _table_from_text(value: Any) -> Any:
    return decode_json(value) if isinstance(value, str) and value else value


class RestProvider(ProviderBase):
    """Any API that takes a mail in one request: no code needed."""

    kind: Literal["rest"] = kind_field()
    url: Annotated[str, AfterValidator(check_url), PlainSerializer(mask_url, return_type=str)] = Field(
        description="The whole address that mail is sent to; https, except to this machine or with `allow_http`.",
        examples=["https://mail.example.com/send-email"],
    )
    method: Literal["POST", "PUT", "PATCH"] = Field(default="POST", description="POST, PUT or PATCH.")
    shape: Literal["simple", "full", "raw"] = Field(
        default="simple",
        description="What is sent: simple (to, from, subject, body, and the rest only when there is some), "
        "full (everything, with the envelope) or raw (the MIME message with the envelope).",
    )
    body: Body = Field(default={}, description=DESCRIPTION)
    content_type: Literal["application/json", "message/rfc822"] = Field(
        default="application/json",
        description='"message/rfc822" (only with shape = "raw") sends the bytes themselves, the envelope in headers.',
    )
    auth: Literal["none", "bearer", "basic", "header", "hmac", "oauth2"] = Field(
        default="none", description="none, bearer (token), basic (username, password) or header (header, token)."
    )
    token: Secret = Field(default=SecretStr(""), description="The credential of bearer and header.")
    username: str = Field(default="", description="The user name of basic.")
    password: Secret = Field(default=SecretStr(""), description="The password of basic.")
    header: HeaderName = Field(
        default="", description='The name of the header that carries the token, as in "X-Api-Key".'
    )
    id: JsonPointer = Field(
        default="/id", description="JSON pointer to the message's id in the answer. Empty: there is none."
    )
    idempotency_header: HeaderName = Field(
        default="Idempotency-Key",
        description="The header that carries a key which is the same for every retry. Empty: none.",
    )
    idempotent: bool = Field(
        default=False,
        description="The API does a request with the same key only once. Say true only if its documentation does: "
        "a call whose answer was lost is then always retried, and never sends a mail twice.",
    )
    headers: Annotated[dict[str, Secret], BeforeValidator(_table_from_text), AfterValidator(_check_headers)] = Field(
        default={}, description="Fixed headers of every request, a table. Their values are treated as secrets."
    )
    max_size: Size = Field(
        default=0, description="The largest message the API takes; a larger one is refused. 0: no limit."
    )
    keepalive: Keepalive = 5.0
    ca_file: CaFile = ""
    proxy: Proxy = SecretStr("")
    allow_http: AllowHttp = False
    outcome: tuple[OutcomeRule, ...] = Field(
        default=(), description="What a response means, where it differs from the usual. The first match wins."
    )

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        yield from self._address_problems()
        yield from self._content_problems()
        yield from self._credential_problems()

    def _address_problems(self) -> Iterator[Problem]:
        yield from url_problems(self.url, allow_http=self.allow_http)
        ours = "Authorization" if self.auth in ("bearer", "basic") else ""
        names = [name.lower() for name in (self.header, self.idempotency_header, ours, *self.headers) if name]
        if len(set(names)) < len(names):
            yield "headers", "names a header that 'auth', 'header' or 'idempotency_header' sets too"

    def _content_problems(self) -> Iterator[Problem]:
        if self.body and "shape" in self.model_fields_set:
            yield "body", "give either 'shape' or 'body'"
        if self.body:
            yield from (("body", text) for text in check_template(self.body))
        if self.content_type == "message/rfc822" and (self.body or self.shape != "raw"):
            yield "content_type", 'is "message/rfc822" only with shape = "raw"'
        key_in_content = self.body or self.shape != "simple"
        if self.idempotent and not self.idempotency_header and not key_in_content:
            yield "idempotent", "needs 'idempotency_header': nothing else carries the key"

    def _credential_problems(self) -> Iterator[Problem]:
        wanted = {"bearer": ("token",), "basic": ("username", "password"), "header": ("header", "token")}.get(
            self.auth, ()
        )
        given = {
            "token": self.token.get_secret_value(),
            "username": self.username,
            "password": self.password.get_secret_value(),
            "header": self.header,
        }
        for key, value in given.items():
            if key in wanted and not value:
                yield key, f'is required with auth = "{self.auth}"'
            if value and key not in wanted:
                yield key, f'is not used with auth = "{self.auth}"'
        if ":" in self.username:
            yield "username", "holds a colon, which basic authentication cannot carry (RFC 7617 2)"


_SECTIONS: tuple[type[ProviderBase], ...] = (RestProvider, CaptureProvider, *CATALOGUE)
KINDS: dict[str, type[ProviderBase]] = {get_args(s.model_fields["kind"].annotation)[0]: s for s in _SECTIONS}
if TYPE_CHECKING:
    Provider = ProviderBase
else:
    Provider = Annotated[Union[tuple(KINDS.values())], Field(discriminator="kind")]  # noqa: UP007 made of a tuple
