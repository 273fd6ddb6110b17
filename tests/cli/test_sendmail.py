"""`smtp-bridge sendmail`, as cron, PHP and mail readers call it: a process of its own, and a real daemon that captures."""

from __future__ import annotations

import os
import pwd
import re
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from bridge.cli.exits import EX_BAD_USAGE, EX_CONFIG, EX_DATAERR, EX_NOPERM, EX_NOUSER, EX_TEMPFAIL, EX_UNAVAILABLE
from bridge.cli.sendmail.failure import Failure, status_of
from bridge.cli.sendmail.message import mailbox
from bridge.cli.sendmail.options import parse_options
from bridge.cli.sendmail.places import places
from bridge.cli.sendmail.recipients import addresses
from tests.cli.conftest import bridge, invoke, port_of, running, variables

HOST = "box.example.com"
ME = f"{pwd.getpwuid(os.getuid()).pw_name}@{HOST}"


class Daemon:
    """A daemon, and what it has taken."""

    def __init__(self, directory: Path, port: int) -> None:
        self.directory = directory
        self.address = f"127.0.0.1:{port}"

    def call(self, *arguments: str, given: bytes = b"", **more: str) -> subprocess.CompletedProcess[bytes]:
        own = {"SMTP_BRIDGE_SENDMAIL_ADDRESS": self.address, "SMTP_BRIDGE_SMTP__HOSTNAME": HOST, "NAME": ""}
        return subprocess.run(
            [sys.executable, "-m", "bridge", "sendmail", *arguments],
            env=variables(self.directory, **{**own, **more}),
            cwd=self.directory,
            input=given,
            capture_output=True,
            timeout=30,
        )

    def send(self, *arguments: str, given: bytes, **more: str) -> tuple[str, list[str], bytes]:
        """(sender, recipients, content) of the one message that this made."""
        before = set(self.ids())
        done = self.call(*arguments, given=given, **more)
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
        (queue_id,) = set(self.ids()) - before
        return self.message(queue_id)

    def ids(self) -> list[str]:
        return [row[0] for row in self._rows("SELECT queue_id FROM message ORDER BY created_at")]

    def message(self, queue_id: str) -> tuple[str, list[str], bytes]:
        ((sender, raw),) = self._rows(
            "SELECT reverse_path, raw FROM message JOIN body USING (queue_id) WHERE queue_id = ?", queue_id
        )
        found = self._rows("SELECT address FROM recipient WHERE queue_id = ? ORDER BY position", queue_id)
        return sender, [row[0] for row in found], raw

    def _rows(self, statement: str, *values: str) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self.directory / "state/spool.db")) as db:
            return db.execute(statement, values).fetchall()


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    directory = tmp_path_factory.mktemp("sendmail")
    more = {
        "SMTP_BRIDGE_SMTP__MAX_RECIPIENTS": "3",
        "SMTP_BRIDGE_SMTP__MAX_MESSAGE_SIZE": "4MiB",
        "SMTP_BRIDGE_SPOOL__FILE_THRESHOLD": "8MiB",
    }
    with bridge(directory, **more) as (_, port):
        yield Daemon(directory, port)


def test_a_cron_job_names_a_user_and_the_rest_is_filled_in(daemon: Daemon) -> None:
    sender, recipients, content = daemon.send(
        "-FCronDaemon", "-i", "-odi", "-oem", "root", given=b"Subject: x\n\nout\n.\nput\n"
    )

    assert (sender, recipients) == (ME, [f"root@{HOST}"])
    assert f"From: CronDaemon <{ME}>\r\n".encode() in content
    assert re.search(rb"\r\nDate: \w{3}, \d\d \w{3} \d{4} [\d:]{8} [+-]\d{4}\r\n", content)
    assert content.count(b"Message-ID: <") == 1
    assert content.endswith(b"\r\n\r\nout\r\n.\r\nput\r\n")


