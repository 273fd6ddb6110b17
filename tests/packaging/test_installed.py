"""The wheel in an environment of its own, with what it needs and nothing else, runs from there.

In the newest Python of this machine, since the other tests run in one of the oldest; PACKAGE_PYTHON names another.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from bridge import __version__
from tests.cli.conftest import CAPTURE, events, port_of, variables
from tests.conftest import reserved_port
from tests.packaging.conftest import pip

CONSUMER = """
from bridge.reply import Reply

reply: Reply = Reply(250, "2.0.0", "Ok")
code: str = reply.code
"""


def minor(python: Path) -> int:
    """13 of a Python 3.13, 0 of one that does not run."""
    done = subprocess.run([str(python), "-c", "import sys; print(sys.version_info.minor)"], capture_output=True)
    return int(done.stdout) if not done.returncode else 0


def newest() -> str:
    """Of those on the path and pyenv's."""
    places = [Path(place) for place in os.get_exec_path()]
    places += sorted(Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")).glob("versions/3.*/bin"))
    found = {minor(path): str(path) for place in places for path in place.glob("python3.[1-9][0-9]")}
    best = max(found, default=0)
    return found[best] if best > sys.version_info.minor else sys.executable


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of its commands."""
    into = tmp_path_factory.mktemp("clean")
    python = os.environ.get("PACKAGE_PYTHON") or newest()
    subprocess.run([python, "-m", "venv", "--without-pip", str(into)], check=True, timeout=60)
    pip("install", "--no-compile", str(wheel), python=str(into / "bin/python"))
    return into / "bin"


def run(commands: Path, *arguments: str, home: Path, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(commands / arguments[0]), *arguments[1:]],
        env=alone(home, **more),
        cwd=home,
        capture_output=True,
        text=True,
        timeout=60,
    )


def alone(home: Path, **more: str) -> Mapping[str, str]:
    """Nothing of the checkout is found from there."""
    return {name: value for name, value in variables(home, **more).items() if name != "PYTHONPATH"}


@contextmanager
def daemon(commands: Path, home: Path, **more: str) -> Iterator[subprocess.Popen[str]]:
    """`smtp-bridge run` that listens, and ends well; its log is `home/log`."""
    with (home / "log").open("wb") as log:
        command = [str(commands / "smtp-bridge"), "run"]
        process = subprocess.Popen(command, env=alone(home, **CAPTURE, **more), cwd=home, stderr=log, text=True)
    with process:
        try:
            port_of(process, home / "log")
            yield process
        finally:
            process.terminate()
    assert process.returncode == 0


def test_the_demo_goes_as_told(installed: Path, tmp_path: Path) -> None:
    told = run(installed, "smtp-bridge", "demo", "--once", "--port", "0", "--api-port", "0", home=tmp_path)

    assert told.stdout.endswith("Every step went as told.\n"), told.stdout + told.stderr
    assert told.returncode == 0


def test_the_daemon_makes_its_queue_and_shows_its_pages(installed: Path, tmp_path: Path) -> None:
    with reserved_port() as port, daemon(installed, tmp_path, SMTP_BRIDGE_HTTP__ADDRESS=f"127.0.0.1:{port}"):
        page = f"http://127.0.0.1:{port}"
        answers = {path: httpx.get(page + path).status_code for path in ("/", "/docs", "/static/app.css")}

    assert answers == {"/": 200, "/docs": 200, "/static/app.css": 200}
    assert (tmp_path / "state/spool.db").stat().st_size


def test_its_commands_say_the_version_and_teach_the_shell(installed: Path, tmp_path: Path) -> None:
    assert run(installed, "smtp-bridge", "--version", home=tmp_path).stdout == f"smtp-bridge {__version__}\n"
    assert "complete" in run(installed, "smtp-bridge", home=tmp_path, _SMTP_BRIDGE_COMPLETE="source_bash").stdout
    assert run(installed, "smtp-bridge-sendmail", "ann@example.com", home=tmp_path).returncode == 75


def test_without_the_extra_doctor_it_says_what_to_install(installed: Path, tmp_path: Path) -> None:
    told = run(installed, "smtp-bridge", "doctor", "--domain", "example.com", home=tmp_path, **CAPTURE).stdout

    assert "not looked at: dnspython is not there" in told
    assert "pip install 'smtp-rest-bridge[doctor]'" in told


def test_without_the_extra_otel_it_says_what_to_install_and_runs(installed: Path, tmp_path: Path) -> None:
    with daemon(installed, tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9"):
        pass

    assert "no traces are sent: install smtp-rest-bridge[otel]" in {e.get("text") for e in events(tmp_path / "log")}


def test_who_uses_it_is_told_its_types(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "consumer.py").write_text(CONSUMER)
    strict = [sys.executable, "-m", "mypy", "--strict", "--python-executable", str(installed / "python"), "consumer.py"]

    done = subprocess.run(strict, env=alone(tmp_path), cwd=tmp_path, capture_output=True, text=True, timeout=100)

    first, *_ = done.stdout.splitlines()
    assert first.startswith("consumer.py:5: error: Incompatible types in assignment"), done.stdout
    assert "Found 1 error in 1 file" in done.stdout
