"""`docs/providers/KIND.md`: a page for each kind of provider, made from its adapter, its webhook and its settings.

python -m bridge.cli.provider_pages docs/providers
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from bridge.cli.matrix import facts_of, given, needs, section_kind
from bridge.config.kinds import CATALOGUE
from bridge.config.provider_base import ProviderBase
from bridge.config.providers import CaptureProvider, RestProvider
from bridge.config.section import fields, has_marker, sections_in
from bridge.config.show import toml_default
from bridge.config.types import SecretMarker
from bridge.model import EventKind
from bridge.providers.api import ApiProvider
from bridge.providers.catalogue import KINDS, adapter
from bridge.providers.events import HOOKS
from bridge.providers.events.base import Hook
from bridge.providers.http import HttpProvider
from bridge.providers.outcomes import Meaning, outcome_of

_ALL: tuple[type[ProviderBase], ...] = (*CATALOGUE, RestProvider, CaptureProvider)
SECTIONS = {section_kind(section): section for section in _ALL}
# The keys that the kinds of the catalogue share; the page of each names them only.
_SHARED = ("url", "batch", "keepalive", "ca_file", "proxy", "allow_http")
# Where the credentials come from, in words: the one fact that no code knows.
CREDENTIALS: Mapping[str, str] = {
    "sendgrid": "Make an API key in SendGrid's settings. The permission to send mail (Mail Send) is enough. SendGrid must know "
    "the sender: a verified single sender or an authenticated domain. A key of the global region does not work in the EU.",
    "mailgun": "Use an API key of the account, or a sending key of one domain. The domain is in one region: set `region` to "
    "that one.",
    "postmark": "Use a token of the *server* (Server API token), not of the account. The sender needs a confirmed sender "
    "signature or a verified domain.",
    "ses": "There is no key of SES's own. Use an IAM role or user with the permissions named below. On Amazon's machines and "
    "containers give none of the keys: the role is found. The sender's address or domain must be verified in the same region; "
    "a new account is in SES's sandbox, where recipients must be verified too.",
    "resend": "Make an API key in Resend's dashboard; sending access is enough to send. The domain must be verified there.",
    "brevo": "Make an API key in Brevo's settings. It is not the SMTP key, which Brevo shows beside it. The sender must be "
    "verified there.",
    "mailjet": "Mailjet shows the API key and its secret key as a pair: `api_key` and `api_secret`. The sender must be "
    "validated there.",
    "sparkpost": "Make an API key that may create transmissions. The sending domain must be verified. The account is in one "
    "region: set `region` to that one.",
    "mailersend": "Make an API token that may send mail. The domain must be verified there.",
    "mailtrap": 'Make an API token that may send from the sending domain, or for `stream = "sandbox"` one that may use the '
    "inbox.",
    "mandrill": "Make an API key in the settings of Mailchimp Transactional. The sending domain must be verified there.",
    "smtp2go": "Make an API key that may send mail, both with fields and as MIME. The sender must be verified there.",
    "graph": "Register an application with Microsoft Entra. Give it the application permission (not the delegated one) "
    "Mail.Send of Microsoft Graph, with the consent of an administrator, and a client secret. As it is the application may send "
    "as every mailbox: restrict it in Exchange Online to those that it needs.",
    "gmail": "In a Google Cloud project with the Gmail API on, make a service account and a key file (JSON) for it. An "
    "administrator of the Workspace grants it domain-wide delegation for the scope named below.",
    "azure": "The Communication Services resource shows its endpoint (`url`) and its access keys (`api_key`). Instead of the "
    "key an application of Microsoft Entra can be used. An email domain must be connected to the resource.",
    "scaleway": "Use the secret key of an IAM API key that may use Transactional Email, and the project's id. The domain must be "
    "checked there.",
    "zeptomail": "Use the send mail token of a mail agent. The account is in one region: set `region` to that one.",
    "cloudflare": "Make an API token that may send mail (Email Sending), and use the id of the account.",
    "postal": "In Postal's pages make a credential of the type API for the mail server. `url` is the address of your Postal.",
    "lettermint": "Use the sending token of the project.",
    "ahasend": "Make an API key that may send messages, and use the id of the account.",
    "smtp": "The operator of the smarthost gives the name, the user and the password. Without a login leave both out.",
    "rest": "The API's operator says how it authenticates: `auth` is one of the ways below.",
    "capture": "None.",
}
_LATER = ("hmac", "oauth2")  # ways of `rest` to log in that `bridge.config.pending` refuses
_FATE = {"deferred": "kept and tried again", "bounced": "refused", "unknown": "tried again, or held (`on_unknown`)"}
_INTRO = {
    "smtp": "A smarthost: the mail goes on as it is, with its envelope, by SMTP. Each recipient has the smarthost's own verdict.",
    "rest": "Any API that takes a mail in one request. Its address, its login and what its answers mean are settings, so no code "
    "is needed.",
    "capture": "The mail is kept with its body for `spool.history` and shown by `smtp-bridge queue` and on the web page. Nothing "
    "leaves the machine. It is for development, and to look at what a program sends.",
}
_OTHER_FACTS: Mapping[str, tuple[str, ...]] = {
    "smtp": (
        "Carried: everything, since the message goes as it is. 8-bit content becomes 7-bit where the smarthost does not offer "
        "8BITMIME; addresses beyond ASCII need its SMTPUTF8.",
        'TLS: with `tls = "starttls"` it is required, never only tried; certificates are verified.',
        "Retries: SMTP knows no key; a connection lost after the message was sent may mean a second mail.",
        "Limits: those it tells with SIZE, and `max_size`.",
    ),
    "rest": (
        "Carried: what the shape holds. `simple` has the texts, the attachments and the header fields; `full` all of that with "
        "the envelope; `raw` the MIME message as it is.",
        "Limits: `max_size`; none unless set.",
        "Retries: a key goes with each call in `idempotency_header`. Say `idempotent = true` only if the API honours it.",
        "Error codes: `[[provider.outcome]]` says what the API's own codes mean, before the table that holds for every API.",
    ),
    "capture": ("Carried: everything.", "Limits: `spool.max_bytes`.", "Retries: there are none."),
}


def pages() -> dict[str, str]:
    """File name -> text."""
    return {**{f"{kind}.md": _page(kind, section) for kind, section in SECTIONS.items()}, "README.md": _index()}


def _index() -> str:
    rows = [f"| [{kind}]({kind}.md) | {_title(kind)} |" for kind in SECTIONS]
    return "\n".join(
        (
            "# Providers, a page each",
            "",
            "Made by `python -m bridge.cli.provider_pages docs/providers`; a test keeps these pages true. The same facts side by "
            "side: [the matrix](../providers.md).",
            "",
            "| kind | service |",
            "|---|---|",
            *rows,
            "",
            "## Settings that every kind has",
            "",
            "They stand in `[[provider]]` beside those of the kind.",
            "",
            *_settings(fields(ProviderBase), needed=("kind",)),
            "",
            "## Settings of every kind with an API",
            "",
            "The kinds above `smtp` have these too; `rest` has its own `url` and no `batch`.",
            "",
            *_settings({key: fields(CATALOGUE[0])[key] for key in _SHARED}, needed=()),
            "",
        )
    )


def _title(kind: str) -> str:
    return {"smtp": "a smarthost", "rest": "any other API", "capture": "a development inbox"}.get(kind) or adapter(
        kind
    ).title


def _page(kind: str, section: type[ProviderBase]) -> str:
    cls = adapter(kind) if kind in KINDS else None
    lines = (
        *_head(kind, cls),
        "## Where the credentials come from",
        "",
        CREDENTIALS[kind],
        "",
        "## The least that works",
        "",
        "```toml",
        *_least(kind, section),
        "```",
        "",
        *_places(kind, section),
        "```sh",
        "sudo smtp-bridge check --online   # the settings, and whether the provider accepts the credentials",
        "```",
        "",
        *_online(cls),
        "",
        "## Settings",
        "",
        *_own_settings(section),
        "",
        "## What it carries",
        "",
        *([*facts_of(cls)] if cls else [f"- {fact}" for fact in _OTHER_FACTS[kind]]),
        "",
        *(_codes(cls) if cls else ()),
        *_events(kind, section),
    )
    return "\n".join(lines).rstrip("\n") + "\n"


def _head(kind: str, cls: type[ApiProvider] | None) -> Iterator[str]:
    yield f"# {cls.title if cls else kind}"
    yield ""
    yield "Made by `python -m bridge.cli.provider_pages docs/providers`; a test keeps it true. [All providers](README.md)."
    yield ""
    if cls is None:
        yield _INTRO[kind]
    else:
        yield f'`kind = "{kind}"`. The API\'s documentation: <{cls.docs}>.'
        regions = [f"`{name}` <{url}>" for name, url in cls.regions.items() if name]
        if cls.base_url:
            yield f"Mail goes to <{cls.base_url}>{'; by `region`: ' + ', '.join(regions) if regions else ''}."
    yield ""


def _online(cls: type[ApiProvider] | None) -> Iterator[str]:
    if cls is None:
        yield "`--online` has nothing to ask here: send a test mail with `smtp-bridge send`."
    elif cls.verify is not HttpProvider.verify:
        yield (
            "It asks for an access token. Exit status 77 means that it gets none. Whether the mailbox may send, only a test mail "
            "with `smtp-bridge send` shows."
        )
    elif cls.probe is HttpProvider.probe:
        yield (
            "This API has no call for that which sends nothing: `check --online` says so. Send a test mail with "
            "`smtp-bridge send`."
        )
    elif cls.probe_wants_more:
        yield (
            "That call needs a permission which sending does not: a key that may send and nothing else is reported as one of "
            "which nothing is known."
        )
    else:
        yield "Exit status 77 means that the provider refuses the credentials, or could not be asked."


def _places(kind: str, section: type[ProviderBase]) -> Iterator[str]:
    if "secrets/" in "".join(_least(kind, section)):
        yield "`secrets/` is the directory beside the settings file: [where files lie](../systemd.md#settings-and-secrets)."
        yield ""


def _least(kind: str, section: type[ProviderBase]) -> Iterator[str]:
    yield "[[provider]]"
    yield f'kind = "{kind}"'
    needed = needs(section)
    if kind == "rest":
        yield 'url = "https://mail.example.com/send-email"'
        yield 'auth = "bearer"'
        needed = ("token",)
    yield from (given(section, key) for key in needed)


def _own_settings(section: type[ProviderBase]) -> Iterator[str]:
    common = set(fields(ProviderBase)) | ({"batch", "keepalive", "ca_file", "proxy", "allow_http"})
    needed = set(getattr(section, "needs", ()))
    own = {key: field for key, field in fields(section).items() if key not in common and not sections_in(field)[0]}
    regions: Iterable[str] = getattr(section, "regions", ())
    if own:
        yield from _settings(own, needed=needed)
        yield ""
    if regions:
        yield f"`region` is one of {', '.join(f'`{name}`' for name in regions)}, or empty."
    elif section.has_regions:
        yield "`region` is the API's region."
    shared = sorted(set(fields(section)) & (common - {"region"}))
    yield f"And those of [every kind](README.md#settings-that-every-kind-has): {', '.join(f'`{key}`' for key in shared)}."
    yield "A secret `x` may be given as `x_file`, the name of a file that holds it."


def _settings(keys: Mapping[str, FieldInfo], *, needed: Iterable[str]) -> Iterator[str]:
    yield "| key | type | default | meaning |"
    yield "|---|---|---|---|"
    for key, field in keys.items():
        secret = has_marker(field, SecretMarker)
        must = key in needed or field.is_required()
        default = "must be given" if must else f"`{toml_default(key, field)}`"
        name = f"`{key}`" + (" (secret)" if secret else "")
        kind = _type(field, secret=secret)
        if kind == "number" and default.startswith('`"'):
            kind = "size"  # the number of octets is written as a text, "25MiB"
        yield f"| {name} | {kind} | {default} | {_cell(field.description or '')} |"


def _cell(text: str) -> str:
    """In a table: one line, no bar. An example of several lines stands in `config.example.toml`."""
    first, _, more = text.partition("\n")
    return first.replace("|", "\\|").strip() + (" More of it in `config.example.toml`." if more else "")


def _type(field: FieldInfo, *, secret: bool) -> str:
    """What a person would write there."""
    if get_origin(field.annotation) is dict:
        return "table"
    return "text" if secret else ", ".join(dict.fromkeys(_types(field.annotation))) or "text"


def _types(annotation: Any) -> Iterator[str]:
    words = {str: "text", SecretStr: "text", int: "number", float: "time", bool: "true or false", dict: "table"}
    arguments = get_args(annotation)
    if annotation in words:
        yield words[annotation]
    elif any(isinstance(one, str) for one in arguments) and not any(isinstance(one, type) for one in arguments):
        yield " or ".join(f'`"{one}"`' for one in arguments if one not in _LATER)
    elif getattr(annotation, "__name__", "") == "Rate":
        yield "rate"
    else:
        for one in arguments:
            if one is not type(None):
                yield from _types(one)


def _codes(cls: type[ApiProvider]) -> Iterator[str]:
    yield "## Error codes"
    yield ""
    if cls.codes:
        yield "Codes of this API that are known by name. Some answers are understood by more than the code."
        yield ""
        yield "| reply | meaning | the mail is | codes |"
        yield "|---|---|---|---|"
        for meaning in dict.fromkeys(cls.codes.values()):
            codes = ", ".join(f"`{code}`" for code, means in cls.codes.items() if means is meaning)
            yield f"| {' | '.join(_meaning(meaning))} | {codes} |"
        yield ""
    yield (
        f"{'Every other answer' if cls.codes else 'An answer'} is understood by its HTTP status and what the adapter knows of "
        "the API's texts: [the table of replies](../../README.md#replies). What to do about a reply: "
        "[troubleshooting](../troubleshooting.md)."
    )
    yield ""


def _meaning(meaning: Meaning) -> tuple[str, str, str]:
    outcome = outcome_of(meaning)
    return f"`{outcome.reply.code} {outcome.reply.enhanced}`", meaning.value, _FATE[outcome.status]


def _events(kind: str, section: type[ProviderBase]) -> Iterator[str]:
    if kind not in KINDS:
        return
    yield "## Events"
    yield ""
    if kind not in HOOKS:
        yield "It has no webhooks: what happens later comes as a bounce to the sending mailbox, or stands in its own pages."
        return
    module = importlib.import_module(f"bridge.providers.events.{kind}")
    hook: type[Hook] = getattr(module, HOOKS[kind])
    keys = [key for key in fields(section) if key.startswith("webhook_")]
    needed = [f"webhook_{name}" for name in hook.needs]
    yield (
        f"Let it POST to `https://YOUR-HOST/webhooks/{kind}` (or the provider's `name`), and set "
        f"{' and '.join(f'`{key}`' for key in needed)}; `http.address` must be set too."
    )
    if hook.early:
        yield (
            f"It signs nothing, so a secret of yours shows that a call is from it: end the address in `?secret=...`, or give it "
            f"as the password of a login, as a bearer token or in `X-Webhook-Secret`. It is `{needed[0]}`."
        )
    else:
        yield "Each call is verified; one that is forged, changed or too old is refused with 401."
    yield ""
    yield from (f"- `{key}`: {fields(section)[key].description}" for key in keys if not hook.early)
    yield f"- Its documentation: <{(module.__doc__ or '').split()[0]}>"
    yield ""
    words: dict[str, EventKind | None] = getattr(module, "_KINDS", {})
    if words:
        yield "| it says | the event is |"
        yield "|---|---|"
        yield from (f"| `{word}` | {event} |" for word, event in words.items())
        yield ""
    yield "What follows from an event: [provider events](../../README.md#provider-events)."


def write(directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        (directory / name).write_text(text)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
