"""The product's Session with every line, silence and handshake noted in a Record; what is answered is the product's."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

from bridge.cli.doctor.content import NewlineCount, wrong_end
from bridge.cli.doctor.dialogue import Ended, Handshake, Stall
from bridge.cli.doctor.hello import Hello, parse_record
from bridge.cli.doctor.record import Record
from bridge.reply import Reply
from bridge.smtp import replies
from bridge.smtp.conversation import Service
from bridge.smtp.session import Session
from bridge.smtp.wire import LineTooLong

SAMPLE = 4 << 20  # octets of a message that are looked at
Watched = Callable[[], tuple[Hello | None, str, str]]  # of a handshake: the hello, the device's alert, ours


def nothing_watched() -> tuple[Hello | None, str, str]:
    return None, "", ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Silence:
    """Seconds, after the connection was made until it is greeted (who speaks TLS at once has done so by then; on a listener
    with implicit TLS a slow device gets more time for its hello), until a device that waits is told of, until it is given up.
    """

    greeting: float = 0.4
    greeting_implicit: float = 1.5
    stalled: float = 4.0
    ended: float = 30.0

    def within(self, ended: float) -> Silence:
        """The same proportions, where the device is given up sooner."""
        share = min(1.0, ended / self.ended * 4)
        return Silence(
            greeting=self.greeting * share,
            greeting_implicit=self.greeting_implicit * share,
            stalled=min(self.stalled, ended / 2),
            ended=ended,
        )


class _Data:
    """The octets of DATA as they come."""

    def __init__(self) -> None:
        self.size = 0
        self.sample = bytearray()
        self.tail = b""
        self.newlines = NewlineCount()

    def feed(self, data: bytes) -> None:
        self.size += len(data)
        self.tail = (self.tail + data[-8:])[-8:]
        if len(self.sample) < SAMPLE:
            self.sample += data
        self.newlines.feed(data)


class RecordingSession(Session):
    """`closed` is done when the connection is; `client`: who it is behind a proxy."""

    def __init__(
        self,
        service: Service,
        record: Record,
        *,
        loop: asyncio.AbstractEventLoop,
        silence: Silence,
        client: str = "",
        watch: Watched = nothing_watched,
    ) -> None:
        super().__init__(service, loop=loop)
        self.record = record
        self.closed: asyncio.Future[None] = loop.create_future()
        self._silence = silence
        self._named_client = client
        self._watch = watch
        self._data: _Data | None = None
        self._helped = False
        self._in_auth = False
        self._line_ends = NewlineCount()
        self._ended: Ended | None = None
        self._stall_timer: asyncio.TimerHandle | None = None

    # --- the connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.client = self._named_client or self.client
        if self.tls:
            self._note_handshake(transport.get_extra_info("ssl_object"), implicit=True)
        self._wait_for_more()

    def connection_lost(self, error: Exception | None) -> None:
        self._cancel_stall()
        self.end("device")
        super().connection_lost(error)
        if not self.closed.done():
            self.closed.set_result(None)

    def end(self, by: Literal["quit", "device", "doctor", "silence", "user"]) -> None:
        """The first that is said holds."""
        if self._ended is None:
            self._ended = Ended(by=by, within_data=self._data is not None)
            self.record.add(self._ended)

    def data_received(self, data: bytes) -> None:
        if self._data is not None:
            self._data.feed(data)
        elif not self._in_auth:
            self._look_at_line_ends(data)
        self._helped = False
        self._wait_for_more()
        super().data_received(data)

    def _look_at_line_ends(self, data: bytes) -> None:
        if data[:2] == b"\x16\x03" and not self._buffer:
            self.record.add(Handshake(late=True, hello=parse_record(data)))
            return
        self._line_ends.feed(data)
        self.record.bare_lf = self.record.bare_lf or self._line_ends.value.lf > 0

    def say_and_close(self, reply: Reply) -> None:
        self.end("silence" if reply == replies.IDLE else "doctor")
        self.record.answered(reply.code, [_text(reply)])
        super().say_and_close(reply)

    # --- silence

    def _cancel_stall(self) -> None:
        if self._stall_timer:
            self._stall_timer.cancel()

    def _wait_for_more(self) -> None:
        self._cancel_stall()
        self._stall_timer = self.loop.call_later(self._silence.stalled, self._stalled)

    def _stalled(self) -> None:
        """Say what is waited for; where only a line end is missing, put it there, so that the rest can be seen."""
        if self.handshaking or self._done or self._helped:
            return
        self._helped = True
        seconds = self._silence.stalled
        if self._data is not None:
            self._stalled_in_data(self._data, seconds)
        elif self._reading_command and self._buffer:
            self.record.add(Stall(where="line", seconds=seconds, tail=bytes(self._buffer[-8:])))
            self._remark("the device waits, but its line has not ended: the listener of your settings would wait too")
            super().data_received(b"\n")
        elif self._reading_command:
            first = not self.helo
            self.record.add(Stall(where="start" if first else "command", seconds=seconds))
            self._remark(f"nothing for {seconds:g} s; waiting for {self._silence.ended:g} s in all")

    def _stalled_in_data(self, data: _Data, seconds: float) -> None:
        self.record.add(Stall(where="data", seconds=seconds, tail=data.tail))
        end = wrong_end(data.tail)
        if not end:
            self._remark(f"nothing for {seconds:g} s in the middle of the message ({data.size} octets so far)")
            return
        self._remark(
            f"the device waits: it has ended the message with {end}.{end}, which ends nothing; only CRLF.CRLF does"
        )
        super().data_received(b"\r\n.\r\n")

    def _remark(self, text: str) -> None:
        self.record.show("!", text)

    # --- what is said

    async def send(self, reply: Reply) -> None:
        if reply == replies.START_DATA:
            self._data = _Data()
            self._data.feed(bytes(self._buffer))  # of a client that did not wait for it
        self._note_reply(reply)
        await super().send(reply)
        self._wait_for_more()

    def _note_reply(self, reply: Reply) -> None:
        if reply == replies.BYE:
            self.end("quit")
        elif reply.code == 421:
            self.end("doctor")
        self.record.answered(reply.code, [_text(reply)], reply)

    async def send_lines(self, code: int, lines: Iterable[str]) -> None:
        texts = list(lines)
        self.record.answered(code, texts)
        await super().send_lines(code, texts)

    async def read_line(self, limit: int = 0) -> bytes:
        try:
            line = await super().read_line(limit)
        except LineTooLong:
            self.record.odd("(a line that is too long)", fault="long")
            raise
        if self._in_auth:
            self.record.secret()
        return line

    def _note_command(self, line: bytes, faults: frozenset[str]) -> str:
        verb = line.strip(b" \t").partition(b" ")[0].decode("ascii", "replace").upper()
        self.record.command(line, verb in self.commands, faults)
        return verb

    async def upgrade(self, context: ssl.SSLContext, *, timeout: float) -> bool:
        self.record.answered(220, [_text(replies.READY_FOR_TLS)])
        good = await super().upgrade(context, timeout=timeout)
        self._note_handshake(self._writer.get_extra_info("ssl_object") if good else None, implicit=False)
        if not good:
            self.end("device")
        return good

    def _note_handshake(self, done: Any, *, implicit: bool) -> None:
        """`done`: the SSLObject, None when it failed."""
        hello, refused, alert = self._watch()
        version = str(done.version() or "").removeprefix("TLSv") if done else ""
        shake = Handshake(
            implicit=implicit,
            hello=hello,
            version=version if "." in version or not version else f"{version}.0",
            cipher=str(done.cipher()[0]) if done else "",
            refused=refused,
            alert=alert,
        )
        self.record.add(shake)
        self._remark(f"TLS {shake.version}, {shake.cipher}" if done else failure(shake))


def _text(reply: Reply) -> str:
    return f"{reply.enhanced} {reply.text}".strip()


def failure(shake: Handshake) -> str:
    alert = shake.refused or shake.alert
    told = f" (the device's alert: {alert})" if shake.refused else f" (our alert: {alert})" if alert else ""
    return f"the TLS handshake failed{told}"
