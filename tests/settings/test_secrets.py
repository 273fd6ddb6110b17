"""Secrets come from files too, and appear nowhere: not in an error, not in what is shown of the settings."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bridge.config.load import SettingsError
from bridge.config.show import masked
from bridge.config.warnings import hidden_from_the_unit
from bridge.config.wording import describe
from tests.settings.conftest import CAPTURE, REST, Folder

BEARER = REST + "auth = 'bearer'\n"
SECRET = "S3cr3t-value"


def token(folder: Folder, text: str | None = BEARER + "token_file = 'token'\n", **variables: str) -> str:
    provider = folder.load(text, **variables).provider[0]
    return str(getattr(provider, "token").get_secret_value())  # noqa: B009


def test_a_secret_file_is_looked_up_beside_the_settings_file(folder: Folder) -> None:
    folder.write("etc/config.toml", BEARER + "token_file = 'token'\n")
    folder.write("etc/token", SECRET)
    folder.write("token", "of the working directory")

    assert token(folder, None) == SECRET


def test_a_secret_file_is_looked_up_in_the_credentials_directory_first(folder: Folder) -> None:
    folder.write("token", "beside")
    folder.write("credentials/token", SECRET)
    directory = str(folder.path / "credentials")

    assert token(folder, CREDENTIALS_DIRECTORY=directory) == SECRET
    (folder.path / "credentials/token").unlink()
    assert token(folder, CREDENTIALS_DIRECTORY=directory) == "beside"


def test_a_file_of_a_directory_of_credentials_has_one_name_inside_the_service_and_outside(folder: Folder) -> None:
    # systemd.exec(5): LoadCredential=secrets:/etc/smtp-bridge/secrets makes the file `api` in it the credential `secrets_api`.
    text = BEARER + "token_file = 'secrets/api'\n"
    folder.write("secrets/api", "outside")
    folder.write("credentials/secrets_api", SECRET)

    assert token(folder, text, CREDENTIALS_DIRECTORY=str(folder.path / "credentials")) == SECRET
    assert token(folder, text) == "outside"


def test_keys_and_certificates_are_looked_up_in_the_credentials_directory_first(folder: Folder) -> None:
    # LoadCredential= is how a service gets a private key that only root may read.
    for name in ("cert.pem", "key.pem", "ca.pem"):
        folder.write(f"credentials/{name}", "PEM")
    folder.write("ca.pem", "PEM")
    text = REST + "ca_file = 'ca.pem'\n[tls]\ncert_file = 'cert.pem'\nkey_file = 'key.pem'\n"

    settings = folder.load(text, CREDENTIALS_DIRECTORY=str(folder.path / "credentials"))

    credentials = folder.path / "credentials"
    assert settings.tls.cert_file == str(credentials / "cert.pem")
    assert settings.tls.key_file == str(credentials / "key.pem")
    assert masked(settings)["provider"][0]["ca_file"] == str(credentials / "ca.pem")
    assert folder.problems(text) == [
        "config.toml line 6: tls.cert_file: cert.pem cannot be read: No such file or directory",
        "config.toml line 7: tls.key_file: key.pem cannot be read: No such file or directory",
    ]


def test_a_secret_file_named_in_full_is_not_looked_up(folder: Folder) -> None:
    path = folder.write("elsewhere/token", SECRET)

    assert token(folder, BEARER + f"token_file = '{path}'\n", CREDENTIALS_DIRECTORY=str(folder.path)) == SECRET


def test_a_secret_file_in_a_variable_is_relative_to_the_working_directory(folder: Folder) -> None:
    folder.write("etc/config.toml", BEARER)
    folder.write("token", SECRET)

    assert token(folder, None, PROVIDER__TOKEN_FILE="token") == SECRET


@pytest.mark.parametrize("content", [SECRET, f"{SECRET}\n", f"{SECRET}\r\n", f"\ufeff{SECRET}\n"])
def test_the_line_end_that_an_editor_leaves_is_no_part_of_a_secret(folder: Folder, content: str) -> None:
    folder.write("token", content)

    assert token(folder) == SECRET


def test_blanks_are_part_of_a_secret(folder: Folder) -> None:
    folder.write("token", " a b \n")

    assert token(folder) == " a b "


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("", "token is empty"),
        ("\n", "token is empty"),
        (b"\xff\xfe", "token is not UTF-8 text"),
        ("x" * 70000, "token is too large to be a secret"),
    ],
)
def test_a_secret_file_of_no_use_is_one_line(folder: Folder, content: str | bytes, line: str) -> None:
    folder.write("token", content)

    assert folder.problems(BEARER + "token_file = 'token'\n") == [f"config.toml line 5: provider.token_file: {line}"]


def test_a_secret_over_several_lines_is_refused(folder: Folder) -> None:
    folder.write("token", "one\ntwo\n")

    assert folder.problems(BEARER + "token_file = 'token'\n") == [
        "config.toml line 1: provider.token: holds a control character or more than one line"
    ]


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("/nowhere/token", "/nowhere/token cannot be read: No such file or directory"),
        ("\\u0000", "not the name of a file"),
        ("credentials", "credentials cannot be read: Is a directory"),
    ],
)
def test_a_secret_file_that_cannot_be_read_is_one_line(folder: Folder, name: str, line: str) -> None:
    (folder.path / "credentials").mkdir()

    assert folder.problems(BEARER + f'token_file = "{name}"\n') == [f"config.toml line 5: provider.token_file: {line}"]


@pytest.mark.parametrize("secret", [SECRET, SECRET * 50, "a/b.c"])
def test_a_secret_given_as_the_name_of_its_file_is_not_shown(folder: Folder, secret: str) -> None:
    (problem,) = folder.problems(BEARER + f"token_file = '{secret}'\n", CREDENTIALS_DIRECTORY="/nowhere")

    assert problem.startswith("config.toml line 5: provider.token_file: no such file in ")
    assert secret not in problem


@pytest.mark.parametrize("key", ["token_file = 5", "token_file = ['a']"])
def test_the_name_of_a_secret_file_is_text(folder: Folder, key: str) -> None:
    assert "config.toml line 5: provider.token_file: must be text in quotes: the name of a file" in folder.problems(
        f"{BEARER}{key}\n"
    )


def test_a_secret_and_its_file_are_not_both_given(folder: Folder) -> None:
    folder.write("token", SECRET)
    text = BEARER + f"token = '{SECRET}'\ntoken_file = 'token'\n"

    assert folder.problems(text) == [
        "config.toml line 6: provider.token_file: 'token' is given too (config.toml line 5); give one of them"
    ]
    assert folder.problems(BEARER + f"token = '{SECRET}'\n", PROVIDER__TOKEN_FILE="token") == [
        "SMTP_BRIDGE_PROVIDER__TOKEN_FILE: provider.token_file: 'token' is given too (config.toml line 5); give one of them"
    ]


def test_an_empty_name_of_a_secret_file_is_none(folder: Folder) -> None:
    assert token(folder, BEARER + f"token_file = ''\ntoken = '{SECRET}'\n") == SECRET


@pytest.mark.parametrize("name", ["password", "password_hash"])
def test_an_unreadable_file_is_not_told_as_a_wrong_secret_too(folder: Folder, name: str) -> None:
    problems = folder.problems(f"{CAPTURE}[user]\nname = 'a'\n{name}_file = '/nowhere/x'\n")

    assert problems == [f"config.toml line 5: user.{name}_file: /nowhere/x cannot be read: No such file or directory"]


def test_every_secret_may_come_from_a_file(folder: Folder, secret_hash: str) -> None:
    for name, content in {"hash": secret_hash, "url": "sqlite:////a/b.db", "proxy": "http://u:p@proxy:3128"}.items():
        folder.write(name, content + "\n")
    text = REST + "auth = 'basic'\nusername = 'u'\npassword_file = 'hash'\nproxy_file = 'proxy'\n"
    settings = folder.load(text + "[user]\nname = 'ann'\npassword_hash_file = 'hash'\n[spool]\nurl_file = 'url'\n")
    shown = masked(settings)

    assert settings.user[0].password_hash.get_secret_value() == secret_hash
    assert str(settings.spool_path) == "/a/b.db"
    assert shown["provider"][0]["password"] == "********"
    assert shown["provider"][0]["proxy"] == "http://********@proxy:3128"


# --- nothing of a secret is shown

GOOD = f"""
[[provider]]
kind = "rest"
url = "https://api.example/send?key={SECRET}"
auth = "basic"
username = "u"
password = "{SECRET}"
headers = {{ X-Api-Key = "{SECRET}" }}
body = {{ api_key = "{SECRET}", nested = [{{ key = "{SECRET}" }}], to = "{{to}}", text = "{{text}}" }}
proxy = "http://user:{SECRET}@proxy.example:3128/?k={SECRET}"
[[user]]
name = "ann"
password = "{SECRET}"
[alert]
webhook = "https://hooks.example:8443/services/{SECRET}"
[bounce]
webhook = "https://hooks.example/?{SECRET}"
"""


def test_no_secret_is_seen_in_good_settings(folder: Folder) -> None:
    settings = folder.load(GOOD)
    provider = settings.provider[0]
    seen = [
        repr(settings),
        str(settings),
        repr(provider),
        str(provider),
        f"{settings.user!r}",
        str(masked(settings)),
        str(settings.model_dump()),
        settings.model_dump_json(),
        str(settings.model_dump(mode="json")),
    ]

    assert [text for text in seen if SECRET in text] == []
    assert masked(settings)["provider"][0]["url"] == "https://api.example/send?********"
    assert masked(settings)["provider"][0]["proxy"] == "http://********@proxy.example:3128/?********"
    assert masked(settings)["alert"]["webhook"] == "https://hooks.example:8443/********"
    assert masked(settings)["events"]["webhook"] == ""


WRONG_PLACES = [
    f"[[provider]]\nkind = '{SECRET}'\n",
    f"[[provider]]\nkind = 'sendgrid'\napi_ky = '{SECRET}'\n",
    *(
        f"{REST}{key} = '{SECRET}\u2100 {SECRET}'\n"
        for key in (
            "name",
            "region",
            "rate",
            "concurrency",
            "timeout",
            "on_unknown",
            "max_unknown",
            "method",
            "shape",
            "body",
            "content_type",
            "auth",
            "token",
            "password",
            "header",
            "id",
            "idempotency_header",
            "idempotent",
            "headers",
            "max_size",
            "keepalive",
            "proxy",
            "allow_http",
            "outcome",
            "tokn",
            "password_file",
        )
    ),
    f"{REST}token = '{SECRET}'\n",
    f"{REST}token = '{SECRET}\\n'\nheaders = {{ X = 5, Y = '{SECRET}' }}\n",
    f"{REST}headers = ['{SECRET}']\nbody = ['{SECRET}']\n",
    f"{REST}body = {{ a = '{SECRET}{{', b = '{{tooo}}{SECRET}' }}\n",
    f"{REST}body = {{ a = '{{{SECRET}}}', to = '{{to}}', text = '{{text}}' }}\n",
    f"[[provider]]\nkind = 'rest'\nurl = 'https://u:{SECRET}@api.example/'\n",
    f"[[provider]]\nkind = 'rest'\nurl = 'https://u:{SECRET}\u2100@api.example/'\n",
    f"{REST}proxy = 'socks5://u:{SECRET}@p/'\n",
    f"{REST}proxy = 'http://u:{SECRET}\u2100@p/'\n",
    *(
        f"{CAPTURE}[{table}]\n{key} = '{SECRET} {SECRET}'\n"
        for table, key in (
            ("smtp", "hostname"),
            ("smtp", "timeout"),
            ("smtp", "max_hops"),
            ("smtp", "max_message_size"),
            ("smtp", "listener"),
            ("smtp.listener", "address"),
            ("smtp.listener", "tls"),
            ("smtp.listener", "allowed_networks"),
            ("smtp.listener", "auth_mechanisms"),
            ("user", "name"),
            ("user", "password_hash"),
            ("user", "senders"),
            ("user", "rate"),
            ("relay", "mode"),
            ("relay", "from"),
            ("spool", "url"),
            ("retry", "factor"),
            ("bounce", "postmaster"),
            ("bounce", "webhook"),
            ("http", "address"),
            ("workers", "count"),
            ("log", "level"),
            ("relay", "rewrite"),
        )
    ),
    f"{CAPTURE}[spool]\nurl = 'postgresql://u:{SECRET}@h/d'\n",
    f"{CAPTURE}[spool]\nurl = 'mysql://u:{SECRET}\u2100@h/d'\n",
    f"{CAPTURE}[spool]\nurl = 'sqlite://u:{SECRET}@/a.db'\n",
    f"{CAPTURE}token = {SECRET}\n",
    f"{CAPTURE}token = '{SECRET}\n",
    f'{CAPTURE}token = "\\q{SECRET}"\n',
    f"smtp = '{SECRET}'\nprovider = '{SECRET}'\n",
]


@pytest.mark.parametrize("text", WRONG_PLACES)
def test_no_secret_is_seen_in_an_error(folder: Folder, text: str) -> None:
    with pytest.raises(SettingsError) as caught:
        folder.load(text)

    error: BaseException | None = caught.value
    while error is not None:
        assert SECRET not in f"{error} {error!r} {error.args}"
        error = error.__cause__ or error.__context__


@pytest.mark.parametrize(
    "name",
    [
        "PROVIDER",
        "PROVIDER__TOKN",
        "PROVIDER__HEADERS",
        "PROVIDER__BODY",
        "PROVIDER__TOKEN_FILE",
        "SMTP",
        "PROVIDER__TIMEOUT",
        "X",
        "CONFIG",
    ],
)
@pytest.mark.parametrize("value", [SECRET, f'{{"a": "{SECRET}', f'[{{"kind": "{SECRET}"}}]'])
def test_no_secret_in_a_variable_is_seen_in_an_error(folder: Folder, name: str, value: str) -> None:
    problems = folder.problems(None if name == "CONFIG" else REST, **{name: value})

    assert problems
    # What is named as the settings file is taken to be a name.
    assert name == "CONFIG" or [line for line in problems if SECRET in line] == []


def test_what_the_library_finds_and_we_have_no_word_for_is_told_without_the_value() -> None:
    assert (
        describe({"type": "new_in_a_later_version", "msg": SECRET}, tables=False)
        == "is not a value that may stand here"
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="root alone reads what is nobody else's")
def test_a_secret_that_root_reads_and_the_service_cannot_is_named(folder: Folder) -> None:
    unit = folder.write("smtp-bridge.service", "")
    inside, outside = folder.write("secrets/api", SECRET), folder.write("api.key", SECRET)
    inside.chmod(0o600)

    def told(name: str, mode: int, *units: Path) -> list[str]:
        outside.chmod(mode)
        files = folder.load(BEARER + f"token_file = '{name}'\n").files
        return list(hidden_from_the_unit(files, folder.path / "secrets", units))

    (text,) = told("api.key", 0o600, unit)
    assert text.startswith(f"provider.token_file: {outside} ")
    assert text.endswith(f"put it into {folder.path}/secrets")
    assert told("secrets/api", 0o600, unit) == []
    assert told("api.key", 0o644, unit) == []
    assert told("api.key", 0o600, folder.path / "none.service") == []
