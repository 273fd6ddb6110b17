"""What the log of a running daemon holds, and what it must never hold."""

from __future__ import annotations

import ast
import base64
import contextlib
import hmac
import io
import json
import os
import re
import socket
import ssl
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
import structlog

from bridge import log
from tests.cli.conftest import KEY, bridge, events, running, sandbox, send, to_sandbox
from tests.leaks import quietly

PEOPLE = ("local-ann", "local-bob", "local-carl", "local-dora", "nobody", "local-user")
PASSWORD, BODY = "PLANTED-password", "PLANTED-body"
BLOB = base64.b64encode(b"\0printer\0PLANTED-blob").decode()
DEBUG = {"SMTP_BRIDGE_LOG__LEVEL": "debug"}


@contextmanager
def logged(directory: Path, *fail: str, **more: str) -> Iterator[tuple[int, Path]]:
    """The port of a daemon that sends to a sandbox, and its log."""
    (directory / "api").mkdir()
    arguments = [argument for rule in fail for argument in ("--fail", rule)]
    with (
        sandbox(directory / "api", *arguments) as url,
        bridge(directory, **to_sandbox(url, **DEBUG, **more)) as (process, port),
    ):
        yield port, directory / "stderr"
        process.terminate()
        assert process.wait(20) == 0


def converse(port: int, *lines: str, tls: bool = False) -> str:
    """Lines to the daemon, answers from it, whatever they are."""
    with contextlib.ExitStack() as stack:
        plain = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
        heard = _say(plain, *(("EHLO c.example", "STARTTLS") if tls else ()))
        if not tls:
            return heard + _say(plain, *lines, "QUIT", greeted=True)
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        secure = stack.enter_context(context.wrap_socket(plain))
        return heard + _say(secure, *lines, "QUIT", greeted=True)


def _say(connection: socket.socket, *lines: str, greeted: bool = False) -> str:
    heard = "" if greeted else _reply(connection)
    for line in lines:
        connection.sendall(line.encode() + b"\r\n")
        if line[:1] != " ":
            heard += _reply(connection)
    return heard


def _reply(connection: socket.socket) -> str:
    heard = b""
    while not heard.endswith(b"\r\n") or heard.rstrip().rpartition(b"\r\n")[2][3:4] == b"-":
        octets = connection.recv(4096)
        if not octets:
            break
        heard += octets
    return heard.decode()


@pytest.mark.parametrize("mode", ["direct", "queue"])
def test_hashed_addresses_stand_nowhere_in_the_log(tmp_path: Path, mode: str) -> None:
    with logged(tmp_path, SMTP_BRIDGE_LOG__ADDRESSES="hashed", SMTP_BRIDGE_RELAY__MODE=mode) as (port, path):
        send(port, "local-ann@example.com", ["local-bob@example.org", "local-carl@example.org"])
        for refused in ("nobody@refused.example", "local-dora@invalid.example"):
            with contextlib.suppress(Exception):  # direct: the client hears the refusal
                send(port, "local-ann@example.com", [refused])
        greeted = ("EHLO c.example", "MAIL FROM:<local-ann@example.com>")
        converse(port, "EHLO c.example", "MAIL FROM:<local-ann@example.com> SIZE=99999999999", "RCPT TO:<local-bob@x")
        converse(port, *greeted, "RCPT TO:<local-bob@@x>", "local-carl@example.com")
        with contextlib.suppress(Exception):  # refused as a loop
            send(
                port,
                "local-ann@example.com",
                ["local-bob@example.org"],
                subject="local-carl\r\n" + "Received: x\r\n" * 60,
            )

    text = path.read_text().lower()
    assert [person for person in PEOPLE if person in text] == []
    names = {event["event"] for event in events(path)}
    assert {"message.rejected"} < names
    assert any("recipient unknown" in str(event.get("text", "")) for event in events(path))
    hashes = {event["reverse_path"] for event in events(path) if event.get("reverse_path")}
    key = (tmp_path / "state" / "log.key").read_bytes()
    assert hashes == {hmac.digest(key, b"local-ann@example.com", "sha256").hex()[:12]}


