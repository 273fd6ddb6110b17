"""`smtp-bridge doctor` without `--listen`: everything that can be known without a device and without a mail."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime

from bridge.cli.common import print_json
from bridge.cli.doctor.check import Check, note, problem
from bridge.cli.doctor.health import check_certificate, check_ports, check_providers, check_settings, check_spool
from bridge.cli.doctor.records import AREA, NoAnswer, check_domain
from bridge.config.settings import Settings
from bridge.smtp.tls import CertificateError

_MARKS = {"ok": "ok     ", "note": "note   ", "problem": "PROBLEM"}
_NO_MAIL = {"capture"}


def run_checkup(settings: Settings, *, domains: Sequence[str], dns_server: str, offline: bool, as_json: bool) -> int:
    """The exit status: 1 when something has to be done. `domains`: beside those of the settings."""
    checks = []
    for check in _all(settings, domains, dns_server, offline=offline):
        checks.append(check)
        if not as_json:
            _show(check)
    problems = sum(check.level == "problem" for check in checks)
    if as_json:
        print_json({"healthy": not problems, "checks": [asdict(check) for check in checks]})
    else:
        print(f"\n{problems or 'No'} problem{'' if problems == 1 else 's'} found.")
    return 1 if problems else 0


def _all(settings: Settings, domains: Sequence[str], dns_server: str, *, offline: bool) -> Iterator[Check]:
    yield from check_settings(settings)
    yield from check_ports(settings)
    try:
        yield from check_certificate(settings, datetime.now(UTC))
    except CertificateError as error:
        yield problem("certificate", settings.tls.cert_file, str(error), "correct [tls]")
    yield from check_spool(settings)
    if not offline:
        yield from check_providers(settings)
        yield from _records(settings, [*domains, *sending_domains(settings)], dns_server)


def _show(check: Check) -> None:
    print(f"{_MARKS[check.level]}  {check.area}: {check.subject}: {check.text}")
    if check.todo:
        print(f"         -> {check.todo}")
    sys.stdout.flush()


def _records(settings: Settings, domains: Iterable[str], dns_server: str) -> Iterator[Check]:
    from bridge.cli.doctor.resolver import make_lookup

    wanted = list(dict.fromkeys(domain.lower() for domain in domains))
    if not wanted:
        text = "the settings do not say who sends (relay.from, relay.rewrite, senders of users and keys)"
        yield note(AREA, "no domain", text, "name the sending domains: doctor --domain example.com")
        return
    try:
        lookup = make_lookup(dns_server)
    except ImportError:
        yield note(
            AREA, ", ".join(wanted), "not looked at: dnspython is not there", "pip install 'smtp-rest-bridge[doctor]'"
        )
        return
    except NoAnswer as error:
        yield problem(AREA, ", ".join(wanted), str(error), "see /etc/resolv.conf, or name a server: --dns 192.0.2.53")
        return
    kinds = list(dict.fromkeys(provider.kind for provider in settings.provider if provider.kind not in _NO_MAIL))
    for domain in wanted:
        yield from check_domain(domain, [kind for kind in kinds if kind not in ("rest", "smtp")], lookup)


def sending_domains(settings: Settings) -> list[str]:
    """Of relay.from, relay.rewrite, bounce.from and of who may send as whom; a pattern of domains names none."""
    texts = [settings.relay.from_, settings.bounce.from_, *(rule.from_ for rule in settings.relay.rewrite)]
    texts += [pattern for user in settings.user for pattern in user.senders]
    texts += [pattern for key in settings.http.key for pattern in key.senders]
    found = (re.search(r"@([A-Za-z0-9.-]+\.[A-Za-z0-9-]+)>?\s*\Z", str(text)) for text in texts)
    return [match[1] for match in found if match]