def test_php_takes_the_recipients_from_the_header_and_nobody_sees_bcc(daemon: Daemon) -> None:
    given = (
        b'To: "Lee, Ann" <ann@example.com>,\n bob@example.com (Bob, at work)\nBcc: Secret <eve@example.com>\n'
        b"From: shop@example.com\nDate: Tue, 24 Nov 2026 12:00:00 +0000\nMessage-ID: <1@example.com>\n\nhello\n"
    )
    sender, recipients, content = daemon.send("-t", "-i", "-fshop@example.com", given=given)

    assert (sender, recipients) == ("shop@example.com", ["ann@example.com", "bob@example.com", "eve@example.com"])
    assert b"eve" not in content
    assert [content.lower().count(name) for name in (b"\r\nfrom:", b"\r\ndate:", b"\r\nmessage-id:")] == [1, 1, 1]


def test_with_t_those_of_the_command_line_are_added(daemon: Daemon) -> None:
    _, recipients, _ = daemon.send("-ti", "cat@example.com", given=b"To: ann@example.com\n\nx\n")

    assert recipients == ["cat@example.com", "ann@example.com"]


def test_a_resent_message_goes_to_those_it_is_resent_to(daemon: Daemon) -> None:
    _, recipients, content = daemon.send(
        "-t", given=b"Resent-To: new@example.com\nResent-Bcc: eve@example.com\nTo: old@example.com\n\nx\n"
    )

    assert recipients == ["new@example.com", "eve@example.com"]
    assert b"eve" not in content


def test_a_dot_alone_ends_the_message_without_i(daemon: Daemon) -> None:
    _, _, content = daemon.send("ann@example.com", given=b"Subject: x\n\n..two\n.one\n.\nrest\n")

    assert content.endswith(b"\r\n\r\n..two\r\n.one\r\n")


def test_text_without_a_header_is_a_body_and_its_last_line_is_ended(daemon: Daemon) -> None:
    _, _, content = daemon.send("ann@example.com", given=b"disk is full: 99 %\nreally")

    assert content.endswith(b"\r\n\r\ndisk is full: 99 %\r\nreally\r\n")


def test_eight_bit_octets_and_crlf_stay_as_they_are(daemon: Daemon) -> None:
    _, _, content = daemon.send(
        "-f", "<>", "ann@example.com", given="From ann Tue Nov 24\r\nSubject: x\r\n\r\nGrüße\r\n".encode()
    )

    assert content.endswith("\r\n\r\nGrüße\r\n".encode())
    assert b"From ann" not in content


def test_three_mebibytes_with_one_endless_line_arrive_whole(daemon: Daemon) -> None:
    body = b"a" * (64 * 1024 - 1) + b"\r\n" + b"." * 1_500_000 + b"\n" + b".b\n" * 500_000
    _, _, content = daemon.send("-i", "ann@example.com", given=b"Subject: x\n\n" + body)

    assert content.partition(b"\r\n\r\n")[2] == body.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")


def test_more_recipients_than_one_transaction_takes_are_all_mailed(daemon: Daemon) -> None:
    before = daemon.ids()
    done = daemon.call(*(f"u{number}@example.com" for number in range(7)), given=b"Subject: x\n\nx\n")
    new = [daemon.message(queue_id)[1] for queue_id in daemon.ids() if queue_id not in before]

    assert done.returncode == 0, done.stderr
    assert sorted(address for each in new for address in each) == [f"u{number}@example.com" for number in range(7)]


def test_nobody_is_mailed_when_one_is_refused(daemon: Daemon) -> None:
    invoke(daemon.directory, "suppress", "add", "gone@example.com")
    before = daemon.ids()
    done = daemon.call("ann@example.com", "gone@example.com", given=b"Subject: x\n\nx\n")

    assert done.returncode == EX_NOPERM
    assert done.stderr.startswith(b"sendmail: gone@example.com: 550 5.7.1 ")
    assert done.stderr.count(b"\n") == 1
    assert daemon.ids() == before


def test_what_is_too_large_is_a_fault_of_the_data(daemon: Daemon) -> None:
    done = daemon.call("ann@example.com", given=b"Subject: x\n\n" + b"x" * 70 * 1024 * 64)

    assert done.returncode == EX_DATAERR
    assert b"552 5.3.4" in done.stderr