def test_full_addresses_stand_in_the_log_as_they_are(tmp_path: Path) -> None:
    with logged(tmp_path) as (port, path):
        send(port, "local-ann@example.com", ["local-bob@example.org"])

    (sent,) = [event for event in events(path) if event["event"] == "message.sent"]
    assert (sent["reverse_path"], sent["recipients"]) == ("local-ann@example.com", ["local-bob@example.org"])


def test_no_secret_and_no_body_is_ever_logged(tmp_path: Path, secret_hash: str) -> None:
    login = base64.b64encode(f"\0printer\0{PASSWORD}".encode()).decode()
    user = {"SMTP_BRIDGE_USER__NAME": "printer", "SMTP_BRIDGE_USER__PASSWORD_HASH": secret_hash}
    with logged(tmp_path, "503:1", "422:1", SMTP_BRIDGE_RELAY__MODE="direct", **user) as (port, path):
        # Clients that do not wait for an answer send the credentials even where AUTH is refused.
        assert "235" not in converse(port, "EHLO c.example", "AUTH LOGIN", BLOB, f"AUTH PLAIN {BLOB}", BLOB)
        assert "535" in converse(port, "EHLO c.example", f"AUTH PLAIN {login}", BLOB, tls=True)
        assert "535" in converse(port, "EHLO c.example", "AUTH LOGIN", "cHJpbnRlcg==", BLOB, PASSWORD, tls=True)
        right = base64.b64encode(b"\0printer\0secret").decode()
        message = f" From: a@example.com\r\n To: b@example.com\r\n Subject: {BODY}\r\n\r\n {BODY}".replace(" ", "")
        for _ in range(3):
            heard = converse(port, "EHLO c.example", f"AUTH PLAIN {right}", "MAIL FROM:<a@example.com>",
                             "RCPT TO:<b@example.com>", "DATA", f"{message}\r\n.", tls=True)  # fmt: skip
            assert "235" in heard
        converse(port, "EHLO c.example", BODY, f"GARBAGE {BODY}", f"VRFY {BODY}")

    text = path.read_text()
    names = [event["event"] for event in events(path)]
    assert {"connection.auth", "message.sent", "message.rejected", "attempt.deferred"} <= set(names)
    for secret in ("PLANTED", "secret", KEY, secret_hash, BLOB, login, right):
        assert secret not in text, secret


@pytest.fixture
def captured(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.BytesIO]:
    """The log of this process, hashed, until the end of the test."""
    octets = io.BytesIO()
    stderr = io.TextIOWrapper(octets, write_through=True)
    monkeypatch.setattr("sys.stderr", stderr)
    log.configure(level="debug", format="json", addresses="hashed")
    structlog.configure(cache_logger_on_first_use=False)  # as in conftest.py
    yield octets
    monkeypatch.undo()
    quietly()


def configure(captured: io.BytesIO, **settings: Any) -> None:
    """Once more within a test, whose standard error pytest has replaced since."""
    stderr = io.TextIOWrapper(captured, write_through=True)
    with contextlib.redirect_stderr(stderr):
        log.configure(**settings)
    stderr.detach()


TEXTS = [
    "unknown: local-ann@example.com",
    "<local-ann@EXAMPLE.com>, 'local-ann@example.com'; (local-ann@example.com)",
    'the address "local-ann smith"@example.com is bad',
    "to=local-ann@example.com",
    "local-ann+tag=x@example.com.",
    "o'local-ann@example.com",
    "/users/local-ann%40example.com/mail",
    "mailto:local-ann@example.com?subject=x",
    "local-änn@exämple.com local-ann@[127.0.0.1]",
    "recipient Local-Ann@Example.com",
]


@pytest.mark.parametrize("text", TEXTS)
def test_an_address_that_a_text_quotes_is_hashed(captured: io.BytesIO, text: str) -> None:
    structlog.get_logger().info(
        "attempt.bounced", text=text, detail=[text], more={"a": text}, user="local-ann@example.com"
    )

    assert b"local" not in captured.getvalue().lower()


