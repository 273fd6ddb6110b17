"""`smtp-bridge doctor --listen`: from the settings to the exit status."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bridge import log as logging_setup
from bridge.cli.common import print_json, warn
from bridge.cli.doctor.certificates import Certificates, prepare
from bridge.cli.doctor.dialogue import Dialogue, Setup
from bridge.cli.doctor.findings import Finding, as_toml, gets_through, merged
from bridge.cli.doctor.listening import Examination, Place, left_early
from bridge.cli.doctor.record import Show, Who
from bridge.cli.doctor.recording import Silence
from bridge.cli.doctor.rules import examine
from bridge.cli.doctor.setup import chosen_listener, judges, service_of, setup_of
from bridge.cli.doctor.show import Screen
from bridge.cli.exits import EX_CONFIG, EX_UNAVAILABLE, INTERRUPTED
from bridge.cli.screen import new_console, span
from bridge.config.settings import Settings
from bridge.smtp.auth import Authenticator
from bridge.smtp.tls import CertificateError
from bridge.sockets import ListenError
from bridge.wiring import smtp as smtp_wiring

CHANGE = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """`address` "": the first listener's. Times in seconds."""

    address: str = ""
    timeout: float = 600.0
    silence: float = 30.0
    count: int = 1
    as_json: bool = False


@dataclass(frozen=True, slots=True)
class Result:
    """`lines`: the dialogue as it was shown, (who, text)."""

    dialogue: Dialogue
    findings: tuple[Finding, ...]
    lines: tuple[tuple[str, str], ...]


def run_doctor(settings: Settings, options: Options) -> int:
    """The exit status: 0 when the device gets through with the present settings, 1 when something has to change."""
    logging_setup.configure(level="error")
    index, here = chosen_listener(settings, options.address)
    try:
        place = Place(options.address or str(settings.smtp.listener[index].address))
    except (ListenError, ValueError) as error:
        return _cannot_listen(settings, options, index, str(error))
    try:
        with tempfile.TemporaryDirectory(prefix="smtp-bridge-doctor-") as directory, contextlib.closing(place):
            return asyncio.run(Doctor(settings, options, index, place, Path(directory), here=here).run())
    except CertificateError as error:
        warn(f"certificate: {error}")
        return EX_CONFIG
    except BrokenPipeError:  # whoever read has seen enough
        return CHANGE


def _cannot_listen(settings: Settings, options: Options, index: int, why: str) -> int:
    address = options.address or str(settings.smtp.listener[index].address)
    if address.startswith("systemd:"):
        warn(f"{address} is handed over by systemd to the daemon only; choose an address: --listen 0.0.0.0:2526")
        return EX_UNAVAILABLE
    warn(
        f"cannot listen on {address}: {why}"
        + (
            "; if the daemon itself runs there, stop it, or choose another port: --listen 0.0.0.0:2526"
            if "in use" in why
            else ""
        )
    )
    return EX_UNAVAILABLE


