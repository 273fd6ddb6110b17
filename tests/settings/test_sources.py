"""Where settings come from: the file that is found, the environment over it, one table or an array of them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bridge.config import machine
from bridge.config.environ import variables
from bridge.config.load import load_settings
from bridge.config.machine import clean_hostname, state_directory
from tests.settings.conftest import CAPTURE, REST, Folder


def named(name: str) -> str:
    return f'[smtp]\nhostname = "{name}"\n{CAPTURE}'


def test_the_file_is_the_first_of_option_variable_local_and_system(folder: Folder) -> None:
    folder.write("etc/config.toml", named("system"))
    assert folder.load().smtp.hostname == "system"
    folder.write("config.toml", named("local"))
    assert folder.load().smtp.hostname == "local"
    folder.write("variable.toml", named("variable"))
    assert folder.load(CONFIG="variable.toml").smtp.hostname == "variable"
    option = folder.write("option.toml", named("option"))

    found = folder.load(config="option.toml", CONFIG="variable.toml")
    assert (found.smtp.hostname, found.source) == ("option", str(option))


def test_a_file_that_was_named_must_be_there(folder: Folder) -> None:
    folder.write("config.toml", CAPTURE)

    assert folder.problems(config="other.toml") == ["--config other.toml: cannot be read: No such file or directory"]
    assert folder.problems(CONFIG="other.toml") == [
        "SMTP_BRIDGE_CONFIG other.toml: cannot be read: No such file or directory"
    ]


def test_a_file_that_cannot_be_read_is_an_error_and_not_the_next_one_down(folder: Folder) -> None:
    folder.write("etc/config.toml", CAPTURE)
    (folder.path / "config.toml").mkdir()

    assert folder.problems() == ["config.toml: cannot be read: Is a directory"]


def test_no_settings_at_all_capture_and_say_so(folder: Folder) -> None:
    settings = folder.load(SERVICE_HOST="10.0.0.1", CONFIG="")

    assert settings.implicit_capture
    assert [provider.kind for provider in settings.provider] == ["capture"]
    assert str(settings.http.address) == "127.0.0.1:8025"
    assert settings.source == ""
    assert not folder.load(PROVIDER__KIND="capture").implicit_capture


@pytest.mark.parametrize("text", ["", "# all commented out\n", '[log]\nlevel = "debug"\n'])
def test_settings_without_a_provider_are_an_error(folder: Folder, text: str) -> None:
    (problem,) = folder.problems(text)

    assert problem == "config.toml: provider: is missing: add a [[provider]] table, or mail would have nowhere to go"


def test_variables_without_a_provider_are_an_error(folder: Folder) -> None:
    (problem,) = folder.problems(LOG__LEVEL="debug")

    assert problem.startswith("the environment: provider: is missing")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[smtp]\nhostname = \n", "config.toml line 2: not valid TOML: Invalid value"),
        ("a = 1\n\n\na = 2\n", "config.toml line 4: not valid TOML: Cannot overwrite a value"),
        ("a = 1" + "1" * 5000, "config.toml: not valid TOML: a number is too long"),
        (b"a = 1\nb = '\xff'\n", "config.toml line 2: not UTF-8 text"),
    ],
)
def test_a_broken_file_is_named_with_its_line(folder: Folder, text: str | bytes, line: str) -> None:
    folder.write("config.toml", text)

    assert folder.problems() == [line]


def test_a_file_from_windows_is_read(folder: Folder) -> None:
    folder.write("config.toml", b"\xef\xbb\xbf" + named("mail.example").replace("\n", "\r\n").encode())

    assert folder.load().smtp.hostname == "mail.example"


def test_variables_go_over_the_file(folder: Folder) -> None:
    settings = folder.load(
        named("file") + "name = 'kept'\n", SMTP__HOSTNAME="variable", PROVIDER__TIMEOUT="5s", RELAY__DEGRADE="true"
    )

    assert (settings.smtp.hostname, settings.provider[0].name) == ("variable", "kept")
    assert (settings.provider[0].timeout, settings.relay.degrade) == (5.0, True)


@pytest.mark.parametrize("service", ["SMTP_BRIDGE", "SMTP_BRIDGE_RELAY", "SMTP_BRIDGE_HTTP_2"])
def test_variables_that_kubernetes_injects_are_skipped(service: str) -> None:
    injected = {
        "SERVICE_HOST": "10.0.0.1",
        "SERVICE_PORT": "25",
        "SERVICE_PORT_SMTP": "25",
        "PORT": "tcp://10.0.0.1:25",
        "PORT_25_TCP": "tcp://10.0.0.1:25",
        "PORT_25_TCP_PROTO": "tcp",
        "PORT_25_TCP_PORT": "25",
        "PORT_25_TCP_ADDR": "10.0.0.1",
        "PORT_53_UDP": "udp://[fd00::1]:53",
        "PORT_53_UDP_ADDR": "fd00::1",
    }

    assert variables({f"{service}_{name}": value for name, value in injected.items()}) == {}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "2526"),
        ("PORTS", "tcp://10.0.0.1:25"),
        ("SERVICE", "10.0.0.1"),
        ("SMTP_PORT", "2526"),
        ("SERVICE_HOST", "mail.example.com"),
        ("PROVIDER__PORT", "tcp://10.0.0.1:25"),
    ],
)
def test_what_only_looks_like_them_is_no_setting_that_is_passed_over(folder: Folder, name: str, value: str) -> None:
    problems = folder.problems(PROVIDER__KIND="capture", **{name: value})

    assert any(f"SMTP_BRIDGE_{name}" in problem for problem in problems)


USER = {"name": "ann", "password": "secret"}
ONE_OF_EACH = [
    ("provider", "[provider]", "[[provider]]", '{"kind": "capture"}'),
    ("user", "[user]", "[[user]]", '{"name": "ann", "password": "x"}'),
    ("smtp.listener", "[smtp.listener]", "[[smtp.listener]]", '{"address": ":2526"}'),
]
KEYS = {
    "provider": "kind = 'capture'\n",
    "user": "name = 'ann'\npassword = 'x'\n",
    "smtp.listener": "address = ':2526'\n",
}


@pytest.mark.parametrize(("table", "single", "array", "json"), ONE_OF_EACH)
def test_one_table_an_array_and_json_come_to_the_same(
    folder: Folder, table: str, single: str, array: str, json: str
) -> None:
    rest = "" if table == "provider" else CAPTURE
    one = folder.load(f"{single}\n{KEYS[table]}{rest}")
    many = folder.load(f"{array}\n{KEYS[table]}{rest}")
    name = table.replace(".", "__").upper()

    assert one == many
    assert folder.load(rest, **{name: json}) == one
    assert folder.load(rest, **{name: f"[{json}]"}) == one


@pytest.mark.parametrize(
    ("table", "key", "value"),
    [("PROVIDER", "KIND", "capture"), ("USER", "NAME", "ann"), ("SMTP__LISTENER", "ADDRESS", ":2526")],
)
def test_one_of_each_fits_in_variables(folder: Folder, table: str, key: str, value: str) -> None:
    variables = {f"{table}__{key}": value, "PROVIDER__KIND": "capture", "USER__NAME": "ann", "USER__PASSWORD": "x"}
    settings = folder.load(None, **variables)

    assert (settings.provider[0].kind, settings.user[0].name) == ("capture", "ann")
    assert settings.smtp.listener[0].address.port == (2526 if table == "SMTP__LISTENER" else 2525)


def test_a_key_of_the_http_side_fits_in_variables(folder: Folder) -> None:
    key_hash = "sha256$" + "0" * 64
    settings = folder.load(CAPTURE, HTTP__KEY__NAME="shop", HTTP__KEY__KEY_HASH=key_hash, HTTP__KEY__SCOPES="send,read")

    (key,) = settings.http.key
    assert (key.name, key.key_hash.get_secret_value(), key.scopes) == ("shop", key_hash, ("send", "read"))


def test_one_route_and_one_rewrite_fit_in_the_environment(folder: Folder) -> None:
    settings = folder.load(
        CAPTURE,
        ROUTE__PROVIDERS="capture",
        ROUTE__SENDER="*@example.com",
        RELAY__REWRITE__SENDER="a@*",
        RELAY__REWRITE__FROM="b@example.com",
    )
    (route,), (rewrite,) = settings.route, settings.relay.rewrite

    assert (route.providers, route.sender) == (("capture",), "*@example.com")
    assert (rewrite.sender, rewrite.from_) == ("a@*", "b@example.com")
    assert folder.load(CAPTURE, ROUTE='{"providers": ["capture"]}').route[0].providers == ("capture",)
    assert folder.load(CAPTURE, ROUTE__RECIPIENT="*@x.example", ROUTE__REFUSE="true").route[0].refuse


@pytest.mark.parametrize(
    ("header", "keys", "variable"),
    [
        ("smtp.listener", "address = ':{}'\n", "SMTP__LISTENER__ADDRESS"),
        ("provider", "kind = 'capture'\nname = 'p{}'\n", "PROVIDER__NAME"),
        ("user", "name = 'u{}'\npassword = 'x'\n", "USER__PASSWORD_FILE"),
        ("route", "providers = ['p{}']\n", "ROUTE__USER"),
        ("http.key", "name = 'k{}'\n", "HTTP__KEY__KEY_HASH"),
        ("smtp.listener", "address = ':{}'\n", "SMTP__LISTENER"),
    ],
)
def test_a_variable_aimed_at_two_tables_names_both(folder: Folder, header: str, keys: str, variable: str) -> None:
    text = "".join(f"[[{header}]]\n{keys.format(number)}" for number in (1, 2))
    second = text.splitlines().index(f"[[{header}]]", 1) + 1
    problems = folder.problems(text, **{variable: "{}"})

    assert problems[0] == (
        f"SMTP_BRIDGE_{variable}: '{header}' has 2 tables (the second at config.toml line {second}), "
        "so it is not clear which is meant"
    )


@pytest.mark.parametrize(
    "value", ['["10.0.0.0/8", "192.0.2.7/32"]', "10.0.0.0/8,192.0.2.7/32", " 10.0.0.0/8 , 192.0.2.7/32, "]
)
def test_lists_in_variables_are_json_or_separated_by_commas(folder: Folder, value: str) -> None:
    settings = folder.load(CAPTURE, SMTP__LISTENER__ALLOWED_NETWORKS=value)

    assert [str(network) for network in settings.smtp.listener[0].allowed_networks] == ["10.0.0.0/8", "192.0.2.7/32"]


def test_tables_of_free_names_are_json_in_variables(folder: Folder) -> None:
    settings = folder.load(
        REST,
        PROVIDER__HEADERS='{"X-Team": "a"}',
        PROVIDER__BODY='{"to": "{to}", "text": "{text}", "n": 1}',
        PROVIDER__OUTCOME='[{"status": 422, "reply": "550 5.1.1 No", "fault": "recipient"}]',
    )
    shown = settings.provider[0].model_dump(mode="json")

    assert shown["headers"] == {"X-Team": "********"}
    assert shown["body"] == {"to": "{to}", "text": "{text}", "n": 1}
    assert shown["outcome"][0]["status"] == [422]


@pytest.mark.parametrize(
    ("variable", "value", "line"),
    [
        ("SMTP", "x", "SMTP_BRIDGE_SMTP: is not valid JSON; a whole table is given as JSON"),
        ("SMTP", "5", "SMTP_BRIDGE_SMTP: smtp: must be a table"),
        ("SMTP", '{"hostnam": "x"}', "SMTP_BRIDGE_SMTP: unknown key 'smtp.hostnam'; did you mean 'smtp.hostname'?"),
        ("PROVIDER__BODY", "{x", "SMTP_BRIDGE_PROVIDER__BODY: provider.body: is not valid JSON"),
        (
            "SMTP__TIMEOUT",
            "5",
            "SMTP_BRIDGE_SMTP__TIMEOUT: smtp.timeout: not a duration; write a number and its unit: "
            '"500ms", "20s", "5m", "2h" or "7d"',
        ),
    ],
)
def test_a_wrong_variable_is_named(folder: Folder, variable: str, value: str, line: str) -> None:
    assert folder.problems(REST, **{variable: value}) == [line]


def test_a_variable_inside_what_is_no_table_is_an_error(folder: Folder) -> None:
    assert folder.problems("smtp = 5\n" + CAPTURE, SMTP__HOSTNAME="x")[0] == (
        "SMTP_BRIDGE_SMTP__HOSTNAME: 'smtp' is no table in config.toml line 1"
    )


def test_the_state_directory_is_systemds_or_the_systems_or_in_the_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "SYSTEM_STATE", tmp_path / "missing/smtp-bridge")
    assert state_directory({"STATE_DIRECTORY": "/a:/b", "HOME": "/home/ann"}) == Path("/a")
    assert state_directory({"HOME": "/home/ann"}) == Path("/home/ann/.local/state/smtp-bridge")
    monkeypatch.setattr(machine, "SYSTEM_STATE", tmp_path / "smtp-bridge")
    assert state_directory({"HOME": "/home/ann"}) == tmp_path / "smtp-bridge"


def test_a_state_directory_that_this_user_may_not_even_look_for_is_another_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # systemd.exec(5): with DynamicUser= the state directory is a link into /var/lib/private, which root alone may enter.
    private, link = tmp_path / "private", tmp_path / "smtp-bridge"
    (private / "smtp-bridge").mkdir(parents=True)
    link.symlink_to(private / "smtp-bridge")
    private.chmod(0)
    monkeypatch.setattr(machine, "SYSTEM_STATE", link)
    user = os.geteuid()
    if user == 0:  # whom no mode keeps out
        os.seteuid(65534)
    try:
        found = state_directory({"HOME": "/home/ann"})
    finally:
        os.seteuid(user)
        private.chmod(0o700)

    assert found == Path("/home/ann/.local/state/smtp-bridge")


def test_a_user_without_a_home_still_gets_a_state_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError

    monkeypatch.setattr(machine, "SYSTEM_STATE", tmp_path / "missing/smtp-bridge")
    monkeypatch.setattr(Path, "home", homeless)

    assert state_directory({}) == tmp_path / "missing/smtp-bridge"


@pytest.mark.parametrize(
    ("name", "clean"),
    [
        ("a_b.example", "a-b.example"),
        ("mail.example.", "mail.example"),
        ("", "localhost"),
        ("-x-..y", "x.y"),
        ("ü", "localhost"),
    ],
)
def test_the_machines_name_is_made_fit_for_smtp(name: str, clean: str) -> None:
    assert clean_hostname(name) == clean


def test_the_environment_is_this_process_by_default(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.path)
    monkeypatch.setenv("SMTP_BRIDGE_PROVIDER__KIND", "capture")
    monkeypatch.setenv("SMTP_BRIDGE_PROVIDER__NAME", "from-here")

    assert load_settings().provider[0].name == "from-here"


@pytest.mark.parametrize("name", ["PROVIDER__OUTCOME", "PROVIDER__BODY", "SMTP__LISTENER__ALLOWED_NETWORKS"])
def test_json_nested_too_deeply_is_one_line(folder: Folder, name: str) -> None:
    (problem,) = folder.problems(REST, **{name: "[" * 100_000})

    assert problem.startswith(f"SMTP_BRIDGE_{name}: ")
    assert "is not valid JSON" in problem


def test_a_key_nested_too_deeply_is_an_unknown_key(folder: Folder) -> None:
    assert folder.problems(".".join(["a"] * 900) + " = 1\n" + REST) == ["config.toml: unknown key 'a'"]


# --- the listener of an image, which ranks below every setting

DEFAULT = "0.0.0.0:2525"
TWO_LISTENERS = '[[smtp.listener]]\nname = "a"\n[[smtp.listener]]\nname = "b"\naddress = "127.0.0.1:465"\n' + CAPTURE


@pytest.mark.parametrize(
    ("text", "given", "addresses"),
    [
        (CAPTURE, {}, [DEFAULT]),
        (CAPTURE, {"SMTP__LISTENER__TLS": "none"}, [DEFAULT]),
        (CAPTURE, {"SMTP__LISTENER__ADDRESS": "127.0.0.1:26"}, ["127.0.0.1:26"]),
        (CAPTURE, {"SMTP": '{"listener": [{}, {"address": ":26"}]}'}, [DEFAULT, ":26"]),
        ('[smtp.listener]\naddress = "127.0.0.1:27"\n' + CAPTURE, {}, ["127.0.0.1:27"]),
        ('[smtp.listener]\ntls = "none"\n' + CAPTURE, {}, [DEFAULT]),
        (TWO_LISTENERS, {}, [DEFAULT, "127.0.0.1:465"]),
    ],
)
def test_an_image_says_where_a_listener_listens_that_does_not_say_itself(
    folder: Folder, text: str, given: dict[str, str], addresses: list[str]
) -> None:
    settings = folder.load(text, DEFAULT_LISTENER=DEFAULT, **given)

    assert [str(listener.address) for listener in settings.smtp.listener] == addresses
    assert not settings.implicit_capture


def test_with_it_and_nothing_else_there_is_no_inbox_that_anybody_could_reach(folder: Folder) -> None:
    (problem,) = folder.problems(DEFAULT_LISTENER=DEFAULT)

    assert problem.startswith("the environment: provider: is missing")
    assert folder.load(DEFAULT_LISTENER="").implicit_capture


def test_a_mistake_in_it_has_its_name(folder: Folder) -> None:
    (problem,) = folder.problems(CAPTURE, DEFAULT_LISTENER="everywhere")

    assert problem.startswith("SMTP_BRIDGE_DEFAULT_LISTENER: smtp.listener.address: not an address")


@pytest.mark.parametrize("smtp", ["smtp = 1\n", "[smtp]\nlistener = 1\n", "[smtp]\nlistener = [1]\n"])
def test_what_is_no_listener_is_said_as_without_it(folder: Folder, smtp: str) -> None:
    assert folder.problems(smtp + CAPTURE, DEFAULT_LISTENER=DEFAULT) == folder.problems(smtp + CAPTURE) != []
