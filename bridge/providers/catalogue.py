"""The kinds of the catalogue by name. An adapter is loaded when a provider of its kind is built, and no other."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from dataclasses import fields
from typing import Any

from bridge.clock import Clock
from bridge.providers.api import ApiProvider
from bridge.providers.base import Policy, Provider
from bridge.providers.http import transport_for

KINDS: dict[str, str] = {
    "sendgrid": "Sendgrid",
    "mailgun": "Mailgun",
    "postmark": "Postmark",
    "ses": "Ses",
    "resend": "Resend",
    "brevo": "Brevo",
    "mailjet": "Mailjet",
    "sparkpost": "Sparkpost",
    "mailersend": "Mailersend",
    "mailtrap": "Mailtrap",
    "mandrill": "Mandrill",
    "smtp2go": "Smtp2go",
    "graph": "Graph",
    "gmail": "Gmail",
    "azure": "Azure",
    "scaleway": "Scaleway",
    "zeptomail": "Zeptomail",
    "cloudflare": "Cloudflare",
    "postal": "Postal",
    "lettermint": "Lettermint",
    "ahasend": "Ahasend",
}


def adapter(kind: str) -> type[ApiProvider]:
    """The class of a kind; its module is named as the kind. Raises KeyError."""
    found: type[ApiProvider] = getattr(importlib.import_module(f"bridge.providers.{kind}"), KINDS[kind])
    return found


def adapters() -> Iterable[type[ApiProvider]]:
    return (adapter(kind) for kind in KINDS)


def settings_of(kind: str, given: Any) -> Any:
    """The adapter's settings from an object that has attributes of the same names; a secret's value is taken out."""
    cls = adapter(kind).Settings
    return cls(**{f.name: _plain(getattr(given, f.name)) for f in fields(cls)})


def _plain(value: Any) -> Any:
    return value.get_secret_value() if hasattr(value, "get_secret_value") else value


def build(
    name: str, kind: str, policy: Policy, given: Any, *, proxy: str = "", ca_file: str = "", clock: Clock | None = None
) -> Provider:
    """One configured provider. Raises ValueError for settings that only its adapter can judge (an unusable key file)."""
    cls = adapter(kind)
    settings = settings_of(kind, given)
    transport = transport_for(cls.base_of(settings), policy, proxy=proxy, ca_file=ca_file, keepalive_s=given.keepalive)
    return cls(name, policy, settings, transport=transport, clock=clock)
