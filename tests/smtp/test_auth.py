"""Logins: every mechanism with the standard library's client, what a wrong one costs, and what never reaches a log."""

from __future__ import annotations

import asyncio
import base64
import re
import smtplib
import statistics
import time
from typing import Any

import pytest
from argon2 import PasswordHasher

from bridge.smtp.auth import (
    Authenticator,
    AuthUnavailable,
    User,
    decode_base64,
    hash_password,
    parse_cram_md5,
    parse_plain,
)
from tests.smtp.raw import CAPTURE, WHOLE, Raw, clients_end, trusting

__all__ = ["clients_end"]
PASSWORD = "pässwörd ✓"
NO_TLS = {"SMTP_BRIDGE_SMTP__LISTENER__AUTH_WITHOUT_TLS": "true"}


def user(**more: str) -> dict[str, str]:
    return {"SMTP_BRIDGE_USER__NAME": "ann", **{f"SMTP_BRIDGE_USER__{k.upper()}": v for k, v in more.items()}}


def plain(name: str, password: str) -> str:
    return base64.b64encode(f"\0{name}\0{password}".encode()).decode()


def log_in(port: int, mechanism: str, password: str) -> int:
    with smtplib.SMTP("127.0.0.1", port, timeout=10) as client:
        client.starttls(context=trusting())
        client.ehlo()
        client.user, client.password = "ann", password
        try:
            code, _ = client.auth(mechanism, getattr(client, f"auth_{mechanism.lower().replace('-', '_')}"))
        except smtplib.SMTPAuthenticationError as error:
            return error.smtp_code
        client.sendmail("ann@example.com", ["bob@example.org"], b"Subject: x\r\n\r\nx\r\n")
        return code


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN", "CRAM-MD5"])
async def test_the_standard_librarys_client_logs_in(mechanism: str, start_daemon: Any) -> None:
    daemon = await start_daemon(
        **CAPTURE,
        **user(password="secret"),
        SMTP_BRIDGE_SMTP__LISTENER__AUTH_MECHANISMS="PLAIN,LOGIN,CRAM-MD5",
        SMTP_BRIDGE_SMTP__LISTENER__REQUIRE_AUTH="true",
    )
    port = daemon.listeners[0].port

    assert await asyncio.to_thread(log_in, port, mechanism, "secret") == 235
    assert await asyncio.to_thread(log_in, port, mechanism, "wrong") == 535


@pytest.mark.parametrize("kind", ["password", "password_hash"])
async def test_passwords_are_utf_8(kind: str, start_daemon: Any) -> None:
    secret = PASSWORD if kind == "password" else PasswordHasher(1, 1024, 1).hash(PASSWORD)
    daemon = await start_daemon(**CAPTURE, **NO_TLS, **user(**{kind: secret}))
    raw = await Raw.greeted(daemon.listeners[0].port)

    assert (await raw.say(f"AUTH PLAIN {plain('ann', 'passwort')}")).startswith("535 5.7.8")
    assert (await raw.say(f"AUTH PLAIN {plain('änn', PASSWORD)}")).startswith("535 5.7.8")
    assert (await raw.say(f"AUTH PLAIN {plain('ann', PASSWORD)}")).startswith("235 2.7.0")


async def test_what_a_client_sends_blindly_after_a_refused_auth_reaches_neither_reply_nor_log(
    bridge_process: Any, secret_hash: str
) -> None:
    process = await bridge_process(**CAPTURE, **user(password_hash=secret_hash), SMTP_BRIDGE_LOG__LEVEL="debug")
    raw = await Raw.greeted(process.port)
    secrets = [base64.b64encode(b"hidden name").decode(), base64.b64encode(b"hidden word").decode()]

    for line in ("AUTH LOGIN", *secrets, f"AUTH PLAIN {plain('ann', 'hidden word')}"):
        raw.send(line.encode() + b"\r\n")
    replies = [await raw.reply() for _ in range(4)]
    await raw.start_tls()
    await raw.say("EHLO x")
    lines = (f"AUTH PLAIN {plain('ann', 'hidden word')}", f"AUTH LOGIN {secrets[0]}", secrets[1], "AUTH PLAIN !")
    replies += [await raw.say(line) for line in lines]

    log = process.log_path.read_text()
    assert [reply[:3] for reply in replies] == ["538", "500", "500", "538", "535", "334", "535", "501"]
    for text in (*secrets, "hidden", plain("ann", "hidden word")):
        assert text not in log
        assert text not in "".join(replies)