class Doctor:
    """`run` waits for connections, shows them, and gives the exit status."""

    def __init__(
        self, settings: Settings, options: Options, index: int, place: Place, directory: Path, *, here: bool
    ) -> None:
        self.settings = settings
        self.options = options
        self.index = index
        self.here = here
        self.place = place
        self.directory = directory
        self.screen = Screen(new_console())
        self.results: list[Result] = []
        self._lines: list[tuple[str, str]] = []
        self._setup: Setup | None = None
        self._running: Examination | None = None

    async def run(self) -> int:
        stop = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        minimum = self.settings.smtp.listener[self.index].tls_minimum
        preparing = asyncio.create_task(asyncio.to_thread(prepare, self.settings, minimum, self.directory))
        self._introduce()
        work = asyncio.create_task(self._connections(preparing))
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait({work, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if work.done():
            work.result()
        else:
            await self._interrupted(work, await preparing)
        if self.options.as_json:
            print_json(self._facts())
        return INTERRUPTED if stop.is_set() else self._status()

    def _introduce(self) -> None:
        """The certificate is still being made: nobody has to wait for it to read."""
        if self.options.as_json:
            warn(f"waiting for a connection on {self.place.shown}")
            return
        setup = setup_of(self.settings, self.index, _NO_CERTIFICATES, here=self.here)
        self.screen.introduce(
            self.place.shown, self.place.port, setup, timeout=span(self.options.timeout), count=self.options.count
        )
        sys.stdout.flush()

    async def _interrupted(self, work: asyncio.Task[None], certificates: Certificates) -> None:
        running = self._running
        if running is None:
            self._nobody(len(self.results) + 1, so_far=True)
        else:
            dialogue = running.interrupt()
            self._conclude(dialogue, setup_of(self.settings, self.index, certificates, here=self.here))
        work.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await work

    async def _connections(self, preparing: asyncio.Task[Certificates]) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.options.timeout
        users = smtp_wiring.users(self.settings)
        with contextlib.closing(Authenticator(users, cache_s=0)) as auth:
            verdict, check_recipient = judges(self.settings)
            daemons = service_of(self.settings, self.index, auth, check_recipient)
            certificates = await preparing
            setup = setup_of(self.settings, self.index, certificates, here=self.here)
            offer_all = False
            for number in range(1, self.options.count + 1):
                try:
                    sock, client = await asyncio.wait_for(self.place.accept(), deadline - loop.time())
                except TimeoutError:
                    self._nobody(number)
                    return
                if not self.options.as_json:
                    self.screen.connected(client, number, self.options.count)
                with _closing(sock):
                    self._running = Examination(
                        daemons=daemons,
                        users=users,
                        certificates=certificates,
                        silence=Silence().within(self.options.silence),
                        verdict=verdict,
                        show=self._shower(),
                        client=client,
                        offer_all=offer_all,
                    )
                    dialogue = await self._running.run(sock)
                self._running = None
                self._conclude(dialogue, setup)
                offer_all = left_early(dialogue)

    def _shower(self) -> Show:
        self._lines = lines = []
        screen = None if self.options.as_json else self.screen.shower()

        def show(who: Who, text: str) -> None:
            lines.append((who, text))
            if screen:
                screen(who, text)

        return show

    def _nobody(self, number: int, *, so_far: bool = False) -> None:
        which = "Nobody connected" if number == 1 else f"No connection {number} came"
        if so_far and not self.options.as_json:
            self.screen.say(f"{which}.", "bold")
        elif not self.options.as_json:
            self.screen.say(
                f"{which} in {span(self.options.timeout)}. Does the device have the right address? Can it reach this"
                " machine (firewall, network)? Does it send at all?",
                "bold",
            )

    def _conclude(self, dialogue: Dialogue, setup: Setup) -> None:
        findings = examine(dialogue, setup)
        self.results.append(Result(dialogue, findings, tuple(self._lines)))
        self._setup = setup
        if not self.options.as_json:
            self.screen.report(dialogue, findings, setup)
            sys.stdout.flush()

    def _status(self) -> int:
        """By the last connection that brought mail; where none did, by all of them."""
        with_mail = [result for result in self.results if result.dialogue.brought_mail]
        judged = with_mail[-1:] or self.results
        return 0 if judged and all(gets_through(result.findings) for result in judged) else CHANGE

    def _facts(self) -> dict[str, Any]:
        setup = self._setup
        return {
            "gets_through": self._status() == 0,
            "connections": [
                {
                    "client": result.dialogue.client,
                    "mail": result.dialogue.brought_mail,
                    "dialogue": [{"who": who, "text": text} for who, text in result.lines],
                    "gets_through": gets_through(result.findings),
                    "findings": [_finding_facts(finding) for finding in result.findings],
                    "config": as_toml(merged(result.findings), address=setup.address if setup else ""),
                }
                for result in self.results
            ],
        }


_NO_CERTIFICATES = Certificates(daemons=(Path(), None))


def _finding_facts(finding: Finding) -> dict[str, Any]:
    return {**asdict(finding), "reply": str(finding.reply) if finding.reply else ""}


@contextlib.contextmanager
def _closing(sock: socket.socket) -> Iterator[None]:
    """A socket that a transport has taken over is closed by that; closing it twice does no harm."""
    try:
        yield
    finally:
        sock.close()
