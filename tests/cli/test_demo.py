"""`smtp-bridge demo`: the tour, its end, and what a person sees when something is in its way."""

from __future__ import annotations

import io
import itertools
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from bridge.cli.tour import Screen, Tour, shortened
from bridge.sandbox import Sandbox
from tests.cli.conftest import interrupt, one_line, running, send, smtp_bridge

FREE_PORTS = ("demo", "--port", "0", "--api-port", "0")
TOLD = (
    "C: STARTTLS",
    "C: AUTH PLAIN ********",
    "S: 235 2.7.0",
    '"subject": "Toner is low"',
    '"content_id": "logo"',
    '"filename": "Übersicht – März.pdf"',
    '"cc": "\\"Roe, Bob\\" <bob@example.com>"',
    '"bcc": "audit@example.com"',
    "S: 250 2.0.0 Ok: queued as ",
    "The API is back.",
    "Delivered ",
    "S: 554 5.6.0 ",
    "Every step went as told.",
)


def test_once_tells_the_whole_tour_as_plain_text_and_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("not TOML, and none of the demo's business")
    (tmp_path / "tmp").mkdir()

    done = smtp_bridge(tmp_path, *FREE_PORTS, "--once", TMPDIR=str(tmp_path / "tmp"), SMTP_BRIDGE_RELAY__MODE="direct")

    assert (done.returncode, done.stderr) == (0, "")
    places = [done.stdout.find(text) for text in TOLD]
    assert places == sorted(places)
    assert -1 not in places
    assert "\x1b" not in done.stdout
    assert "demo-password" not in done.stdout
    assert list((tmp_path / "tmp").iterdir()) == []
    assert not (tmp_path / "state").exists()


def test_the_demo_stays_up_shows_what_is_sent_to_it_and_ctrl_c_ends_it_well(tmp_path: Path) -> None:
    with running(tmp_path, *FREE_PORTS) as process:
        assert process.stdout
        shown = "".join(itertools.takewhile(lambda line: "Ctrl-C ends" not in line, process.stdout))
        port = re.search(r"SMTP  127\.0\.0\.1:(\d+)", shown)
        assert port
        send(int(port[1]), "me@example.com", ["you@example.com"], "from a guest")
        assert any('"subject": "from a guest"' in line for line in process.stdout)

        assert interrupt(process) == 0
    assert (tmp_path / "stderr").read_text() == ""


def test_ctrl_c_in_the_middle_ends_it_without_a_traceback(tmp_path: Path) -> None:
    with running(tmp_path, *FREE_PORTS) as process:
        assert process.stdout
        assert any("The message is safe on disk" in line for line in process.stdout)

        assert interrupt(process) == 130
        assert "Every step" not in process.stdout.read()
    assert (tmp_path / "stderr").read_text() == ""


def test_a_reader_that_hangs_up_ends_the_demo_quietly(tmp_path: Path) -> None:
    with running(tmp_path, *FREE_PORTS) as process:
        assert process.stdout
        process.stdout.readline()
        process.stdout.close()

        assert process.wait(30) == 1
    assert (tmp_path / "stderr").read_text() == ""


@pytest.mark.parametrize(
    ("arguments", "remedy"), [(("--api-port", "0", "--port"), "--port"), (("--port", "0", "--api-port"), "--api-port")]
)
def test_a_taken_port_is_one_line_that_names_it_and_the_remedy(
    tmp_path: Path, taken_port: int, arguments: tuple[str, ...], remedy: str
) -> None:
    done = smtp_bridge(tmp_path, "demo", *arguments, str(taken_port))

    assert done.returncode == 69
    assert one_line(done).startswith(f"smtp-bridge: cannot listen on 127.0.0.1:{taken_port}: ")
    assert one_line(done).endswith(f"with {remedy}")
    assert done.stdout == ""


async def test_a_step_that_does_not_go_as_told_is_said_and_is_exit_status_1(
    start_daemon: Any, secret_hash: str
) -> None:
    async with Sandbox(key="k") as api:
        daemon = await start_daemon(
            SMTP_BRIDGE_PROVIDER__KIND="rest",
            SMTP_BRIDGE_PROVIDER__URL=f"{api.url}/send-email",
            SMTP_BRIDGE_PROVIDER__AUTH="none",
            SMTP_BRIDGE_USER__NAME="demo",
            SMTP_BRIDGE_USER__PASSWORD_HASH=secret_hash,
        )
        shown = io.StringIO()

        status = await Tour(Screen(Console(file=shown)), daemon, api).run()

    assert status == 1
    assert "did not go as told: (535" in shown.getvalue()


def test_long_contents_are_cut_where_they_stand() -> None:
    payload = {"a": ["x" * 500], "b": {"c": "short"}}

    assert shortened(payload) == {"a": ["x" * 60 + "... (500 characters)"], "b": {"c": "short"}}