def test_verbose_shows_the_dialogue(daemon: Daemon) -> None:
    done = daemon.call("-v", "-V", "id 7", "-R", "hdrs", "-N", "failure,delay", "ann@example.com", given=b"\nx\n")

    assert b">>> RCPT TO:<ann@example.com> NOTIFY=FAILURE,DELAY\n" in done.stdout
    assert b" RET=HDRS ENVID=id+207\n" in done.stdout
    assert b"<<< 250 2.0.0 Ok" in done.stdout


def test_bs_speaks_smtp_with_the_daemon(daemon: Daemon) -> None:
    dialogue = b"EHLO me\r\nMAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.com>\r\nDATA\r\nSubject: x\r\n\r\nhi\r\n.\r\nQUIT\r\n"
    before = daemon.ids()
    done = daemon.call("-bs", given=dialogue)

    assert done.returncode == 0
    assert done.stdout.startswith(b"220 ")
    assert done.stdout.splitlines()[-1].startswith(b"221 ")
    assert len(daemon.ids()) == len(before) + 1


def test_bp_lists_the_queue(daemon: Daemon) -> None:
    done = daemon.call("-bp")

    assert done.returncode == 0
    assert done.stdout


def test_a_daemon_that_does_not_run_is_tried_later(tmp_path: Path) -> None:
    done = Daemon(tmp_path, 1).call("ann@example.com", given=b"Subject: x\n\nx\n")

    assert done.returncode == EX_TEMPFAIL
    assert done.stderr == b"sendmail: the daemon cannot be reached: 127.0.0.1:1: Connection refused\n"


def test_a_daemon_that_dies_before_its_250_is_tried_later(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        import threading

        def serve() -> None:
            sock, _ = server.accept()
            with sock, sock.makefile("rb") as lines:
                sock.sendall(b"220 hi\r\n")
                for line in lines:
                    if line.startswith(b"DATA"):
                        sock.sendall(b"354 go\r\n")
                    elif line == b".\r\n":
                        return
                    elif line[:4] in (b"EHLO", b"MAIL", b"RCPT"):
                        sock.sendall(b"250 2.0.0 Ok\r\n")

        thread = threading.Thread(target=serve)
        thread.start()
        done = Daemon(tmp_path, server.getsockname()[1]).call("ann@example.com", given=b"Subject: x\n\nx\n")
        thread.join(10)

    assert (done.returncode, done.stderr) == (EX_TEMPFAIL, b"sendmail: the daemon hung up\n")


@pytest.mark.parametrize(
    ("arguments", "given", "status"),
    [
        ((), b"x\n", EX_BAD_USAGE),
        (("-t",), b"Subject: x\n\nx\n", EX_BAD_USAGE),
        (("-t",), b"To: Ann <ann@example.com\n\nx\n", EX_DATAERR),
        (("-bd",), b"", EX_BAD_USAGE),
        (("-q15m",), b"", 0),
        (("-bi",), b"", 0),
    ],
)
def test_wrong_calls_have_the_statuses_of_sysexits(
    daemon: Daemon, arguments: tuple[str, ...], given: bytes, status: int
) -> None:
    before = daemon.ids()
    done = daemon.call(*arguments, given=given)

    assert (done.returncode, done.stderr.count(b"\n"), daemon.ids()) == (status, int(status > 0), before)


def test_it_starts_fast_since_it_loads_neither_settings_nor_a_command_line(tmp_path: Path) -> None:
    code = (
        "import sys; from bridge.cli.sendmail.command import run_sendmail; status = run_sendmail(['a@b.example']);"
        "print(status, sorted({'pydantic', 'typer', 'rich', 'asyncio', 'email', 'structlog'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=variables(tmp_path, SMTP_BRIDGE_SENDMAIL_ADDRESS="127.0.0.1:1"),
        input=b"", capture_output=True, timeout=30,
    )  # fmt: skip

    assert done.stdout == b"75 []\n"


# --- the parts


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("ann@example.com", ["ann@example.com"]),
        ('"Lee, \\"A\\"; x" <ann@example.com>, bob', ["ann@example.com", f"bob@{HOST}"]),
        (
            "friends: ann@x.example, Bob <bob@x.example>;, cat@x.example",
            ["ann@x.example", "bob@x.example", "cat@x.example"],
        ),
        ("undisclosed-recipients:;", []),
        ("<@a.example,@b.example:ann@c.example>", ["ann@c.example"]),
        ('"odd name"@x.example', ['"odd name"@x.example']),
        ("ann@x.example (a (nested, one) \t), bob@[IPv6:2001:db8::1]", ["ann@x.example", "bob@[IPv6:2001:db8::1]"]),
        ("ann @ x.example ; bob@x.example", ["ann@x.example", "bob@x.example"]),
        ("müller@bücher.example", ["müller@bücher.example"]),
    ],
)
def test_address_lists(text: str, found: list[str]) -> None:
    assert addresses(text, HOST) == found


