"""The watch over the logs of all tests can fail."""

from __future__ import annotations

import base64
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.leaks import Watch

ROOT = Path(__file__).parent.parent

SHARED = """
import pytest
from pydantic import SecretStr

@pytest.fixture(scope="session")
def of_all():
    return SecretStr("of-the-session-1")
"""

LEAKS = """
import logging
import subprocess
import sys
import pytest
import structlog
from pydantic import SecretStr
from tests.leaks import BODY, watch

log = structlog.get_logger()

def write(path, text, mode="w"):
    path.parent.mkdir(exist_ok=True)
    with path.open(mode) as file:
        file.write(text)

@pytest.fixture(scope="module")
def of_file():
    return SecretStr("of-the-module-1")

@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("wide")

def test_leaks_a_secret_of_the_settings():
    log.debug("x", text=f"asked with {SecretStr('hunter2hunter2').get_secret_value()}")

def test_leaks_a_body():
    log.info("x", detail=["a", {"text": BODY}])

def test_leaks_what_was_bound():
    log.bind(token=SecretStr("hunter3hunter3").get_secret_value()).info("x")

def test_leaks_what_a_repr_changes():
    log.info("x", facts=[SecretStr("it's a \\"secret\\"").get_secret_value()])

def test_leaks_to_a_file(tmp_path):
    write(tmp_path / "config.toml", "[[provider]]\\ntoken = 'of-the-file'\\n")
    write(tmp_path / "bridge.log", '{"event":"x"}\\n{"event":"y","text":"of-the-file"}\\n')

def test_leaks_below_its_directory(tmp_path):
    watch.plant("hunter4hunter4")
    write(tmp_path / "old" / "stderr", "hunter4hunter4")

@pytest.mark.parametrize("name", ["log", "stdout", "capture.log"])
def test_leaks_to_a_file_of_another_name(tmp_path, name):
    watch.plant("hunter5hunter5")
    write(tmp_path / name, "hunter5hunter5")

def test_leaks_to_a_directory_of_the_module(place):
    watch.plant("hunter6hunter6")
    write(place / "stderr", "hunter6hunter6\\n")

def test_is_not_blamed_for_what_one_before_it_wrote(place):
    write(place / "stderr", "more, hunter7", mode="a")

def test_leaks_the_rest_of_a_line(place):
    watch.plant("hunter7hunter7")
    write(place / "stderr", "hunter7\\n", mode="a")

def test_leaks_to_a_log_that_began_anew(place):
    watch.plant("hunter8hunter8")
    write(place / "stderr", "hunter8hunter8")

def test_leaks_a_variable(tmp_path):
    watch.plant_variables({"SMTP_BRIDGE_PROVIDER__API_KEY": "of-a-variable"})
    write(tmp_path / "stderr", "Traceback: of-a-variable")

def test_leaks_a_file_that_a_variable_names(tmp_path):
    write(tmp_path / "key", "in-a-file-1\\n")
    watch.plant_variables({"SMTP_BRIDGE_PROVIDER__API_KEY_FILE": "key"}, tmp_path)
    write(tmp_path / "stderr", "in-a-file-1")

def test_leaks_a_file_that_settings_name(tmp_path):
    write(tmp_path / "config.toml", "[provider]\\napi_key_file = 'key'\\n")
    write(tmp_path / "key", "in-a-file-2\\n")
    write(tmp_path / "stderr", "in-a-file-2")

def test_leaks_a_line_of_a_private_key(tmp_path):
    write(tmp_path / "config.toml", "[tls]\\nkey_file = 'pem'\\n")
    write(tmp_path / "pem", "-----BEGIN PRIVATE KEY-----\\nMIG2AgEA" + "a1B2" * 14 + "\\n-----END PRIVATE KEY-----\\n")
    write(tmp_path / "stderr", "bad: MIG2AgEA" + "a1B2" * 14)

@pytest.mark.parametrize("quoted", ["u:correct-horse@", "correct-horse", "/services/T00/B00/XYZ", "b4ttery-st4ple"])
def test_leaks_a_part_of_an_address(quoted):
    SecretStr("https://u:correct-horse@hooks.example/services/T00/B00/XYZ?key=b4ttery-st4ple")
    log.info("x", text=f"cannot reach {quoted}")

def test_leaks_a_login_of_an_address_in_a_variable(tmp_path):
    watch.plant_variables({"SMTP_BRIDGE_PROVIDER__PROXY": "http://u:of-the-proxy@proxy.example/path-of-proxy"})
    write(tmp_path / "stderr", "http://u:of-the-proxy@proxy.example")

@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_leaks_what_a_command_wrote(stream):
    watch.plant("hunter9hunter9")
    code = f"import sys; sys.{stream}.write('hunter9' * 2)"
    subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)

def test_leaks_what_a_command_wrote_where_pytest_catches_it():
    watch.plant("hunter0hunter0")
    subprocess.run([sys.executable, "-c", "import sys; sys.stderr.write('hunter0' * 2)"], check=True)

def test_leaks_what_shows_secrets_where_it_should_not():
    watch.plant("key-that-is-new")
    subprocess.CompletedProcess(["smtp-bridge", "new-key"], 0, "", "key-that-is-new")

def test_makes_secrets_of_wider_fixtures(of_file, of_all):
    pass

def test_leaks_a_secret_of_the_module(of_file):
    log.info("x", text=of_file.get_secret_value())

def test_leaks_in_a_library():
    logging.getLogger("library").warning(f"{BODY}")

def test_clean(tmp_path):
    secret = SecretStr("hunter2hunter2")
    log.info("x", secret=secret, more={"a": secret}, exc_info=ValueError(BODY))
    write(tmp_path / "stderr", "started at http://proxy.example/path-of-proxy")
    write(tmp_path / "mail.eml", BODY)
    subprocess.CompletedProcess(["smtp-bridge", "new-key"], 0, "key-that-is-new", "")
"""

