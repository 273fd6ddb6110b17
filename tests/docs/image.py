"""Where commands that handle files run: a directory that looks like a machine with the bridge installed, and no daemon."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from tests.docs.blocks import ROOT

PATHS = re.compile(r"(?<![\w/.~$\"])/(?:etc|var|srv|root|home|tmp|opt|usr)/[\w./-]*")
_PLACES = (
    "etc/smtp-bridge/secrets", "var/lib/private/smtp-bridge", "var/backups/smtp-bridge/monday", "opt/smtp-bridge/bin",
    "usr/sbin", "usr/bin", "here/src", "here/wheels", "here/debian/root",
)  # fmt: skip


class Image:
    def __init__(self, root: Path) -> None:
        self.root = root
        for name in _PLACES:
            (root / name).mkdir(parents=True)
        (root / "var/lib/smtp-bridge").symlink_to("private/smtp-bridge")
        for name in (
            "etc/smtp-bridge/config.example.toml",
            "var/backups/smtp-bridge/monday/spool.db",
            "here/message.eml",
        ):
            (root / name).write_text("")
        for name in ("fullchain.pem", "privkey.pem"):
            (root / "here" / name).write_text("PEM")
        command = root / "opt/smtp-bridge/bin/smtp-bridge-sendmail"
        command.write_text("")
        command.chmod(0o755)

    def inside(self, command: str) -> str:
        """Without sudo, and with every path of the machine below the root of this one."""
        text = re.sub(r"(?m)^sudo (?:-\w+ )*", "", command)
        return PATHS.sub(lambda found: f"{self.root}{found[0]}", text)

    def run(self, command: str) -> None:
        """Raises AssertionError."""
        done = subprocess.run(
            ["bash", "-ec", self.inside(command)],
            cwd=self.root / "here", input="a key\n", capture_output=True, text=True, timeout=60,
            env={"PATH": os.environ["PATH"], "HOME": str(self.root)},
        )  # fmt: skip
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"

    def assert_whole(self) -> None:
        """No link leads nowhere, and what is in secrets/ is nobody else's."""
        links = [path for path in self.root.rglob("*") if path.is_symlink() and path.name != "smtp-bridge"]
        assert [path for path in links if not path.exists()] == []
        secrets = [path for path in (self.root / "etc/smtp-bridge/secrets").iterdir() if path.stat().st_mode & 0o077]
        assert secrets == []


def planned(command: str) -> str:
    """What `make` would do. Raises AssertionError: a target or a file that is not there."""
    words = re.sub(r"^.*?\bmake\b", "make --dry-run --silent", re.split(r"\s+(?:&&|#)", command)[0], count=1)
    done = subprocess.run(["bash", "-c", words], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"{command}\n{done.stderr}"
    return done.stdout
