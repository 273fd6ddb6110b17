"""Where it listens: every kind of address, what a taken one says, and what is left when it ends."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from bridge.sockets import ListenError, bind_address
from tests.conftest import environment
from tests.smtp.raw import CAPTURE, WHOLE, Raw, clients_end

__all__ = ["clients_end"]

HAS_IPV6 = Path("/proc/net/if_inet6").exists() and bool(Path("/proc/net/if_inet6").read_text())
ADDRESS = "SMTP_BRIDGE_SMTP__LISTENER__ADDRESS"


def close(sockets: list[socket.socket]) -> None:
    for sock in sockets:
        sock.close()


async def test_a_listener_without_a_host_has_one_port_on_all_interfaces(start_daemon: Any) -> None:
    daemon = await start_daemon(**CAPTURE, **{ADDRESS: ":0"})
    port = daemon.listeners[0].port

    for host in ("127.0.0.1", *(["::1"] if HAS_IPV6 else [])):
        raw = await Raw.greeted(port, host=host)
        raw.send(WHOLE)
        await raw.expect("250 2.1.0", "250 2.1.5", "354", "250 2.0.0")


def test_the_addresses_of_a_name_get_the_same_port() -> None:
    sockets = bind_address("localhost:0", {})

    assert len({sock.getsockname()[1] for sock in sockets}) == 1
    assert sockets[0].family == socket.AF_INET
    close(sockets)


def test_a_family_this_machine_lacks_is_left_out_where_another_works(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container without IPv6 whose hosts file has `::1 localhost`; 2001:db8::/32 is nobody's."""
    places = [(socket.AF_INET6, 1, 6, "", ("2001:db8::1", 0, 0, 0)), (socket.AF_INET, 1, 6, "", ("127.0.0.1", 0))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **named: places)

    sockets = bind_address("localhost:0", {})

    assert [sock.family for sock in sockets] == [socket.AF_INET]
    close(sockets)
    del places[1]
    with pytest.raises(OSError, match=r"."):
        bind_address("localhost:0", {})


@pytest.mark.parametrize("address", ["127.0.0.1:0", "[::1]:0"] if HAS_IPV6 else ["127.0.0.1:0"])
async def test_a_taken_port_is_one_clear_line_and_nothing_is_left_open(
    address: str, start_daemon: Any, tmp_path: Path
) -> None:
    taken = bind_address(address, {})
    host, _, _ = address.rpartition(":")
    name = f"{host}:{taken[0].getsockname()[1]}"
    before = set(os.listdir("/proc/self/fd"))

    with pytest.raises(ListenError) as raised:
        await start_daemon(**CAPTURE, **{ADDRESS: name})

    assert str(raised.value) == f"cannot listen on {name}: the address is in use already"
    assert len(os.listdir("/proc/self/fd")) <= len(before)
    close(taken)


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("192.0.2.1:2525", "Cannot assign requested address"),
        ("no.such.host.invalid:2525", ""),
        ("unix:/nonexistent/dir/lmtp.sock", "No such file or directory"),
        ("systemd:lmtp", "systemd passed no sockets to this process"),
    ],
)
async def test_an_address_that_cannot_be_listened_on_is_named(address: str, why: str, start_daemon: Any) -> None:
    with pytest.raises(ListenError) as raised:
        await start_daemon(**CAPTURE, **{ADDRESS: address})

    assert str(raised.value).startswith(f"cannot listen on {address}: {why}")


# --- unix sockets


async def lmtp(path: Path) -> Raw:
    raw = Raw(*await asyncio.open_unix_connection(str(path)))
    await raw.expect("220")
    raw.send(b"LHLO client\r\n")
    await raw.expect("250")
    return raw


def unix(path: Path) -> dict[str, str]:
    return {**CAPTURE, ADDRESS: f"unix:{path}", "SMTP_BRIDGE_SMTP__LISTENER__PROTOCOL": "lmtp"}


