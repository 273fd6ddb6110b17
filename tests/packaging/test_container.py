"""Dockerfile and .dockerignore, as far as they can be read."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from pathlib import Path

from bridge import __version__
from bridge.cli.health.command import TIMEOUT_S
from bridge.cli.health.doors import find_door
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
    (install,) = [line for line in INSTRUCTIONS if "pip install" in line]

    assert "PIP_CONSTRAINT=/src/constraints.txt" in TEXT
    assert re.search(
        r"bin/pip install --no-cache-dir --disable-pip-version-check \.$", install.split(" && ")[0].strip()
    )


def test_every_stage_is_of_the_base_that_is_given_and_of_no_architecture() -> None:
    bases = [line.split()[1] for line in INSTRUCTIONS if line.startswith("FROM ")]

    assert INSTRUCTIONS[0] == "ARG PYTHON=python:3.11-slim-bookworm"
    assert bases == ["${PYTHON}"] * 2
    assert not re.search(r"(?i)x86_64|amd64|aarch64|arm64|--platform", "".join(INSTRUCTIONS))


def test_its_labels_say_what_it_is() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    labels = dict(word.split("=", 1) for word in shlex.split(instruction("LABEL")))
    prefix = "org.opencontainers.image"

    assert labels[f"{prefix}.title"] == project["name"]
    assert labels[f"{prefix}.licenses"] == project["license"]
    assert labels[f"{prefix}.version"] == "${VERSION}"
    assert f"ARG VERSION={__version__}" in FINAL
    assert {f"{prefix}.{name}" for name in ("description", "revision", "base.name")} < set(labels)


def test_it_asks_itself_whether_it_is_well() -> None:
    options, _, command = instruction("HEALTHCHECK").partition(" CMD ")
    program, *arguments = json.loads(command)
    given = dict(option.removeprefix("--").split("=") for option in options.split())

    assert (program, arguments) == ("smtp-bridge", ["health"])
    assert float(given["timeout"].removesuffix("s")) > TIMEOUT_S
    assert (
        find_door("", {**variables(), "SMTP_BRIDGE_PROVIDER__KIND": "capture"}, ROOT / "docs").address
        == "127.0.0.1:2525"
    )
