"""`smtp-bridge suppress ...` on a real spool; no daemon runs."""

from __future__ import annotations

import json
import signal
import smtplib
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from bridge.cli.suppress import as_address
from bridge.spool.sqlite import SqliteSpool
from tests.cli.conftest import COMMAND, bridge, in_spool, invoke, one_line, smtp_bridge, variables


@pytest.fixture
def queue(tmp_path: Path) -> Path:
    """With bob suppressed by a provider."""

    async def suppress(spool: SqliteSpool) -> None:
        await spool.suppress("bob@example.org", "550 5.1.1 No such user", provider="main", now=time.time())

    in_spool(tmp_path, suppress)
    return tmp_path


def listed(directory: Path, *arguments: str) -> dict[str, str]:
    rows = json.loads(invoke(directory, "suppress", "list", "--json", *arguments).stdout)
    return {row["address"]: row["reason"] for row in rows}


def test_several_addresses_are_added_with_their_reason(queue: Path) -> None:
    done = invoke(queue, "suppress", "add", "Ann@Example.com", "<eve@example.com>", "--reason", "asked  us\nto")

    assert (done.returncode, done.stdout, done.stderr) == (0, "2 addresses suppressed\n", "")
    assert listed(queue) == {
        "ann@example.com": "asked us\N{REPLACEMENT CHARACTER}to",
        "bob@example.org": "550 5.1.1 No such user",
        "eve@example.com": "asked us\N{REPLACEMENT CHARACTER}to",
    }


def test_without_a_reason_the_operator_is_named(queue: Path) -> None:
    invoke(queue, "suppress", "add", "ann@example.com")

    assert listed(queue)["ann@example.com"] == "by the operator"


def test_what_is_suppressed_already_keeps_its_reason_and_nothing_changed_is_exit_status_1(queue: Path) -> None:
    done = invoke(queue, "suppress", "add", "BOB@example.org", "--reason", "another")

    assert (done.returncode, done.stdout) == (1, "no addresses suppressed\n")
    assert one_line(done) == "smtp-bridge: bob@example.org is suppressed already"
    assert listed(queue) == {"bob@example.org": "550 5.1.1 No such user"}


def test_removing_tells_what_was_not_there(queue: Path) -> None:
    done = invoke(queue, "suppress", "remove", "Bob@Example.org", "ann@example.com", "--json")

    assert done.returncode == 0
    facts = {"removed": ["bob@example.org"], "unchanged": ["ann@example.com"], "not_addresses": []}
    assert json.loads(done.stdout) == facts
    assert one_line(done) == "smtp-bridge: ann@example.com is not suppressed"
    assert listed(queue) == {}
    assert invoke(queue, "suppress", "remove", "bob@example.org").returncode == 1


def test_standard_input_gives_an_address_a_line_and_a_bad_one_hinders_no_other(queue: Path) -> None:
    given = (
        b"\xef\xbb\xbf# bounced last week\n\n  ann@example.com\r\nnot an address\nca\xffrl@example.com\neve@example.com"
    )

    done = subprocess_with(queue, given, "suppress", "add", "-")

    assert (done.returncode, done.stdout) == (65, b"2 addresses suppressed\n")
    assert done.stderr.decode().splitlines() == [
        "smtp-bridge: line 4: 'not an address' is not an address",
        "smtp-bridge: line 5: 'ca\N{REPLACEMENT CHARACTER}rl@example.com' is not an address",
    ]
    assert set(listed(queue)) == {"ann@example.com", "bob@example.org", "eve@example.com"}


def subprocess_with(directory: Path, given: bytes, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*COMMAND, *arguments], env=variables(directory), cwd=directory, input=given, capture_output=True, timeout=30
    )


def test_remove_reads_standard_input_as_well(queue: Path) -> None:
    done = invoke(queue, "suppress", "remove", "-", given="bob@example.org\n")

    assert (done.returncode, done.stdout) == (0, "1 address removed\n")


def test_a_bad_argument_is_named_and_the_others_are_done(queue: Path) -> None:
    done = invoke(queue, "suppress", "add", "ann", "\x1b[2J@x", "ann@example.com")

    assert (done.returncode, done.stdout) == (65, "1 address suppressed\n")
    assert done.stderr.splitlines() == [
        "smtp-bridge: 'ann' is not an address",
        "smtp-bridge: '\N{REPLACEMENT CHARACTER}[2J@x' is not an address",
    ]