def test_one_address_has_one_hash_wherever_it_stands(captured: io.BytesIO) -> None:
    address = "ann@example.com"

    structlog.get_logger().info(
        "x", recipient=address, recipients=(address, "b@c.example"), text=f"no <{address}> here"
    )

    event = orjson.loads(captured.getvalue())
    digest = log.hashed(address)
    assert (event["recipient"], event["recipients"][0], event["text"]) == (digest, digest, f"no <{digest}> here")
    assert log.hashed("") == ""


def test_a_text_without_addresses_is_left_alone(captured: io.BytesIO) -> None:
    structlog.get_logger().info("x", text="4.4.1 HTTP 503: try again @ 10:00", code=451, client="127.0.0.1")

    event = orjson.loads(captured.getvalue())
    assert (event["text"], event["code"], event["client"]) == ("4.4.1 HTTP 503: try again @ 10:00", 451, "127.0.0.1")


def _fail(text: str) -> None:
    raise ValueError(text)


def test_an_exception_is_told_by_type_and_place_alone(captured: io.BytesIO) -> None:
    try:
        _fail("PLANTED")
    except ValueError:
        structlog.get_logger().exception("attempt.error", queue_id="Q")

    event = orjson.loads(captured.getvalue())
    assert event["error"] == "ValueError"
    assert event["trace"][-1].startswith("test_log.py:")
    assert event["trace"][-1].endswith(" _fail")
    assert "PLANTED" not in json.dumps(event)


def test_what_libraries_warn_of_is_told_without_what_a_client_sent(captured: io.BytesIO) -> None:
    import logging

    logging.getLogger("library").warning("bad line %r", "PLANTED")
    logging.getLogger("asyncio").error(
        "Task exception was never retrieved\nfuture: <Task exception=ValueError('PLANTED')>"
    )
    logging.getLogger("mail.log").warning("AUTH PLAIN PLANTED")

    events = [orjson.loads(line) for line in captured.getvalue().splitlines()]
    assert [event["text"] for event in events] == ["bad line %r", "Task exception was never retrieved"]
    assert b"PLANTED" not in captured.getvalue()


def test_on_a_terminal_the_log_is_for_people_elsewhere_json(tmp_path: Path) -> None:
    with running(tmp_path, "run", **to_sandbox("http://127.0.0.1:1"), SMTP_BRIDGE_LOG__FORMAT="console",
                 SMTP_BRIDGE_SMTP__LISTENER__ADDRESS="127.0.0.1:0", SMTP_BRIDGE_SPOOL__MIN_FREE="0") as process:  # fmt: skip
        while "daemon.ready" not in (tmp_path / "stderr").read_text():
            assert process.poll() is None
    text = (tmp_path / "stderr").read_text()
    assert "[info     ] daemon.ready" in text
    assert "\x1b" not in text


# --- every line there is, by its call


def _calls() -> list[tuple[str, list[str]]]:
    """Each call of a logger in the package: its event, and the names of its facts."""
    found = []
    for path in sorted((Path(__file__).parents[2] / "bridge").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant)):
                continue
            name, event = ast.unparse(node.func), node.args[0].value
            if name.startswith(("log.", "structlog.get_logger().")) and "." in str(event):
                found.append((str(event), [word.arg for word in node.keywords if word.arg]))
    return found


def test_no_line_of_any_kind_tells_an_address_when_they_are_hashed(captured: io.BytesIO) -> None:
    """Whatever a fact of whatever event holds: an address, a list of them, or a text that quotes one."""
    calls = _calls()
    address = "Local-Ann@mail.example.com"
    values = (
        address,
        [address, f"<{address}>"],
        {address: f"550 no such user: {address}"},
        f"RCPT TO:<{address}>: {{}}",
    )

    for event, names in calls:
        for value in values:
            facts = dict.fromkeys(names, value) | {"exc_info": ValueError(address)}
            structlog.get_logger().error(event, **{k: v for k, v in facts.items() if k not in ("event", "level")})

    assert len({event for event, _ in calls}) > 60
    assert len(captured.getvalue().splitlines()) == len(calls) * len(values)
    assert b"local-ann" not in captured.getvalue().lower()
    assert b"mail.example" not in captured.getvalue().lower()


