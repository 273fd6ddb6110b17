"""SMTP dialogues as text files, replayed over a real socket against a running daemon.

`> line` sends a line; `>> text` sends it as it is, with escapes (\\r \\n \\0 \\xNN); `< 250 2.1.0` expects a reply that
begins so; `<has X` and `<no X` look into the last reply's lines; `<eof` expects the end, and where it does not stand QUIT is
added; `! starttls` upgrades. `{x*9}` repeats what stands before the last star. A line `# @ key=value ...` gives settings of the
listener.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from pathlib import Path
from typing import Any

import pytest

FILES = sorted((Path(__file__).parent / "dialogues").glob("*.txt"))
_SMTP_KEYS = {
    "max_recipients",
    "max_errors",
    "max_junk_commands",
    "max_unknown_commands",
    "max_commands",
    "timeout",
}


class Player:
    def __init__(self, port: int) -> None:
        self.port = port
        self.last: list[str] = []

    async def play(self, lines: list[str]) -> None:
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port, limit=2**20)
        for number, line in enumerate(lines, 1):
            try:
                await asyncio.wait_for(self.step(line), 10)
            except (AssertionError, TimeoutError) as error:
                raise AssertionError(f"line {number}: {line!r}: {error}; last reply: {self.last}") from error
        if lines[-1] != "<eof":
            await self.end()
        self.writer.close()

    async def end(self) -> None:
        """Nothing was answered that the dialogue does not know of: the next reply is that to QUIT, and the last one."""
        for line in ("> QUIT", "< 221 2.0.0", "<eof"):
            await asyncio.wait_for(self.step(line), 10)

    async def step(self, line: str) -> None:
        if line.startswith(">>"):
            self.writer.write(unescape(line.removeprefix(">> ")))
        elif line.startswith(">"):
            self.writer.write(line[2:].encode() + b"\r\n")
        elif line.startswith("<has "):
            assert line[5:] in self.last
        elif line.startswith("<no "):
            assert not [x for x in self.last if x.startswith(line[4:])]
        elif line == "<eof":
            assert await self.reader.read(1) == b""
        elif line.startswith("<"):
            self.last, whole = await self.reply()
            assert whole.startswith(line[2:]), whole
        elif line == "! starttls":
            await self.starttls()

    async def reply(self) -> tuple[list[str], str]:
        texts = []
        while True:
            raw = (await self.reader.readline()).decode("ascii")
            assert raw.endswith("\r\n"), f"no whole reply line: {raw!r}"
            assert re.match(r"\d{3}[ -]", raw), raw
            texts.append(raw[4:-2])
            if raw[3] == " ":
                return texts, raw

    async def starttls(self) -> None:
        self.writer.write(b"STARTTLS\r\n")
        _, whole = await self.reply()
        assert whole.startswith("220 2.0.0")
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        await self.writer.start_tls(context)


def unescape(text: str) -> bytes:
    raw = re.sub(rb"\\(x[0-9a-f]{2}|[rn0])", lambda m: _escape(m[1]), text.encode())
    return re.sub(rb"\{([^{}]*)\*(\d+)\}", lambda m: m[1] * int(m[2]), raw)


def _escape(code: bytes) -> bytes:
    return {b"r": b"\r", b"n": b"\n", b"0": b"\0"}.get(code) or bytes([int(code[1:], 16)])


def expand(text: str) -> list[str]:
    """`{20* ... }` over several lines repeats them."""
    text = re.sub(r"^\{(\d+)\* (.*?)\}$", lambda m: "\n".join([m[2]] * int(m[1])), text, flags=re.M | re.S)
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def variables(text: str, secret_hash: str) -> dict[str, str]:
    found = re.search(r"^# @ (.*)$", text, re.M)
    pairs = dict(pair.split("=", 1) for pair in found[1].split()) if found else {}
    result = {"SMTP_BRIDGE_PROVIDER__KIND": "capture", "SMTP_BRIDGE_SMTP__MAX_MESSAGE_SIZE": "1000000"}
    if pairs.pop("users", ""):
        result["SMTP_BRIDGE_USER__NAME"] = "ann"
        result["SMTP_BRIDGE_USER__SENDERS"] = "*@example.com"
        if "CRAM-MD5" in pairs.get("auth_mechanisms", ""):
            result["SMTP_BRIDGE_USER__PASSWORD"] = "secret"
        else:
            result["SMTP_BRIDGE_USER__PASSWORD_HASH"] = secret_hash
    for key, value in pairs.items():
        section = "SMTP" if key in _SMTP_KEYS else "SMTP__LISTENER"
        result[f"SMTP_BRIDGE_{section}__{key.upper()}"] = value
    return result


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
async def test_dialogue_goes_as_written(path: Path, start_daemon: Any, secret_hash: str) -> None:
    text = path.read_text()
    daemon = await start_daemon(**variables(text, secret_hash))

    await Player(daemon.listeners[0].port).play(expand(text))