def test_nothing_on_standard_input_is_nothing_changed(queue: Path) -> None:
    assert invoke(queue, "suppress", "add", "-", given="# none\n").returncode == 1


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("Ann@Example.COM", "ann@example.com"),
        ("o'hara+news=x@sub.example.com", "o'hara+news=x@sub.example.com"),
        ("a..b.@docomo.example", "a..b.@docomo.example"),
        ('"ann \\" lee"@example.com', '"ann \\" lee"@example.com'),
        ("ann@[192.0.2.7]", "ann@[192.0.2.7]"),
        ("jörg@bücher.example", "jörg@bücher.example"),
        ("ann@localhost", "ann@localhost"),
        ("ann", ""),
        ("@example.com", ""),
        ("ann@", ""),
        ("ann@example..com", ""),
        ("ann@example.com,bob@example.com", ""),
        ("Ann <ann@example.com>", ""),
        ("a@b@example.com", ""),
        ("ann @example.com", ""),
        ("a" * 250 + "@example.com", ""),
        ("", ""),
    ],
)
def test_what_is_an_address(text: str, address: str) -> None:
    assert as_address(text) == address


def test_the_list_is_a_line_for_each_address_through_a_pipe(queue: Path) -> None:
    invoke(queue, "suppress", "add", "x" * 100 + "@example.com", "--reason", "because " * 20)

    head, bob, long = smtp_bridge(queue, "suppress", "list").stdout.splitlines()

    assert head.split() == ["When", "Address", "Provider", "Reason"]
    assert "bob@example.org" in bob
    assert bob.endswith("main      550 5.1.1 No such user")
    assert "x" * 100 + "@example.com" in long


@pytest.mark.parametrize("columns", [80, 200])
def test_the_list_fits_its_width(queue: Path, columns: int) -> None:
    invoke(queue, "suppress", "add", "x" * 100 + "@example.com", "--reason", "because " * 20)

    lines = smtp_bridge(queue, "suppress", "list", COLUMNS=str(columns)).stdout.splitlines()

    assert max(map(len, lines)) <= columns
    assert sum(line.count("x") for line in lines) >= 100


def test_a_longer_list_is_cut_and_says_so(queue: Path) -> None:
    invoke(queue, "suppress", "add", "ann@example.com", "eve@example.com")

    done = invoke(queue, "suppress", "list", "--limit", "2", "--json")

    assert [row["address"] for row in json.loads(done.stdout)] == ["ann@example.com", "bob@example.org"]
    assert one_line(done) == "smtp-bridge: there are more: a higher --limit shows them"
    assert invoke(queue, "suppress", "list", "--limit", "3").stderr == ""


def test_an_empty_list_says_so(queue: Path) -> None:
    invoke(queue, "suppress", "remove", "bob@example.org")

    assert invoke(queue, "suppress", "list").stdout == "No address is suppressed.\n"


@pytest.mark.parametrize("arguments", [("list",), ("add", "ann@example.com"), ("remove", "ann@example.com")])
def test_without_a_spool_it_is_one_line_and_status_69(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    done = invoke(tmp_path, "suppress", *arguments)

    assert (done.returncode, done.stdout) == (69, "")
    assert one_line(done) == f"smtp-bridge: there is no spool at {tmp_path}/state/spool.db"


def test_ctrl_c_leaves_what_was_done_done(queue: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original, asked = SqliteSpool.suppress, 0

    async def suppress(*args: Any, **kwargs: Any) -> bool:
        nonlocal asked
        asked += 1
        if asked == 501:
            signal.raise_signal(signal.SIGINT)
        return await original(*args, **kwargs)

    monkeypatch.setattr(SqliteSpool, "suppress", suppress)

    done = invoke(queue, "suppress", "add", "-", given="".join(f"a{n}@example.com\n" for n in range(1500)))

    assert (done.returncode, done.stdout) == (130, "")
    assert one_line(done) == "smtp-bridge: interrupted: 1000 addresses suppressed, 1000 of 1500 were done"
    assert len(listed(queue, "--limit", "5000")) == 1001


def test_a_running_daemon_refuses_the_address_from_then_on_and_no_longer_than_it_is_on_the_list(tmp_path: Path) -> None:
    with bridge(tmp_path) as (_, port):
        invoke(tmp_path, "suppress", "add", "ann@example.com", "--reason", "left the company")
        assert answer_within(2.0, port, 550) == b"5.7.1 Recipient is suppressed: left the company"

        invoke(tmp_path, "suppress", "remove", "ann@example.com")
        answer_within(2.0, port, 250)


def answer_within(seconds: float, port: int, code: int) -> bytes:
    """The text of the reply to RCPT with this code; the daemon reads the list anew when it is woken."""
    deadline = time.monotonic() + seconds
    with smtplib.SMTP("127.0.0.1", port) as client:
        client.ehlo()
        while True:
            client.mail("erp@example.com")
            reply = client.rcpt("Ann@Example.com")
            client.rset()
            if reply[0] == code:
                return reply[1]
            assert time.monotonic() < deadline, reply
            time.sleep(0.02)
