"""`queue export --all`, `queue import` and `queue backup` on real daemons; and docs/backup.md, whose commands are run."""

from __future__ import annotations

import json
import os
import re
import shlex
import smtplib
import sqlite3
import stat
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import orjson
import pytest

from bridge.cli.moving import Exported, export_all
from bridge.cli.progress import Work
from bridge.spool.ids import id_at
from bridge.spool.sqlite import SqliteSpool
from tests.cli.conftest import (
    bridge,
    in_spool,
    invoke,
    one_line,
    sandbox,
    send,
    to_sandbox,
)
from tests.spool.support import BOUNCED, deferred, message

ROOT = Path(__file__).parents[2]


def listed(directory: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(invoke(directory, "queue", "list", "--json").stdout)
    return rows


def statuses(directory: Path) -> set[str]:
    with closing(sqlite3.connect(f"file:{directory}/state/spool.db?mode=ro", uri=True)) as db:
        return {row[0] for row in db.execute("SELECT DISTINCT status FROM recipient")}


def wait_for(directory: Path, wanted: set[str]) -> None:
    deadline = time.monotonic() + 20
    while statuses(directory) != wanted:
        assert time.monotonic() < deadline, listed(directory)
        time.sleep(0.05)


def send_odd(port: int) -> None:
    """Null reverse path, wishes, addresses beyond ASCII, 8 bit, and one above the threshold for files."""
    send(port, "erp@example.com", ["ann@example.com", "bob@example.com"], "plain")
    send(port, "", ["ops@example.com"], "from nobody")
    with smtplib.SMTP("127.0.0.1", port) as client:
        client.ehlo()
        client.sendmail(
            "erp@example.com", ["eve@example.com"], b"From: erp@example.com\r\nSubject: wishes \xe4\r\n\r\n8 bit \xe4\r\n",
            mail_options=["BODY=8BITMIME", "RET=HDRS", "ENVID=QQ314159"],
            rcpt_options=["NOTIFY=SUCCESS,FAILURE", "ORCPT=rfc822;eve+2B1@example.com"],
        )  # fmt: skip
        mail = EmailMessage()
        mail["From"], mail["To"], mail["Subject"] = "erp@example.com", "large@example.com", "large"
        mail.set_content("see the file")
        mail.add_attachment(bytes(range(256)) * 2000, maintype="application", subtype="zip", filename="a.zip")
        client.send_message(mail)
        client.sendmail(
            "grüße@example.com", ["jürgen@bücher.example"], "From: grüße@example.com\r\nSubject: utf8\r\n\r\ntext\r\n".encode(),
            mail_options=["SMTPUTF8", "BODY=8BITMIME"],
        )  # fmt: skip


def accepted(journal: Path) -> list[list[str]]:
    found = [orjson.loads(line) for line in journal.read_bytes().splitlines()]
    return sorted(sorted(mail["to"] + mail.get("cc", []) + mail.get("bcc", [])) for mail in found)


@pytest.fixture
def old(tmp_path: Path) -> Iterator[Path]:
    """The directory of a running daemon with five messages, whose API is down."""
    api, directory = tmp_path / "api", tmp_path / "old"
    api.mkdir(), directory.mkdir()
    later = {"SMTP_BRIDGE_RETRY__FIRST": "30m", "SMTP_BRIDGE_RELAY__MODE": "queue"}
    with sandbox(api, "--fail", "503:10000") as url, bridge(directory, **to_sandbox(url, **later)) as (_, port):
        send_odd(port)
        wait_for(directory, {"deferred"})
        yield directory


def test_a_queue_moves_to_another_machine(old: Path, tmp_path: Path) -> None:
    files, new, api = tmp_path / "files", tmp_path / "new", tmp_path / "api2"
    new.mkdir(), api.mkdir()
    exported = invoke(old, "queue", "export", "--all", str(files), "--hold")
    before = listed(old)

    assert (exported.returncode, exported.stdout) == (0, f"5 messages in {files}, held here\n")
    assert statuses(old) == {"held"}
    ids = {row["queue_id"] for row in before}
    assert {path.name for path in files.iterdir()} == {f"{one}.{kind}" for one in ids for kind in ("eml", "json")}
    assert {stat.S_IMODE(path.stat().st_mode) for path in files.iterdir()} == {0o600}
    assert {one: (files / f"{one}.eml").read_bytes() for one in ids} == stored(old)
    assert len(list((old / "state/spool.db.d").glob("*/*"))) == 1

    with sandbox(api, "--journal", str(api / "journal")) as url, bridge(new, **to_sandbox(url)):
        tried = invoke(new, "queue", "import", str(files), "--dry-run", "--json")
        assert set(json.loads(tried.stdout)["messages"]) == ids
        assert listed(new) == []
        brought = invoke(new, "queue", "import", str(files))
        assert (brought.returncode, brought.stdout, brought.stderr) == (0, "5 messages imported\n", "")
        wait_for(new, {"sent"})
        again = invoke(new, "queue", "import", str(files))
        assert (again.returncode, again.stdout) == (0, "no messages imported\n")
        assert again.stderr.splitlines() == [
            f"smtp-bridge: {one} was left out: it is in this queue already, or was imported before"
            for one in sorted(ids)
        ]

    moved = {row["queue_id"]: row for row in listed(new)}
    for row in before:
        there = moved[row["queue_id"]]
        for name in ("sender", "size", "created_at", "client", "helo", "subject", "message_id", "smtputf8"):
            assert there[name] == row[name], name
        assert [(one["address"], one["attempts"]) for one in there["recipients"]] == [
            (one["address"], 2) for one in row["recipients"]
        ]
    sent = accepted(api / "journal")
    assert [to for to in sent if to != ["erp@example.com"]] == [
        ["ann@example.com", "bob@example.com"], ["eve@example.com"], ["jürgen@bücher.example"], ["large@example.com"],
        ["ops@example.com"],
    ]  # fmt: skip


def stored(directory: Path) -> dict[str, bytes]:
    """Queue id -> the mail, from the database and the files beside it."""
    with closing(sqlite3.connect(f"file:{directory}/state/spool.db?mode=ro", uri=True)) as db:
        rows = dict(db.execute("SELECT queue_id, raw FROM body"))
    return rows | {file.name: file.read_bytes() for file in (directory / "state/spool.db.d").glob("*/*")}


# --- without a daemon


def empty(directory: Path) -> Path:
    """With a spool, whose daemon has gone."""

    async def nothing(spool: object) -> None: ...

    directory.mkdir()
    in_spool(directory, nothing)
    return directory


async def fill(spool: Any) -> None:
    for number in range(4):
        await spool.put(message(raw=b"Subject: %d\r\n\r\n" % number, at=time.time(), queue_id=id_at(1.7e9 + number)))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of four messages."""
    directory = tmp_path_factory.mktemp("source")
    in_spool(directory, fill)
    assert invoke(directory, "queue", "export", "--all", str(directory / "files")).returncode == 0
    return directory / "files"


def test_an_export_writes_nothing_over(exported: Path) -> None:
    was = {path: path.read_bytes() for path in exported.iterdir()}
    done = invoke(exported.parent, "queue", "export", "--all", str(exported))

    assert (done.returncode, one_line(done)) == (73, f"smtp-bridge: cannot write to {exported}: is not empty")
    assert {path: path.read_bytes() for path in exported.iterdir()} == was


def copied(exported: Path, target: Path) -> list[Path]:
    target.mkdir()
    for path in exported.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    return sorted(target.glob("*.json"))


def test_broken_pairs_are_named_and_the_others_go_on(exported: Path, tmp_path: Path) -> None:
    one, two, three, _ = copied(exported, tmp_path / "files")
    one.with_suffix(".eml").unlink()
    two.with_suffix(".eml").write_bytes(b"Subject: 1\n\n")
    three.write_text(three.read_text().replace('"queued"', '"lost"'))
    (tmp_path / "files" / "stranger.eml").write_bytes(b"")
    (tmp_path / "files" / "readme.txt").write_bytes(b"")
    new = empty(tmp_path / "new")
    done = invoke(new, "queue", "import", str(tmp_path / "files"))

    assert (done.returncode, done.stdout) == (65, "1 message imported\n")
    first, second, third, fourth = done.stderr.splitlines()
    assert first == f"smtp-bridge: {one.stem} is broken: {one.stem}.eml: No such file or directory"
    assert second.startswith(f"smtp-bridge: {two.stem} is broken: the mail is not what was exported: 12 octets of 14")
    assert third.startswith(f"smtp-bridge: {three.stem} is broken: recipients.0.status: Input should be")
    assert fourth == "smtp-bridge: stranger is broken: stranger.json: No such file or directory"
    assert len(listed(new)) == 1


def test_a_pair_under_another_name_is_refused(exported: Path, tmp_path: Path) -> None:
    one, *others = copied(exported, tmp_path / "files")
    for other in others:
        other.unlink(), other.with_suffix(".eml").unlink()
    for kind in (".json", ".eml"):
        one.with_suffix(kind).rename(tmp_path / "files" / f"{id_at(1.8e9)}{kind}")
    done = invoke(empty(tmp_path / "new"), "queue", "import", str(tmp_path / "files"))

    assert (done.returncode, one_line(done)) == (
        65,
        f"smtp-bridge: {id_at(1.8e9)} is broken: it is the message {one.stem}",
    )


def test_what_is_beyond_its_lifetime_is_named_and_comes(exported: Path, tmp_path: Path) -> None:
    one, *_ = copied(exported, tmp_path / "files")
    said = json.loads(one.read_text())
    said["recipients"][0]["expires_at"] = 1e9
    one.write_text(json.dumps(said))
    done = invoke(empty(tmp_path / "new"), "queue", "import", str(tmp_path / "files"), "--json")

    assert done.returncode == 0
    told = json.loads(done.stdout)
    assert (told["late"], len(told["messages"]), told["broken"], told["dry_run"]) == ([one.stem], 4, {}, False)


def test_who_is_done_with_is_not_brought_in(exported: Path, tmp_path: Path) -> None:
    one, *_ = copied(exported, tmp_path / "files")
    one.write_text(one.read_text().replace('"queued"', '"sent"'))
    new = empty(tmp_path / "new")
    done = invoke(new, "queue", "import", str(tmp_path / "files"))

    assert (done.returncode, one_line(done)) == (0, f"smtp-bridge: {one.stem} was left out: nobody of it waits")
    assert len(listed(new)) == 3


def test_what_is_imported_without_a_daemon_is_due_when_it_starts(exported: Path, tmp_path: Path) -> None:
    new = empty(tmp_path / "new")
    assert invoke(new, "queue", "import", str(exported)).returncode == 0

    claimed = in_spool(new, lambda spool: spool.claim(owner="test", now=time.time(), lease_s=60, limit=10))
    assert [item.message.raw for item in claimed] == [b"Subject: %d\r\n\r\n" % number for number in range(4)]


def test_a_full_spool_says_so_and_takes_no_more(exported: Path, tmp_path: Path) -> None:
    done = invoke(empty(tmp_path / "new"), "queue", "import", str(exported), SMTP_BRIDGE_SPOOL__MIN_FREE="9000000GiB")

    assert (done.returncode, done.stdout) == (69, "no messages imported\n")
    assert one_line(done) == "smtp-bridge: stopped: no room for another message"


def test_what_is_being_tried_is_left_with_hold_and_in_doubt_without(tmp_path: Path) -> None:
    async def busy(spool: Any) -> None:
        await fill(spool)
        await spool.claim(owner="test", now=time.time(), lease_s=600, limit=1, provider="main")

    (tmp_path / "old").mkdir()
    in_spool(tmp_path / "old", busy)
    first = id_at(1.7e9)
    plain = invoke(tmp_path / "old", "queue", "export", "--all", "plain", "--json")
    done = invoke(tmp_path / "old", "queue", "export", "--all", "files", "--hold")

    assert (plain.returncode, json.loads(plain.stdout)["messages"]) == (0, 4)
    assert one_line(plain).endswith(
        "1 recipient being tried at that moment: they may get it twice where it is imported"
    )
    assert json.loads((tmp_path / "old/plain" / f"{first}.json").read_text())["recipients"][0]["bound_to"] == "main"
    assert (done.returncode, done.stdout) == (1, "3 messages in files, held here\n")
    assert one_line(done).startswith(f"smtp-bridge: {first} was left: it is being tried at this moment")
    assert statuses(tmp_path / "old") == {"held", "queued"}
    said = [json.loads(path.read_text()) for path in (tmp_path / "old/files").glob("*.json")]
    assert {(one["recipients"][0]["status"], one["recipients"][0]["blocked_at"]) for one in said} == {("queued", None)}


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["export", "--hold", "ABC"], 2, "--hold goes with --all"),
        (["export", "--all", "files", "ABC"], 2, "--all takes no queue ids"),
        (["export", "--all", "files", "--status", "held"], 2, "--all takes no queue ids"),
        (["export", "--all", "state/spool.db"], 73, "cannot write to state/spool.db: File exists"),
        (["import", "nowhere"], 66, "cannot read nowhere: No such file or directory"),
        (["drop", "--exported", "nowhere"], 66, "cannot read nowhere: No such file or directory"),
        (["drop", "--exported", "nowhere", "ABC"], 2, "--exported takes no queue ids"),
        (["backup", "state"], 69, "state is not empty"),
        (["backup", "state/spool.db/copy"], 73, "cannot write to .*state/spool.db: File exists"),
    ],
)
def test_what_cannot_be_is_one_line(tmp_path: Path, arguments: list[str], status: int, words: str) -> None:
    new = empty(tmp_path / "new")
    done = invoke(new, "queue", *arguments)

    assert done.returncode == status
    assert re.search(words, one_line(done))


def test_without_a_spool_there_is_nothing_to_import_to(exported: Path, tmp_path: Path) -> None:
    done = invoke(tmp_path, "queue", "import", str(exported))

    assert (done.returncode, one_line(done)) == (69, f"smtp-bridge: there is no spool at {tmp_path}/state/spool.db")


# --- the other end of a move


def spool_of(tmp_path: Path, name: str, work: Any) -> Path:
    (tmp_path / name).mkdir()
    in_spool(tmp_path / name, work)
    return tmp_path / name


def by_id(directory: Path) -> dict[str, list[str]]:
    return {row["queue_id"]: [one["status"] for one in row["recipients"]] for row in listed(directory)}


def test_only_what_was_exported_is_dropped(tmp_path: Path) -> None:
    old = spool_of(tmp_path, "old", fill)
    assert invoke(old, "queue", "export", "--all", "files", "--hold").returncode == 0
    late = id_at(1.7e9 + 9)

    async def what_comes_after(spool: Any) -> None:
        await spool.put(message(at=time.time(), queue_id=late))
        await spool.hold([late], now=time.time())

    in_spool(old, what_comes_after)
    done = invoke(old, "queue", "drop", "--exported", "files")

    assert (done.returncode, done.stdout, done.stderr) == (0, "4 recipients of 4 messages dropped\n", "")
    assert by_id(old) == {late: ["held"], **{id_at(1.7e9 + number): ["dropped"] for number in range(4)}}
    again = invoke(old, "queue", "drop", "--exported", "files", "--json")
    assert (again.returncode, json.loads(again.stdout)["messages"]) == (1, 0)
    assert len(json.loads(again.stdout)["over"]) == 4


def test_what_comes_back_to_where_it_was_is_not_taken_and_says_so(tmp_path: Path) -> None:
    """Else it would be dropped in both."""
    old = spool_of(tmp_path, "old", fill)
    assert invoke(old, "queue", "export", "--all", "files", "--hold").returncode == 0
    assert invoke(old, "queue", "drop", "--exported", "files").returncode == 0

    done = invoke(old, "queue", "import", "files")

    assert done.returncode == 1
    assert done.stderr.count("do not drop it where it was exported") == 4


def test_what_is_not_in_the_files_or_went_on_here_is_not_dropped(tmp_path: Path) -> None:
    old, ids = spool_of(tmp_path, "old", fill), [id_at(1.7e9 + number) for number in range(4)]
    files = old / "files"
    assert invoke(old, "queue", "export", "--all", "files", "--hold").returncode == 0
    (files / f"{ids[0]}.eml").unlink()
    (files / f"{ids[1]}.eml").write_bytes(b"")

    async def goes_on(spool: Any) -> None:
        await spool.release(ids[2:], now=time.time() - 1)
        (item, _) = await spool.claim(owner="test", now=time.time(), lease_s=60, limit=2)
        assert item.message.queue_id == ids[2]
        await spool.record(ids[2], item.lease, {"ann@example.com": deferred(time.time())}, now=time.time())
        await spool.hold([ids[2]], now=time.time())

    in_spool(old, goes_on)
    done = invoke(old, "queue", "drop", "--exported", "files")

    assert (done.returncode, done.stdout) == (65, "no recipients of no messages dropped\n")
    assert [line.partition(" ")[2] for line in done.stderr.splitlines()] == [
        f"{ids[0]} is broken: {ids[0]}.eml: No such file or directory",
        f"{ids[1]} is broken: the mail is not what was exported: 0 octets of 14, or changed",
        f"{ids[2]} was left: it was tried or retried here after it was exported",
        f"{ids[3]} was left: an attempt is running",
    ]
    assert "dropped" not in statuses(old)


def test_an_attempt_that_begins_while_it_is_exported_leaves_it_as_it_was(tmp_path: Path) -> None:
    ids = [id_at(1.7e9 + number) for number in range(4)]

    async def export(spool: SqliteSpool) -> Exported:
        for queue_id in ids:
            mail = message("ann@example.com", "bob@example.com", at=time.time(), queue_id=queue_id)
            await spool.put(mail, lanes={"ann@example.com": "now"} if queue_id == ids[1] else {})
        given = spool.take_out

        async def take_out(queue_id: str) -> Any:
            found = await given(queue_id)
            if queue_id == ids[1]:
                await spool.claim(owner="test", now=time.time(), lease_s=60, limit=1, lanes=("now",))
            return found

        spool.take_out = take_out  # type: ignore[method-assign]  # the attempt begins right after the look
        return await export_all(spool, tmp_path / "files", Work("exporting"), hold=True)

    old = tmp_path / "old"
    old.mkdir()
    done = in_spool(old, export)

    assert (done.messages, done.held, done.skipped) == (3, 3, [ids[1]])
    assert by_id(old) == {one: ["queued", "queued"] if one == ids[1] else ["held", "held"] for one in ids}
    assert {path.stem for path in (tmp_path / "files").iterdir()} == {ids[0], *ids[2:]}


@pytest.mark.parametrize("hold", [True, False])
def test_a_sender_is_told_by_one_of_both(tmp_path: Path, hold: bool) -> None:
    """Of two messages one is over but for that, and one still waits."""
    over, waits = id_at(1.7e9), id_at(1.7e9 + 1)

    async def fails(spool: Any) -> None:
        await spool.put(message("ann@example.com", at=time.time(), queue_id=over), results={"ann@example.com": BOUNCED})
        await spool.put(
            message("ann@example.com", "bob@example.com", at=time.time(), queue_id=waits),
            results={"ann@example.com": BOUNCED},
        )

    old, new = spool_of(tmp_path, "old", fails), empty(tmp_path / "new")
    done = invoke(old, "queue", "export", "--all", str(tmp_path / "files"), *(["--hold"] if hold else []))
    assert invoke(new, "queue", "import", str(tmp_path / "files")).stdout == "2 messages imported\n"

    async def told(spool: Any) -> set[str]:
        return {due.message.queue_id for due in await spool.notices()}

    assert in_spool(old, told) == (set() if hold else {over, waits})
    assert in_spool(new, told) == ({over, waits} if hold else set())
    assert done.returncode == 0
    if hold:
        assert (done.stdout, done.stderr) == (f"2 messages in {tmp_path}/files, 1 of them held here\n", "")
        dropped = invoke(old, "queue", "drop", "--exported", str(tmp_path / "files"))
        assert dropped.stdout == "3 recipients of 2 messages dropped\n"
        assert by_id(new) == {over: ["bounced"], waits: ["bounced", "queued"]}
    else:
        assert one_line(done) == (
            "smtp-bridge: 2 messages whose senders are still to be told: this queue does that, or --hold"
        )


def test_nothing_is_said_to_be_on_hold_that_is_not(tmp_path: Path) -> None:
    async def fails(spool: Any) -> None:
        await spool.put(message(at=time.time()), results={"ann@example.com": BOUNCED})

    old = spool_of(tmp_path, "old", fails)
    done = invoke(old, "queue", "export", "--all", "files", "--hold")

    assert done.stdout == "1 message in files, none of them held here\n"


def test_what_would_be_told_here_is_not_dropped(tmp_path: Path) -> None:
    old = spool_of(tmp_path, "old", fill)
    queue_id = id_at(1.7e9)
    assert invoke(old, "queue", "export", "--all", "files", "--hold").returncode == 0
    with closing(sqlite3.connect(old / "state/spool.db")) as db, db:
        db.execute("UPDATE recipient SET notice = 'delay' WHERE queue_id = ?", (queue_id,))
    done = invoke(old, "queue", "drop", "--exported", "files")

    assert (done.returncode, done.stdout) == (1, "3 recipients of 3 messages dropped\n")
    assert one_line(done) == f"smtp-bridge: {queue_id} was left: its sender is still to be told of it"


# --- the page


def follow(directory: Path, backups: Path, block: str) -> str:
    """The commands of a block, line by line; what they print. `systemctl` is not there to be asked."""
    printed, names = "", {}
    for line in block.splitlines():
        line = line.replace("/var/lib/smtp-bridge", f"{directory}/state").replace(
            "/var/backups/smtp-bridge", str(backups)
        )
        if assigned := re.fullmatch(r"([A-Z]+)=\$\((.+)\)", line):
            done = subprocess.run(shlex.split(assigned[2]), capture_output=True, text=True, cwd=directory, check=True)
            names[assigned[1]] = done.stdout.strip()
            continue
        line = re.sub(r"\$([A-Z]+)", lambda name: names[name[1]], line)
        command, *arguments = shlex.split(line.removesuffix(" || true"))
        if command == "smtp-bridge":
            done = invoke(directory, *arguments)
        else:
            words = ["true"] if command == "systemctl" else [command, *arguments]
            done = subprocess.run(words, capture_output=True, text=True, cwd=directory)
        assert done.returncode == 0, (line, done.stderr)
        printed += done.stdout
    return printed


def test_the_commands_of_the_page_do_what_it_says(tmp_path: Path) -> None:
    page = re.sub(r"(?m)^sudo ", "", (ROOT / "docs/backup.md").read_text())
    blocks = re.findall(r"```sh\n(.*?)```", page, re.DOTALL)
    backup, going_back, export, importing, drop, before_upgrade = blocks
    stop_and_put_back, look = re.split("systemctl start .*\n", going_back)
    old, new, backups = tmp_path / "old", empty(tmp_path / "new"), tmp_path / "backups"
    (old / "private/state").mkdir(parents=True)
    (old / "state").symlink_to("private/state")  # as DynamicUser= has it
    in_spool(old, fill)
    ids = {id_at(1.7e9 + number) for number in range(4)}

    assert "is copied to" in follow(old, backups, backup)
    in_spool(old, lambda spool: spool.drop(sorted(ids), now=time.time()))  # what came after the copy
    follow(old, backups, stop_and_put_back)
    assert os.readlink(old / "state") == "private/state"
    assert {path.name for path in (old / "private").iterdir()} == {"state", "state.aside"}
    assert not (old / "private/state").is_symlink()
    assert statuses(old) == {"held"}
    in_spool(old, lambda spool: spool.stats())
    assert ids <= set(follow(old, backups, look).split())
    assert statuses(old) == {"queued"}
    assert "4 messages in" in follow(old, backups, export)
    assert statuses(old) == {"held"}
    assert "4 messages imported" in follow(new, backups, importing)
    assert statuses(new) == {"queued"}
    follow(old, backups, drop)
    assert statuses(old) == {"dropped"}
    assert "no messages" in follow(old, backups, before_upgrade)
