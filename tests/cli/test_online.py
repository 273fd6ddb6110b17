"""`smtp-bridge check --online`: asks each provider, sends nothing."""

from __future__ import annotations

from pathlib import Path

import orjson

from tests.cli.conftest import KEY, invoke, sandbox

NO_STATE = {"SMTP_BRIDGE_SMTP__LISTENER__ADDRESS": "127.0.0.1:0"}


def write(directory: Path, *providers: str) -> str:
    path = directory / "bridge.toml"
    path.write_text("".join(f"[[provider]]\n{provider}\n" for provider in providers))
    return str(path)


def sendgrid(url: str, key: str = KEY, name: str = "main") -> str:
    return f'name = "{name}"\nkind = "sendgrid"\nurl = "{url}/sendgrid"\napi_key = "{key}"'


def test_good_credentials_are_told_and_no_mail_is_sent(tmp_path: Path) -> None:
    with sandbox(tmp_path) as url:
        done = invoke(tmp_path, "check", "--online", "--config", write(tmp_path, sendgrid(url)), **NO_STATE)

    assert (done.returncode, done.stdout) == (0, "main (sendgrid): ok: the credentials are accepted\n")


def test_a_wrong_key_is_named_and_the_status_is_77(tmp_path: Path) -> None:
    with sandbox(tmp_path) as url:
        config = write(tmp_path, sendgrid(url), sendgrid(url, "wrong-key", "second"))
        done = invoke(tmp_path, "check", "--online", "--json", "--config", config, **NO_STATE)

    first, second = orjson.loads(done.stdout)
    assert (done.returncode, first["ok"], second["ok"]) == (77, True, False)
    assert "wrong-key" not in done.stdout


def test_a_provider_that_cannot_be_reached_is_not_ok(tmp_path: Path) -> None:
    config = write(tmp_path, sendgrid("http://127.0.0.1:1") + '\ntimeout = "2s"')
    done = invoke(tmp_path, "check", "--online", "--config", config, **NO_STATE)

    assert done.returncode == 77


def test_an_api_without_such_a_call_is_not_known_and_no_failure(tmp_path: Path) -> None:
    with sandbox(tmp_path) as url:
        provider = f'kind = "mailtrap"\nurl = "{url}/mailtrap"\napi_key = "{KEY}"'
        done = invoke(tmp_path, "check", "--online", "--config", write(tmp_path, provider), **NO_STATE)

    assert done.returncode == 0
    assert done.stdout.startswith("mailtrap (mailtrap): not known: this API has no call")


def test_what_goes_nowhere_is_not_asked(tmp_path: Path) -> None:
    done = invoke(tmp_path, "check", "--online", "--config", write(tmp_path, 'kind = "capture"'), **NO_STATE)

    assert done.returncode == 0
    assert "capture" in done.stdout
