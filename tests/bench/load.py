"""An SMTP load of our own: `connections` at once, each transaction timed. Shapes: seconds, octets.

`python -m tests.bench.load PORT MESSAGES CONNECTIONS SIZE new|reused [attachment]` prints JSON.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import sys
import time


def message(size: int, *, attachment: bool) -> bytes:
    """About `size` octets as they go over the wire, ready with the final dot."""
    head = b"From: Ann <ann@example.com>\r\nTo: Bob <bob@example.org>\r\nSubject: benchmark\r\nMIME-Version: 1.0\r\n"
    if not attachment:
        line = b"The quick brown fox jumps over the lazy dog and goes on its way.\r\n"
        return head + b"\r\n" + line * (size // len(line)) + b".\r\n"
    encoded = base64.encodebytes(os.urandom(size * 3 // 4 * 76 // 78)).replace(b"\n", b"\r\n")
    return (
        head + b'Content-Type: multipart/mixed; boundary="b"\r\n\r\n--b\r\nContent-Type: text/plain\r\n\r\ntext\r\n'
        b'--b\r\nContent-Type: application/pdf; name="x.pdf"\r\nContent-Transfer-Encoding: base64\r\n'
        b'Content-Disposition: attachment; filename="x.pdf"\r\n\r\n' + encoded + b"--b--\r\n.\r\n"
    )


PIECE = 1 << 20


class Client:
    def __init__(self, port: int) -> None:
        self.port = port

    async def open(self) -> None:
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
        await self.expect(b"220")
        await self.say(b"EHLO bench\r\n", b"250")

    async def expect(self, code: bytes) -> None:
        while True:
            line = await self.reader.readline()
            if not line.startswith(code):
                raise RuntimeError(f"expected {code!r}, got {line!r}")
            if line[3:4] == b" ":
                return

    async def say(self, line: bytes, code: bytes) -> None:
        self.writer.write(line)
        await self.expect(code)

    async def send(self, content: bytes) -> float:
        started = time.perf_counter()
        await self.say(b"MAIL FROM:<ann@example.com>\r\n", b"250")
        await self.say(b"RCPT TO:<bob@example.org>\r\n", b"250")
        await self.say(b"DATA\r\n", b"354")
        view = memoryview(content)
        for start in range(0, len(content), PIECE):  # what is not sent yet must not be here once for each client
            self.writer.write(view[start : start + PIECE])
            await self.writer.drain()
        await self.expect(b"250")
        return time.perf_counter() - started

    async def close(self) -> None:
        await self.say(b"QUIT\r\n", b"221")
        self.writer.close()


async def run(port: int, messages: int, connections: int, content: bytes, *, reused: bool) -> list[float]:
    """The time of each transaction."""
    left = iter(range(messages))

    async def one() -> list[float]:
        times = []
        client = Client(port)
        if reused:
            await client.open()
        for _ in left:
            if not reused:
                await client.open()
            times.append(await client.send(content))
            if not reused:
                await client.close()
        if reused:
            await client.close()
        return times

    return [t for times in await asyncio.gather(*(one() for _ in range(connections))) for t in times]


def main() -> None:
    import uvloop

    port, messages, connections, size = (int(a) for a in sys.argv[1:5])
    content = message(size, attachment="attachment" in sys.argv)
    started = time.perf_counter()
    times = sorted(uvloop.run(run(port, messages, connections, content, reused=sys.argv[5] == "reused")))
    seconds = time.perf_counter() - started
    print(
        json.dumps(
            {
                "messages": messages,
                "seconds": seconds,
                "size": len(content),
                "p50": times[len(times) // 2],
                "p99": times[int(len(times) * 0.99)],
            }
        )
    )


if __name__ == "__main__":
    main()
