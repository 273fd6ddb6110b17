"""Other settings for a daemon that runs: they hold wholly or not at all, and no session and no attempt is lost by them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import stat
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from bridge.config.load import load_settings
from bridge.config.settings import Http
from bridge.config.smtp import Listener, Smtp
from bridge.housekeeping import SECRETS_EVERY_S
from bridge.sandbox import Sandbox
from bridge.wiring import restart
from tests.cli.conftest import invoke
from tests.conftest import environment
from tests.delivery.conftest import START, FakeClock, every_line
from tests.e2e.conftest import KEY, eventually, statuses

OLD, NEW = "PLANTED-key-before", "PLANTED-key-after"


class Api:
    """Takes each mail, and notes the key it came with; `held` keeps the answers back."""

    def __init__(self) -> None:
        self.keys: list[str] = []
        self.held = asyncio.Event()
        self.held.set()
        self.url = ""

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                lines = dict(line.lower().split(": ", 1) for line in head.decode().splitlines() if ": " in line)
                await reader.readexactly(int(lines["content-length"]))
                self.keys.append(head.decode().partition("Bearer ")[2].partition("\r\n")[0])
                await self.held.wait()
                writer.write(b'HTTP/1.1 202 Accepted\r\nContent-Length: 11\r\n\r\n{"id": "1"}')
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    made = Api()
    server = await asyncio.start_server(made.answer, "127.0.0.1", 0)
    made.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    yield made
    server.close()


def config(url: str, more: str = "", *, token: str = f'token = "{OLD}"') -> str:
    return f'{more}\n[[provider]]\nname = "main"\nkind = "rest"\nurl = "{url}"\nauth = "bearer"\n{token}\n'


async def reload(daemon: Any, directory: Path, text: str) -> Any:
    """As SIGHUP does, with these settings."""
    (directory / "config.toml").write_text(text)
    daemon._read_again = lambda: load_settings(environ=environment(directory), cwd=directory)
    return await daemon._reload_safely()


# --- nothing is lost


async def test_a_session_goes_on_and_an_attempt_ends_with_the_key_it_began_with(
    api: Api, start_daemon: Any, connect: Any, tmp_path: Path
) -> None:
    daemon = await start_daemon(config=config(api.url))
    client = await connect(daemon.listeners[0].port)
    other = await connect(daemon.listeners[0].port)
    api.held.clear()
    first = asyncio.create_task(client.send())
    await eventually(lambda: api.keys == [OLD])

    answer = await reload(daemon, tmp_path, config(api.url, token=f'token = "{NEW}"'))
    second = asyncio.create_task(other.send())
    await eventually(lambda: api.keys == [OLD, NEW])
    api.held.set()

    assert answer["outcome"] == "reloaded"
    assert (await first).startswith("250 2.0.0 Ok: sent")
    assert (await second).startswith("250 2.0.0 Ok: sent")
    assert (await client.send()).startswith("250 2.0.0 Ok: sent")
    assert api.keys == [OLD, NEW, NEW]


async def test_a_transaction_that_is_open_goes_on(api: Api, start_daemon: Any, connect: Any, tmp_path: Path) -> None:
    daemon = await start_daemon(config=config(api.url))
    client = await connect(daemon.listeners[0].port)
    await client.envelope(["bob@example.org"])
    assert (await client.say("DATA")).startswith("354")
    client.writer.write(b"Subject: half\r\n\r\n")

    more = "[smtp]\nmax_message_size = 20000\nmax_recipients = 5\n[smtp.listener]\nrequire_tls = true\naddress = '127.0.0.1:0'"
    assert (await reload(daemon, tmp_path, config(api.url, more)))["outcome"] == "reloaded"

    assert (await client.say("text\r\n.")).startswith("250 2.0.0 Ok: sent")
    assert (await client.say("MAIL FROM:<ann@example.com>")).startswith("530")


async def test_reloads_under_load_lose_nothing_and_send_nothing_twice(
    sandbox: Sandbox, start_daemon: Any, connect: Any, tmp_path: Path
) -> None:
    def settings(number: int) -> str:
        mode, rate = ("auto", "queue")[number % 2], 1000 + number % 3
        more = f'[relay]\nmode = "{mode}"\n[breaker]\nfailures = {5 + number}\n[smtp]\nmax_recipients = {10 + number}\n'
        return config(f"{sandbox.url}/send-email", more, token=f'token = "{KEY}"\nrate = "{rate}/s"')

    daemon = await start_daemon(config=settings(0))
    answers: list[str] = []

    async def client(number: int) -> None:
        one = await connect(daemon.listeners[0].port)
        answers.extend([await one.send(f"r{number}.{count}@example.org") for count in range(25)])

    clients = asyncio.gather(*(client(number) for number in range(4)))
    reloads = 0
    while not clients.done():
        reloads += 1
        assert (await reload(daemon, tmp_path, settings(reloads)))["outcome"] == "reloaded"
    await clients

    assert reloads > 3
    assert {answer[:12] for answer in answers} == {"250 2.0.0 Ok"}
    wanted = sorted(f"r{number}.{count}@example.org" for number in range(4) for count in range(25))
    await eventually(lambda: len(sandbox.messages) == len(wanted))
    assert sorted(message.recipients[0] for message in sandbox.messages) == wanted


async def test_an_attempt_of_before_the_reload_has_its_answer_when_the_daemon_stops(
    api: Api, start_daemon: Any, connect: Any, tmp_path: Path
) -> None:
    more = "[smtp]\nshutdown_timeout = '0.5s'\n[relay]\nmode = 'direct'\n"
    daemon = await start_daemon(config=config(api.url, more))
    client = await connect(daemon.listeners[0].port)
    api.held.clear()
    sending = asyncio.create_task(client.send())
    await eventually(lambda: api.keys == [OLD])
    (before,) = daemon.dispatchers.all
    await reload(daemon, tmp_path, config(api.url, more, token=f'token = "{NEW}"'))
    assert daemon.retired == [before]
    close, closed = before.provider.aclose, []

    async def noted() -> None:
        closed.append(before)
        await close()

    before.provider.aclose = noted
    await daemon.stop()

    assert (await sending).startswith("451 4.3.0")
    assert closed == [before]


# --- mistakes


MISTAKES = {
    "no TOML": ("[relay\n", "config.toml line 1"),
    "an unknown key": ("[relay]\nmod = 'auto'\n[[provider]]\nkind = 'capture'\n", "unknown key 'relay.mod'"),
    "a wrong value": ("[relay]\nmode = 'x'\n[[provider]]\nkind = 'capture'\n", "relay.mode"),
    "no file of that name": ("[[provider]]\nkind = 'sendgrid'\napi_key_file = 'gone'\n", "provider.api_key_file"),
    "no provider": ("[relay]\nmode = 'auto'\n", "provider: is missing"),
    "a bad certificate": ("[tls]\ncert_file = 'bad.pem'\n[[provider]]\nkind = 'capture'\n", "bad.pem"),
    "a bad authority": ("[[provider]]\nkind = 'sendgrid'\napi_key = 'k'\nca_file = 'bad.pem'\n", "bad.pem"),
}


@pytest.mark.parametrize("name", MISTAKES)
async def test_a_mistake_keeps_all_that_held(
    name: str, api: Api, start_daemon: Any, connect: Any, tmp_path: Path
) -> None:
    text, told = MISTAKES[name]
    (tmp_path / "bad.pem").write_text("no certificate\n")
    daemon = await start_daemon(config=config(api.url))
    before, dispatchers = daemon.settings, daemon.dispatchers.all
    client = await connect(daemon.listeners[0].port)

    with every_line() as lines:
        user = '[[user]]\nname = "a"\npassword = "b"\n[smtp]\nhostname = "other.example"\n'
        answer = await reload(daemon, tmp_path, text + user)

    assert answer["outcome"] == "refused"
    assert told in answer["mistakes"][0]
    refused = [line["text"] for line in lines if line["event"] == "daemon.reload_refused"]
    assert refused == answer["mistakes"]
    assert "daemon.reloaded" not in {line["event"] for line in lines}
    assert (daemon.settings, daemon.dispatchers.all, bool(daemon.auth)) == (before, dispatchers, False)
    assert (await client.send()).startswith("250 2.0.0 Ok: sent")
    assert api.keys == [OLD]


# --- what holds at once, and what needs a restart


async def test_what_needs_a_restart_is_named_until_there_is_one(api: Api, start_daemon: Any, tmp_path: Path) -> None:
    daemon = await start_daemon(config=config(api.url), SMTP_BRIDGE_HTTP__ADDRESS="127.0.0.1:0")
    held = daemon.settings
    more = '[smtp]\nmax_hops = 7\nmax_connections = 7\nhostname = "b.example"\n[spool]\nhistory = "1d"\n'

    for _ in range(2):
        answer = await reload(daemon, tmp_path, config(api.url, more))
        assert answer["needs_restart"] == ["spool.history", "http.address", "smtp.max_connections"]

    assert daemon.settings.spool == held.spool
    assert daemon.services[0].limits.max_connections == held.smtp.max_connections
    assert (daemon.submission.rules.max_hops, daemon.services[0].hostname) == (7, "bridge.example")  # the variable's
    assert (await reload(daemon, tmp_path, config(api.url)))["needs_restart"] == ["http.address"]


async def test_where_it_listens_elsewhere_no_rule_of_a_listener_changes(
    api: Api, start_daemon: Any, tmp_path: Path
) -> None:
    daemon = await start_daemon(config=config(api.url))
    policy = daemon.services[0].policy
    variables = {
        "SMTP_BRIDGE_SMTP__LISTENER__ADDRESS": "127.0.0.1:2526",
        "SMTP_BRIDGE_SMTP__LISTENER__REQUIRE_TLS": "true",
    }

    with every_line() as lines:
        await daemon.reload(load_settings(environ=environment(tmp_path, **variables), cwd=tmp_path))
        del variables["SMTP_BRIDGE_SMTP__LISTENER__ADDRESS"]
        await daemon.reload(load_settings(environ=environment(tmp_path, **variables), cwd=tmp_path))

    told = [line["needs_restart"] for line in lines if line["event"] == "daemon.reloaded"]
    assert told == [["smtp.listener.address", "smtp.listener.require_tls"], []]
    assert not policy.require_tls
    assert daemon.services[0].policy.require_tls


async def test_another_number_of_listeners_is_one_key(api: Api, start_daemon: Any, tmp_path: Path) -> None:
    daemon = await start_daemon(config=config(api.url))
    other = daemon.settings.smtp.model_copy(update={"listener": daemon.settings.smtp.listener * 2})
    two = daemon.settings.model_copy(update={"smtp": other})

    settings, keys = restart.until_restart(daemon.settings, two)

    assert keys == ["smtp.listener"]
    assert settings.smtp.listener == daemon.settings.smtp.listener


AT_ONCE = {
    Smtp: "hostname max_message_size max_recipients max_connections_per_client max_errors max_junk_commands max_hops"
    " max_unknown_commands max_commands rate_per_client timeout min_data_rate tls_handshake_timeout shutdown_timeout listener",
    Listener: "require_tls require_auth allowed_networks auth_mechanisms auth_without_tls bare_newlines bare_addresses"
    " proxy_networks",
    Http: "key trusted_proxies",
}
AT_A_START = {Smtp: restart.SMTP, Listener: restart.LISTENER, Http: restart.HTTP}


@pytest.mark.parametrize("section", AT_ONCE, ids=lambda section: section.table)
def test_of_each_key_it_is_known_when_it_is_read(section: Any) -> None:
    at_once, at_a_start = set(AT_ONCE[section].split()), set(AT_A_START[section])

    assert at_once | at_a_start == set(section.model_fields)
    assert at_once & at_a_start == set()


async def test_the_log_says_more_or_less_from_then_on(bridge_process: Any, connect: Any, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("[[provider]]\nkind = 'capture'\n")
    process = await bridge_process()

    async def opened_with(level: str, number: int) -> int:
        (tmp_path / "config.toml").write_text(f"[log]\nlevel = '{level}'\n[[provider]]\nkind = 'capture'\n")
        process.process.send_signal(signal.SIGHUP)
        if level != "error":
            await eventually(lambda: len(process.events("daemon.reloaded")) == number)
        await connect(process.port)
        return len(process.events("connection.opened"))

    await connect(process.port)
    assert process.events("connection.opened") == []
    await opened_with("debug", 1)
    await eventually(lambda: len(process.events("connection.opened")) == 1)
    assert await opened_with("info", 2) == 1


# --- files of secrets


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def put(path: Path, text: str) -> None:
    """As whoever renews it should: another file takes the name."""
    new = path.with_suffix(".new")
    new.write_text(text)
    os.replace(new, path)


def swap_link(path: Path, text: str) -> None:
    """As Kubernetes does: the name is a link through a directory that is a link."""
    data = path.parent / "..data"
    there = path.parent / f"..{text}"
    there.mkdir()
    (there / path.name).write_text(text)
    (path.parent / "tmp").symlink_to(there.name)
    os.replace(path.parent / "tmp", data)
    if not path.is_symlink():
        path.unlink(missing_ok=True)
        path.symlink_to(f"..data/{path.name}")


FROM_FILE = 'token_file = "api.key"'


@pytest.mark.parametrize("change", [put, swap_link, Path.write_text], ids=["another file", "a link", "written"])
async def test_a_secret_that_changed_is_used_by_the_next_attempt(
    change: Callable[[Path, str], None], api: Api, start_daemon: Any, connect: Any, tmp_path: Path
) -> None:
    change(tmp_path / "api.key", OLD)
    daemon = await start_daemon(config=config(api.url, token=FROM_FILE))
    client = await connect(daemon.listeners[0].port)
    await client.send()

    (tmp_path / "config.toml").write_text("[nonsense")  # nobody has asked for it to be read
    with every_line() as lines:
        await daemon.housekeeping.secrets()
        assert lines == []
        change(tmp_path / "api.key", NEW)
        await daemon.housekeeping.secrets()
        await daemon.housekeeping.secrets()

    assert [(line["event"], line["keys"]) for line in lines] == [("secret.renewed", ["provider.token_file"])]
    assert (await client.send()).startswith("250 2.0.0 Ok: sent")
    assert api.keys == [OLD, NEW]


@pytest.mark.parametrize(
    "bad", ["", "\n", None, "x" * 70_000, "no\0key"], ids=["empty", "blank", "gone", "long", "NUL"]
)
async def test_a_file_that_cannot_be_used_is_told_once_and_the_old_secret_holds(
    bad: str | None, api: Api, start_daemon: Any, connect: Any, tmp_path: Path
) -> None:
    file = tmp_path / "api.key"
    file.write_text(OLD)
    daemon = await start_daemon(config=config(api.url, token=FROM_FILE))
    client = await connect(daemon.listeners[0].port)

    file.unlink() if bad is None else put(file, bad)
    with every_line() as lines:
        for _ in range(3):
            await daemon.housekeeping.secrets()
        await client.send()
        put(file, NEW)
        await daemon.housekeeping.secrets()
        await client.send()

    told = [(line["event"], line.get("key")) for line in lines if line["event"].startswith("secret")]
    assert told == [("secret.not_renewed", "provider.token_file"), ("secret.renewed", None)]
    assert api.keys == [OLD, NEW]


async def test_one_bad_file_keeps_no_other_back(api: Api, start_daemon: Any, tmp_path: Path, secret_hash: str) -> None:
    (tmp_path / "api.key").write_text(OLD)
    (tmp_path / "hash").write_text(secret_hash)
    user = '[[user]]\nname = "ann"\npassword_hash_file = "hash"\n'
    daemon = await start_daemon(config=config(api.url, user, token=FROM_FILE))

    put(tmp_path / "api.key", NEW)
    put(tmp_path / "hash", "PLANTED-no-hash")
    with every_line() as lines:
        await daemon.housekeeping.secrets()
        await daemon.housekeeping.secrets()

    assert {(line["event"], str(line.get("keys") or line["key"])) for line in lines} == {
        ("secret.renewed", "['provider.token_file']"),
        ("secret.not_renewed", "user.password_hash_file"),
    }
    assert len(lines) == 2
    assert "PLANTED" not in str(lines)
    assert daemon.settings.user[0].password_hash.get_secret_value() == secret_hash
    assert daemon.settings.provider[0].token.get_secret_value() == NEW


async def test_a_password_that_changed_is_the_one_to_log_in_with(
    start_daemon: Any, connect: Any, tmp_path: Path
) -> None:
    (tmp_path / "password").write_text("PLANTED-one")
    user = '[[user]]\nname = "ann"\npassword_file = "password"\n[[provider]]\nkind = "capture"\n'
    daemon = await start_daemon(config=user)
    put(tmp_path / "password", "PLANTED-two")
    await daemon.housekeeping.secrets()

    assert await daemon.auth.check_password("ann", b"PLANTED-one") is None
    assert await daemon.auth.check_password("ann", b"PLANTED-two")


async def test_it_looks_every_few_seconds_and_a_reload_that_runs_comes_first(
    api: Api, start_daemon: Any, tmp_path: Path, clock: FakeClock
) -> None:
    (tmp_path / "api.key").write_text(OLD)
    daemon = await start_daemon(clock, config=config(api.url, token=FROM_FILE))
    looked: list[float] = []
    look = daemon.housekeeping._look_at_secrets

    async def noted() -> None:
        await look()
        looked.append(clock.now() - START)

    daemon.housekeeping._look_at_secrets = noted
    await asyncio.sleep(0.02)
    put(tmp_path / "api.key", NEW)
    async with daemon.reloading:
        clock.advance(SECRETS_EVERY_S)
        await asyncio.sleep(0.05)
        assert daemon.settings.provider[0].token.get_secret_value() == OLD

    await eventually(lambda: SECRETS_EVERY_S in looked)
    assert daemon.settings.provider[0].token.get_secret_value() == NEW


async def test_the_file_of_a_providers_authorities_is_looked_at_too(
    api: Api, start_daemon: Any, tmp_path: Path
) -> None:
    from tests.smtp.authority import Authority

    first, second = Authority(tmp_path / "a"), Authority(tmp_path / "b")
    (tmp_path / "ca.pem").write_bytes(first.ca_file.read_bytes())
    daemon = await start_daemon(config=config(api.url, token=f'token = "{OLD}"\nca_file = "ca.pem"'))
    (before,) = daemon.dispatchers.all
    put(tmp_path / "ca.pem", "no certificate")
    await daemon.housekeeping.secrets()
    assert list(daemon.dispatchers.all) == [before]

    put(tmp_path / "ca.pem", second.ca_file.read_text())
    await daemon.housekeeping.secrets()

    (after,) = daemon.dispatchers.all
    assert after is not before


# --- the command


async def command(directory: Path, *words: str) -> tuple[int, str, str]:
    done = await asyncio.to_thread(invoke, directory, "reload", *words)
    return done.returncode, done.stdout, done.stderr


async def test_the_command_says_what_came_of_it(bridge_process: Any, tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text("[[provider]]\nkind = 'capture'\n")
    process = await bridge_process()
    control = tmp_path / "state" / "spool.db.control"
    assert stat.S_IMODE(control.stat().st_mode) == 0o600

    file.write_text("[relay]\nmode = 'queue'\n[spool]\nhistory = '1d'\n[[provider]]\nkind = 'capture'\n")
    status, out, err = await command(tmp_path)
    assert (status, out.splitlines()[:2], err) == (0, ["reloaded", "needs a restart: spool.history"], "")

    file.write_text("[relay]\nmode = 'x'\nfrm = ''\n[[provider]]\nkind = 'capture'\n")
    status, out, err = await command(tmp_path)
    assert (status, out) == (78, "")
    mistakes = err.splitlines()
    assert "config.toml line 3: unknown key 'relay.frm'; did you mean 'relay.from'?" in mistakes[0]
    assert "config.toml line 2: relay.mode" in mistakes[1]
    assert mistakes[2] == "smtp-bridge: not reloaded: the settings that held before hold on"

    status, out, _ = await command(tmp_path, "--json")
    assert (status, json.loads(out)["outcome"], len(json.loads(out)["mistakes"])) == (78, "refused", 2)
    assert await process.stop() == 0
    assert not control.exists()
    file.write_text("[[provider]]\nkind = 'capture'\n")
    assert (await command(tmp_path))[0] == 69


async def test_a_daemon_is_found_when_the_settings_name_another_spool(bridge_process: Any, tmp_path: Path) -> None:
    file, here, elsewhere = tmp_path / "config.toml", tmp_path / "here", tmp_path / "elsewhere"
    here.mkdir()
    file.write_text(f"[spool]\nurl = 'sqlite:///{here}/a.db'\n[[provider]]\nkind = 'capture'\n")
    await bridge_process()
    file.write_text(
        f"[relay]\nmode = 'queue'\n[spool]\nurl = 'sqlite:///{here}/b.db'\n[[provider]]\nkind = 'capture'\n"
    )

    status, out, _ = await command(tmp_path)
    assert (status, out.splitlines()[:2]) == (0, ["reloaded", "needs a restart: spool.url"])

    # Another daemon's settings, which happen to keep their state in the same directory.
    elsewhere.mkdir()
    (elsewhere / "config.toml").write_text(file.read_text())
    assert (await command(tmp_path, "--config", str(elsewhere / "config.toml")))[0] == 69


async def test_what_a_process_has_from_its_start_on_is_named(api: Api, start_daemon: Any, tmp_path: Path) -> None:
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    (credentials / "secrets_api").write_text(OLD)
    (tmp_path / "own").write_text("PLANTED-password")
    user = '[[user]]\nname = "ann"\npassword_file = "own"\n'
    text = config(api.url, user, token='token_file = "secrets/api"')
    daemon = await start_daemon(config=text, CREDENTIALS_DIRECTORY=str(credentials))
    environ = environment(tmp_path, CREDENTIALS_DIRECTORY=str(credentials))
    daemon._read_again = lambda: load_settings(environ=environ, cwd=tmp_path)

    with every_line() as lines:
        answer = await daemon._reload_safely()

    assert [name for name in answer["as_at_start"] if not name.startswith("SMTP_BRIDGE_")] == ["provider.token_file"]
    assert "SMTP_BRIDGE_SMTP__HOSTNAME" in answer["as_at_start"]
    (told,) = [line["as_at_start"] for line in lines if line["event"] == "daemon.reloaded"]
    assert told == answer["as_at_start"]


def test_what_was_read_at_the_start_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    from bridge.cli.reload import _tell

    for kept in ([], ["provider.token_file", "SMTP_BRIDGE_SMTP__HOSTNAME"]):
        _tell({"outcome": "reloaded", "needs_restart": [], "as_at_start": kept})

    last = "read at a start only, so as they were then: provider.token_file, SMTP_BRIDGE_SMTP__HOSTNAME"
    assert capsys.readouterr().out.splitlines() == ["reloaded", "reloaded", last]


EARLY = """
import os, signal, sys
from bridge.cli import run as command
from bridge.daemon import Daemon

