"""The commands, for people: Typer and Rich live here and below, never in the daemon."""

from __future__ import annotations

import asyncio
import inspect
import sys
from pathlib import Path
from typing import Annotated

import orjson
import typer

from bridge import __version__
from bridge.cli import queue, suppress
from bridge.cli.common import ConfigOption, JsonOption, duration, fail, settings_or_exit, warn
from bridge.cli.exits import EX_CONFIG, EX_UNAVAILABLE, EX_USAGE
from bridge.config.settings import Settings

app = typer.Typer(
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    help="SMTP in, a REST email API out.",
)
app.add_typer(queue.app, name="queue")
app.add_typer(suppress.app, name="suppress")


def _version(asked: bool) -> None:
    if asked:
        print(f"smtp-bridge {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """SMTP in, a REST email API out."""


@app.command()
def run(config: ConfigOption = "") -> None:
    """Run the bridge in the foreground."""
    from bridge.cli.run import run as run_daemon

    raise typer.Exit(run_daemon(config))


@app.command()
def health(
    ready: Annotated[
        bool, typer.Option("--ready", help="Whether it can take mail and send it (/readyz), not only that it lives.")
    ] = False,
    smtp: Annotated[
        bool,
        typer.Option(
            "--smtp", help="Ask a listener, also where there is an HTTP side: ready is then who greets with 220."
        ),
    ] = False,
    timeout: Annotated[
        float, typer.Option(parser=duration, metavar="TIME", help="How long the answer may take, all in all.")
    ] = "4s",  # type: ignore[assignment]
    config: ConfigOption = "",
) -> None:
    """Ask the running daemon whether it is well: exit status 0 or 1, and a line."""
    from bridge.cli.health.command import run as ask_health

    raise typer.Exit(ask_health(config, ready=ready, smtp=smtp, timeout_s=timeout))


@app.command()
def reload(
    timeout: Annotated[
        float, typer.Option(parser=duration, metavar="TIME", help="How long to wait for the answer.")
    ] = "30s",  # type: ignore[assignment]
    config: ConfigOption = "",
    as_json: JsonOption = False,
) -> None:
    """Have the running daemon read its settings again, and say what came of it: mistakes (exit status 78, nothing has changed),
    and what needs a restart."""
    from bridge.cli.reload import reload as ask_daemon

    raise typer.Exit(ask_daemon(config, timeout_s=timeout, as_json=as_json))


@app.command()
def demo(
    port: Annotated[int, typer.Option(metavar="PORT", help="The port the bridge listens on.", min=0, max=65535)] = 2525,
    api_port: Annotated[
        int, typer.Option(metavar="PORT", help="The port of the sandbox API.", min=0, max=65535)
    ] = 8026,
    once: Annotated[bool, typer.Option("--once", help="End after the tour.")] = False,
) -> None:
    """Show it all on this machine: the bridge, a sandbox API and a tour of five messages."""
    from bridge.cli.demo import run_demo

    raise typer.Exit(run_demo(port=port, api_port=api_port, once=once))


@app.command()
def sandbox(
    host: Annotated[str, typer.Option(metavar="ADDRESS", help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(metavar="PORT", help="The port; 0 takes a free one.", min=0, max=65535)] = 8026,
    key: Annotated[str, typer.Option(metavar="KEY", help="What clients authenticate with.")] = "sandbox-key",
    fail_: Annotated[
        list[str] | None,
        typer.Option(
            "--fail",
            metavar="RULE",
            help="Fail as told: 503:3, 429:2,retry_after=30, hang:1 ...; sendgrid=429:3 or"
            " sendgrid=unverified_sender:1 for one provider; more than once.",
        ),
    ] = None,
    journal: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Append a JSON line for each message to this file.")
    ] = None,
) -> None:
    """Run the sandbox: a local REST email API to test against, and stand-ins for the APIs of providers."""
    from bridge.sandbox import parse_fail, run_sandbox

    try:
        failures = [parse_fail(text) for text in fail_ or []]
    except ValueError as error:
        fail(str(error), EX_CONFIG)
    try:
        asyncio.run(run_sandbox(host=host, port=port, key=key, journal=journal, failures=failures))
    except OSError as error:
        fail(f"cannot listen on {host}:{port}: {error.strerror or error}", EX_UNAVAILABLE)


@app.command()
def check(
    config: ConfigOption = "",
    as_json: JsonOption = False,
    online: Annotated[
        bool, typer.Option("--online", help="Ask each provider whether it accepts the credentials; sends no mail.")
    ] = False,
) -> None:
    """Print what the settings come to, secrets masked; or a line for each mistake, and exit status 78."""
    from bridge.config.file import SYSTEM_CONFIG
    from bridge.config.show import masked
    from bridge.config.warnings import hidden_from_the_unit, warnings

    settings = settings_or_exit(config)
    check_certificate(settings)
    of_the_unit = settings.files if settings.source == str(SYSTEM_CONFIG) else ()
    for text in (*warnings(settings), *hidden_from_the_unit(of_the_unit, SYSTEM_CONFIG.with_name("secrets"))):
        warn(f"warning: {text}")
    if online:
        from bridge.cli.online import check_online

        raise typer.Exit(check_online(settings, as_json=as_json))
    shown = masked(settings)
    if as_json:
        sys.stdout.write(orjson.dumps(shown, option=orjson.OPT_INDENT_2).decode() + "\n")
        return
    source = settings.source or (
        "the environment" if not settings.implicit_capture else "none: mail is captured, nothing is sent"
    )
    print(f"# settings from: {source}")
    print(f"# state directory: {settings.state_directory}")
    print(f"# spool: {settings.spool_path}")
    print(as_toml(shown))


def check_certificate(settings: Settings) -> None:
    """As the daemon will load it."""
    import ssl

    from bridge.smtp.tls import CertificateError, make_context, trust_clients

    tls = settings.tls
    try:
        if tls.cert_file:
            make_context(Path(tls.cert_file), Path(tls.key_file) if tls.key_file else None, minimum="1.2")
        for listener in settings.smtp.listener:
            if listener.client_ca_file:
                trust_clients(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), Path(listener.client_ca_file))
    except CertificateError as error:
        fail(f"certificate: {error}", EX_CONFIG)


@app.command()
def doctor(
    address: Annotated[
        str, typer.Argument(metavar="ADDRESS", help="Where to listen; else the first listener's.", show_default=False)
    ] = "",
    listen: Annotated[
        bool,
        typer.Option("--listen", help="Wait for a device that cannot send, and say what it does and what lets it in."),
    ] = False,
    timeout: Annotated[
        float, typer.Option(parser=duration, metavar="TIME", help="How long to wait for connections.")
    ] = "10m",  # type: ignore[assignment]
    silence: Annotated[
        float, typer.Option(parser=duration, metavar="TIME", help="How long the device may say nothing.")
    ] = "30s",  # type: ignore[assignment]
    count: Annotated[
        int, typer.Option(metavar="N", help="Connections to look at; many devices make a test first.", min=1)
    ] = 1,
    domain: Annotated[
        list[str] | None,
        typer.Option(metavar="DOMAIN", help="A sending domain beside those of the settings.", show_default=False),
    ] = None,
    dns: Annotated[
        str,
        typer.Option(
            "--dns", metavar="SERVER", help="The name server to ask, else this machine's.", show_default=False
        ),
    ] = "",
    offline: Annotated[bool, typer.Option("--offline", help="Ask neither providers nor name servers.")] = False,
    config: ConfigOption = "",
    as_json: JsonOption = False,
) -> None:
    """Look whether mail can come in and go out: ports, certificate, disk, clock, credentials, DNS. With --listen: find out why a
    device cannot send."""
    if not listen:
        if address:
            fail("an ADDRESS is for --listen", EX_USAGE)
        from bridge.cli.doctor.checkup import run_checkup

        settings = settings_or_exit(config)
        domains = domain or []
        raise typer.Exit(run_checkup(settings, domains=domains, dns_server=dns, offline=offline, as_json=as_json))
    from bridge.cli.doctor.command import Options, run_doctor

    settings = settings_or_exit(config)
    check_certificate(settings)
    options = Options(address=listen_address(address), timeout=timeout, silence=silence, count=count, as_json=as_json)
    raise typer.Exit(run_doctor(settings, options))


def listen_address(text: str) -> str:
    """As in the settings of a listener; "" stays."""
    from bridge.config.types import parse_listen_address

    try:
        return str(parse_listen_address(text)) if text else ""
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="ADDRESS") from None


@app.command(add_help_option=False, context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def sendmail(context: typer.Context) -> None:
    """Take a mail on standard input, as /usr/sbin/sendmail does.

    -t (recipients from To, Cc, Bcc), -i (a dot alone does not end it), -f ADDRESS, -F NAME, -bs (SMTP), -bp (the queue),
    -N, -R, -V (DSN), -B 8BITMIME, -v; --address ADDRESS (of the daemon), --config FILE; then recipients.
    """
    from bridge.cli.sendmail.command import run_sendmail

    if "--help" in context.args:  # `bridge.cli.main` runs all else without this module
        print(inspect.cleandoc(sendmail.__doc__ or ""))
        return
    raise typer.Exit(run_sendmail(context.args))


@app.command()
def send(
    to: Annotated[list[str], typer.Option("--to", metavar="ADDRESS", help="Who gets it; more than once.")],
    sender: Annotated[str, typer.Option("--from", metavar="ADDRESS", help="The sender.")],
    subject: Annotated[str, typer.Option(metavar="TEXT", help="The subject.")] = "A test of smtp-bridge",
    text: Annotated[str, typer.Option(metavar="TEXT", help="The text; - reads it.")] = "This is a test.",
    html: Annotated[str, typer.Option(metavar="TEXT", help="The same as HTML.", show_default=False)] = "",
    attach: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="A file; more than once.", show_default=False)
    ] = None,
    header: Annotated[
        list[str] | None, typer.Option(metavar="FIELD", help='"Name: value"; more than once.', show_default=False)
    ] = None,
    server: Annotated[
        str, typer.Option(metavar="ADDRESS", help="host:port or unix:/path; else a listener of the settings.")
    ] = "",
    user: Annotated[str, typer.Option(metavar="NAME", help="Log in.", show_default=False)] = "",
    password_file: Annotated[
        str, typer.Option(metavar="FILE", help="The password, - for standard input.", show_default=False)
    ] = "",
    tls: Annotated[str, typer.Option(metavar="KIND", help="none, starttls or implicit.")] = "none",
    wait: Annotated[
        float, typer.Option(metavar="SECONDS", help="Wait so long for what becomes of it in the queue.", min=0)
    ] = 0.0,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Print the dialogue.")] = False,
    config: ConfigOption = "",
    as_json: JsonOption = False,
) -> None:
    """Send a test message by SMTP, and print the reply and what became of it."""
    from bridge.cli.send import Draft, Server, tell
    from bridge.cli.send import send as send_draft

    if tls not in ("none", "starttls", "implicit"):
        fail("--tls is none, starttls or implicit", EX_USAGE)
    password = read_password(password_file) if password_file else ""
    draft = Draft(
        sender=sender, to=to, subject=subject, text=sys.stdin.read() if text == "-" else text, html=html,
        headers=header or (), attach=attach or (),
    )  # fmt: skip
    where = Server(address=server, config=config, user=user, password=password, tls=tls)  # type: ignore[arg-type]
    reply = send_draft(draft, where, verbose=verbose and not as_json)
    tell(reply, config, wait_s=wait, as_json=as_json)


@app.command("hash-password")
def hash_password(
    source: Annotated[
        str,
        typer.Option(
            "--password-file", metavar="FILE", help="Read it from this file, - for standard input.", show_default=False
        ),
    ] = "",
) -> None:
    """Make the argon2 hash of a password, for `password_hash` of a user."""
    from bridge.smtp.auth import hash_password as make_hash

    given = read_password(source) if source else ask_password()
    if not given:
        fail("an empty password is no password", EX_CONFIG)
    print(make_hash(given))


@app.command("new-key")
def new_key(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What it is called in the log.")] = "key",
    scopes: Annotated[
        str, typer.Option("--scopes", metavar="LIST", help="What it may be used for: send, read, manage.")
    ] = "send",
) -> None:
    """Make a key of the HTTP side: the key itself, once, and its table for the settings."""
    from bridge.web.keys import new_key as make_key

    wanted = [scope.strip() for scope in scopes.split(",") if scope.strip()]
    if not wanted or set(wanted) - {"send", "read", "manage"}:
        fail("--scopes is a list of send, read and manage", EX_USAGE)
    key, key_hash = make_key()
    warn(f"this is the key, and it is shown only now: {key}")
    listed = ", ".join(f'"{scope}"' for scope in wanted)
    print(f'[[http.key]]\nname = {orjson.dumps(name).decode()}\nkey_hash = "{key_hash}"\nscopes = [{listed}]')


def ask_password() -> str:
    return str(typer.prompt("Password", hide_input=True, confirmation_prompt=True, err=True))


def read_password(source: str) -> str:
    """Without the end of its line."""
    try:
        octets = sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
        return octets.decode().rstrip("\r\n")
    except OSError as error:
        fail(f"{source}: {error.strerror}", EX_CONFIG)
    except UnicodeDecodeError:
        fail(f"{source}: not UTF-8 text", EX_CONFIG)


@app.command()
def schema() -> None:
    """Print the JSON schema of the settings file."""
    from bridge.config.show import json_schema

    sys.stdout.write(orjson.dumps(json_schema(), option=orjson.OPT_INDENT_2).decode() + "\n")


def as_toml(shown: dict[str, object]) -> str:
    import tomli_w

    return tomli_w.dumps(shown, multiline_strings=False)
