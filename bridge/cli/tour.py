"""The tour of `smtp-bridge demo`: five messages of a real client, and what became of each."""

from __future__ import annotations

import asyncio
import contextlib
import json
import smtplib
import ssl
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.text import Text

from bridge.daemon import Daemon
from bridge.sandbox import Received, Sandbox
from bridge.sandbox.samples import Sample, samples

USER, PASSWORD = "demo", "demo-password"
OUTAGE_S = 1.5
RETURNED_WITHIN_S = 20.0
SHOWN_CHARACTERS = 60


class TourFailed(Exception):
    """A step did not go as told."""


@dataclass(frozen=True, slots=True)
class Spoken:
    """One line of the dialogue; `who` is C or S."""

    who: str
    line: str


CONTENT = Spoken("C", "(the message, then a line with a dot)")


class Client(smtplib.SMTP):
    """A real client that notes what is said; secrets and content are not."""

    def __init__(self, port: int, note: Callable[[Spoken], None]) -> None:
        self._note = note
        super().__init__("127.0.0.1", port, timeout=30)

    def putcmd(self, cmd: str, args: str = "") -> None:
        cmd = cmd.upper()
        said = f"{cmd} {args}" if args else cmd
        self._note(Spoken("C", "AUTH PLAIN ********" if said.upper().startswith("AUTH") else said))
        super().putcmd(cmd, args)

    def getreply(self) -> tuple[int, bytes]:
        code, text = super().getreply()
        lines = text.decode("ascii", "replace").split("\n")
        for line in lines[:-1]:
            self._note(Spoken("S", f"{code}-{line}"))
        self._note(Spoken("S", f"{code} {lines[-1]}"))
        if code == 354:
            self._note(CONTENT)
        return code, text