async def test_lmtp_on_a_unix_socket(start_daemon: Any, tmp_path: Path) -> None:
    path = tmp_path / "lmtp.sock"
    daemon = await start_daemon(**unix(path))

    raw = await lmtp(path)
    raw.send(WHOLE)
    reply = await raw.expect("250 2.1.0", "250 2.1.5", "354", "250 2.0.0")

    assert path.stat().st_mode & 0o777 == 0o660
    assert b"(local)\r\n\tby bridge.example with LMTP id" in await daemon.spool.body(reply.rsplit(" ", 1)[1])
    raw.close()
    await daemon.stop()
    assert not path.exists()


async def test_a_socket_that_a_killed_daemon_left_behind_is_replaced(start_daemon: Any, tmp_path: Path) -> None:
    path = tmp_path / "lmtp.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))

    await start_daemon(**unix(path))

    assert (await (await lmtp(path)).say("NOOP")).startswith("250")


@pytest.mark.parametrize("backlog", [16, 0])
async def test_a_socket_that_another_daemon_listens_on_is_left_to_it(
    backlog: int, start_daemon: Any, tmp_path: Path
) -> None:
    """Also one that does not answer just now, its backlog being full."""
    path = tmp_path / "lmtp.sock"
    with contextlib.ExitStack() as stack:
        alive = stack.enter_context(socket.socket(socket.AF_UNIX))
        alive.bind(str(path))
        alive.listen(backlog)
        for _ in range(0 if backlog else 2):
            client = stack.enter_context(socket.socket(socket.AF_UNIX))
            client.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                client.connect(str(path))

        with pytest.raises(ListenError, match="in use already"):
            await start_daemon(**unix(path))
        assert path.exists()


async def test_a_socket_that_a_successor_made_is_left_to_it(start_daemon: Any, tmp_path: Path) -> None:
    path = tmp_path / "lmtp.sock"
    daemon = await start_daemon(**unix(path))
    path.unlink()
    with socket.socket(socket.AF_UNIX) as successor:
        successor.bind(str(path))

        await daemon.stop()

        assert path.exists()


