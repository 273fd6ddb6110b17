"""A REST API that says 202 to everything, as cheaply as Python can: it is not what is measured.

`python -m tests.bench.sink` prints its port; `GET /count` answers how many messages and octets it has taken.
"""

from __future__ import annotations

import asyncio
import re
import sys

_LENGTH = re.compile(rb"\r\ncontent-length:\s*(\d+)", re.IGNORECASE)
_ACCEPTED = b'HTTP/1.1 202 Accepted\r\nContent-Type: application/json\r\nContent-Length: 13\r\n\r\n{"id": "abc"}'
count = 0
octets = 0


class Sink(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.buffer = bytearray()
        self.missing = 0

    def data_received(self, data: bytes) -> None:
        global count, octets
        octets += len(data)
        if self.missing > len(data):  # the middle of a large body: only counted
            self.missing -= len(data)
            return
        if self.missing:
            data = data[self.missing :]
            self.missing = 0
            self._accepted()
        self.buffer += data
        while (end := self.buffer.find(b"\r\n\r\n")) >= 0:
            found = _LENGTH.search(self.buffer, 0, end + 2)
            length = int(found[1]) if found else 0
            if self.buffer.startswith(b"GET /count"):
                body = f"{count} {octets}".encode()
                head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n"
                self.transport.write(head.encode() + body)  # type: ignore[attr-defined]
                del self.buffer[: end + 4]
                continue
            have = len(self.buffer) - end - 4
            if have < length:
                self.missing = length - have
                self.buffer.clear()
                return
            del self.buffer[: end + 4 + length]
            self._accepted()

    def _accepted(self) -> None:
        global count
        count += 1
        self.transport.write(_ACCEPTED)  # type: ignore[attr-defined]


async def main() -> None:
    server = await asyncio.get_running_loop().create_server(Sink, "127.0.0.1", 0)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


if __name__ == "__main__":
    import uvloop

    uvloop.run(main())
