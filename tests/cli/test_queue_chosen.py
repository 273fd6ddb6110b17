"""`smtp-bridge queue` on many messages: filters, pages, the bar and Ctrl-C. The spool is real; no daemon runs."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from bridge.cli.chosen import pages
from bridge.model import Fault
from bridge.reply import Reply
from bridge.spool.base import Result
from bridge.spool.listing import Filter
from bridge.spool.sqlite import SqliteSpool
from tests.cli.conftest import COMMAND, in_spool, invoke, on_terminal, one_line, read_all, variables, without_codes
from tests.spool.support import message

ANN, BOB = "ann@example.com", "bob@example.org"
MANY = 1200


def result(status: Any, reply: str, provider: str, fault: Fault = Fault.RECIPIENT, **more: Any) -> Result:
    code, enhanced, text = reply.split(" ", 2)
    return Result(status=status, reply=Reply(int(code), enhanced, text), provider=provider, fault=fault, **more)


def waiting(reply: str = "451 4.4.1 Connection refused", provider: str = "main") -> Result:
    return result("deferred", reply, provider, Fault.PROVIDER, at=time.time() + 3600)


REFUSED = result("bounced", "550 5.1.1 No such user", "main")
BAD_CONTENT = result("bounced", "554 5.6.0 Bad content", "backup", Fault.MESSAGE)
HELD = result("held", "451 4.4.2 Answer lost", "backup", Fault.PROVIDER)
SENT = result("sent", "250 2.0.0 Ok", "main")


async def put(spool: SqliteSpool, name: str, *results: Result, ago_s: float = 0.0) -> str:
    mail = message(*(ANN, BOB)[: max(len(results), 1)], subject=name, at=time.time() - ago_s)
    await spool.put(mail, results=dict(zip((ANN, BOB), results, strict=False)))
    return mail.queue_id


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One message of each kind, the oldest first; nothing is changed in it."""
    directory = tmp_path_factory.mktemp("known")
    in_spool(directory, put_each)
    return directory


@pytest.fixture
def queue(tmp_path: Path) -> Path:
    """The same, to be changed."""
    in_spool(tmp_path, put_each)
    return tmp_path


async def put_each(spool: SqliteSpool) -> None:
    await put(spool, "old", REFUSED, ago_s=3 * 3600)
    await put(spool, "refused", REFUSED)
    await put(spool, "content", BAD_CONTENT)
    await put(spool, "held", HELD)
    await put(spool, "sent", SENT)
    await put(spool, "both", SENT, waiting("451 4.3.2 Not AVAILABLE now"))
    await put(spool, "new")


def subjects(directory: Path, *arguments: str) -> list[str]:
    return [row["subject"] for row in json.loads(invoke(directory, "queue", "list", "--json", *arguments).stdout)]


def statuses(directory: Path) -> dict[str, str]:
    rows = json.loads(invoke(directory, "queue", "list", "--json", "--limit", "10000").stdout)
    return {row["subject"]: row["status"] for row in rows}


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        ("--reason available", ["both"]),
        ("--reason 5.1.1", ["refused", "old"]),
        ("--reason message", ["content"]),
        ("--provider backup", ["held", "content"]),
        ("--provider nobody", []),
        ("--since 2h --status failed", ["content", "refused"]),
        ("--status failed --provider main --since 2h", ["refused"]),
        ("--status deferred --provider main", ["both"]),
        ("--status deferred --reason Ok", []),  # its reply, and not that of another recipient
    ],
)
def test_a_filter_takes_messages_with_a_recipient_that_is_all_of_it(
    known: Path, arguments: str, found: list[str]
) -> None:
    assert subjects(known, *arguments.split()) == found


def test_a_filter_that_finds_nothing_says_so(known: Path) -> None:
    assert invoke(known, "queue", "list", "--provider", "nobody").stdout == "No message is like that.\n"


@pytest.mark.parametrize(
    "arguments", ["--since soon", "--since 0", "--since 2", "--reason=", "--provider=", "--status=", "--status stuck"]
)
@pytest.mark.parametrize("command", ["list", "retry", "export"])
def test_a_filter_that_is_none_is_a_usage_error_and_never_takes_everything(
    known: Path, command: str, arguments: str
) -> None:
    done = invoke(known, "queue", command, *arguments.split())

    assert (done.returncode, done.stdout) == (2, "")