WORD = "Pl4nted-w0rd"  # the right one; what is sent else is made of it


def in_base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def exchanges() -> list[list[str]]:
    """Every way to say a secret: each a command and what follows it, sent without a look at the answers."""
    name, word, token = in_base64("Pl4nted-name"), in_base64(WORD), in_base64("user=ann\1auth=Bearer " + WORD + "\1\1")
    wrong = [in_base64(f"\0Pl4nted-name\0{WORD}"), in_base64(f"\0ann\0x{WORD}"), in_base64(f"{WORD}\0ann\0{WORD}")]
    malformed = [
        in_base64(WORD),
        in_base64(f"\0\0{WORD}"),
        in_base64(f"\0a\0b\0{WORD}"),
        WORD,
        f"!{word}",
        word[:-2],
        word * 900,
    ]
    return [
        *(["AUTH PLAIN " + blob] for blob in (*wrong, *malformed)),
        *(["AUTH PLAIN", blob] for blob in (*wrong, *malformed)),
        *(["AUTH LOGIN", name, blob] for blob in (word, WORD, f"!{word}", word * 900)),
        *(["AUTH LOGIN " + blob, word] for blob in (name, WORD, f"!{word}", word * 900)),
        ["AUTH CRAM-MD5 " + in_base64("ann " + "0" * 32), word],
        *(["AUTH CRAM-MD5", blob] for blob in (in_base64("Pl4nted-name " + "ab" * 16), word, WORD)),
        *([f"AUTH {mechanism} {token}", word] for mechanism in ("XOAUTH2", "OAUTHBEARER", "NTLM", "EXTERNAL", WORD)),
        *([f"AUTH {mechanism}", token, word] for mechanism in ("XOAUTH2", "GSSAPI", "SCRAM-SHA-256", WORD)),
        [
            f"AUTH{word}",
            f"AUTH\t{word}",
            f"AUTH=PLAIN {word}",
            word,
            f"{WORD} {word}",
            word * 900,
            f"\0{WORD}",
            f"\xff{WORD}",
        ],
        [f"EHLO {WORD}", f"MAIL FROM:<a@example.com> AUTH={WORD}+ZZ", f"PASS {WORD}", f"HELP {WORD}"],
    ]


async def test_nothing_that_is_said_to_log_in_ever_reaches_a_log_or_a_reply(bridge_process: Any) -> None:
    process = await bridge_process(
        **CAPTURE,
        **user(password_hash=PasswordHasher(1, 1024, 1).hash(WORD)),
        **NO_TLS,
        SMTP_BRIDGE_SMTP__LISTENER__AUTH_MECHANISMS="PLAIN,LOGIN",
        SMTP_BRIDGE_SMTP__AUTH_DELAY="1ms",
        SMTP_BRIDGE_SMTP__AUTH_DELAY_MAXIMUM="5ms",
        SMTP_BRIDGE_SMTP__MAX_ERRORS="5",
        SMTP_BRIDGE_LOG__LEVEL="debug",
        PYTHONASYNCIODEBUG="1",
    )
    answers = ""
    for lines in [
        *exchanges(),
        ["AUTH PLAIN " + plain("ann", WORD), "AUTH PLAIN " + plain("ann", WORD), in_base64(WORD)],
    ]:
        raw = await Raw.greeted(process.port)
        raw.send("".join(f"{line}\r\n" for line in (*lines, "QUIT")).encode("latin-1"))
        answers += (await asyncio.wait_for(raw.reader.read(), 20)).decode("ascii")
    assert await process.stop() == 0

    seen = (process.log_path.read_text() + answers).upper()
    assert "235 2.7.0" in answers
    assert len(process.events("connection.auth")) > 20
    said = {word for lines in exchanges() for line in lines for word in re.split(r"[ =\0\t]", line) if len(word) > 12}
    for secret in {WORD, "Pl4nted", "w0rd", in_base64(WORD).rstrip("="), plain("ann", WORD), *said}:
        assert secret.upper() not in seen
        assert in_base64(secret).rstrip("=")[:-1].upper() not in seen


async def test_the_empty_challenge_is_334_and_a_blank(start_daemon: Any) -> None:
    daemon = await start_daemon(**CAPTURE, **NO_TLS, **user(password="secret"))
    raw = await Raw.greeted(daemon.listeners[0].port)
    raw.send(b"AUTH PLAIN\r\n")

    assert await raw.reader.readline() == b"334 \r\n"


