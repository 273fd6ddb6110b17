"""Upgrades as the operator sees them: a daemon on the spool of an earlier release, and commands on that of a later one."""

from __future__ import annotations

import json
import time
from pathlib import Path

import orjson
import pytest

from bridge.spool import schema
from tests.cli.conftest import CAPTURE, bridge, invoke, one_line, running, sandbox, smtp_bridge, to_sandbox
from tests.spool.test_upgrade import LATEST, RELEASES, newer, restored


def test_the_daemon_delivers_what_the_oldest_release_left(tmp_path: Path) -> None:
    said = restored(RELEASES[0], tmp_path / "state/spool.db")
    waited = {
        (old["subject"], address)
        for old in said["messages"]
        for address, (status, _) in old["recipients"].items()
        if status in ("queued", "deferred", "held")
    }
    journal = tmp_path / "journal"
    with (
        sandbox(tmp_path, "--journal", str(journal)) as url,
        bridge(tmp_path, **to_sandbox(url, SMTP_BRIDGE_SPOOL__HISTORY="3650d", SMTP_BRIDGE_SPOOL__FAILED="3650d")),
    ):
        invoke(tmp_path, "queue", "retry", "--status", "active")
        deadline = time.monotonic() + 20
        while json.loads(invoke(tmp_path, "queue", "list", "--status", "active", "--json").stdout):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        rows = json.loads(invoke(tmp_path, "queue", "list", "--json").stdout)

    sent = {(row["subject"], one["address"]) for row in rows for one in row["recipients"] if one["status"] == "sent"}
    mails = [orjson.loads(line) for line in journal.read_bytes().splitlines()]
    delivered = [
        (mail["subject"], to) for mail in mails for to in (*mail["to"], *mail.get("cc", ()), *mail.get("bcc", ()))
    ]
    assert waited <= sent
    assert set(delivered) - {one for one in delivered if one[0] == "Successful Mail Delivery Report"} >= waited
    assert len(delivered) == len(set(delivered))
    assert len(rows) >= len(said["messages"])


@pytest.fixture
def tomorrow(tmp_path: Path) -> Path:
    """The directory of a spool that a newer version wrote."""
    (tmp_path / "state").mkdir()
    newer(tmp_path / "state/spool.db")
    return tmp_path


@pytest.mark.parametrize(
    "arguments",
    [
        ("run",),
        ("queue", "list"),
        ("queue", "show", "ABC"),
        ("queue", "import", "."),
        ("queue", "export", "--all", "files"),
        ("queue", "backup", "copy"),
        ("suppress", "list"),
    ],
    ids=" ".join,
)
def test_a_newer_spool_is_refused_in_one_line(tomorrow: Path, arguments: tuple[str, ...]) -> None:
    path = tomorrow / "state/spool.db"
    octets = path.read_bytes()
    call = smtp_bridge if arguments == ("run",) else invoke
    done = call(tomorrow, *arguments, **CAPTURE)

    assert (done.returncode, done.stdout) == (69, "")
    assert one_line(done) == (
        f"smtp-bridge: {path} has schema {LATEST + 1}, written by a newer version; this one knows {LATEST}: "
        "run the newer one, or restore a copy made before it"
    )
    assert path.read_bytes() == octets
    assert not (tomorrow / "copy").exists()


def test_the_doctor_names_a_newer_spool(tomorrow: Path) -> None:
    done = invoke(tomorrow, "doctor", "--offline", "--json", **CAPTURE)

    assert done.returncode == 1
    checks = json.loads(done.stdout)
    checks = checks["checks"] if isinstance(checks, dict) else checks
    (bad,) = [check for check in checks if "written by a newer version" in json.dumps(check)]
    assert "problem" in bad.values()


def test_of_two_daemons_that_start_at_once_one_migrates(tmp_path: Path) -> None:
    restored(RELEASES[-1], tmp_path / "state/spool.db")
    with running(tmp_path, "run", **CAPTURE) as one, running(tmp_path, "run", **CAPTURE) as two:
        deadline = time.monotonic() + 20
        while one.poll() is None and two.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        (refused, serves) = (one, two) if one.poll() is not None else (two, one)
        assert refused.wait() == 75
        while b"daemon.listening" not in (tmp_path / "stderr").read_bytes():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert serves.poll() is None
    assert schema.version_of(tmp_path / "state/spool.db") == LATEST
