"""`smtp-bridge queue ...` on the queue of a daemon that runs and whose API is down."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from bridge.cli.screen import printable, size, span
from bridge.sandbox import Sandbox
from tests.cli.conftest import (
    COMMAND,
    bridge,
    invoke,
    on_terminal,
    one_line,
    read_all,
    sandbox,
    send,
    smtp_bridge,
    to_sandbox,
    variables,
)
from tests.e2e.conftest import Smtp, statuses

LONG = "a.very.long.local.part.indeed@another-rather-long-domain.example.org"
MANY = ("ann@example.com", LONG, "c@example.com", "d@example.com", "e@example.com")
REPLY = "451 4.3.2 Mail service not available, try again later"


@pytest.fixture(scope="module")
def spool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The directory of a running daemon with three deferred messages."""
    directory, api = tmp_path_factory.mktemp("bridge"), tmp_path_factory.mktemp("api")
    with failing(directory, api) as port:
        send(port, "erp@example.com", MANY, "the oldest")
        send(port, "", ["ops@example.com"], "from nobody")
        send(port, "printer@example.com", ["bob@example.org"], "the newest")
        yield directory


@pytest.fixture(scope="module")
def rows(spool: Path) -> list[dict[str, Any]]:
    return listed(spool)


@contextmanager
def failing(directory: Path, api: Path) -> Iterator[int]:
    """The port of a running daemon whose API is down and which tries again much later."""
    with sandbox(api, "--fail", "503:10000") as url, bridge(directory, **later(url)) as (_, port):
        yield port


def later(url: str) -> dict[str, str]:
    return to_sandbox(url, SMTP_BRIDGE_RETRY__FIRST="30m")


