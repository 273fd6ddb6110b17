"""The doctor on the screen: what to enter into the device, the dialogue, the findings, the lines for config.toml."""

from __future__ import annotations

import socket
import textwrap
import time
from collections.abc import Iterable

from rich.console import Console
from rich.text import Text

from bridge.cli.doctor.dialogue import Dialogue, Setup
from bridge.cli.doctor.findings import Finding, as_toml, gets_through, merged
from bridge.cli.doctor.record import Show, Who
from bridge.cli.screen import printable

WIDTH = 100
EVERYWHERE = ("", "0.0.0.0", "::")  # noqa: S104 looked for, not bound
_STYLES = {"C": "cyan", "S": "green", "!": "yellow"}
_MARKS = {"change": ("has to change", "red"), "guess": ("a guess", "yellow"), "note": ("note", "dim")}


class Screen:
    """Colours on a terminal, plain text elsewhere."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def say(self, text: str = "", style: str = "") -> None:
        self.console.print(Text(printable_lines(text), style=style))

    def shower(self) -> Show:
        """Shows lines with the seconds since now."""
        began = time.monotonic()

        def show(who: Who, text: str) -> None:
            head = f"{time.monotonic() - began:8.3f}  {who}{':' if who != '!' else ' '} "
            self.say(f"{head}{text}", _STYLES[who])

        return show

    def introduce(self, place: str, port: int, setup: Setup, *, timeout: str, count: int) -> None:
        self.say(
            f"Waiting for {'a connection' if count == 1 else f'{count} connections'} on {place}, for {timeout}.", "bold"
        )
        if not setup.here:
            self.say(f"It is judged by the listener of the settings on {setup.address}.")
        if port:
            self.say(
                f"Enter into the device: SMTP server {server_name(place)}, port {port}; {_encryption(setup)};"
                f" {_login(setup)}."
            )
        if place.startswith(("127.", "[::1]", "localhost")):
            self.say("Only programs on this machine reach it. For a device in the network: --listen 0.0.0.0:2525")
        self.say(
            "Then let it send a test. Nothing is sent on: what comes is looked at and thrown away. Passwords are not shown."
        )

    def connected(self, client: str, number: int, count: int) -> None:
        self.say()
        self.say(f"{client} connects{f' ({number} of {count})' if count > 1 else ''}.", "bold")

    def report(self, dialogue: Dialogue, findings: Iterable[Finding], setup: Setup) -> None:
        findings = tuple(findings)
        self.say()
        self.say(_headline(dialogue, findings), "bold")
        for finding in findings:
            self._finding(finding)
        if lines := as_toml(merged(findings), address=setup.address):
            self.say()
            self.say("For config.toml (in the tables that are there already; restart the daemon after that):", "bold")
            self.say()
            self.say(textwrap.indent(lines.rstrip("\n"), "    "))

    def _finding(self, finding: Finding) -> None:
        mark, style = _MARKS[finding.weight]
        self.say()
        self._wrapped(f"{mark}: ", finding.says, style if finding.weight != "note" else "")
        if finding.reply and finding.weight != "note":
            self._wrapped("    the listener answers ", str(finding.reply))
        if finding.settings:
            keys = ", ".join(dict.fromkeys(f"{s.table}.{s.key}" for s in finding.settings))
            self._wrapped("    - ", f"In the settings: {keys}, as below.")
        for advice in finding.do:
            self._wrapped("    - ", advice)

    def _wrapped(self, head: str, text: str, style: str = "") -> None:
        width = min(WIDTH, self.console.width)
        for line in textwrap.wrap(
            printable(text),
            width,
            initial_indent=head,
            subsequent_indent="      ",
            break_long_words=False,
            break_on_hyphens=False,
        ):
            self.console.print(Text(line, style=style))


def _headline(dialogue: Dialogue, findings: tuple[Finding, ...]) -> str:
    if any(finding.weight == "change" for finding in findings):
        return "With the present settings this device does not get through:"
    if not gets_through(findings):
        return "With the present settings this device may not get through:"
    return (
        "This device gets through with the present settings."
        if dialogue.brought_mail
        else "Nothing has to change so far."
    )


def _encryption(setup: Setup) -> str:
    return {"none": "no encryption", "starttls": "encryption STARTTLS or none", "implicit": "encryption SSL/TLS"}[
        setup.policy.tls
    ]


def _login(setup: Setup) -> str:
    if setup.policy.require_auth:
        return "with user name and password"
    return "user name and password if it is to log in" if setup.users else "no user name or password"


def server_name(place: str) -> str:
    """What a device can reach: of 0.0.0.0 the address of this machine from which it would talk to others."""
    host = place.rpartition(":")[0].strip("[]")
    return own_address() if host in EVERYWHERE else host


def own_address() -> str:
    """No packet is sent for it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # RFC 5737: nobody
            return str(probe.getsockname()[0])
        except OSError:
            return socket.gethostname()


def printable_lines(text: str) -> str:
    return "\n".join(printable(line) for line in text.split("\n"))