def test_a_file_that_is_no_socket_is_never_removed(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")

    with pytest.raises(OSError, match="in use"):
        bind_address(f"unix:{tmp_path / 'file'}", {})

    assert (tmp_path / "file").read_text() == "precious"


# --- systemd

LAUNCH = """
import os, sys
from bridge.cli import main
names, *fds = sys.argv[1].split(",")
for number, fd in enumerate(fds):
    os.dup2(int(fd), 3 + number)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(fds)), LISTEN_FDNAMES=names)
sys.argv = ["smtp-bridge", "run"]
sys.exit(main())
"""


@contextlib.asynccontextmanager
async def handed_over(
    tmp_path: Path, named: Sequence[tuple[str, socket.socket]], config: str, *, status: int = 0
) -> AsyncIterator[subprocess.Popen[bytes]]:
    """`smtp-bridge run` with these sockets as descriptors 3, 4, ..., as systemd starts it."""
    (tmp_path / "config.toml").write_text(config + '[[provider]]\nkind = "capture"\n')
    environ = {**os.environ, **environment(tmp_path)}
    del environ[ADDRESS]
    # Out of the way of 3, 4, ..., which the program gives them in one go.
    moved = [fcntl.fcntl(sock.fileno(), fcntl.F_DUPFD, 60) for _, sock in named]  # never one that is in use here
    names = ":".join(name for name, _ in named)
    # Not asyncio's: its `terminate` looks whether the process has ended, and whoever waits for it then learns no status.
    with subprocess.Popen(
        [sys.executable, "-c", LAUNCH, ",".join((names, *map(str, moved)))],
        env=environ,
        cwd=tmp_path,
        pass_fds=moved,
        stderr=subprocess.PIPE,
    ) as process:
        try:
            yield process
        finally:
            process.terminate()
            await asyncio.to_thread(process.wait, 20)
    assert process.returncode == status
    close([sock for _, sock in named])
    for fd in moved:
        os.close(fd)


async def test_sockets_that_systemd_hands_over_are_served_by_name(tmp_path: Path) -> None:
    """Two of one name (a `[Socket]` with two ListenStream=), one that is unix and behind a balancer, and one not asked for."""
    path = tmp_path / "lmtp.sock"
    other, mail, more = (bind_address("127.0.0.1:0", {})[0] for _ in range(3))
    named = [("other", other), ("mail", mail), ("mail", more), ("local", bind_address(f"unix:{path}", {})[0])]
    config = """
        [[smtp.listener]]
        address = "systemd:mail"
        tls = "none"
        [[smtp.listener]]
        address = "systemd:local"
        proxy_protocol = true
        proxy_networks = ["192.0.2.0/24"]
        tls = "none"
    """
    async with handed_over(tmp_path, named, config):
        for sock in (mail, more):  # the kernel holds the connection until the daemon is up
            raw = await Raw.greeted(sock.getsockname()[1])
            raw.send(WHOLE)
            await raw.expect("250 2.1.0", "250 2.1.5", "354", "250 2.0.0")
        raw = Raw(*await asyncio.open_unix_connection(str(path)))
        raw.send(b"PROXY TCP4 127.0.0.1 127.0.0.1 1 2\r\nEHLO x\r\n" + WHOLE)
        await raw.expect("220", "250", "250 2.1.0", "250 2.1.5", "354", "250 2.0.0")
        waiting = await Raw.connect(other.getsockname()[1])  # systemd listens there, and nobody takes it
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(waiting.reader.read(1), 0.05)

    assert path.exists()  # it is systemd's


@pytest.mark.skipif(not HAS_IPV6, reason="no IPv6 here")
async def test_an_ipv4_client_of_a_dual_stack_socket_is_an_ipv4_client(tmp_path: Path) -> None:
    """What `ListenStream=2525` makes."""
    dual = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    dual.setblocking(False)
    config = '[smtp.listener]\naddress = "systemd:mail"\ntls = "none"\nallowed_networks = ["127.0.0.1/32"]\n'

    async with handed_over(tmp_path, [("mail", dual)], config) as process:
        raw = await Raw.greeted(dual.getsockname()[1])
        raw.send(WHOLE)
        await raw.expect("250 2.1.0", "250 2.1.5", "354", "250 2.0.0")
        process.terminate()
        assert process.stderr
        log = (await asyncio.to_thread(process.stderr.read)).decode()

    assert '"client":"127.0.0.1"' in log.replace(": ", ":")
    assert "ffff" not in log


async def test_a_name_that_systemd_did_not_hand_over_ends_the_start(tmp_path: Path) -> None:
    mail = bind_address("127.0.0.1:0", {})[0]
    config = '[smtp.listener]\naddress = "systemd:lmtp"\ntls = "none"\n'

    async with handed_over(tmp_path, [("mail", mail)], config, status=69) as process:
        assert process.stderr
        said = (await asyncio.to_thread(process.stderr.read)).decode()

    assert "cannot listen on systemd:lmtp: systemd passed no socket named lmtp" in said


PID = str(os.getpid())


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"LISTEN_PID": "1", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "mail"},
        {"LISTEN_PID": PID, "LISTEN_FDS": "0", "LISTEN_FDNAMES": ""},
        {"LISTEN_PID": PID, "LISTEN_FDS": "many", "LISTEN_FDNAMES": "mail"},
        {"LISTEN_PID": PID, "LISTEN_FDS": "1", "LISTEN_FDNAMES": "other"},
        {"LISTEN_PID": PID, "LISTEN_FDS": "1"},
    ],
)
def test_sockets_that_systemd_did_not_pass_to_us_are_not_taken(environ: dict[str, str]) -> None:
    with pytest.raises(OSError, match="systemd passed no socket"):
        bind_address("systemd:mail", environ)
