"""Dockerfile and .dockerignore, as far as they can be read."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from bridge.config.load import load_settings

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "Dockerfile").read_text()
# The instructions with their continuation lines.
INSTRUCTIONS = [
    re.sub(r"\\\n\s*", " ", found) for found in re.findall(r"^(?!#)[A-Z]+ (?:.*\\\n)*.*$", TEXT, re.MULTILINE)
]
FINAL = INSTRUCTIONS[max(i for i, line in enumerate(INSTRUCTIONS) if line.startswith("FROM ")) :]


def instruction(name: str) -> str:
    (found,) = [line.partition(" ")[2] for line in FINAL if line.startswith(f"{name} ")]
    return found


def variables() -> dict[str, str]:
    return dict(word.split("=", 1) for word in shlex.split(instruction("ENV")))


def test_it_does_not_run_as_root_and_stops_by_sigterm() -> None:
    user = instruction("USER").split(":")
    assert all(part.isdigit() and int(part) > 0 for part in user)
    assert instruction("STOPSIGNAL") == "SIGTERM"
    assert instruction("ENTRYPOINT") == '["smtp-bridge"]'
    assert instruction("CMD") == '["run"]'
    assert FINAL.index(f"USER {':'.join(user)}") > max(i for i, line in enumerate(FINAL) if line.startswith("RUN "))


def test_its_variables_are_settings_that_exist(tmp_path: Path) -> None:
    given = {**variables(), "SMTP_BRIDGE_PROVIDER__KIND": "capture"}

    settings = load_settings(environ=given, cwd=tmp_path)

    assert [str(listener.address) for listener in settings.smtp.listener] == ["0.0.0.0:2525"]
    assert str(settings.state_directory) == instruction("VOLUME") == "/var/lib/smtp-bridge"
    assert instruction("EXPOSE") == "2525"


def test_it_holds_no_secret_and_no_build_tool_gets_the_whole_directory() -> None:
    assert not re.search(r"(?i)(password|token|secret|api_key)\s*=\s*\S", TEXT)
    copied = [line.split()[1:-1] for line in INSTRUCTIONS if line.startswith("COPY ") and "--from" not in line]
    assert [name for names in copied for name in names] == [
        "pyproject.toml", "constraints.txt", "README.md", "LICENSE", "bridge",
    ]  # fmt: skip
    assert all((ROOT / name).exists() for names in copied for name in names)


def test_what_is_private_does_not_even_reach_the_builder() -> None:
    ignored = (ROOT / ".dockerignore").read_text().split()

    assert {".git", "config.toml", "**/*.key", "**/*.token"} <= set(ignored)
    assert not {"bridge", "README.md", "LICENSE", "constraints.txt", "pyproject.toml"} & set(ignored)


def test_the_versions_are_the_tested_ones() -> None:
    assert "PIP_CONSTRAINT=/src/constraints.txt" in TEXT
    assert re.search(
        r"pip install .*\.$", next(line for line in INSTRUCTIONS if "venv" in line).split(" && ")[1].strip()
    )
