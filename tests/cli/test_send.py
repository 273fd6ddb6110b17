"""`smtp-bridge send` against a real daemon."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest

from bridge.cli.send import Draft
from bridge.smtp.auth import hash_password
from tests.cli.conftest import bridge, invoke, sandbox, to_sandbox


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    directory = tmp_path_factory.mktemp("send")
    more = {
        "SMTP_BRIDGE_RELAY__MODE": "queue",
        "SMTP_BRIDGE_USER__NAME": "ann",
        "SMTP_BRIDGE_USER__PASSWORD_HASH": hash_password("secret"),
    }
    with sandbox(directory) as url, bridge(directory, **to_sandbox(url), **more) as (_, port):
        yield directory, f"127.0.0.1:{port}"


def test_the_reply_and_what_became_of_it_are_printed(place: tuple[Path, str]) -> None:
    directory, address = place
    (directory / "a.txt").write_text("attached")
    done = invoke(
        directory, "send", "--from", "Me <me@example.com>", "--to", "ann@example.com", "--server", address, "--wait", "5",
        "--html", "<b>x</b>", "--attach", "a.txt", "--header", "X-Bridge-Tag: t", "--json",
    )  # fmt: skip
    told = orjson.loads(done.stdout)
    shown = invoke(directory, "queue", "show", told["queue_id"]).stdout

    assert (done.returncode, told["reply"][:16]) == (0, "250 2.0.0 Ok: qu")
    assert [(one["address"], one["status"]) for one in told["recipients"]] == [("ann@example.com", "sent")]
    assert "A test of smtp-bridge" in shown


def test_the_listener_is_that_of_the_settings_beside_it(place: tuple[Path, str], tmp_path: Path) -> None:
    _, address = place
    (tmp_path / "config.toml").write_text(f'[[smtp.listener]]\naddress = "{address}"\n')

    done = invoke(tmp_path, "send", "--from", "me@example.com", "--to", "ann@example.com")

    assert (done.returncode, done.stdout[:16]) == (0, "250 2.0.0 Ok: qu")


def test_a_draft_has_all_that_was_given(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("attached")
    draft = Draft(
        sender="Me <me@example.com>", to=["ann@example.com"], subject="x", text="t", html="<b>x</b>",
        headers=["X-Bridge-Tag: t", "Subject: other"], attach=[tmp_path / "a.txt"],
    )  # fmt: skip
    content = draft.message().as_string()

    parts = ("X-Bridge-Tag: t", "<b>x</b>", 'filename="a.txt"', "From: Me <me@example.com>", "Subject: other")
    assert [part for part in parts if part not in content] == []


def test_verbose_shows_the_dialogue_over_tls_with_a_login_and_no_password(place: tuple[Path, str]) -> None:
    directory, address = place
    done = invoke(
        directory, "send", "--from", "me@example.com", "--to", "ann@example.com", "--server", address, "--tls", "starttls",
        "--user", "ann", "--password-file", "-", "-v", given="secret\n",
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert ">>> STARTTLS\n" in done.stdout
    assert ">>> AUTH PLAIN ********\n" in done.stdout
    assert "AGFubgBzZWNyZXQ" not in done.stdout
    assert "queue show" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (("--header", "no colon"), 2),
        (("--attach", "missing.pdf"), 65),
        (("--user", "ann", "--password-file", "-", "--tls", "implicit"), 75),
        (("--server", "127.0.0.1:1"), 75),
    ],
)
def test_what_goes_wrong_is_one_line(place: tuple[Path, str], arguments: tuple[str, ...], status: int) -> None:
    directory, address = place
    done = invoke(
        directory,
        "send",
        "--from",
        "a@example.com",
        "--to",
        "b@example.com",
        "--server",
        address,
        *arguments,
        given="x",
    )

    assert (done.returncode, done.stderr.count("\n")) == (status, 1), done.stderr
