"""What the settings of all providers share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, SecretStr, model_validator

from bridge.config.section import Problem, Section
from bridge.config.types import (
    Count,
    Duration,
    ExistingFile,
    MaybeRate,
    Name,
    PositiveDuration,
    SecretUrl,
    is_loopback,
    split_url,
)


class ProviderBase(Section):
    table: ClassVar[str] = "provider"

    name: Name = Field(
        default="", description="What this provider is called in the log, the queue and the metrics. Empty: its kind."
    )
    kind: str = Field(
        description="Which API: one of docs/providers.md, rest (any other, described below), smtp (a smarthost) or capture "
        "(mail is kept and shown, and goes nowhere)."
    )
    region: str = Field(default="", description="The API's region, for the kinds that have several.")
    rate: MaybeRate = Field(
        default=None,
        description='Messages per period at most, as in "10/s", "600/m", "100/h" or "5000/d". Empty: no limit.',
    )
    call_rate: MaybeRate = Field(
        default=None,
        description="Calls of the API per period at most, where several messages go in one call. Empty: no limit.",
    )
    max_per_day: Count | Literal[0] = Field(
        default=0, description="Messages per day (UTC) at most; further ones wait for the next. 0: no limit."
    )
    max_per_month: Count | Literal[0] = Field(
        default=0, description="Messages per month (UTC) at most; further ones wait for the next. 0: no limit."
    )
    warmup: MaybeRate = Field(
        default=None,
        description='For a new domain: so many messages on the first day, as in "50/d", twice as many on each further one, '
        "until `rate` or `max_per_day` is reached. Empty: at once.",
    )
    suppress: bool = Field(
        default=False,
        description="An address that this provider says does not exist or must not be mailed is refused at RCPT from then on "
        "(`smtp-bridge suppress list`).",
    )
    concurrency: Count = Field(default=10, le=10_000, description="Calls at the same time, at most.")
    timeout: PositiveDuration = Field(
        default=30.0, description="How long one call may take, from connecting to the last byte."
    )
    on_unknown: Literal["retry", "hold"] = Field(
        default="retry",
        description="What to do when the answer to a call was lost, so that the mail may have been sent: "
        "retry (may send it twice, unless `idempotent`) or hold (waits for the operator).",
    )
    max_unknown: Count = Field(
        default=8, description="Lost answers per recipient, at most; then the recipient is held."
    )

    has_regions: ClassVar[bool] = False

    def problems(self) -> Iterator[Problem]:
        if self.region and not self.has_regions:
            yield "region", "has no meaning for this kind; leave it empty"
        if self.warmup and self.warmup.unit != "d":
            yield "warmup", 'is per day, as in "50/d"'

    @model_validator(mode="before")
    @classmethod
    def _named_after_its_kind(cls, data: Any) -> Any:
        if isinstance(data, dict) and not data.get("name"):
            return {**data, "name": data.get("kind")}
        return data


def kind_field() -> Any:
    """The key `kind`, with the same words for each."""
    return Field(description=ProviderBase.model_fields["kind"].description)


def check_url(url: str) -> str:
    parts = split_url(url)
    if parts.username is not None or parts.password is not None:
        raise ValueError("holds credentials; give them with keys of their own")
    if parts.fragment:
        raise ValueError("ends in a #fragment, which is never sent")
    return url


def url_problems(url: str, *, allow_http: bool, key: str = "url") -> Iterator[Problem]:
    parts = split_url(url)
    if parts.scheme == "http" and not allow_http and not is_loopback(parts.hostname or ""):
        yield key, "is http:// to another machine; use https://, or set allow_http = true"


def _check_proxy(proxy: SecretStr) -> SecretStr:
    if proxy.get_secret_value():
        split_url(proxy.get_secret_value())
    return proxy


Keepalive = Annotated[
    Duration, Field(description="How long an unused connection is kept for the next call. 0: not at all.")
]
CaFile = Annotated[ExistingFile, Field(description="Certificates (PEM) to trust besides the system's.")]
Proxy = Annotated[
    SecretUrl,
    AfterValidator(_check_proxy),
    Field(description="The HTTP proxy's address. Empty: the usual environment variables decide."),
]
AllowHttp = Annotated[
    bool, Field(description="Allow http:// to other machines: mail and credentials cross the network in clear.")
]