@pytest.mark.parametrize(
    "text",
    [
        "Ann Lee",
        "ann@x.example bob@x.example",
        "Ann <ann@x.example",
        "(x",
        "<a@x.example>\r\nRCPT",
        "<a<b@x>",
        "a\0b@x",
    ],
)
def test_whoever_cannot_be_understood_is_not_left_out(text: str) -> None:
    with pytest.raises(Failure) as caught:
        addresses(text, HOST)

    assert caught.value.status == EX_DATAERR


def test_options_are_read_as_postfix_reads_them() -> None:
    options = parse_options(
        ["-oi", "-f", "a@x", "-oem", "-O", "x=y", "-L", "tag", "-B8BITMIME", "-m", "-U", "--", "b@x"]
    )

    assert (options.ignore_dots, options.sender, options.eight_bit, options.recipients) == (True, "a@x", True, ["b@x"])


@pytest.mark.parametrize(
    "arguments", [["-Z"], ["-f"], ["-N", "sometimes"], ["--frob"], ["a@x", "-X/tmp/x"], ["-B", "9BIT"]]
)
def test_unknown_options_are_refused(arguments: list[str]) -> None:
    with pytest.raises(Failure) as caught:
        parse_options(arguments)

    assert caught.value.status == EX_BAD_USAGE


def test_names_by_which_it_is_called_are_modes() -> None:
    assert [parse_options([], name).mode for name in ("sendmail", "mailq", "newaliases")] == [
        "mail",
        "queue",
        "nothing",
    ]


@pytest.mark.parametrize(
    ("code", "enhanced", "status"),
    [
        (451, "4.3.0", EX_TEMPFAIL),
        (550, "5.1.1", EX_NOUSER),
        (550, "5.7.1", EX_NOPERM),
        (552, "5.3.4", EX_DATAERR),
        (554, "5.6.0", EX_DATAERR),
        (554, "5.0.0", EX_UNAVAILABLE),
        (550, "", EX_NOUSER),
    ],
)
def test_replies_become_exit_statuses(code: int, enhanced: str, status: int) -> None:
    assert status_of(code, enhanced) == status


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("Cron Daemon", "Cron Daemon <a@x>"),
        ('Lee, "Ann"', '"Lee, \\"Ann\\"" <a@x>'),
        ("Zoë", "=?utf-8?B?Wm/Dqw==?= <a@x>"),
        ("x\r\nBcc: eve@x", '"x Bcc: eve@x" <a@x>'),
        ("", "a@x"),
    ],
)
def test_full_names(name: str, shown: str) -> None:
    assert mailbox(name, "a@x") == shown