@pytest.mark.parametrize("command", ["retry", "hold", "release", "drop", "export"])
@pytest.mark.parametrize("arguments", [(), ("X", "--provider", "main"), ("X", "--since", "2h")])
def test_neither_ids_nor_a_filter_and_both_are_a_usage_error(
    known: Path, command: str, arguments: tuple[str, ...]
) -> None:
    done = invoke(known, "queue", command, *arguments)

    assert done.returncode == 2
    assert one_line(done).startswith("smtp-bridge: give either queue ids or a filter")


def test_retry_takes_failed_with_every_filter(queue: Path) -> None:
    done = invoke(queue, "queue", "retry", "--failed", "--provider", "main", "--since", "2h", "--json")

    assert json.loads(done.stdout) == {"messages": 1, "recipients": 1, "unknown": []}
    after = statuses(queue)
    assert (after["refused"], after["old"], after["content"]) == ("deferred", "bounced", "bounced")


def test_failed_and_another_status_contradict_each_other(queue: Path) -> None:
    done = invoke(queue, "queue", "retry", "--failed", "--status", "held")

    assert done.returncode == 2
    assert one_line(done) == "smtp-bridge: give either --failed or --status"


@pytest.mark.parametrize(
    ("command", "changed"),
    [
        ("retry", {"old": "deferred", "refused": "deferred", "content": "deferred", "held": "deferred"}),
        ("hold", {"both": "held", "new": "held"}),
        ("release", {"held": "deferred"}),
        (
            "drop",
            dict.fromkeys(("old", "refused", "content", "held", "new", "both"), "dropped"),
        ),
    ],
)
def test_without_a_status_a_filter_is_about_what_the_command_can_change(
    queue: Path, command: str, changed: dict[str, str]
) -> None:
    before = statuses(queue)

    assert invoke(queue, "queue", command, "--since", "1d").returncode == 0
    assert statuses(queue) == {**before, **changed}


def test_without_a_status_export_takes_whatever_passes(known: Path, tmp_path: Path) -> None:
    done = invoke(known, "queue", "export", "--provider", "main", "-o", str(tmp_path / "out"))

    shown = {json.loads(path.read_text())["subject"] for path in (tmp_path / "out").glob("*.json")}
    assert shown == {"old", "refused", "both"}
    assert done.stdout == f"3 messages in {tmp_path}/out\n"
    assert re.fullmatch("smtp-bridge: the body of [0-9A-Z]{16} is not kept", one_line(done))  # it was sent
    assert done.returncode == 1


def test_a_filter_that_changes_nothing_is_exit_status_1(known: Path) -> None:
    done = invoke(known, "queue", "retry", "--provider", "nobody")

    assert (done.returncode, done.stdout) == (1, "no recipients due now\n")


# Many


async def put_many(spool: SqliteSpool) -> None:
    """Every third has failed with main, the others wait."""
    for start in range(0, MANY, 300):
        await asyncio.gather(
            *(put(spool, f"{n}", waiting() if n % 3 else REFUSED) for n in range(start, min(start + 300, MANY)))
        )


@pytest.fixture
def many(tmp_path: Path) -> Path:
    in_spool(tmp_path, put_many)
    return tmp_path


def listed_ids(directory: Path, *arguments: str) -> list[str]:
    return [row["queue_id"] for row in json.loads(invoke(directory, "queue", "list", "--json", *arguments).stdout)]


