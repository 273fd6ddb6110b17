"""A spool as a release leaves it, kept as text for the tests: python -m tests.spool.make_fixture TREE NAME

TREE holds that release's code (`git worktree add --detach TREE COMMIT`). Its own daemon and commands make the spool, by way of
SMTP and a sandbox that fails as told, and the daemon is killed in the middle of an attempt. What is written to
tests/spool/fixtures/NAME: `spool.sql` (the database as SQL), `bodies/` (its body files) and `expected.json` (what the release
itself said was there: statuses, and the SHA-256 of each body that was kept).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import smtplib
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from email.message import EmailMessage
from pathlib import Path
from typing import Any

FIXTURES = Path(__file__).parent / "fixtures"
KEY = "sandbox-key"
# By recipient, for as long as the sandbox runs.
FAILURES = ("422,recipient=gone@example.com", "503,recipient=later@example.com", "hang,recipient=slow@example.com")
SETTINGS = {
    "SMTP_BRIDGE_PROVIDER__KIND": "rest",
    "SMTP_BRIDGE_PROVIDER__AUTH": "bearer",
    "SMTP_BRIDGE_PROVIDER__TOKEN": KEY,
    "SMTP_BRIDGE_PROVIDER__CONCURRENCY": "1",  # so that something waits behind the attempt that hangs
    "SMTP_BRIDGE_SMTP__LISTENER__ADDRESS": "127.0.0.1:0",
    "SMTP_BRIDGE_SMTP__HOSTNAME": "bridge.example.com",
    "SMTP_BRIDGE_RELAY__MODE": "queue",
    "SMTP_BRIDGE_RETRY__FIRST": "30m",
    "SMTP_BRIDGE_RETRY__EXPIRE": "3650d",  # the fixture is to be opened for years
    "SMTP_BRIDGE_BREAKER__FAILURES": "1000",
    "SMTP_BRIDGE_SPOOL__MIN_FREE": "0",
    "SMTP_BRIDGE_SPOOL__HISTORY": "3650d",
    "SMTP_BRIDGE_SPOOL__FAILED": "3650d",
    "SMTP_BRIDGE_SPOOL__FILE_THRESHOLD": "2KiB",
}
WAIT_S = 20.0


@dataclass(slots=True)
class Release:
    """The commands of one tree, with a state directory of their own."""

    tree: Path
    directory: Path
    variables: dict[str, str]

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "bridge", *arguments]

    @property
    def environ(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("SMTP_BRIDGE_")}
        return {**kept, "PYTHONPATH": str(self.tree), "STATE_DIRECTORY": str(self.directory), **self.variables}

    @contextlib.contextmanager
    def running(self, *arguments: str, stderr: Path) -> Iterator[subprocess.Popen[str]]:
        with stderr.open("wb") as log:
            process = subprocess.Popen(
                self.command(*arguments),
                env=self.environ, cwd=self.directory, stdout=subprocess.PIPE, stderr=log, text=True,
            )  # fmt: skip
        with process:
            try:
                yield process
            finally:
                process.kill()

    def run(self, *arguments: str) -> bytes:
        command = self.command(*arguments)
        return subprocess.run(command, env=self.environ, cwd=self.directory, check=True, capture_output=True).stdout

    def listed(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = json.loads(self.run("queue", "list", "--json"))
        return rows


def mail(subject: str, to: str = "ann@example.com") -> EmailMessage:
    made = EmailMessage()
    made["From"], made["To"], made["Subject"] = "erp@example.com", to, subject
    made.set_content(f"{subject}\n")
    return made


def send_all(client: smtplib.SMTP) -> None:
    client.send_message(mail("it was sent"))
    client.send_message(mail("it was refused", "gone@example.com"))
    client.send_message(mail("it was deferred", "later@example.com"))
    client.send_message(mail("it is on hold", "later@example.com"))
    client.send_message(mail("from nobody", "later@example.com"), from_addr="")
    client.send_message(mail("to several", "later@example.com, ann@example.com, bob@example.com"))
    attached = mail("a file is attached", "later@example.com")
    attached.add_attachment(bytes(range(256)) * 12, maintype="application", subtype="octet-stream", filename="a.bin")
    client.send_message(attached)
    client.ehlo()
    if client.has_extn("SMTPUTF8"):
        client.send_message(mail("Grüße", "jürgen@bücher.example, later@example.com"))
    if client.has_extn("DSN"):
        client.sendmail(
            "erp@example.com", ["later@example.com"], bytes(mail("it has wishes", "later@example.com")),
            mail_options=["RET=HDRS", "ENVID=order+2B7"],
            rcpt_options=["NOTIFY=SUCCESS,DELAY", "ORCPT=rfc822;later+2Bme@example.com"],
        )  # fmt: skip


def until(what: str, reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not reached():
        if time.monotonic() > deadline:
            raise SystemExit(f"in {WAIT_S:.0f} s it was not so: {what}")
        time.sleep(0.1)


def statuses(release: Release) -> dict[str, set[str]]:
    return {row["subject"]: {one["status"] for one in row["recipients"]} for row in release.listed()}


def attempt_hangs(release: Release) -> bool:
    return any(one["leased_until"] for row in release.listed() for one in row["recipients"])


def port_of(log: Path) -> int:
    found: list[int] = []

    def look() -> bool:
        lines = [json.loads(line) for line in log.read_bytes().splitlines() if line.startswith(b"{")]
        found.extend(line["port"] for line in lines if line["event"] == "daemon.listening")
        return bool(found)

    until("the daemon listens", look)
    return found[0]


def make_spool(release: Release, log: Path) -> list[dict[str, Any]]:
    """What the release itself lists, at the moment at which its daemon is killed."""
    with release.running("run", stderr=log) as daemon:
        with smtplib.SMTP("127.0.0.1", port_of(log), "erp.example.com") as client:
            send_all(client)
        until("all was tried once", lambda: all("queued" not in found for found in statuses(release).values()))
        held = [row["queue_id"] for row in release.listed() if row["subject"] == "it is on hold"]
        release.run("queue", "hold", *held)
        release.run("suppress", "add", "gone@example.com")
        with smtplib.SMTP("127.0.0.1", port_of(log), "erp.example.com") as client:
            client.send_message(mail("its attempt was running", "slow@example.com"))
            until("an attempt hangs", lambda: attempt_hangs(release))
            client.send_message(mail("it waits for its turn", "bob@example.com"))
        rows = release.listed()
        daemon.kill()
    return rows


def expected(release: Release, rows: list[dict[str, Any]]) -> dict[str, Any]:
    messages = []
    for row in sorted(rows, key=lambda row: str(row["queue_id"])):
        body = release.run("queue", "export", row["queue_id"]) if row["has_body"] else b""
        recipients = {one["address"]: [one["status"], one["attempts"]] for one in row["recipients"]}
        kept = {name: row[name] for name in ("queue_id", "sender", "subject")}
        messages.append(kept | {"recipients": recipients, "sha256": hashlib.sha256(body).hexdigest() if body else ""})
    return {"messages": messages, "suppressed": ["gone@example.com"]}


def dump(database: Path) -> str:
    """The database as SQL; its version, which SQLite leaves out, is the last line."""
    with contextlib.closing(sqlite3.connect(database)) as db:
        (version,) = db.execute("PRAGMA user_version").fetchone()
        return "\n".join([*db.iterdump(), f"PRAGMA user_version = {version};", ""])


def main(tree: Path, name: str) -> None:
    target = FIXTURES / name
    if target.exists():
        raise SystemExit(f"{target} is there already")
    with tempfile.TemporaryDirectory() as made:
        api, home = Path(made, "api"), Path(made, "state")
        api.mkdir(), home.mkdir()
        options = [word for failure in FAILURES for word in ("--fail", failure)]
        sandbox = Release(tree, api, {})
        with sandbox.running("sandbox", "--port", "0", "--key", KEY, *options, stderr=api / "log") as process:
            assert process.stdout
            url = process.stdout.readline().split()[-1]
            release = Release(tree, home, {**SETTINGS, "SMTP_BRIDGE_PROVIDER__URL": f"{url}/send-email"})
            rows = make_spool(release, Path(made, "log"))
        said = expected(release, rows)
        target.mkdir(parents=True)
        (target / "spool.sql").write_text(dump(home / "spool.db"))
        (target / "expected.json").write_text(json.dumps(said, indent=1, ensure_ascii=False) + "\n")
        if (home / "spool.db.d").exists():
            shutil.copytree(home / "spool.db.d", target / "bodies")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), sys.argv[2])