LATER = """
import pytest
import structlog

@pytest.fixture(scope="module")
def daemon(tmp_path_factory):
    directory = tmp_path_factory.mktemp("daemon")
    yield
    (directory / "stderr").write_text("stopped: PLANTED")

def test_clean_of_what_was_secret_in_another_file():
    structlog.get_logger().info("x", text="hunter2hunter2")

def test_leaks_a_secret_of_the_session(of_all):
    structlog.get_logger().info("x", text=of_all.get_secret_value())

def test_leaks_as_the_daemon_of_the_module_ends(daemon):
    pass
"""


def test_a_test_that_leaks_fails_and_no_other_does(tmp_path: Path) -> None:
    for name, text in (("conftest.py", SHARED), ("test_a.py", LEAKS), ("test_b.py", LATER)):
        (tmp_path / name).write_text(text)
    command = (sys.executable, "-m", "pytest", "-q", "-p", "tests.leaks", "-p", "no:cacheprovider", "-c", "/dev/null")
    told = tmp_path / "told"  # and not to this process, which is watched itself

    with told.open("w") as out:
        done = subprocess.run(
            [*command, "--rootdir", str(tmp_path), "--basetemp", str(tmp_path / "base"), str(tmp_path)],
            stdout=out, stderr=out, cwd=ROOT, timeout=60,
        )  # fmt: skip
    text = told.read_text()
    shutil.rmtree(tmp_path / "base")  # whose logs do leak

    assert done.returncode == 1, text
    failed = re.findall(r"^ERROR .*::(test_\w+)", text, re.MULTILINE)
    assert set(failed) == {name for name in re.findall(r"def (test_\w+)", LEAKS + LATER) if "_leaks_" in name}, text
    assert re.search(rf"{len(failed) + 4} passed, {len(failed)} errors", text), text


@pytest.mark.parametrize("before", [b"", b"a", b"ab", b"abc", b"\0printer\0"])
def test_a_secret_is_found_in_base64_wherever_it_stands(before: bytes) -> None:
    watch = Watch()
    watch.plant("correct horse")

    watch.look(f"AUTH PLAIN {base64.b64encode(before + b'correct horse' + b' and more').decode()}", "here")
    assert len(watch.found) == 1


@pytest.mark.parametrize("at", range(12))
def test_a_secret_is_found_wherever_it_stands_in_a_text(at: int) -> None:
    watch = Watch()
    watch.plant("secret-1")
    watch.plant("secret-2 and more")
    watch.look(f"{'s' * at}secret-1{'s' * at}\n{'-' * at}secret-2 and\n", "here")

    assert watch.found == [f"here: {'s' * at}secret-1{'s' * at}"]


def test_what_is_short_common_or_the_public_part_of_an_address_is_no_secret() -> None:
    watch = Watch()
    for text in ("", "key", "password", "xxxxxxxxxxxx", "sqlite:////var/lib/x.db", "https://example.com/hook"):
        watch.plant(text)

    assert watch.secrets == set()
