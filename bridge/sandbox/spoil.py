"""How a planned failure looks on the wire, up to the end of the connection, which the server then closes."""

from __future__ import annotations

import asyncio
import socket
import struct

from bridge.clock import Clock
from bridge.sandbox.failures import Failure


async def spoil(
    failure: Failure, answer: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, clock: Clock
) -> None:
    """`answer` is what should be sent, empty when the message was not taken. lost, close_before_answer: nothing more."""
    match failure.mode:
        case "half":
            head, end, body = answer.partition(b"\r\n\r\n")
            writer.write(head + end + body[: len(body) // 2])
        case "garbage":
            writer.write(b"\x00\xffthis is not HTTP\r\n\r\n")
        case "hang":
            await _hang(failure.seconds, reader, clock)
        case "reset":
            _reset(writer)


async def _hang(seconds: float | None, reader: asyncio.StreamReader, clock: Clock) -> None:
    if seconds is not None:
        await clock.wait(asyncio.Event(), seconds)
        return
    while await reader.read(65536):  # until the client gives up
        pass


def _reset(writer: asyncio.StreamWriter) -> None:
    # Lingering for no time makes closing send RST instead of FIN (socket(7)).
    connection = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