# --- for the journal


def test_addresses_are_hashed_with_a_key_of_the_installation_that_only_its_user_reads(tmp_path: Path) -> None:
    one, other = (log.address_key(tmp_path / name / "log.key") for name in ("one", "other"))

    assert one == log.address_key(tmp_path / "one" / "log.key")
    assert one != other
    assert len(one) == 64
    assert stat.S_IMODE((tmp_path / "one" / "log.key").stat().st_mode) == 0o600
    (tmp_path / "one" / "log.key").write_bytes(b"")  # a start that was cut off
    assert len(log.address_key(tmp_path / "one" / "log.key")) == 64


@pytest.mark.parametrize("format", ["json", "console"])
def test_each_line_begins_with_its_priority_where_it_is_asked_for(captured: io.BytesIO, format: Any) -> None:
    configure(captured, level="debug", format=format, priority="always")
    for level in ("debug", "info", "warning", "error"):
        getattr(structlog.get_logger(), level)("x.y", text="a\nb")
    try:
        _fail("x")
    except ValueError:
        structlog.get_logger().exception("x.y")

    lines = captured.getvalue().splitlines()
    assert [line[:3] for line in lines] == [b"<7>", b"<6>", b"<4>", b"<3>", b"<3>"]
    if format == "json":
        assert [orjson.loads(line[3:])["event"] for line in lines] == ["x.y"] * 5


def _stderr(*, journal: bool, priority: str = "auto") -> str:
    """What a process writes whose standard error is a socket, as systemd's is, with $JOURNAL_STREAM of that socket or another."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        found = os.fstat(theirs.fileno())
        stream = f"{found.st_dev}:{found.st_ino + (not journal)}"
        code = f"from bridge import log; import structlog; log.configure(priority={priority!r}); log.complain('no')\n"
        subprocess.run(
            [sys.executable, "-c", code + "structlog.get_logger().warning('x.y')"],
            env={**os.environ, "JOURNAL_STREAM": stream, "PYTHONPATH": str(Path(__file__).parents[2])},
            stderr=theirs,
            check=True,
        )
        return ours.recv(4096).decode()


def test_the_journal_is_told_priorities_and_no_other_file_is() -> None:
    assert re.fullmatch(r'<3>smtp-bridge: no\n<4>\{.*"event":"x.y".*\}\n', _stderr(journal=True))
    assert re.fullmatch(r"smtp-bridge: no\n\{.*\}\n", _stderr(journal=False))


def test_other_settings_reach_loggers_that_were_used(captured: io.BytesIO) -> None:
    configure(captured, level="info", format="json")
    used = structlog.get_logger()
    bound = used.bind(queue_id="Q")
    for logger in (used, bound):
        logger.debug("before")
    configure(captured, level="debug", format="console", priority="always")
    for logger in (used, bound):
        logger.debug("after")
    configure(captured, level="error", format="json")
    for logger in (used, bound):
        logger.warning("at last")

    lines = captured.getvalue().decode().splitlines()
    assert [line[:3] for line in lines] == ["<7>", "<7>"]
    assert ["queue_id=Q" in line for line in lines] == [False, True]


def test_what_nobody_caught_is_told_without_its_text() -> None:
    code = """
import threading
from bridge import log
log.configure(format="json")
log.adopt_hooks()
class Odd:
    def __del__(self): raise ValueError("PLANTED")
def fail(): raise ValueError("PLANTED")
Odd()
thread = threading.Thread(target=fail); thread.start(); thread.join()
fail()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2])

    told = [(event["event"], event["error"]) for event in map(orjson.loads, done.stderr.splitlines())]
    assert told == [(f"{name}", "ValueError") for name in ("library.unraisable", "thread.failed", "daemon.failed")]
    assert "PLANTED" not in done.stderr
    assert done.returncode == 1
