"""The settings of the catalogue: a class for each kind, with the keys its adapter takes, by the same names."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, PlainSerializer, SecretStr

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
from bridge.config.section import Problem
from bridge.config.types import ExistingFile, Secret, Size, is_domain, mask_url


def _maybe_url(url: str) -> str:
    if "?" in url:
        raise ValueError("ends in a ?query, which a base address has none of")
    return check_url(url).rstrip("/") if url else ""


def _domain(name: str) -> str:
    if name and not is_domain(name):
        raise ValueError("not a domain")
    return name


BaseUrl = Annotated[str, AfterValidator(_maybe_url), PlainSerializer(mask_url, return_type=str)]
Domain = Annotated[str, AfterValidator(_domain)]
Port = Annotated[int, Field(ge=0, le=65535)]
Content = Annotated[
    Literal["auto", "raw", "json"],
    Field(
        description="auto: the MIME message as it is, unless only JSON can carry the mail. raw: always so. json: the API's own "
        "fields, with what they lose refused."
    ),
]
NONE = SecretStr("")


def webhook(description: str) -> Any:
    return Field(default=NONE, description=f"{description} Empty: events are not taken.")


def _long_enough(secret: SecretStr) -> SecretStr:
    if 0 < len(secret.get_secret_value()) < 16:
        raise ValueError("is shorter than 16 characters: it could be guessed")
    return secret


SharedSecret = Annotated[Secret, AfterValidator(_long_enough)]
SHARED = (
    "Provider events, which it does not sign: a secret of your own, of 16 characters or more, that its webhook's address "
    "ends in (`?secret=...`), or that is the password of its login."
)


class ApiProvider(ProviderBase):
    """What all kinds of the catalogue have. `regions`: those there are. `needs`: the keys that must be given."""

    regions: ClassVar[tuple[str, ...]] = ()
    needs: ClassVar[tuple[str, ...]] = ("api_key",)

    url: BaseUrl = Field(
        default="",
        description="The API's base address, instead of scheme and host of the documented one: a sovereign cloud, a proxy, the "
        "sandbox. Empty: the documented one.",
    )
    batch: int = Field(
        default=0,
        ge=0,
        description="Messages in one call at most, where the API takes several. 0: as many as it takes; 1: one by one.",
    )
    keepalive: Keepalive = 5.0
    ca_file: CaFile = ""
    proxy: Proxy = NONE
    allow_http: AllowHttp = False

    def problems(self) -> Iterator[Problem]:
        if self.url:
            yield from url_problems(self.url, allow_http=self.allow_http)
        for key in self.needs:
            value = getattr(self, key)
            if not (value.get_secret_value() if isinstance(value, SecretStr) else value):
                yield key, "is required"
        for key, value in self:
            if isinstance(value, SecretStr) and not value.get_secret_value().isascii():
                yield key, "holds a character that no key has"
        if self.regions and self.region.lower() not in ("", *self.regions):
            yield "region", f"is one of {', '.join(self.regions)}, or empty"
        elif not self.regions:
            yield from super().problems()


class ApiKeyProvider(ApiProvider):
    api_key: Secret = Field(default=NONE, description="The API's key.")


class SendgridProvider(ApiKeyProvider):
    kind: Literal["sendgrid"] = kind_field()
    regions = ("eu",)
    webhook_key: Secret = webhook("Provider events: the public key that the page of the signed event webhook shows.")


class MailgunProvider(ApiKeyProvider):
    kind: Literal["mailgun"] = kind_field()
    regions = ("us", "eu")
    webhook_secret: Secret = webhook("Provider events: the HTTP webhook signing key, which is not the API key.")
    domain: Domain = Field(default="", description="The sending domain. Empty: that of the mail's sender.")
    content: Content = "auto"


class PostmarkProvider(ApiKeyProvider):
    kind: Literal["postmark"] = kind_field()
    webhook_secret: SharedSecret = webhook(SHARED)


class SesProvider(ApiProvider):
    kind: Literal["ses"] = kind_field()
    has_regions = True  # any of Amazon's
    needs = ()
    webhook_topic: str = Field(
        default="",
        description="Provider events: the ARN of the SNS topic that the configuration set publishes to. Empty: events are not "
        "taken.",
    )
    access_key_id: str = Field(
        default="",
        description="Static credentials. None: those of the environment, the container or the instance.",
    )
    secret_access_key: Secret = Field(default=NONE, description="Its secret.")
    session_token: Secret = Field(default=NONE, description="Only with temporary credentials.")
    content: Content = "auto"

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        secret = bool(self.secret_access_key.get_secret_value())
        if bool(self.access_key_id) != secret:
            yield ("secret_access_key" if self.access_key_id else "access_key_id"), "is required with the other"
        if self.session_token.get_secret_value() and not secret:
            yield "session_token", "needs 'access_key_id' and 'secret_access_key'"


class ResendProvider(ApiKeyProvider):
    kind: Literal["resend"] = kind_field()
    webhook_secret: Secret = webhook("Provider events: the signing secret of the webhook, `whsec_` and base64.")


class BrevoProvider(ApiKeyProvider):
    kind: Literal["brevo"] = kind_field()
    webhook_secret: SharedSecret = webhook(SHARED)


class MailjetProvider(ApiKeyProvider):
    kind: Literal["mailjet"] = kind_field()
    regions = ("us",)
    needs = ("api_key", "api_secret")
    webhook_secret: SharedSecret = webhook(SHARED)
    api_secret: Secret = Field(default=NONE, description="The private half of the key.")


class SparkpostProvider(ApiKeyProvider):
    kind: Literal["sparkpost"] = kind_field()
    regions = ("us", "eu")
    webhook_secret: SharedSecret = webhook(SHARED)
    content: Content = "auto"


class MailersendProvider(ApiKeyProvider):
    kind: Literal["mailersend"] = kind_field()
    webhook_secret: Secret = webhook("Provider events: the signing secret of the webhook.")
    custom_headers: bool = Field(
        default=False,
        description="The plan takes header fields of the mail's own (Professional and up); else they are left out.",
    )


class MailtrapProvider(ApiKeyProvider):
    kind: Literal["mailtrap"] = kind_field()
    webhook_secret: Secret = webhook("Provider events: the signing secret of the webhook.")
    stream: Literal["transactional", "bulk", "sandbox"] = Field(
        default="transactional", description="transactional, bulk or sandbox (needs `inbox`)."
    )
    inbox: str = Field(default="", description="The id of the sandbox's inbox.")

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        if (self.stream == "sandbox") != bool(self.inbox):
            yield "inbox", 'goes with stream = "sandbox", and only with it'
        if self.inbox and not self.inbox.isdigit():
            yield "inbox", "is a number"


class MandrillProvider(ApiKeyProvider):
    kind: Literal["mandrill"] = kind_field()
    webhook_secret: Secret = webhook("Provider events: the key of the webhook.")
    webhook_url: str = Field(
        default="",
        description="The webhook's address as it stands at Mandrill, which signs it as well. Empty: as it is asked for, which "
        "differs behind a proxy.",
    )
    content: Content = "auto"


class Smtp2goProvider(ApiKeyProvider):
    kind: Literal["smtp2go"] = kind_field()
    regions = ("us", "eu", "au")
    webhook_secret: SharedSecret = webhook(SHARED)
    content: Content = "auto"


class Entra(ApiProvider):
    """Credentials of an application registered with Microsoft Entra."""

    tenant: str = Field(default="", description="The directory (tenant) id, or its domain.")
    client_id: str = Field(default="", description="The application (client) id.")
    client_secret: Secret = Field(default=NONE, description="The application's secret.")
    authority: BaseUrl = Field(
        default="", description="The base address of the token endpoint. Empty: https://login.microsoftonline.com."
    )

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        if self.authority:
            yield from url_problems(self.authority, allow_http=self.allow_http, key="authority")


class GraphProvider(Entra):
    kind: Literal["graph"] = kind_field()
    regions = ("us", "dod", "china")
    needs = ("tenant", "client_id", "client_secret")
    user: str = Field(default="", description="The mailbox that sends. Empty: that of the mail's sender.")
    content: Content = "auto"
    save_to_sent_items: bool = Field(
        default=False, description="Keep a copy in Sent Items (the MIME form always does, says Microsoft)."
    )


class GmailProvider(ApiProvider):
    kind: Literal["gmail"] = kind_field()
    needs = ("service_account_file",)
    service_account_file: ExistingFile = Field(
        default="", description="The key file (JSON) of a service account with domain-wide delegation."
    )
    user: str = Field(default="", description="The mailbox that sends. Empty: that of the mail's sender.")


class AzureProvider(Entra):
    kind: Literal["azure"] = kind_field()
    needs = ("url",)
    webhook_secret: SharedSecret = webhook(SHARED)
    api_key: Secret = Field(
        default=NONE, description="The resource's access key; or `tenant`, `client_id` and `client_secret`."
    )

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        names = ("tenant", "client_id", "client_secret")
        values = (self.tenant, self.client_id, self.client_secret.get_secret_value())
        if self.api_key.get_secret_value():
            yield from ((n, "is not used with 'api_key'") for n, v in zip(names, values, strict=True) if v)
        else:
            yield from ((n, "is required without 'api_key'") for n, v in zip(names, values, strict=True) if not v)


class ScalewayProvider(ApiKeyProvider):
    kind: Literal["scaleway"] = kind_field()
    has_regions = True
    needs = ("api_key", "project_id")
    webhook_secret: SharedSecret = webhook(SHARED)
    project_id: str = Field(default="", description="The project's id.")


class ZeptomailProvider(ApiKeyProvider):
    kind: Literal["zeptomail"] = kind_field()
    regions = ("com", "eu", "in", "com.au", "jp", "ca", "sa", "com.cn")
    webhook_secret: SharedSecret = webhook(
        "Provider events: the authentication key of the webhook; or, where it shows none, a secret of your own, of 16 "
        "characters or more, that its address ends in (`?secret=...`) or that it sends as `X-Webhook-Secret`."
    )


class CloudflareProvider(ApiKeyProvider):
    kind: Literal["cloudflare"] = kind_field()
    needs = ("api_key", "account_id")
    account_id: str = Field(default="", description="The account's id.")
    content: Content = "auto"


class PostalProvider(ApiKeyProvider):
    kind: Literal["postal"] = kind_field()
    needs = ("api_key", "url")
    webhook_key: Secret = webhook(
        "Provider events: the public key of the server, base64: what its DKIM record has as `p=`."
    )
    content: Content = "auto"


class LettermintProvider(ApiKeyProvider):
    kind: Literal["lettermint"] = kind_field()
    webhook_secret: Secret = webhook("Provider events: the signing secret of the webhook.")


class AhasendProvider(ApiKeyProvider):
    kind: Literal["ahasend"] = kind_field()
    needs = ("api_key", "account_id")
    webhook_secret: SharedSecret = webhook("Provider events: the signing secret of the webhook, `aha-whsec-...`.")
    account_id: str = Field(default="", description="The account's id.")


class SmtpProvider(ProviderBase):
    """A smarthost."""

    kind: Literal["smtp"] = kind_field()
    host: str = Field(min_length=1, description="The smarthost's name or address.", examples=["smtp.example.com"])
    port: Port = Field(default=0, description="0: 587, with implicit TLS 465, without TLS 25.")
    tls: Literal["none", "starttls", "implicit"] = Field(
        default="starttls", description="none, starttls (required, not only tried) or implicit."
    )
    username: str = Field(default="", description="Empty: no login.")
    password: Secret = Field(default=NONE, description="The password of the login.")
    ca_file: CaFile = ""
    max_size: Size = Field(default=0, description="The largest message it takes; a larger one is refused. 0: no limit.")

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        if bool(self.username) != bool(self.password.get_secret_value()):
            yield ("password" if self.username else "username"), "is required with the other"
        if self.username and self.tls == "none":
            yield "tls", 'is "none": the password would cross the network in clear; use starttls or implicit'


CATALOGUE: tuple[type[ProviderBase], ...] = (
    SendgridProvider, MailgunProvider, PostmarkProvider, SesProvider, ResendProvider, BrevoProvider, MailjetProvider,
    SparkpostProvider, MailersendProvider, MailtrapProvider, MandrillProvider, Smtp2goProvider, GraphProvider,
    GmailProvider, AzureProvider, ScalewayProvider, ZeptomailProvider, CloudflareProvider, PostalProvider,
    LettermintProvider, AhasendProvider, SmtpProvider,
)  # fmt: skip