load, start = command.load_settings, Daemon.start

def loading(*args):
    if not hasattr(Daemon, "hung_up"):
        Daemon.hung_up = True
        os.kill(os.getpid(), signal.SIGHUP)
    return load(*args)

async def starting(self):
    if "start" in sys.argv:
        os.kill(os.getpid(), signal.SIGHUP)
    await start(self)
    assert "daemon.reloaded" not in open("bridge.log").read()

if "load" in sys.argv:
    command.load_settings = loading
Daemon.start = starting
sys.exit(command.run(""))
"""


@pytest.mark.parametrize("when", ["load", "start"])
async def test_a_hangup_before_it_is_ready_is_a_reload_afterwards(when: str, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("[[provider]]\nkind = 'capture'\n")
    environ = {**os.environ, **environment(tmp_path), "PYTHONPATH": str(Path(__file__).parents[2])}
    log = tmp_path / "bridge.log"
    with log.open("wb") as file:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", EARLY, when, cwd=tmp_path, env=environ, stderr=file
        )
    try:
        await eventually(lambda: process.returncode is not None or "daemon.reloaded" in log.read_text())
        assert process.returncode is None, log.read_text()
        assert log.read_text().index("daemon.ready") < log.read_text().index("daemon.reloaded")
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 20) == 0
    finally:
        if process.returncode is None:
            process.kill()


async def test_the_socket_of_a_daemon_that_was_killed_is_nobody_and_the_next_takes_its_place(
    bridge_process: Any, tmp_path: Path
) -> None:
    (tmp_path / "config.toml").write_text("[[provider]]\nkind = 'capture'\n")
    process = await bridge_process()
    await process.stop(signal.SIGKILL)
    status, _, err = await command(tmp_path)
    assert status == 69
    assert err.startswith(
        f"smtp-bridge: no daemon runs with the queue {tmp_path}/state/spool.db; if spool.url was changed"
    )

    await process.start()

    assert (await command(tmp_path))[0] == 0


async def test_a_daemon_that_hangs_is_not_waited_for_for_ever(start_daemon: Any, tmp_path: Path) -> None:
    daemon = await start_daemon(config="[[provider]]\nkind = 'capture'\n")
    async with daemon.reloading:
        status, _, err = await command(tmp_path, "--timeout", "100ms")

    assert (status, err) == (75, "smtp-bridge: no answer within 0.1 s; the log says what comes of it\n")
    assert await statuses(daemon) == {}
