"""`smtp-bridge queue watch` on a spool with known content and what a daemon would have said of itself."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from bridge.cli.board import rate
from bridge.cli.look import Rates, by_provider, parse_daemon
from bridge.cli.watch import pause
from bridge.model import Fault
from bridge.reply import Reply
from bridge.spool.base import Result
from bridge.spool.sqlite import SqliteSpool
from tests.cli.conftest import (
    COMMAND,
    in_spool,
    invoke,
    on_terminal,
    read_all,
    read_until,
    smtp_bridge,
    variables,
    without_codes,
)
from tests.spool.support import ANN, message, tell_senders

MAIN, BOUND, OLD_MAIN = "main>backup#5f2c9a01", "=backup", "main>backup?|1#5f2c9a01"
REFUSED = Result(
    status="bounced", reply=Reply(550, "5.1.1", "No such user"), provider="main", fault=Fault.RECIPIENT, lane=""
)
HELD = Result(status="held", reply=Reply(451, "4.4.2", "Answer lost"), provider="backup", fault=Fault.PROVIDER)


async def put_each(spool: SqliteSpool) -> None:
    now = time.time()
    for lane, ago_s in ((MAIN, 0), (MAIN, 120), (OLD_MAIN, 7200), (BOUND, 90000), ("", 0)):
        await spool.put(message(at=now - ago_s), lanes={ANN: lane})
    await spool.put(message(at=now - 30), results={ANN: HELD})
    await spool.put(message("eve\x1b]0;@example.com", at=now), results={"eve\x1b]0;@example.com": REFUSED})
    await tell_senders(spool, now)


def status(at: float, **more: Any) -> dict[str, Any]:
    main = {
        "name": "main", "kind": "sendgrid", "state": "open", "reason": "503 \x1b[2JMail service not available",
        "since": at - 300, "until": at + 100, "paused_until": None, "running": 0, "sent": 900, "deferred": 70,
        "bounced": 5, "sent_today": 450, "max_per_day": 5000,
    }  # fmt: skip
    backup = {**main, "name": "backup", "state": "closed", "reason": "", "until": None, "paused_until": at + 50,
              "running": 3, "sent": 100, "max_per_day": 0, "sent_today": 20}  # fmt: skip
    alert = {"kind": "provider_blocked", "subject": "main", "text": "bad \x07key", "since": at - 7200}
    return {
        "at": at, "pid": 4711, "started_at": at - 86400 * 3, "received": 1200, "sent": 1000, "deferred": 70, "bounced": 5,
        "providers": [main, backup], "alerts": [alert], **more,
    }  # fmt: skip


def say(directory: Path, said: Mapping[str, Any] | str) -> None:
    """As the daemon does."""
    text = said if isinstance(said, str) else json.dumps(said)
    in_spool(directory, lambda spool: spool.remember({"daemon.status": text}, now=time.time()))


@pytest.fixture
def queue(tmp_path: Path) -> Path:
    in_spool(tmp_path, put_each)
    say(tmp_path, status(time.time()))
    return tmp_path


def once(directory: Path, *arguments: str, **more: str) -> str:
    done = smtp_bridge(directory, "queue", "watch", "--once", *arguments, **more)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def rows(text: str) -> set[tuple[str, ...]]:
    return {tuple(line.split()) for line in text.splitlines()}


def test_once_prints_one_plain_table_with_everything(queue: Path) -> None:
    text = once(queue)

    assert "\x1b" not in text
    assert "6 messages waiting, the oldest for 25h" in text
    assert "daemon 4711, running for 3d" in text
    for line in (
        ("up", "to", "1", "min", "3", "queued", "5", "received", "-", "1200"),
        ("up", "to", "10", "min", "1", "deferred", "0", "sent", "-", "1000"),
        ("up", "to", "4", "h", "1", "bounced", "1", "bounced", "-", "5"),
        ("older", "1", "dropped", "0"),
        ("main", "open", "3", "0", "900", "70", "5", "450/5000"),
        ("backup", "closed", "1", "3", "100", "70", "5", "20"),
        ("(not", "known", "yet)", "1"),
    ):
        assert line in rows(text), line
    assert "! provider_blocked main: bad \N{REPLACEMENT CHARACTER}key (for 2h)" in text
    assert "    main: 503 \N{REPLACEMENT CHARACTER}[2JMail service not available (for 5m); next try in 9" in text
    assert "    backup: asked to pause, for 4" in text
    assert "held     ann@example.com" in text
    assert "eve\N{REPLACEMENT CHARACTER}]0;@example.com  main      550 5.1.1 No such user" in text


def test_it_fits_80_columns(queue: Path) -> None:
    text = once(queue, COLUMNS="80")

    assert max(map(len, text.splitlines())) <= 80
    assert {"received", "1200", "450/5000"} <= set(text.split())
    assert "550 5.1.1 No such user" in text


def test_json_is_an_object_for_each_look(queue: Path) -> None:
    (line,) = once(queue, "--json").splitlines()

    seen = json.loads(line)
    assert [band["messages"] for band in seen["waiting"]["by_age"]] == [3, 1, 0, 1, 0, 1]
    assert [band["up_to_s"] for band in seen["waiting"]["by_age"]] == [60, 600, 3600, 14400, 86400, None]
    assert seen["waiting"]["by_provider"] == {"main": 3, "backup": 1, "": 1}
    assert seen["by_status"] == {"queued": 5, "held": 1, "bounced": 1}
    assert (seen["daemon"]["pid"], seen["daemon"]["silent"], seen["rates"]) == (4711, False, None)
    assert seen["daemon"]["providers"][0]["reason"].startswith("503 ")
    assert [row["status"] for row in seen["failures"]] == ["bounced", "held"]


def test_a_daemon_that_has_said_nothing_for_long_is_no_alarm(queue: Path) -> None:
    said_at = time.time() - 16
    say(queue, status(said_at))

    text = once(queue)

    at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(said_at))
    assert f"no daemon is running, or it has had nothing to do since {at}" in text


@pytest.mark.parametrize(
    "said", ["", "{", "[]", '"x"', '{"at": "now"}', '{"at": null}', '{"at": true}', '{"at": 1e999}']
)
def test_without_a_daemon_it_shows_the_queue_all_the_same(queue: Path, said: str) -> None:
    say(queue, said)

    text = once(queue)
    assert "no daemon has told anything of itself here yet" in text
    assert ("main", "3") in rows(text)
    assert ("received", "-", "-") in {row[-3:] for row in rows(text)}
    assert json.loads(once(queue, "--json"))["daemon"] is None


def test_what_another_version_of_the_daemon_says_is_shown_as_far_as_it_is_known(queue: Path) -> None:
    said = {
        "at": 1e300,
        "sent": "many",
        "started_at": None,
        "providers": [{"state": 7}, 5, {"name": None}],
        "alerts": 3,
    }
    say(queue, said)

    assert ("sent", "-", "0") in {row[-3:] for row in rows(once(queue))}


def test_an_empty_queue_is_shown(tmp_path: Path) -> None:
    in_spool(tmp_path, lambda spool: spool.stats())

    text = once(tmp_path)

    assert "no messages waiting;" in text
    assert "Provider" not in text
    assert "Last failures" not in text


def test_without_a_spool_it_is_one_line_and_status_69(tmp_path: Path) -> None:
    done = invoke(tmp_path, "queue", "watch")

    assert (done.returncode, done.stdout) == (69, "")
    assert done.stderr == f"smtp-bridge: there is no spool at {tmp_path}/state/spool.db\n"


@pytest.mark.parametrize("interval", ["0", "2", "often"])
def test_an_interval_that_is_none_is_a_usage_error(queue: Path, interval: str) -> None:
    assert invoke(queue, "queue", "watch", "--once", "--interval", interval).returncode == 2


def test_on_a_terminal_it_goes_on_until_ctrl_c_which_is_exit_status_0(queue: Path) -> None:
    with on_terminal(queue, "queue", "watch", "--interval", "100ms") as (process, terminal):
        shown = read_until(terminal, "daemon 4711")
        say(queue, status(time.time(), pid=4712))
        shown += read_until(terminal, "daemon 4712")
        os.write(terminal, b"\x03")
        shown += read_all(terminal)
        assert process.wait(20) == 0

    assert "Traceback" not in shown
    screen, _, after = shown.partition("\x1b[?1049l")
    assert "\x1b[?1049h" in screen
    assert shown.rfind("\x1b[?25h") > shown.rfind("\x1b[?25l")  # the cursor is back
    assert "daemon 4712" in after  # the last look stays
    assert max(map(len, without_codes(after).splitlines())) <= 80
    assert "\x1b]0;" not in shown
    assert "\x07" not in shown


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_through_a_pipe_it_is_a_line_of_json_for_each_look_with_rates_from_the_second_on(
    queue: Path, number: signal.Signals
) -> None:
    before = time.time()
    say(queue, status(before - 2, received=100, sent=50, started_at=1.0))
    with subprocess.Popen(
        [*COMMAND, "queue", "watch", "--json", "--interval", "100ms"],
        env=variables(queue),
        cwd=queue,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout
        assert process.stderr
        assert json.loads(process.stdout.readline())["rates"] is None
        say(queue, status(before, received=140, sent=50, started_at=1.0))
        seen = next(row for line in process.stdout if (row := json.loads(line))["rates"])
        process.send_signal(number)
        assert process.wait(20) == 0
        assert process.stderr.read() == ""

    assert seen["rates"] == {"received": 20.0, "sent": 0.0, "deferred": 0.0, "bounced": 0.0}


def test_a_piped_table_comes_again_and_again(queue: Path) -> None:
    command = " ".join([*COMMAND, "queue", "watch", "--interval", "50ms"])

    done = subprocess.run(
        ["sh", "-c", f"{command} | head -n 60"], env=variables(queue), cwd=queue, capture_output=True, timeout=30
    )

    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.count(b"daemon 4711") > 1


# Rates


def said(at: float, received: int, *, started_at: float = 1.0) -> Any:
    return parse_daemon(json.dumps({"at": at, "started_at": started_at, "received": received}))


def received(rates: Mapping[str, float] | None) -> float | None:
    return None if rates is None else rates["received"]


def test_a_rate_is_the_difference_of_two_looks_by_the_daemons_clock() -> None:
    rates = Rates()

    assert received(rates.see(said(100, 10), 101)) is None
    assert received(rates.see(said(104, 50), 105)) == 10


def test_a_look_between_two_writings_keeps_the_rate_and_silence_ends_it() -> None:
    rates = Rates()
    rates.see(said(100, 10), 100)
    rates.see(said(102, 50), 102)

    assert received(rates.see(said(102, 50), 103)) == 20
    assert received(rates.see(said(102, 50), 107)) == 0


def test_what_came_after_a_silence_is_not_spread_over_it() -> None:
    rates = Rates()
    rates.see(said(100, 10), 100)
    rates.see(said(100, 10), 700)

    assert received(rates.see(said(702, 50), 702)) == 10


@pytest.mark.parametrize("after", [said(103, 3), said(103, 99, started_at=102.0), None])
def test_over_a_restart_no_rate_is_told(after: Any) -> None:
    rates = Rates()
    rates.see(said(100, 10), 100)
    rates.see(said(102, 50), 102)

    assert rates.see(after, 104) is None


@pytest.mark.parametrize(
    ("per_second", "text"),
    [(0, "0/min"), (0.05, "3.0/min"), (0.5, "30/min"), (1, "1.0/s"), (12.3, "12/s"), (900, "900/s")],
)
def test_a_rate_below_one_a_second_is_told_by_the_minute(per_second: float, text: str) -> None:
    assert rate(per_second) == text


@pytest.mark.parametrize(("interval", "took", "seconds"), [(2, 0.1, 1.9), (2, 0.5, 1.5), (2, 1, 3), (0.1, 0.1, 0.3)])
def test_looking_never_takes_more_than_a_quarter_of_the_time(interval: float, took: float, seconds: float) -> None:
    assert pause(interval, took) == pytest.approx(seconds)


def test_a_lane_counts_for_its_first_provider() -> None:
    depth = {MAIN: 1, OLD_MAIN: 2, BOUND: 4, "": 8, "what is that": 16}

    assert by_provider(depth) == {"main": 3, "backup": 4, "": 24}
