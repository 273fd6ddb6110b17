"""What providers tell later of the mail they took (webhooks): one file per provider, named as its kind; pure but for the
fetching of Amazon's certificate.
"""

from __future__ import annotations

import importlib

from bridge.providers.events.base import Hook, HookSettings

# Those that have webhooks. Graph and Gmail report in the mailbox, Cloudflare through queues and GraphQL.
HOOKS = {
    "sendgrid": "SendgridHook",
    "mailgun": "MailgunHook",
    "postmark": "PostmarkHook",
    "ses": "SesHook",
    "resend": "ResendHook",
    "brevo": "BrevoHook",
    "mailjet": "MailjetHook",
    "sparkpost": "SparkpostHook",
    "mailersend": "MailersendHook",
    "mailtrap": "MailtrapHook",
    "mandrill": "MandrillHook",
    "smtp2go": "Smtp2goHook",
    "azure": "AzureHook",
    "scaleway": "ScalewayHook",
    "zeptomail": "ZeptomailHook",
    "postal": "PostalHook",
    "lettermint": "LettermintHook",
    "ahasend": "AhasendHook",
}


def build_hook(kind: str, settings: HookSettings) -> Hook:
    """Raises ValueError for a key that is none, KeyError for a kind that has no webhooks."""
    found: type[Hook] = getattr(importlib.import_module(f"bridge.providers.events.{kind}"), HOOKS[kind])
    return found(settings)