class Screen:
    """What the user sees; colours on a terminal, plain text elsewhere."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.touring = True
        self.arrived: list[Received] = []

    def title(self, text: str) -> None:
        self.console.print()
        self.console.print(Text(text, style="bold"))

    def say(self, text: str, style: str = "") -> None:
        self.console.print(Text(text, style=style))

    def spoken(self, spoken: Spoken) -> None:
        self.console.print(Text(f"  {spoken.who}: {spoken.line}", style="cyan" if spoken.who == "C" else "green"))

    def received(self, received: Received) -> None:
        self.arrived.append(received)
        if not self.touring:
            self.posted(received)

    def posted(self, received: Received) -> None:
        self.say("  POST /send-email", "magenta")
        text = json.dumps(shortened(received.payload), indent=2, ensure_ascii=False)
        for line in text.split("\n"):
            self.say(f"    {line}")

    def stay(self, port: int, url: str) -> None:
        self.touring = False
        self.title("Now send something yourself")
        self.say(
            f"  SMTP  127.0.0.1:{port}, no login needed from this machine; or user {USER}, password {PASSWORD} after STARTTLS"
        )
        self.say(f"  API   {url}/sandbox/messages shows what was received")
        self.say(
            f"  for example: curl smtp://127.0.0.1:{port} --mail-from me@example.com --mail-rcpt you@example.com -T mail.txt"
        )
        self.say("  Ctrl-C ends the demo.")


def shortened(value: Any) -> Any:
    """The payload with long contents cut, so that it can be read."""
    if isinstance(value, Mapping):
        return {k: shortened(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [shortened(v) for v in value]
    if isinstance(value, str) and len(value) > 3 * SHOWN_CHARACTERS:
        return f"{value[:SHOWN_CHARACTERS]}... ({len(value)} characters)"
    return value


class Tour:
    def __init__(self, screen: Screen, daemon: Daemon, sandbox: Sandbox) -> None:
        self.screen = screen
        self.daemon = daemon
        self.sandbox = sandbox

    async def run(self) -> int:
        """0 when every step went as told, else 1."""
        plain, report, with_bcc, outage, refused = samples()
        port = self.daemon.listeners[0].port
        self.screen.title("smtp-rest-bridge: SMTP in, a REST email API out")
        self.screen.say(f"  the bridge listens on 127.0.0.1:{port}, the sandbox API on {self.sandbox.url}")
        try:
            for number, sample in enumerate((plain, report, with_bcc), 1):
                await self._delivered(number, sample)
            await self._outage(outage)
            await self._refused(refused)
        except TourFailed as error:
            self.screen.say(f"  This did not go as told: {error}", "red")
            return 1
        self.screen.title("Every step went as told.")
        return 0

    async def _delivered(self, number: int, sample: Sample) -> None:
        self.screen.title(f"{number}. {sample.title}: sent while the client waits")
        code, text = await self._send(sample)
        _expect(code == 250 and "sent" in text, f"the reply was {code} {text}")
        received = await self._arrival(number)
        _expect(set(received.recipients) == set(sample.recipients), "not exactly the envelope was mailed")
        hidden = set(sample.recipients) - set(received.to) - set(received.cc)
        _expect(hidden == set(received.bcc), "the Bcc is not where it belongs")

    async def _outage(self, sample: Sample) -> None:
        self.screen.title(f"4. {sample.title}: the API answers 503, the message is queued")
        self.sandbox.fail("503")
        code, text = await self._send(sample)
        _expect(code == 250 and "queued" in text, f"the reply was {code} {text}")
        self.screen.say("  The message is safe on disk; the bridge tries again after 1 s, 2 s, 4 s ...")
        await asyncio.sleep(OUTAGE_S)
        self.sandbox.recover()
        started = time.monotonic()
        self.screen.say("  The API is back.")
        received = await self._arrival(4)
        self.screen.say(f"  Delivered {time.monotonic() - started:.1f} s later:")
        self.screen.posted(received)

    async def _refused(self, sample: Sample) -> None:
        self.screen.title(f"5. {sample.title}: its 422 becomes a 554, and nothing is kept")
        code, text = await self._send(sample)
        _expect(code == 554, f"the reply was {code} {text}")
        _expect(len(self.screen.arrived) == 4, "the API took what it refused")

    async def _arrival(self, count: int) -> Received:
        try:
            await self.sandbox.wait_for(count, seconds=RETURNED_WITHIN_S)
        except TimeoutError:
            raise TourFailed("the API did not get the message") from None
        return self.screen.arrived[count - 1]

    async def _send(self, sample: Sample) -> tuple[int, str]:
        """The reply to the message; the dialogue is shown, and what was POSTed before the reply came."""
        said: list[Spoken] = []
        before = len(self.screen.arrived)
        try:
            return await asyncio.to_thread(_send, self.daemon.listeners[0].port, sample, said.append)
        finally:
            self._show(said if before == 0 else without_offers(said), self.screen.arrived[before:])

    def _show(self, said: Iterable[Spoken], posted: Sequence[Received]) -> None:
        for spoken in said:
            self.screen.spoken(spoken)
            if spoken is CONTENT:
                for received in posted:
                    self.screen.posted(received)


def without_offers(said: Iterable[Spoken]) -> Iterator[Spoken]:
    """What EHLO offers is shown in full once."""
    return (spoken for spoken in said if spoken.who == "C" or spoken.line[3:4] != "-")


def _send(port: int, sample: Sample, note: Callable[[Spoken], None]) -> tuple[int, str]:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # the demo's certificate is signed by itself
    try:
        with contextlib.closing(Client(port, note)) as client:
            client.ehlo("client.localhost")
            client.starttls(context=context)
            client.ehlo("client.localhost")
            client.login(USER, PASSWORD)
            client.mail(sample.sender)
            for recipient in sample.recipients:
                client.rcpt(recipient)
            code, text = client.data(sample.message_bytes)
            client.quit()
            return code, text.decode("ascii", "replace")
    except (smtplib.SMTPException, OSError) as error:
        raise TourFailed(str(error)) from error


def _expect(condition: bool, otherwise: str) -> None:
    if not condition:
        raise TourFailed(otherwise)
