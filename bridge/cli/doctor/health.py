"""What of this machine and of the providers would keep mail from being taken or sent. Nothing is changed, no mail is sent."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import sqlite3
import ssl
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING

from bridge.cli.doctor.check import Check, note, ok, problem
from bridge.cli.sendmail.client import connect_to
from bridge.config.kinds import ApiProvider as ApiSection
from bridge.config.settings import Settings
from bridge.config.smtp import Listener
from bridge.config.types import ListenAddress
from bridge.config.warnings import warnings
from bridge.sockets import Bound, ListenError
from bridge.spool import schema

if TYPE_CHECKING:
    from cryptography import x509

RENEW_DAYS = 14
MAX_SKEW_S = 60.0  # signatures of requests and tokens are refused at 5 minutes
ANSWER_S = 3.0


def check_settings(settings: Settings) -> Iterator[Check]:
    source = settings.source or "the environment"
    if settings.implicit_capture:
        yield note(
            "settings", "none", "mail is captured and nothing is sent", "write a settings file with a [[provider]]"
        )
    else:
        yield ok("settings", source, f"{len(settings.provider)} provider(s), {len(settings.smtp.listener)} listener(s)")
    for text in warnings(settings):
        yield note("settings", source, text)


# --- ports


def check_ports(settings: Settings) -> Iterator[Check]:
    for listener in settings.smtp.listener:
        yield _port(listener.address, listener)
    if settings.http.address:
        yield _port(settings.http.address, None)


def _port(address: ListenAddress, listener: Listener | None) -> Check:
    """`listener` None: of the HTTP side."""
    subject = str(address)
    if address.kind == "systemd":
        return note("port", subject, "systemd hands it over to the daemon: not looked at")
    if subject.endswith(":0"):
        return ok("port", subject, "a free one is chosen at each start")
    taken = _answers(address)
    if taken is None:
        return _bindable(address)
    taken.close()
    if listener is None:
        return _web(address)
    if listener.proxy_protocol:
        return note("port", subject, "somebody listens there; who, is not known, since it wants a PROXY header first")
    if "smtp-rest-bridge" in (said := _greeting(address, implicit=listener.tls == "implicit")):
        return ok("port", subject, "the daemon listens there")
    who = f"says {said[:80]!r}" if said else "says nothing"
    return problem("port", subject, f"another program listens there; it {who}", "stop it, or choose another address")


def _place(address: ListenAddress) -> str:
    if address.kind == "unix":
        return str(address)
    host = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(address.host, address.host)  # noqa: S104
    return str(ListenAddress("tcp", host, address.port))


def _answers(address: ListenAddress) -> socket.socket | None:
    try:
        return connect_to(_place(address))
    except (OSError, ValueError):
        return None


def _greeting(address: ListenAddress, *, implicit: bool) -> str:
    try:
        with connect_to(_place(address)) as sock:
            sock.settimeout(ANSWER_S)
            if not implicit:
                return sock.recv(512).decode("utf-8", "replace").strip()
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            with context.wrap_socket(sock) as secure:
                return secure.recv(512).decode("utf-8", "replace").strip()
    except OSError:
        return ""


def _web(address: ListenAddress) -> Check:
    try:
        with connect_to(_place(address)) as sock:
            sock.settimeout(ANSWER_S)
            sock.sendall(b"GET /healthz HTTP/1.0\r\nHost: localhost\r\n\r\n")
            answer = sock.recv(512)
    except OSError:
        answer = b""
    if answer.startswith(b"HTTP/1.1 200"):
        return ok("port", str(address), "the HTTP side answers there")
    return problem(
        "port", str(address), "what listens there does not answer /healthz", "see who it is, or restart the daemon"
    )


def _bindable(address: ListenAddress) -> Check:
    subject = str(address)
    if address.kind == "unix":
        directory = Path(address.host).parent
        if directory.is_dir() and os.access(directory, os.W_OK | os.X_OK):
            return ok("port", subject, "nobody listens there, and this user could")
        return note(
            "port", subject, f"this user cannot make a socket in {directory}", "let the daemon's user write there"
        )
    try:
        Bound(subject).close()
    except ListenError as error:
        todo = (
            "choose a port above 1023, or give the daemon CAP_NET_BIND_SERVICE"
            if address.port < 1024
            else "choose another"
        )
        return problem("port", subject, str(error), todo)
    return ok("port", subject, "free; the daemon does not run")


# --- certificate


def check_certificate(settings: Settings, now: datetime) -> Iterator[Check]:
    from cryptography import x509

    path = Path(settings.tls.cert_file) if settings.tls.cert_file else settings.state_directory / "self-signed.crt"
    own = not settings.tls.cert_file
    subject = str(path)
    try:
        certificate = x509.load_pem_x509_certificates(path.read_bytes())[0]
    except (OSError, ValueError) as error:
        if own:
            yield note("certificate", subject, "there is none yet, or it cannot be read; the daemon makes one")
        else:
            yield problem("certificate", subject, f"cannot be used: {error}", "correct tls.cert_file")
        return
    renew = "remove it and its key: the daemon makes another at its next start" if own else "renew it, then SIGHUP"
    until = certificate.not_valid_after_utc
    if until <= now:
        yield problem("certificate", subject, f"expired on {until:%Y-%m-%d}", renew)
    elif until <= now + timedelta(days=RENEW_DAYS):
        yield problem("certificate", subject, f"expires on {until:%Y-%m-%d}", renew)
    elif certificate.not_valid_before_utc > now:
        yield problem("certificate", subject, f"begins on {certificate.not_valid_before_utc:%Y-%m-%d}", "see the clock")
    else:
        yield ok("certificate", subject, f"valid until {until:%Y-%m-%d}")
    names = _names(certificate)
    if not own and not any(_matches(name, settings.hostname) for name in names):
        text = f"is for {', '.join(names) or 'no name'}, and not for {settings.hostname}, as the daemon calls itself"
        yield note(
            "certificate", subject, text, "let clients connect to a name that is in it; set smtp.hostname to that"
        )


def _names(certificate: x509.Certificate) -> list[str]:
    from cryptography import x509

    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return list(found.get_values_for_type(x509.DNSName))


def _matches(pattern: str, name: str) -> bool:
    """RFC 6125 6.4.3: `*` is one label, the first."""
    pattern, name = pattern.lower(), name.lower()
    return pattern == name or (pattern.startswith("*.") and pattern[2:] == name.partition(".")[2])


# --- spool


def check_spool(settings: Settings) -> Iterator[Check]:
    path = settings.spool_path
    place = next((each for each in (path, *path.parents) if each.exists()), Path("/"))
    if not os.access(place, os.W_OK):
        text = f"this user cannot write {place}"
        yield note("spool", str(path), text, "call the doctor as the daemon's user, or let that user write there")
    else:
        yield ok("spool", str(path), "there, and may be written" if place == path else "not there yet, and can be made")
    if place == path:
        yield from check_schema(path)
    free = shutil.disk_usage(place if place.is_dir() else place.parent).free
    shown = f"{free / 1024**3:.1f} GiB free"
    if free < settings.spool.min_free:
        yield problem("disk", str(path), f"{shown}: less than spool.min_free, mail is refused (452 4.3.1)", "make room")
    elif free < settings.alert.disk_free:
        yield problem("disk", str(path), f"{shown}: less than alert.disk_free", "make room")
    else:
        yield ok("disk", str(path), shown)


def check_schema(path: Path) -> Iterator[Check]:
    try:
        have = schema.version_of(path)
    except sqlite3.Error as error:
        yield problem("spool", str(path), f"cannot be read: {error}", "see docs/backup.md for how a copy is restored")
        return
    if why := schema.version_problem(have, allow_older=True):
        yield problem("spool", str(path), why, "the daemon does not start with it")


# --- providers


def check_providers(settings: Settings) -> list[Check]:
    """Credentials, and the clock by the Date of their answers."""
    from bridge.cli.online import ask_all
    from bridge.wiring import ProviderError

    try:
        found = asyncio.run(ask_all(settings))
    except ProviderError as error:
        return [problem("provider", "settings", str(error), "correct the settings")]
    levels = {True: ok, None: note}
    checks = [
        levels[verified.ok]("provider", f"{provider.name} ({provider.kind})", verified.text)
        if verified.ok is not False
        else problem(
            "provider", f"{provider.name} ({provider.kind})", verified.text,
            "see the credentials, and whether this machine reaches the API (proxy, firewall)",
        )
        for provider, verified in found
    ]  # fmt: skip
    return checks + asyncio.run(_clock(_urls(settings)))


def _urls(settings: Settings) -> dict[str, str]:
    from bridge.providers.catalogue import adapter

    urls: dict[str, str] = {}
    for chosen in settings.provider:
        if isinstance(chosen, ApiSection):
            urls[chosen.name] = adapter(chosen.kind).base_of(chosen)
        elif chosen.kind == "rest":
            urls[chosen.name] = str(getattr(chosen, "url", ""))
    return urls


async def _clock(urls: dict[str, str]) -> list[Check]:
    import httpx

    async with httpx.AsyncClient(timeout=ANSWER_S) as client:

        async def ask(url: str) -> str:
            try:
                return str((await client.head(url.partition("?")[0])).headers.get("Date", ""))
            except (httpx.HTTPError, httpx.InvalidURL):
                return ""

        dates = await asyncio.gather(*(ask(url) for url in urls.values()))
    return [check for name, date in zip(urls, dates, strict=True) for check in clock_checks(name, date, time.time())]


def clock_checks(name: str, date: str, now: float) -> Sequence[Check]:
    """`date`: of the HTTP answer of provider `name`, "" for none; `now` in seconds."""
    try:
        theirs = parsedate_to_datetime(date)
    except ValueError:
        return ()
    skew = now - theirs.replace(tzinfo=theirs.tzinfo or UTC).timestamp()
    if abs(skew) <= MAX_SKEW_S:
        return (ok("clock", name, "agrees with this machine's"),)
    text = f"this machine's clock is {abs(skew):.0f} s {'ahead' if skew > 0 else 'behind'}"
    return (problem("clock", name, text, "let NTP set the clock: signed requests and Date fields depend on it"),)
