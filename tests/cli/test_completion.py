"""Shell completion, in a real bash."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import bridge, invoke, send, smtp_bridge, variables


def complete(directory: Path, *words: str) -> list[str]:
    """What bash would offer for the last of these words, with the script that `--show-completion` prints in it."""
    program = directory / "smtp-bridge"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m bridge "$@"\n')
    program.chmod(0o755)
    line = " ".join(f"'{word}'" for word in ("smtp-bridge", *words))
    code = (
        f'script=$(smtp-bridge --show-completion)\neval "$script"\nCOMP_WORDS=({line}) COMP_CWORD={len(words)}\n'
        "$(complete -p smtp-bridge | sed 's/.*-F \\([^ ]*\\).*/\\1/')\nprintf '%s\\n' \"${COMPREPLY[@]}\"\n"
    )
    environ = variables(directory, PATH=f"{directory}:/usr/bin:/bin")
    done = subprocess.run(["bash", "-c", code], env=environ, cwd=directory, capture_output=True, text=True, timeout=30)
    assert done.stderr == ""
    return done.stdout.split()


def test_bash_completes_commands_statuses_and_queue_ids(tmp_path: Path) -> None:
    with bridge(tmp_path, SMTP_BRIDGE_RELAY__MODE="queue") as (_, port):
        send(port, "a@example.com", ["b@example.com"])
    queue_id = invoke(tmp_path, "queue", "list").stdout.split("\n")[-2].split()[0]

    assert sorted(complete(tmp_path, "sen")) == ["send", "sendmail"]
    assert complete(tmp_path, "queue", "list", "--status", "he") == ["held"]
    assert complete(tmp_path, "queue", "show", queue_id[:3]) == [queue_id]


def test_an_unusable_spool_offers_nothing_and_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("[[[")

    assert complete(tmp_path, "queue", "show", "") == []


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_there_is_a_script_for_other_shells(tmp_path: Path, shell: str) -> None:
    done = smtp_bridge(tmp_path, _SMTP_BRIDGE_COMPLETE=f"source_{shell}")

    assert done.returncode == 0, done.stderr
    assert f"complete_{shell}" in done.stdout