def test_pages_go_on_where_the_last_one_ended_with_nothing_twice_and_nothing_left_out(many: Path) -> None:
    everything = listed_ids(many, "--limit", "5000")
    filtered = ("--status", "deferred", "--reason", "refused")
    wanted = listed_ids(many, *filtered, "--limit", "5000")
    assert (len(everything), len(wanted)) == (MANY, MANY * 2 // 3)
    assert everything == sorted(everything, reverse=True)

    paged: list[str] = []
    while page := listed_ids(many, *filtered, "--limit", "300", *(("--before", paged[-1]) if paged else ())):
        paged += page

    assert paged == wanted


def test_what_is_changed_between_two_pages_hides_nothing_behind_it(tmp_path: Path) -> None:
    async def drop_while_reading(spool: SqliteSpool) -> list[str]:
        await put_many(spool)
        seen: list[str] = []
        async for _, passed in pages(spool, Filter("deferred", "refused"), size=100):
            seen += [row["queue_id"] for row in passed]
            await spool.drop([row["queue_id"] for row in passed], now=time.time())
        return seen

    seen = in_spool(tmp_path, drop_while_reading)

    assert len(seen) == len(set(seen)) == MANY * 2 // 3


def test_a_filter_reaches_every_message_however_many_there_are(many: Path) -> None:
    done = invoke(many, "queue", "hold", "--provider", "main", "--json")

    assert json.loads(done.stdout) == {"messages": MANY * 2 // 3, "recipients": MANY * 2 // 3, "unknown": []}
    assert listed_ids(many, "--status", "deferred") == []


def test_many_messages_show_a_bar_on_a_terminal_which_is_gone_at_the_end(many: Path) -> None:
    with on_terminal(many, "queue", "retry", "--since", "1h", stdout=subprocess.PIPE) as (process, terminal):
        shown = read_all(terminal)
        assert process.stdout
        told = process.stdout.read()
        assert process.wait(20) == 0

    assert told == b"1200 recipients due now\n"
    assert f"0/{MANY}" in without_codes(shown)
    assert "━" in shown
    assert without_codes(shown.rpartition("\r")[2]).strip() == ""


def test_few_messages_show_no_bar(queue: Path) -> None:
    with on_terminal(queue, "queue", "retry", "--since", "1d", stdout=subprocess.DEVNULL) as (process, terminal):
        assert read_all(terminal) == ""
        assert process.wait(20) == 0


def test_export_to_a_terminal_shows_no_bar_between_its_lines(many: Path) -> None:
    with on_terminal(many, "queue", "export", "--status", "active", "--json") as (process, terminal):
        shown = read_all(terminal)
        assert process.wait(20) == 0

    assert all(line.startswith("{") for line in shown.splitlines())


def test_nothing_of_the_bar_is_written_to_a_pipe(many: Path) -> None:
    done = subprocess.run(
        [*COMMAND, "queue", "hold", "--status", "active"],
        env=variables(many, FORCE_COLOR="1"),
        cwd=many,
        capture_output=True,
        timeout=30,
    )

    assert (done.stdout, done.stderr) == (b"800 recipients held\n", b"")


class Interrupting:
    """Ctrl-C in the middle of the nth call of a method of the spool, which goes on to its end."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str, at: int) -> None:
        self._original = getattr(SqliteSpool, name)
        self._left = at
        monkeypatch.setattr(SqliteSpool, name, lambda *args, **kwargs: self._call(*args, **kwargs))

    async def _call(self, *args: Any, **kwargs: Any) -> Any:
        self._left -= 1
        if self._left == 0:
            signal.raise_signal(signal.SIGINT)
        return await self._original(*args, **kwargs)


def test_ctrl_c_leaves_what_was_done_done_and_says_how_much(many: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Interrupting(monkeypatch, "drop", at=2)

    done = invoke(many, "queue", "drop", "--since", "1h")

    assert (done.returncode, done.stdout) == (130, "")
    assert one_line(done) == "smtp-bridge: interrupted: 1000 recipients dropped, 1000 of 1200 messages were done"
    assert list(statuses(many).values()).count("dropped") == 1000


def test_ctrl_c_while_the_last_ones_are_done_interrupts_nothing(many: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Interrupting(monkeypatch, "drop", at=3)

    done = invoke(many, "queue", "drop", "--since", "1h")

    assert (done.returncode, done.stdout, done.stderr) == (0, "1200 recipients dropped\n", "")


def test_ctrl_c_while_it_looks_for_messages_changes_nothing(many: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = statuses(many)
    Interrupting(monkeypatch, "list_messages", at=2)

    done = invoke(many, "queue", "drop", "--since", "1h")

    assert (done.returncode, done.stdout) == (130, "")
    assert one_line(done) == "smtp-bridge: interrupted: nothing was done"
    assert statuses(many) == before


@pytest.mark.parametrize(("as_json", "told"), [((), ""), (("--json",), '"messages": 7')])
def test_ctrl_c_ends_an_export_between_two_messages(
    many: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, as_json: Sequence[str], told: str
) -> None:
    Interrupting(monkeypatch, "body", at=7)

    done = invoke(many, "queue", "export", "--status", "active", "-o", str(tmp_path / "out"), *as_json)

    assert done.returncode == 130
    assert told in done.stdout
    assert bool(done.stdout) == bool(as_json)
    assert one_line(done) == "smtp-bridge: interrupted: 7 messages written, 7 of 800 messages were done"
    assert len(list((tmp_path / "out").glob("*.eml"))) == 7
