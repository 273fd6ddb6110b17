"""`smtp-bridge demo`: the bridge and the sandbox API side by side, and a tour that shows what happens to a message.

Everything is real: SMTP with STARTTLS and AUTH over a socket, the spool on disk, HTTP to the sandbox. State is kept in a directory that
goes with the demo.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import signal
import smtplib
import ssl
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from bridge import log as logging_setup
from bridge.cli.run import EX_UNAVAILABLE, loop_factory
from bridge.config.load import load_settings
from bridge.config.settings import Settings
from bridge.daemon import Daemon
from bridge.sandbox import Received, Sandbox
from bridge.sandbox.samples import Sample, samples
from bridge.smtp.auth import hash_password
from bridge.smtp.listener import ListenError

USER, PASSWORD = "demo", "demo-password"
RETURNED_WITHIN_S = 20.0
SHOWN_CHARACTERS = 60


class TourFailed(Exception):
    """A step did not go as told."""


def run_demo(*, port: int, api_port: int, once: bool) -> int:
    """The exit status: 0 when every step went as told."""
    console = Console(highlight=False, soft_wrap=True)
    logging_setup.configure(level="error")
    try:
        with (
            tempfile.TemporaryDirectory(prefix="smtp-bridge-demo-") as state,
            asyncio.Runner(loop_factory=loop_factory()) as runner,
        ):
            return runner.run(_main(console, Path(state), port=port, api_port=api_port, once=once))
    except ListenError as error:
        console.print(f"smtp-bridge: {error}; choose another one with --port", markup=False)
    except OSError as error:
        console.print(
            f"smtp-bridge: cannot listen on 127.0.0.1:{api_port}: {error.strerror}; choose another one with --api-port"
        )
    return EX_UNAVAILABLE


async def _main(console: Console, state: Path, *, port: int, api_port: int, once: bool) -> int:
    key = secrets.token_urlsafe(12)
    show = Screen(console)
    async with Sandbox(key=key, port=api_port, on_received=show.received) as sandbox:
        daemon = Daemon(demo_settings(state, port, sandbox.url, key))
        await daemon.start()
        stop = _stop_event()
        try:
            status = await _until(stop, Tour(show, daemon, sandbox).run())
            if not once and not stop.is_set():
                show.stay(daemon.listeners[0].port, sandbox.url)
                await stop.wait()
            return status
        finally:
            await daemon.stop()


def demo_settings(state: Path, port: int, url: str, key: str) -> Settings:
    return load_settings(
        environ={
            "STATE_DIRECTORY": str(state),
            "SMTP_BRIDGE_SMTP__HOSTNAME": "bridge.localhost",
            "SMTP_BRIDGE_SMTP__LISTENER__ADDRESS": f"127.0.0.1:{port}",
            "SMTP_BRIDGE_USER__NAME": USER,
            "SMTP_BRIDGE_USER__PASSWORD_HASH": hash_password(PASSWORD),
            "SMTP_BRIDGE_PROVIDER__KIND": "rest",
            "SMTP_BRIDGE_PROVIDER__NAME": "sandbox",
            "SMTP_BRIDGE_PROVIDER__URL": f"{url}/send-email",
            "SMTP_BRIDGE_PROVIDER__AUTH": "bearer",
            "SMTP_BRIDGE_PROVIDER__TOKEN": key,
            "SMTP_BRIDGE_PROVIDER__IDEMPOTENT": "true",
            "SMTP_BRIDGE_SPOOL__MIN_FREE": "0",
        },
        cwd=state,
    )


def _stop_event() -> asyncio.Event:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop


async def _until(stop: asyncio.Event, tour: Any) -> int:
    """The tour's status; Ctrl-C ends it in the middle."""
    touring = asyncio.create_task(tour)
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({touring, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if touring.done():
        return int(touring.result())
    touring.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await touring
    return 1


@dataclass(frozen=True, slots=True)
class Spoken:
    """One line of the dialogue; `who` is C or S."""

    who: str
    line: str


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
            self._note(Spoken("C", "(the message, then a line with a dot)"))
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
        self.screen.posted(received)

    async def _outage(self, sample: Sample) -> None:
        self.screen.title(f"4. {sample.title}: the API answers 503")
        self.sandbox.fail("503")
        code, text = await self._send(sample)
        _expect(code == 250 and "queued" in text, f"the reply was {code} {text}")
        self.screen.say("  The message is safe on disk; the bridge tries again after 1 s, 2 s, 4 s ...")
        await asyncio.sleep(1.5)
        self.sandbox.recover()
        started = time.monotonic()
        self.screen.say("  The API is back.")
        received = await self._arrival(4)
        self.screen.say(f"  Delivered {time.monotonic() - started:.1f} s later:")
        self.screen.posted(received)

    async def _refused(self, sample: Sample) -> None:
        self.screen.title(f"5. {sample.title}: 422 becomes a 554, and nothing is kept")
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
        """The reply to the message, with the dialogue shown."""
        said: list[Spoken] = []
        answer = await asyncio.to_thread(_send, self.daemon.listeners[0].port, sample, said.append)
        for spoken in said:
            self.screen.spoken(spoken)
        return answer


def _send(port: int, sample: Sample, note: Callable[[Spoken], None]) -> tuple[int, str]:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # the demo's certificate is signed by itself
    client = Client(port, note)
    try:
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
    except smtplib.SMTPException as error:
        raise TourFailed(str(error)) from error
    finally:
        client.close()


def _expect(condition: bool, otherwise: str) -> None:
    if not condition:
        raise TourFailed(otherwise)
