"""A Postfix of our own beside the system's: own configuration, own queue, relaying to smtp-sink on loopback. Needs root."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

MAIN = """
compatibility_level = 3.6
queue_directory = {queue}
data_directory = {data}
mail_owner = postfix
setgid_group = postdrop
myhostname = bench.example
mydestination =
mynetworks = 127.0.0.0/8
inet_interfaces = loopback-only
inet_protocols = ipv4
alias_maps =
alias_database =
relayhost = [127.0.0.1]:{sink}
smtpd_recipient_restrictions = permit_mynetworks, reject
smtpd_relay_restrictions = permit_mynetworks, reject
smtpd_client_connection_rate_limit = 0
smtp_tls_security_level = none
smtpd_tls_security_level = none
maillog_file = {log}
maillog_file_prefixes = {prefix}
"""


def is_installed() -> bool:
    return os.geteuid() == 0 and all(map(shutil.which, ("postfix", "smtp-source", "smtp-sink")))


class Postfix:
    """Its defaults are kept, but for where it listens and sends."""

    def __init__(self, directory: Path, port: int, sink: int) -> None:
        self.directory = directory
        self.config = directory / "config"
        self.queue = directory / "queue"
        self.port, self.sink_port = port, sink
        self.sink: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        for path in (self.config, self.queue, self.directory / "data"):
            path.mkdir(parents=True)
        self.directory.chmod(0o755)
        shutil.chown(self.directory / "data", "postfix")
        log = self.directory / "maillog"
        values = {"queue": self.queue, "data": self.directory / "data", "log": log, "prefix": self.directory}
        (self.config / "main.cf").write_text(MAIN.format(sink=self.sink_port, **values))
        master = Path("/etc/postfix/master.cf").read_text()
        master = re.sub(r"^smtp +inet ", f"127.0.0.1:{self.port} inet ", master, count=1, flags=re.M)
        master = re.sub(r"^((?:\S+\s+){4})y", r"\1n", master, flags=re.M)  # no chroot
        (self.config / "master.cf").write_text(master)
        self.sink = subprocess.Popen(["smtp-sink", f"127.0.0.1:{self.sink_port}", "1000"], user="postfix")
        subprocess.run(["postfix", "-c", str(self.config), "start"], check=True, capture_output=True)

    def stop(self) -> None:
        subprocess.run(["postfix", "-c", str(self.config), "stop"], check=False, capture_output=True)
        if self.sink:
            self.sink.kill()
            self.sink.wait()

    def is_empty(self) -> bool:
        return not any(
            name
            for queue in ("maildrop", "incoming", "active", "deferred")
            for _, _, name in os.walk(self.queue / queue)
        )
