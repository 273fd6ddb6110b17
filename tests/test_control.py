"""The socket at which a running daemon is asked: what it hears, and what it makes of anything else."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from bridge.control import Control, NobodyThere, Refused, ask, beside, within
from tests.delivery.conftest import every_line


@pytest.fixture(params=["short", "long"])
def place(request: Any, tmp_path: Path) -> Path:
    """Also where the path is longer than the address of a socket may be."""
    directory = tmp_path if request.param == "short" else tmp_path / ("d" * 120)
    directory.mkdir(exist_ok=True)
    return beside(directory / "spool.db")


async def hello() -> dict[str, str]:
    return {"outcome": "hello"}


async def test_a_question_has_its_answer_and_nothing_else_does_harm(place: Path) -> None:
    control = Control(place, {"hello": hello})
    await control.start()

    with every_line() as lines:
        for octets in (b"", b"hello", b"x" * 200_000, b"\xff\0\n", b"GET / HTTP/1.1\r\n\r\n"):
            descriptor = os.open(place.parent, os.O_RDONLY)
            reader, writer = await asyncio.open_unix_connection(f"/proc/self/fd/{descriptor}/{place.name}")
            os.close(descriptor)
            writer.write(octets)
            writer.write_eof()
            async with asyncio.timeout(5):
                assert await _all(reader) in (b"", b'{"outcome":"unknown"}\n')
            writer.close()
        answer = await asyncio.to_thread(ask, place, "hello", timeout_s=5)

    assert answer == {"outcome": "hello"}
    assert lines == []
    await control.close()
    with pytest.raises(NobodyThere):
        ask(place, "hello", timeout_s=5)


async def _all(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read()
    except ConnectionResetError:  # it did not read all of it
        return b""


async def test_a_socket_that_cannot_be_made_is_told_and_no_more(tmp_path: Path) -> None:
    with every_line() as lines:
        control = Control(tmp_path / "gone" / "control", {"hello": hello})
        await control.start()
        await control.close()

    (line,) = lines
    assert (line["event"], line["log_level"]) == ("daemon.warning", "warning")


def test_an_answer_that_does_not_come_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "control"))
        silent.listen()

        with pytest.raises(TimeoutError):
            ask(tmp_path / "control", "hello", timeout_s=0.05)


def test_a_socket_of_another_user_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(*_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket.socket, "connect", connect)  # root, as tests may be, is let in everywhere
    with pytest.raises(Refused, match=r"spool\.db\.control: Permission denied"):
        ask(beside(tmp_path / "spool.db"), "hello", timeout_s=1)


async def test_of_two_daemons_with_one_state_directory_the_first_has_its_socket(tmp_path: Path) -> None:
    async def other() -> dict[str, str]:
        return {"outcome": "other"}

    first = Control(within(tmp_path), {"hello": hello}, shared=True)
    second = Control(within(tmp_path), {"hello": other}, shared=True)
    with every_line() as lines:
        await first.start()
        await second.start()
        await second.close()
        assert await asyncio.to_thread(ask, within(tmp_path), "hello", timeout_s=5) == {"outcome": "hello"}
        await first.close()
        await second.start()
        assert await asyncio.to_thread(ask, within(tmp_path), "hello", timeout_s=5) == {"outcome": "other"}
        await second.close()

    assert lines == []


async def test_a_file_where_the_socket_belongs_stays(tmp_path: Path) -> None:
    within(tmp_path).write_text("mine")
    control = Control(within(tmp_path), {"hello": hello}, shared=True)
    await control.start()
    await control.close()

    assert within(tmp_path).read_text() == "mine"