# --- the check itself


def authenticator(*users: User) -> Authenticator:
    return Authenticator(users, cache_s=60)


async def timed(auth: Authenticator, name: str, password: bytes) -> float:
    started = time.perf_counter()
    await auth.check_password(name, password)
    return time.perf_counter() - started


@pytest.mark.serial
@pytest.mark.parametrize("kind", ["hashed", "plain"])
async def test_a_wrong_name_takes_as_long_as_a_wrong_password(kind: str) -> None:
    hashed = User(name="hashed", password_hash=hash_password("secret"))
    auth = authenticator(hashed, User(name="plain", password="secret"))
    known = [await timed(auth, kind, b"wrong%d" % n) for n in range(9)]
    unknown = [await timed(auth, "nobody", b"wrong%d" % n) for n in range(9)]

    ratio = statistics.median(known) / statistics.median(unknown)
    assert 1 / 2 < ratio < 2
    auth.close()


async def test_a_wrong_name_takes_its_time_also_where_nobody_has_a_hash() -> None:
    auth = authenticator(User(name="ann", password="secret"))
    await timed(auth, "nobody", b"x")

    assert min([await timed(auth, "nobody", b"x") for _ in range(3)]) > 0.002
    assert min([await timed(auth, "ann", b"x") for _ in range(3)]) > 0.002
    auth.close()


async def test_a_right_password_is_remembered_and_a_wrong_one_is_not() -> None:
    auth = authenticator(User(name="ann", password_hash=hash_password("secret")))
    first = await timed(auth, "ann", b"secret")
    again = min([await timed(auth, "ann", b"secret") for _ in range(5)])

    assert again < first / 10
    assert await auth.check_password("ann", b"secret2") is None
    assert await auth.check_password("eve", b"secret") is None
    assert (await auth.check_password("ann", b"secret")).name == "ann"  # type: ignore[union-attr]
    auth.close()


async def test_an_empty_password_is_nobodys_and_takes_its_time(secret_hash: str) -> None:
    auth = authenticator(User(name="ann", password_hash=hash_password("")), User(name="bob", password_hash=secret_hash))

    assert await auth.check_password("ann", b"") is None
    assert auth.recall("ann", b"") is None
    assert await timed(auth, "ann", b"") > 0.002
    auth.close()


async def test_what_is_remembered_ends_and_is_bounded(monkeypatch: pytest.MonkeyPatch, secret_hash: str) -> None:
    monkeypatch.setattr("bridge.smtp.auth.MAX_CACHED", 3)
    users = [User(name=f"u{n}", password_hash=secret_hash) for n in range(10)]
    auth = Authenticator(users, cache_s=60)
    for one in users:
        assert await auth.check_password(one.name, b"secret") == one
    assert len(auth._good) <= 3
    auth.close()

    forgetful = Authenticator(users, cache_s=0)
    await forgetful.check_password("u1", b"secret")
    assert all(until <= time.monotonic() for until in forgetful._good.values())
    forgetful.close()


ABSURD = "$argon2id$v=19$m=4294967295,t=1,p=1$c29tZXNhbHRzb21lc2FsdA$" + "A" * 43


@pytest.mark.parametrize("broken", [ABSURD, "$argon2id$v=19$m=8,t=1,p=1$$", "no hash"])
async def test_a_hash_that_cannot_be_checked_is_454_not_535(broken: str) -> None:
    auth = authenticator(User(name="ann", password_hash=broken))

    with pytest.raises(AuthUnavailable):
        await auth.check_password("ann", b"secret")
    auth.close()
    with pytest.raises(AuthUnavailable):
        await auth.check_password("ann", b"secret")


async def test_a_client_hears_454_when_its_password_cannot_be_checked(start_daemon: Any) -> None:
    daemon = await start_daemon(**CAPTURE, **NO_TLS, **user(password_hash=ABSURD))
    raw = await Raw.greeted(daemon.listeners[0].port)

    assert (await raw.say(f"AUTH PLAIN {plain('ann', 'secret')}")).startswith("454 4.7.0")
    assert await raw.say("NOOP") == "250 2.0.0 Ok"


