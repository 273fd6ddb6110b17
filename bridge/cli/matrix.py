"""`docs/providers.md`, made from the adapters and their settings, so that it says what they do.

python -m bridge.cli.matrix > docs/providers.md
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import get_args

from bridge.config.kinds import CATALOGUE
from bridge.config.provider_base import ProviderBase
from bridge.config.section import fields, has_marker
from bridge.config.types import SecretMarker
from bridge.mime.addressing import Caps
from bridge.mime.fidelity import Carries, Form
from bridge.mime.repair import Needs
from bridge.providers.api import ApiProvider
from bridge.providers.catalogue import KINDS, adapter
from bridge.providers.features import ignored

NO_LIMIT = "no limit known"

_HEAD = """\
# Providers

Made from the adapters by `python -m bridge.cli.matrix`; a test keeps it true. `smtp-bridge check --online` asks each
provider whether it accepts the credentials, without sending a mail, where its API has a call for that.

[A page for each](providers/README.md) has its settings one by one, its error codes and its webhooks. `secrets/` in a name is
the directory beside the settings file ([where files lie](systemd.md#settings-and-secrets)). What holds for all of them:

- Who is mailed stands in the envelope. **raw**: the MIME message goes as it is, so signed and encrypted mail,
  invitations and everything else in it arrive. With *own envelope* the API takes the recipients beside the message; with
  *recipients in the header* To and Cc are written anew from the envelope, and addresses that are not in it are not shown.
  **JSON**: the API's own fields.
- What a form cannot carry is refused with a 5.6.x reply (another `[[provider]]` that can carry it is taken first), or
  sent with the loss in the log when `relay.degrade = true`. What can be mended without loss is mended, and named in the
  log (`message.repaired`).
- `X-Bridge-Tag: welcome` and `X-Bridge-Metadata: order=17; shop=3` work with every provider that has tags and metadata;
  the fields of a provider's own SMTP service work with that provider. They are taken out of the mail. Nothing in them can
  name, add or hide a recipient, a sender or a credential: what is not listed below is dropped, and the log says so.
- More recipients than a call takes become several calls, each recipient in exactly one of them.
- Where a call takes several messages and several wait in the queue, they go together. A client that waits (`auto`,
  `direct`) never waits for others to join; it may wait for a slot (`concurrency`).
"""


# What stands in an example for a key that must be given.
_EXAMPLES = {
    "url": "https://mail.example.com",
    "host": "smtp.example.com",
    "username": "relay@example.com",
    "tenant": "example.onmicrosoft.com",
    "client_id": "00000000-0000-0000-0000-000000000000",
    "account_id": "0123456789",
    "project_id": "00000000-0000-0000-0000-000000000000",
    "region": "eu-west-1",
    "service_account_file": "secrets/gmail.json",
}
# What an example needs beside `needs` of its kind: one of two ways to log in, a region that may come from elsewhere.
_ALSO = {"ses": ("region",), "azure": ("api_key",), "smtp": ("host", "username", "password")}


def needs(section: type[ProviderBase]) -> tuple[str, ...]:
    """The keys of the least configuration."""
    return (*getattr(section, "needs", ()), *_ALSO.get(section_kind(section), ()))


def given(section: type[ProviderBase], key: str) -> str:
    """`api_key_file = "secrets/postmark.api_key"`: the line of a key that is given."""
    if has_marker(fields(section)[key], SecretMarker):
        return f'{key}_file = "secrets/{section_kind(section)}.{key}"'
    return f'{key} = "{_EXAMPLES[key]}"'


def markdown() -> str:
    sections = {section_kind(section): section for section in CATALOGUE}
    parts = [_HEAD, "\n".join(_table()), *(_provider(adapter(kind), sections[kind]) for kind in KINDS)]
    return "\n".join((*parts, _smarthost(sections["smtp"])))


def section_kind(section: type[ProviderBase]) -> str:
    (kind,) = get_args(section.model_fields["kind"].annotation)
    return str(kind)


def _table() -> Iterator[str]:
    yield "| kind | forms | recipients in a call | size | messages in a call | key for retries | own header fields |"
    yield "|---|---|---|---|---|---|---|"
    for kind in KINDS:
        cls = adapter(kind)
        cells = (
            f"[{kind}](#{kind})",
            ", ".join(_form_name(cls, form) for form in cls.forms),
            " / ".join(dict.fromkeys(_caps(_caps_of(cls, form)) for form in cls.forms)),
            " / ".join(dict.fromkeys(_size(form.carries) for form in cls.forms)),
            str(cls.max_batch),
            "yes" if cls.idempotent else "no",
            "yes" if _own_fields(cls) else "no",
        )
        yield f"| {' | '.join(cells)} |"
    yield ""


def _form_name(cls: type[ApiProvider], form: Form) -> str:
    if form.name == "json":
        return "JSON"
    return "raw, own envelope" if cls.raw_envelope else "raw, recipients in the header"


def _caps_of(cls: type[ApiProvider], form: Form) -> Caps:
    return cls.raw_caps if form.name == "raw" else cls.caps


def _caps(caps: Caps) -> str:
    each = [f"{name} {most}" for name, most in (("to", caps.to), ("cc", caps.cc), ("bcc", caps.bcc)) if most]
    return ", ".join(([str(caps.total)] if caps.total else []) + each) or NO_LIMIT


def _size(carries: Carries) -> str:
    return _megabytes(carries.max_size) if carries.max_size else NO_LIMIT


def _megabytes(size: int) -> str:
    """`2.8 MB`; never more than it is."""
    return f"{size // 100_000 / 10:g} MB"


def _provider(cls: type[ApiProvider], section: type[ProviderBase]) -> str:
    return "\n".join(
        (
            f"## {cls.kind}",
            "",
            f"{cls.title}: <{cls.docs}>",
            "",
            *facts_of(cls),
            "",
            "```toml",
            "[[provider]]",
            f'kind = "{cls.kind}"',
            *_example(section),
            "```",
            "",
        )
    )


def facts_of(cls: type[ApiProvider]) -> Iterator[str]:
    yield f"- Forms: {', then '.join(_form_name(cls, form) for form in cls.forms)}" + (
        '; `content = "raw"` or `"json"` allows one of them only.' if len(cls.forms) > 1 else "."
    )
    for form in cls.forms:
        name = "JSON" if form.name == "json" else "raw"
        yield f"- Limits ({name}): {_limits(_caps_of(cls, form), form.carries)}."
        if form.name == "json":
            yield f"- Not carried (JSON): {', '.join(_lost(form.carries))}."
    if any(form.name == "json" for form in cls.forms):
        mended = list(_mended(cls.needs))
        yield f"- Mended (JSON): {'; '.join(mended)}."
    if cls.max_batch > 1:
        limit = f", {_megabytes(cls.max_batch_bytes)} at most" if cls.max_batch_bytes else ""
        yield f"- Batches: up to {cls.max_batch} messages in a call{limit}; `batch = 1` turns them off."
    yield f"- Retries: {_retries(cls)}"
    yield f"- Header fields: {_fields(cls)}"
    yield from (f"- {note}" for note in cls.notes)
    if cls.unverified:
        yield f"- What no documentation that was read confirms: {', '.join(cls.unverified)}."


def _limits(caps: Caps, carries: Carries) -> str:
    recipients, size = _caps(caps), _size(carries)
    if recipients == size == NO_LIMIT:
        return "none known"
    some = f"{recipients} recipients in a call" if recipients != NO_LIMIT else "no limit of recipients known"
    return f"{some}, {size}" if size != NO_LIMIT else f"{some}, no limit of size known"


def _lost(carries: Carries) -> Iterator[str]:
    yield "signed and encrypted mail"
    if not carries.alternatives:
        others = f" (but {', '.join(sorted(carries.alternative_types))})" if carries.alternative_types else ""
        yield f"invitations and other alternative bodies{others}"
    facts = (
        (carries.type_parameters, "the method of an attached calendar"),
        (carries.text_with_html, "a text beside the HTML"),
        (carries.inline_images, "inline images"),
        (carries.headers, "header fields"),
        (carries.reply_to, "Reply-To"),
        (not carries.reply_to or carries.reply_tos, "more than one Reply-To"),
        (carries.smtputf8, "local parts beyond ASCII"),
        (not carries.endings, f"files with other endings than {' '.join(sorted(carries.endings))}"),
    )
    yield from (text for carried, text in facts if not carried)


def _mended(needs: Needs) -> Iterator[str]:
    yield "old DKIM and ARC signatures dropped"
    facts = (
        (needs.subject, "an empty subject filled"),
        (needs.body, "an empty body filled with a blank"),
        (needs.html, "HTML made from the text"),
        (needs.filenames, "a file without a name gets one"),
        (needs.matching_endings, "a file's ending made to agree with its type"),
        (needs.ascii_filenames, "file names in ASCII"),
        (needs.headers_once, "repeated header fields joined"),
        (bool(needs.max_value), f"header fields of more than {needs.max_value} octets dropped"),
        (needs.filled_files, "an empty file gets a line break"),
        (bool(needs.max_headers), f"at most {needs.max_headers} header fields"),
        (bool(needs.least_text), f"subject and bodies padded to {needs.least_text} characters"),
        (bool(needs.max_subject), f"the subject cut to {needs.max_subject} characters"),
        (bool(needs.only_headers), f"header fields other than {' '.join(sorted(needs.only_headers))} dropped"),
        (bool(needs.reserved), f"refused header fields dropped ({' '.join(sorted(needs.reserved))})"),
    )
    yield from (text for holds, text in facts if holds)


def _retries(cls: type[ApiProvider]) -> str:
    if cls.idempotent:
        return "a key goes with each call, so that an answer that was lost is asked for again and mails nobody twice."
    return (
        'the API knows no key; a lost answer may mean a second mail (`on_unknown = "hold"` keeps it for you instead).'
    )


def _fields(cls: type[ApiProvider]) -> str:
    own = sorted(_header_case(name) for name in _own_fields(cls))
    return ", ".join(f"`{name}`" for name in ("X-Bridge-Tag", "X-Bridge-Metadata", *own)) + "."


def _own_fields(cls: type[ApiProvider]) -> list[str]:
    """Without those that are only taken out of the mail."""
    return [name for name, reader in cls.readers.items() if reader is not ignored]


def _header_case(name: str) -> str:
    small = {
        "smtpapi": "SMTPAPI",
        "ses": "SES",
        "pm": "PM",
        "mc": "MC",
        "msys": "MSYS",
        "api": "API",
        "mj": "MJ",
        "mt": "MT",
    }
    return "-".join(small.get(part, part.capitalize()) for part in name.split("-"))


def _example(section: type[ProviderBase]) -> Iterator[str]:
    """The keys of this kind alone, those that every kind has left out."""
    from bridge.config.show import toml_default

    common = set(fields(ProviderBase)) | {"batch", "keepalive", "ca_file", "proxy", "allow_http"}
    needed = needs(section)
    regions: Iterable[str] = getattr(section, "regions", ())
    for key, field in fields(section).items():
        if key == "kind" or key in common:
            continue
        line = given(section, key) if key in needed else f"{key} = {toml_default(key, field)}"
        if has_marker(field, SecretMarker):
            line = given(section, key)
        yield f"{'' if key in needed else '#'}{line}  # {_first_sentence(field.description or '')}"
    if regions:
        yield f'#region = ""  # {", ".join(regions)}, or empty'
    elif section.has_regions:
        yield '#region = ""'


def _first_sentence(text: str) -> str:
    return text.replace("\n", " ")


def _smarthost(section: type[ProviderBase]) -> str:
    lines = [
        "## smtp",
        "",
        "A smarthost: the mail goes on as it is, with its envelope; each recipient has the smarthost's own verdict.",
        "",
        '- STARTTLS is required with `tls = "starttls"`, never only tried; certificates are verified.',
        "- 8-bit content becomes 7-bit where the smarthost does not offer 8BITMIME.",
        "- Retries: SMTP knows no key; a connection lost after the message was sent may mean a second mail.",
        "",
        "```toml",
        "[[provider]]",
        'kind = "smtp"',
        *_example(section),
        "```",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    print(markdown(), end="")