def test_the_settings_say_where_the_daemon_listens_and_what_takes_no_mail_is_left_out(tmp_path: Path) -> None:
    config = tmp_path / "bridge.toml"
    config.write_text(
        "[smtp]\n"
        + "".join(
            f"[[smtp.listener]]\n{lines}\n"
            for lines in (
                'address = "127.0.0.1:587"\nrequire_auth = true',
                'address = "10.1.2.3:2525"\nallowed_networks = ["10.0.0.0/8"]',
                'address = "10.1.2.4:2525"',
                'address = "0.0.0.0:2526"',
                'address = "127.0.0.1:465"\ntls = "implicit"',
                'address = "unix:/run/lmtp.sock"\nprotocol = "lmtp"',
                'address = "unix:/run/smtp.sock"',
            )
        )
    )

    assert places("", str(config), {}) == ["unix:/run/smtp.sock", "127.0.0.1:2526", "10.1.2.3:2525"]
    assert places("", "", {"SMTP_BRIDGE_CONFIG": str(config), "SMTP_BRIDGE_SENDMAIL_ADDRESS": "[::1]:26"}) == [
        "[::1]:26"
    ]
    assert places("", str(tmp_path / "unreadable"), {}) == ["127.0.0.1:2525"]
    assert places("", "/none", {"SMTP_BRIDGE_SMTP__LISTENER__ADDRESS": ":26"}) == ["127.0.0.1:26"]
    assert places("", "/none", {"SMTP_BRIDGE_DEFAULT_LISTENER": "0.0.0.0:27"}) == ["127.0.0.1:27"]
    with pytest.raises(Failure) as caught:
        places("", "/none", {"SMTP_BRIDGE_SMTP__LISTENER__0__REQUIRE_AUTH": "true"})
    assert caught.value.status == EX_CONFIG


def test_its_variable_is_no_setting(tmp_path: Path) -> None:
    assert invoke(tmp_path, "check", SMTP_BRIDGE_SENDMAIL_ADDRESS="127.0.0.1:26").returncode == 0


def test_a_link_under_another_name_is_that_program_and_a_unix_socket_comes_first(tmp_path: Path) -> None:
    """What the installed script does, and the settings as the caller finds them."""
    script = f"#!{sys.executable}\nfrom bridge.cli import sendmail\nsendmail()\n"
    address = f"unix:{tmp_path}/smtp.sock"
    config = tmp_path / "bridge.toml"
    config.write_text(
        f'[[smtp.listener]]\naddress = "127.0.0.1:0"\n[[smtp.listener]]\naddress = "{address}"\n'
        '[spool]\nmin_free = 0\n[[provider]]\nkind = "capture"\n'
    )
    (tmp_path / "sendmail").write_text(script)
    (tmp_path / "sendmail").chmod(0o755)
    (tmp_path / "mailq").symlink_to("sendmail")
    environ = variables(tmp_path, SMTP_BRIDGE_CONFIG=str(config))

    def call(*command: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            command, env=environ, cwd=tmp_path, input=b"Subject: x\n\nx\n", capture_output=True, timeout=30
        )

    with running(tmp_path, "run", "--config", str(config)) as process:
        port_of(process, tmp_path / "stderr")
        sent, listed = call(f"{tmp_path}/sendmail", "ann@example.com"), call(f"{tmp_path}/mailq")

    assert (sent.returncode, sent.stderr) == (0, b"")
    assert (listed.returncode, b"ann@example.com" in listed.stdout) == (0, True)


def test_who_was_taken_is_not_tried_again_when_the_others_are_refused(tmp_path: Path) -> None:
    """More recipients than go in one transaction, and the second one is put off: a 75 would mail the first ones twice."""
    more = {"SMTP_BRIDGE_SMTP__MAX_RECIPIENTS": "2", "SMTP_BRIDGE_SMTP__RATE_PER_CLIENT": "1/h"}
    with bridge(tmp_path, **more) as (_, port):
        one = Daemon(tmp_path, port)
        done = one.call("-i", "a@example.org", "b@example.org", "c@example.org", given=b"Subject: x\n\nhi\n")
        again = one.call("-i", "a@example.org", given=b"Subject: x\n\nhi\n")

    assert done.returncode == 69
    assert b"sent to 2 of 3, and not to c@example.org and after" in done.stderr
    assert again.returncode == 75
    assert len(one.ids()) == 1
