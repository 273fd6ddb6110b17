"""The watch over the logs of all tests can fail."""

from __future__ import annotations

import base64
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.leaks import Watch

ROOT = Path(__file__).parent.parent

LEAKS = """
import logging
import pytest
import structlog
from pydantic import SecretStr
from tests.leaks import BODY, watch

log = structlog.get_logger()

def test_leaks_a_secret_of_the_settings():
    log.debug("x", text=f"asked with {SecretStr('hunter2hunter2').get_secret_value()}")

def test_leaks_a_body():
    log.info("x", detail=["a", {"text": BODY}])

def test_leaks_what_was_bound():
    log.bind(token=SecretStr("hunter2hunter2").get_secret_value()).info("x")

def test_leaks_to_a_file(tmp_path):
    (tmp_path / "config.toml").write_text("[[provider]]\\ntoken = 'of-the-file'\\n")
    (tmp_path / "bridge.log").write_text('{"event":"x"}\\n{"event":"y","text":"of-the-file"}\\n')

def test_leaks_a_variable(tmp_path):
    watch.plant_variables({"SMTP_BRIDGE_PROVIDER__API_KEY": "of-a-variable"})
    (tmp_path / "stderr").write_text("Traceback: of-a-variable")

def test_leaks_in_a_library():
    logging.getLogger("library").warning(f"{BODY}")

def test_clean(tmp_path):
    secret = SecretStr("hunter2hunter2")
    log.info("x", secret=secret, more={"a": secret}, exc_info=ValueError(BODY))
    (tmp_path / "stderr").write_text("started")
"""


def test_a_test_that_leaks_fails_and_no_other_does(tmp_path: Path) -> None:
    (tmp_path / "test_sample.py").write_text(LEAKS)
    command = (sys.executable, "-m", "pytest", "-q", "-p", "tests.leaks", "-p", "no:cacheprovider", "-c", "/dev/null")

    done = subprocess.run(
        [*command, "--rootdir", str(tmp_path), str(tmp_path)], capture_output=True, text=True, cwd=ROOT, timeout=60
    )

    assert done.returncode == 1, done.stdout
    failed = set(re.findall(r"^ERROR .*::(test_\w+)", done.stdout, re.MULTILINE))
    assert failed == {name for name in re.findall(r"def (test_\w+)", LEAKS) if "leaks" in name}
    assert "7 passed, 6 errors" in done.stdout


@pytest.mark.parametrize("before", [b"", b"a", b"ab", b"abc", b"\0printer\0"])
def test_a_secret_is_found_in_base64_wherever_it_stands(before: bytes) -> None:
    watch = Watch()
    watch.plant("correct horse")

    watch.look(f"AUTH PLAIN {base64.b64encode(before + b'correct horse' + b' and more').decode()}", "here")
    assert len(watch.found) == 1


def test_what_is_short_or_an_address_is_no_secret() -> None:
    watch = Watch()
    for text in ("", "key", "sqlite:////var/lib/x.db", "https://example.com/hook"):
        watch.plant(text)

    assert watch.secrets == set()
