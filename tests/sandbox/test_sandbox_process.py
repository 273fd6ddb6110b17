"""The sandbox as a process of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

MAIL = {"to": "ann@example.com", "from": "shop@example.com", "subject": "Hi", "body": "Hello"}


@contextmanager
def running(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process and the URL it announced; killed at the end if it still runs."""
    command = [sys.executable, "-m", "bridge.sandbox", "--port", "0", "--key", "k", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith("sandbox API on http://127.0.0.1:")
            yield process, line.split()[-1]
        finally:
            process.kill()


def send(url: str) -> int:
    return httpx.post(
        url + "/send-email", json=MAIL, headers={"Authorization": "Bearer k"}, trust_env=False
    ).status_code


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_0_and_only_where_it_is_was_printed(number: signal.Signals) -> None:
    with running("--fail", "503:1", "--fail", "hang") as (process, url):
        assert process.stdout is not None
        page, twins = process.stdout.readline(), process.stdout.readline()
        assert send(url) == 503
        with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2]))):  # an idle one does not keep it
            process.send_signal(number)
            out, err = process.communicate(timeout=10)

    assert (process.returncode, out, err) == (0, "", "")
    assert page == f"messages: {url}/\n"
    assert twins.startswith(f"twins: {url}/KIND for ")
    assert "sendgrid" in twins


def test_the_journal_survives_a_kill(tmp_path: Path) -> None:
    journal = tmp_path / "journal.jsonl"
    with running("--journal", str(journal)) as (process, url):
        assert [send(url) for _ in range(3)] == [200, 200, 200]
        process.kill()
        process.wait(10)

    assert journal.read_bytes().count(b"\n") == 3
    assert journal.stat().st_mode & 0o777 == 0o600


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bridge.sandbox", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)


def test_a_failure_that_cannot_be_parsed_is_explained() -> None:
    ended = run("--fail", "503:x")

    assert ended.returncode == 2
    assert "cannot use '503:x': count must be a number" in ended.stderr


def test_a_failure_no_provider_has_is_explained_with_those_it_has() -> None:
    ended = run("--fail", "sendgrid=explosion:1")

    assert ended.returncode == 2
    assert "'explosion'; sendgrid has: bad_request, unauthorized" in " ".join(ended.stderr.split())


def test_a_port_in_use_is_said_in_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ended = run("--port", str(taken.getsockname()[1]))

    assert ended.returncode == 1
    assert ended.stderr.startswith("the sandbox cannot start: ")
    assert ended.stderr.count("\n") == 1


def test_importing_it_brings_neither_the_smtp_side_nor_a_web_framework() -> None:
    program = "import sys, bridge.sandbox; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    listed = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=20, check=True, env=environment
    )

    assert {"aiosmtpd", "httpx", "pydantic", "uvloop", "typer", "structlog"} & set(listed.stdout.split()) == set()
