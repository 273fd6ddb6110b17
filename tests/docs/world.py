"""Where the commands of the pages run: a directory with settings, a running daemon, and the sandbox as its provider.

The ports of the pages are those of the system's choice here, `ID` is a message that waits, `$KEY` a key that may do all.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shlex
import smtplib
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from tests.cli.conftest import KEY, invoke, running, variables
from tests.conftest import keep_certificate, reserved_port
from tests.docs.blocks import ROOT
from tests.docs.table import Run
from tests.leaks import watch

LATER = "later@example.org"  # whom the sandbox does not take now
REFUSED = "nobody@refused.example"  # whom it never takes
HTTP_KEY = "docs-test-key"
_PORTS = ("2525", "2526", "8025", "8026", "1025", "587")
_ABSOLUTE = re.compile(r"(?<![\w/.~])/(?:etc|var|srv|mnt|media|root|home|tmp|backups?|run|opt|usr)/[\w./-]*[\w-]")
_SHELL = re.compile(r"[|<>;&$`*?~]|\n")

SETTINGS = """
[smtp]
hostname = "bridge.example"
auth_delay = "10ms"
[[smtp.listener]]
address = "127.0.0.1:{2525}"
[[smtp.listener]]
address = "127.0.0.1:{1025}"
require_auth = true
[[smtp.listener]]
address = "127.0.0.1:{587}"
tls = "implicit"
require_auth = true
[[user]]
name = "scanner"
password = "secret"
[[user]]
name = "username"
password = "secret"
[[user]]
name = "printer"
password = "secret"
[http]
address = "127.0.0.1:{8025}"
[[http.key]]
name = "docs"
key_hash = "sha256${hash}"
scopes = ["send", "read", "manage"]
[relay]
mode = "queue"
[retry]
first = "1h"
maximum = "1h"
[breaker]
failures = 100000
[spool]
min_free = 0
[[provider]]
name = "main"
kind = "rest"
url = "http://127.0.0.1:{8026}/send-email"
auth = "bearer"
token = "{token}"
[[provider]]
name = "backup"
kind = "rest"
url = "http://127.0.0.1:{8026}/send-email"
auth = "bearer"
token = "{token}"
"""


class World:
    def __init__(self, directory: Path, ports: dict[str, int]) -> None:
        self.directory = directory
        self.ports = ports
        self.http = httpx.Client(
            base_url=f"http://127.0.0.1:{ports['8025']}",
            headers={"Authorization": f"Bearer {HTTP_KEY}"},
            trust_env=False,
        )

    def prepare(self) -> None:
        watch.plant(HTTP_KEY)
        keep_certificate(self.directory / "state")
        text = SETTINGS
        known: dict[str, Any] = {**self.ports, "token": KEY, "hash": hashlib.sha256(HTTP_KEY.encode()).hexdigest()}
        for name, value in known.items():
            text = text.replace(f"{{{name}}}", str(value))
        (self.directory / "etc").mkdir()
        for place in (self.directory, self.directory / "etc"):
            (place / "config.toml").write_text(text)
        for name in ("config.example.toml", "constraints.txt", "docs", "systemd", "README.md"):
            (self.directory / name).symlink_to(ROOT / name)
        for name in ("report.pdf", "scan.pdf", "page.html", "password", "printer.password"):
            (self.directory / name).write_text("secret\n")
        (self.directory / "message.eml").write_text(
            "From: me@example.com\nTo: ann@example.com\nSubject: left\n\ntext\n"
        )
        programs = self.directory / "bin"
        programs.mkdir()
        for name, call in (("smtp-bridge", "main"), ("smtp-bridge-sendmail", "sendmail"), ("sendmail", "sendmail")):
            code = f"import sys; sys.argv[0] = {name!r}; from bridge.cli import {call}; sys.exit({call}())"
            (programs / name).write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -c {shlex.quote(code)} "$@"\n')
            (programs / name).chmod(0o755)
        (programs / "python").symlink_to(sys.executable)

    def environment(self) -> dict[str, str]:
        given = variables(self.directory, KEY=HTTP_KEY, SMTP_BRIDGE_CONFIG=str(self.directory / "config.toml"))
        return {**given, "PATH": f"{self.directory / 'bin'}:{os.environ['PATH']}", "no_proxy": "127.0.0.1"}

    def localized(self, text: str) -> str:
        """With the ports and paths of this world, and on this machine alone."""
        for name, port in self.ports.items():
            text = re.sub(rf"\b{name}\b", str(port), text)
        text = text.replace("0.0.0.0:", "127.0.0.1:").replace("/opt/smtp-bridge/bin/", "")
        return _ABSOLUTE.sub(self._inside, text)

    def _inside(self, found: re.Match[str]) -> str:
        """Nothing outside of this world is read or written."""
        known = {"/etc/smtp-bridge": self.directory / "etc", "/var/lib/smtp-bridge": self.directory / "state"}
        for outside, inside in known.items():
            if found[0] == outside or found[0].startswith(f"{outside}/"):
                path = Path(f"{inside}{found[0].removeprefix(outside)}")
                path.parent.mkdir(parents=True, exist_ok=True)
                return str(path)
        path = self.directory / "outside" / found[0].lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        return str(path)

    def filled(self, command: str) -> str:
        """With a message for `ID`, in the state that the command is for, and a new directory for `DIR`."""
        if re.search(r"\bDIR\b", command):
            command = re.sub(r"\bDIR\b", f"dir-{time.monotonic_ns()}", command)
        if found := re.search(r"queue import (?:--\S+ )*([^\s-]\S*)", command):
            self.exported(found[1])
        if found := re.search(r"suppress remove (?:--\S+ )*([^\s-]\S*)", command):
            assert invoke(self.directory, "suppress", "add", found[1]).returncode == 0
        if re.search(r"queue (retry|hold|release|drop|export) --", command):
            queue_id = self.waiting()
            if re.search(r"release|--status held", command):
                assert invoke(self.directory, "queue", "hold", queue_id).returncode == 0
            if "--failed" in command:
                assert invoke(self.directory, "send", "--from", "me@example.com", "--to", REFUSED).returncode != 64
        if found := re.search(r"queue drop --exported (\S+)", command):
            self.waiting()
            invoke(self.directory, "queue", "export", "--all", found[1], "--hold")
        if not re.search(r"\b(QUEUE-)?ID\b", command):
            return command
        queue_id = self.waiting()
        if "queue release" in command:
            assert invoke(self.directory, "queue", "hold", queue_id).returncode == 0
        return re.sub(r"\b(QUEUE-)?ID\b", queue_id, command)

    def exported(self, directory: str) -> None:
        """A directory of a queue whose messages this one does not know."""
        self.waiting()
        if not Path(directory).exists():
            invoke(self.directory, "queue", "export", "--all", directory)

    def waiting(self) -> str:
        """The id of a new message, tried once and deferred."""
        with smtplib.SMTP("127.0.0.1", self.ports["2525"]) as client:
            client.ehlo()
            client.mail("me@example.com")
            client.rcpt(LATER)
            _, said = client.data(
                f"From: me@example.com\r\nTo: {LATER}\r\nSubject: {time.monotonic_ns()}\r\n\r\ntext\r\n"
            )
        queue_id = said.decode().split()[-1]
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            found = self.http.get(f"/api/v1/messages/{queue_id}")
            if found.status_code == 200 and '"deferred"' in found.text:
                return queue_id
            time.sleep(0.01)
        raise AssertionError(found.text)

    def run(self, command: str, rule: Run) -> subprocess.CompletedProcess[str]:
        """What it suppresses is mailed again afterwards: the next command comes to the same world."""
        try:
            return self._run(command, rule)
        finally:
            if "suppress" in command:
                for one in self.http.get("/api/v1/suppressions").json()["suppressions"]:
                    self.http.delete(f"/api/v1/suppressions/{one['address']}")

    def _run(self, command: str, rule: Run) -> subprocess.CompletedProcess[str]:
        """A command of ours alone in this process, anything with a shell's signs in a shell."""
        text = self.filled(self.localized(re.sub(r"^sudo (-u \S+ |-\w+ )*", "", command)))
        words = shlex.split(text, comments=True)
        if not _SHELL.search(re.sub(r"'[^']*'|(?m:(^|\s)#.*$)", "", text)) and words[0] == "smtp-bridge":
            return invoke(self.directory, *words[1:], *rule.add.split())
        if words[0] == "curl":
            text = text.replace("curl", "curl -sS --fail-with-body", 1)
        return subprocess.run(
            ["bash", "-ec", f"set -o pipefail\n{text} {rule.add}".rstrip()],
            env=self.environment(), cwd=self.directory, capture_output=True, text=True, timeout=60,
        )  # fmt: skip


@contextlib.contextmanager
def world(directory: Path) -> Iterator[World]:
    with contextlib.ExitStack() as stack:
        ports = {name: stack.enter_context(reserved_port()) for name in _PORTS}
        found = World(directory, ports)
        found.prepare()
        sandbox = ["sandbox", "--port", str(ports["8026"]), "--key", KEY, "--fail", f"409,recipient={LATER}"]
        process = stack.enter_context(running(directory, *sandbox))
        assert process.stdout
        assert process.stdout.readline().startswith("sandbox API on ")
        stack.enter_context(running(directory, "run"))
        deadline = time.monotonic() + 20
        while True:
            with contextlib.suppress(httpx.TransportError):
                if found.http.get("/readyz").status_code == 200:
                    break
            assert time.monotonic() < deadline, (directory / "stderr").read_text()
            time.sleep(0.02)
        yield found
        found.http.close()
