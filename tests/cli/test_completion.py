"""Shell completion, in a real bash."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import bridge, invoke, send, smtp_bridge, variables


def complete(directory: Path, *lines: str) -> list[list[str]]:
    """What bash would offer at the end of each of these, with the script that `--show-completion` prints in it."""
    program = directory / "smtp-bridge"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m bridge "$@"\n')
    program.chmod(0o755)
    code = ['script=$(smtp-bridge --show-completion)\neval "$script"', "complete -p smtp-bridge >/dev/null"]
    code.append("function=$(complete -p smtp-bridge | sed 's/.*-F \\([^ ]*\\).*/\\1/')")
    for line in lines:
        words = ["smtp-bridge", *line.split(" ")]
        code.append(f"COMP_WORDS=({' '.join(map(repr, words))}) COMP_CWORD={len(words) - 1}")
        code.append('$function smtp-bridge\necho "${COMPREPLY[@]}"')
    environ = variables(directory, PATH=f"{directory}:/usr/bin:/bin")
    done = subprocess.run(
        ["bash", "-c", "\n".join(code)], env=environ, cwd=directory, capture_output=True, text=True, timeout=60
    )
    assert done.stderr == ""
    return [line.split() for line in done.stdout.splitlines()]


def test_bash_completes_commands_statuses_and_queue_ids(tmp_path: Path) -> None:
    with bridge(tmp_path) as (_, port):
        send(port, "a@example.com", ["b@example.com"])
    queue_id = invoke(tmp_path, "queue", "list").stdout.split("\n")[-2].split()[0]
    commands, words, ids = complete(tmp_path, "sen", "queue list --status he", f"queue show {queue_id[:3]}")

    assert (sorted(commands), words, ids) == (["send", "sendmail"], ["held"], [queue_id])


def test_an_unusable_spool_offers_nothing_and_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("[[[")

    assert complete(tmp_path, "queue show ") == [[]]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_there_is_a_script_for_other_shells(tmp_path: Path, shell: str) -> None:
    done = smtp_bridge(tmp_path, _SMTP_BRIDGE_COMPLETE=f"source_{shell}")

    assert done.returncode == 0, done.stderr
    assert f"complete_{shell}" in done.stdout