@pytest.mark.serial
async def test_twenty_wrong_logins_at_once_do_not_hold_up_other_sessions(start_daemon: Any) -> None:
    daemon = await start_daemon(
        **CAPTURE, **NO_TLS, **user(password_hash=hash_password("secret")), SMTP_BRIDGE_SMTP__AUTH_DELAY="0"
    )
    port = daemon.listeners[0].port
    raws = [await Raw.greeted(port) for _ in range(20)]
    other = await Raw.greeted(port)
    for raw in raws:
        raw.send(f"AUTH PLAIN {plain('ann', 'wrong')}\r\n".encode())
    started = time.monotonic()

    other.send(WHOLE)
    await other.expect("250 2.1.0", "250 2.1.5", "354", "250 2.0.0")
    alone = time.monotonic() - started
    for raw in raws:
        await raw.expect("535 5.7.8")
    assert alone < max(0.1, (time.monotonic() - started) / 2)


async def test_a_client_that_leaves_during_its_login_harms_nobody(start_daemon: Any) -> None:
    daemon = await start_daemon(**CAPTURE, **NO_TLS, **user(password_hash=hash_password("secret")))
    for _ in range(4):
        raw = await Raw.greeted(daemon.listeners[0].port)
        await raw.send_apart(f"AUTH PLAIN {plain('ann', 'secret')}\r\n".encode())
        raw.reset()
    raw = await Raw.greeted(daemon.listeners[0].port)

    assert (await raw.say(f"AUTH PLAIN {plain('ann', 'secret')}")).startswith("235")


# --- rules


@pytest.mark.parametrize(
    ("message", "pair"),
    [
        (b"\0ann\0secret", ("ann", b"secret")),
        (b"ann\0ann\0secret", ("ann", b"secret")),
        (b"\0ann\0", ("ann", b"")),
        (b"\0\xc3\xa4nn\0\xff", ("änn", b"\xff")),
        (b"eve\0ann\0secret", None),
        (b"\0\0secret", None),
        (b"\0\xff\0secret", None),
        (b"\xff\0ann\0secret", None),
        (b"", None),
        (b"ann", None),
        (b"ann\0secret", None),
        (b"\0ann\0sec\0ret", None),
    ],
)
def test_plain_is_three_fields_with_a_name(message: bytes, pair: Any) -> None:
    assert parse_plain(message) == pair


@pytest.mark.parametrize(
    ("line", "decoded"),
    [
        (b"=", b""),
        (b"", b""),
        (b"YQ==", b"a"),
        (b"YWI=", b"ab"),
        (b"YWJj", b"abc"),
        (b"YQ", None),
        (b"YQ=", None),
        (b"YQ==YQ==", None),
        (b"Y Q=", None),
        (b"YQ==\n", None),
        (b"!!!!", None),
        (b"_-_-", None),
        (b"====", None),
        (b"*", None),
    ],
)
def test_base64_is_read_strictly(line: bytes, decoded: bytes | None) -> None:
    assert decode_base64(line) == decoded


@pytest.mark.parametrize(
    ("message", "pair"),
    [
        (b"ann " + b"0aF9" * 8, ("ann", "0aF9" * 8)),
        (b"ann b " + b"0" * 32, ("ann b", "0" * 32)),
        (b"ann " + b"0" * 31, None),
        (b"ann " + b"g" * 32, None),
        (b" " + b"0" * 32, None),
        (b"\xff " + b"0" * 32, None),
        (b"", None),
    ],
)
def test_cram_md5_is_a_name_and_a_digest(message: bytes, pair: Any) -> None:
    assert parse_cram_md5(message) == pair


@pytest.mark.parametrize(
    ("patterns", "address", "may"),
    [
        (("*",), "anybody@anywhere.example", True),
        (("*@example.com",), "ann@example.com", True),
        (("*@example.com",), "Ann@EXAMPLE.COM", True),
        (("*@example.com",), "ann@sub.example.com", False),
        (("*@example.com",), "ann@example.com.evil.example", False),
        (("*@example.com",), "ann@exampleXcom", False),
        (("*@*.example.com",), "ann@a.b.example.com", True),
        (("ann@example.com", "bob@example.com"), "bob@example.com", True),
        (("ann@example.com",), "joann@example.com", False),
        (("a.n@example.com",), "ann@example.com", False),
        ((), "ann@example.com", False),
        ((), "", True),
    ],
)
def test_a_user_sends_as_the_patterns_say(patterns: tuple[str, ...], address: str, may: bool) -> None:
    assert User(name="u", senders=patterns).may_send_as(address) is may


def test_a_user_shows_no_secret() -> None:
    assert "hidden" not in repr(User(name="u", password="hidden", password_hash="hidden"))