def listed(directory: Path, *arguments: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(invoke(directory, "queue", "list", "--json", *arguments).stdout)
    return found


def test_a_piped_list_is_a_line_for_each_message_with_nothing_cut_off(spool: Path) -> None:
    done = smtp_bridge(spool, "queue", "list")

    head, *lines = done.stdout.splitlines()
    assert re.split(" {2,}", head) == [
        "ID",
        "Age",
        "Size",
        "Sender",
        "Recipients",
        "Status",
        "Tries",
        "Next",
        "Last reply",
    ]
    assert len(lines) == 3
    assert lines[0].endswith(REPLY)
    assert "printer@example.com  bob@example.org" in lines[0]
    assert re.search(r"\s<>\s+ops@example.com\s+deferred\s+1\s+(2\d|3\d)m\s", lines[1])
    assert f"ann@example.com, {LONG}, c@example.com and 2 more" in lines[2]
    assert all(re.match(r"[0-9A-Z]{16} +\d+[smh] +\d", line) for line in lines)
    assert "\x1b" not in done.stdout


@pytest.mark.parametrize("columns", [80, 200])
def test_a_list_fits_the_width_it_is_given_and_shows_everything(
    spool: Path, rows: list[dict[str, Any]], columns: int
) -> None:
    lines = smtp_bridge(spool, "queue", "list", COLUMNS=str(columns)).stdout.splitlines()

    assert max(map(len, lines)) <= columns
    text = "\n".join(lines)
    for row in rows:
        assert row["queue_id"] in text
        assert (row["sender"] or "<>") in text
    assert text.count("451 4.3.2 Mail service not available, try again") == 3
    assert columns == 200 or LONG in text
    assert len(lines) <= 15


def test_a_list_on_a_terminal_has_colours_and_keeps_to_its_width(spool: Path) -> None:
    with on_terminal(spool, "queue", "list") as (process, terminal):
        text = read_all(terminal)
        assert process.wait(20) == 0

    assert "\x1b[33m" in text  # deferred is yellow
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines()
    assert max(map(len, plain)) <= 80
    assert f"    printer@example.com > bob@example.org\n    {REPLY}" in "\n".join(plain)


def test_json_has_what_the_table_has_newest_first(rows: list[dict[str, Any]]) -> None:
    assert [row["sender"] for row in rows] == ["printer@example.com", "", "erp@example.com"]
    assert {"queue_id", "created_at", "size", "status", "subject"} <= set(rows[0])
    assert [r["address"] for r in rows[2]["recipients"]] == list(MANY)
    assert {r["status"] for row in rows for r in row["recipients"]} == {"deferred"}
    assert rows[0]["recipients"][0]["attempts"] == 1


def test_pages_and_filters(spool: Path, rows: list[dict[str, Any]]) -> None:
    first = invoke(spool, "queue", "list", "--limit", "2")
    assert len(first.stdout.splitlines()) == 3
    assert f"--before {rows[1]['queue_id']}" in one_line(first)
    assert [r["queue_id"] for r in listed(spool, "--before", rows[1]["queue_id"])] == [rows[2]["queue_id"]]
    assert listed(spool, "--status", "sent") == []
    assert invoke(spool, "queue", "list", "--status", "failed").stdout == "No message is failed.\n"


def test_show_says_what_happened_to_each_recipient(spool: Path, rows: list[dict[str, Any]]) -> None:
    oldest = rows[2]

    shown = invoke(spool, "queue", "show", oldest["queue_id"]).stdout
    row = json.loads(invoke(spool, "queue", "show", oldest["queue_id"], "--json").stdout)

    for text in (oldest["queue_id"], "the oldest", "erp@example.com", *MANY, f"{REPLY} (HTTP 503"):
        assert text in shown
    assert [event["event"] for event in row["events"]].count("deferred") == len(MANY)
    assert row["recipients"] == oldest["recipients"]


@pytest.mark.parametrize("command", ["retry", "hold", "release", "drop", "show", "export"])
def test_an_unknown_id_is_said_and_is_exit_status_1(spool: Path, command: str) -> None:
    done = invoke(spool, "queue", command, "NOSUCHMESSAGE")

    assert (done.returncode, done.stdout) == (1, "")
    assert one_line(done) == "smtp-bridge: there is no message NOSUCHMESSAGE"


@pytest.mark.parametrize("arguments", [("retry",), ("drop", "X", "--status", "held"), ("export", "--status", "held")])
def test_what_is_not_clear_is_a_usage_error(spool: Path, arguments: tuple[str, ...]) -> None:
    done = invoke(spool, "queue", *arguments)

    assert done.returncode == 2
    assert one_line(done).startswith("smtp-bridge: give ")


def test_an_unknown_status_names_those_there_are(spool: Path) -> None:
    done = invoke(spool, "queue", "list", "--status", "stuck")

    assert done.returncode == 2
    assert "deferred" in done.stderr


@pytest.mark.parametrize("arguments", [("list", "--json"), ("retry", "X")])
def test_a_spool_that_does_not_exist_is_one_line_and_status_69(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    done = invoke(tmp_path, "queue", *arguments)

    assert (done.returncode, done.stdout) == (69, "")
    assert one_line(done) == f"smtp-bridge: there is no spool at {tmp_path}/state/spool.db"
    assert not (tmp_path / "state").exists()


def test_export_gives_the_mail_as_it_is_stored(spool: Path, rows: list[dict[str, Any]], tmp_path: Path) -> None:
    newest, nobody, _ = rows

    plain = invoke(spool, "queue", "export", newest["queue_id"]).stdout
    assert "Subject: the newest" in plain
    lines = invoke(spool, "queue", "export", "--status", "deferred", "--json").stdout.splitlines()
    assert [json.loads(line)["queue_id"] for line in lines][1] == nobody["queue_id"]
    assert b"Subject: the newest" in base64.b64decode(json.loads(lines[0])["raw"])
    told = invoke(spool, "queue", "export", "--status", "active", "-o", str(tmp_path / "out")).stdout
    assert told == f"3 messages in {tmp_path}/out\n"
    eml = tmp_path / "out" / f"{newest['queue_id']}.eml"
    assert b"Subject: the newest" in eml.read_bytes()
    assert json.loads(eml.with_suffix(".json").read_bytes())["sender"] == "printer@example.com"
    assert stat.S_IMODE(eml.stat().st_mode) == 0o600


def test_export_to_a_place_that_cannot_be_written_is_one_line(spool: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    done = invoke(spool, "queue", "export", "--status", "active", "-o", str(tmp_path / "file"))

    assert done.returncode == 73
    assert str(tmp_path / "file") in one_line(done)


def test_hold_release_and_drop_while_the_daemon_runs(tmp_path: Path) -> None:
    (tmp_path / "api").mkdir()
    with failing(tmp_path, tmp_path / "api") as port:
        send(port, "ann@example.com", MANY[:2])
        (row,) = listed(tmp_path)
        queue_id = row["queue_id"]

        assert invoke(tmp_path, "queue", "hold", queue_id).stdout == "2 recipients held\n"
        assert listed(tmp_path, "--status", "held")[0]["status"] == "held"
        released = invoke(tmp_path, "queue", "release", "--status", "held", "--json")
        assert json.loads(released.stdout) == {"messages": 1, "recipients": 2, "unknown": []}
        assert invoke(tmp_path, "queue", "hold", queue_id, "NOSUCH").returncode == 1
        assert invoke(tmp_path, "queue", "drop", queue_id).stdout == "2 recipients dropped\n"
        again = invoke(tmp_path, "queue", "drop", queue_id)
        assert (again.returncode, again.stdout) == (1, "no recipients dropped\n")
        assert listed(tmp_path, "--status", "active") == []


@pytest.mark.serial
async def test_retry_wakes_the_daemon_at_once(tmp_path: Path, start_daemon: Any) -> None:
    async with Sandbox(key="k") as api:
        api.fail("503")
        daemon = await start_daemon(**{**later(api.url), "SMTP_BRIDGE_PROVIDER__TOKEN": "k"})
        client = await Smtp(daemon.listeners[0].port).open()
        queue_id = (await client.send()).split()[-1]
        client.close()
        api.recover()

        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "bridge", "queue", "retry", queue_id), env=variables(tmp_path), cwd=tmp_path
        )
        assert await process.wait() == 0
        told = time.monotonic()
        await api.wait_for(1, seconds=5)

        assert time.monotonic() - told < 0.5
        async with asyncio.timeout(5):
            while await statuses(daemon) != {"bob@example.org": "sent"}:
                await asyncio.sleep(0.01)


def test_what_a_reader_hangs_up_on_is_no_error(spool: Path) -> None:
    command = " ".join([*COMMAND, "queue", "list", "--json"])

    done = subprocess.run(
        ["sh", "-c", f"{command} | head -c 1"], env=variables(spool), cwd=spool, capture_output=True, timeout=30
    )

    assert (done.stdout, done.stderr) == (b"[", b"")


def test_a_mail_cannot_speak_to_the_terminal() -> None:
    assert printable("evil\x1b[2Jü\r\n") == "evil\ufffd[2Jü\ufffd\ufffd"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-1, "0s"), (0.9, "0s"), (119, "119s"), (120, "2m"), (7199, "119m"), (7200, "2h"), (172800, "2d")],
)
def test_spans_are_told_in_the_unit_that_says_enough(seconds: float, text: str) -> None:
    assert span(seconds) == text


@pytest.mark.parametrize(
    ("octets", "text"), [(0, "0"), (1023, "1023"), (1024, "1.0K"), (5 << 20, "5.0M"), (3 << 30, "3.0G")]
)
def test_sizes(octets: int, text: str) -> None:
    assert size(octets) == text
