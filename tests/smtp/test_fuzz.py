"""Sessions at random against the model (`python -m tests.smtp.fuzz` goes on for as long as one likes), always the same ones."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from tests.smtp.model import Model, Rules
from tests.smtp.player import LISTENERS, Running, Wrong, play, read_reply
from tests.smtp.programs import DOT_FIRST, LOG_IN, Program, programs, stuffed
from tests.smtp.raw import HEADER, WHOLE

pytestmark = pytest.mark.filterwarnings("ignore::hypothesis.errors.HypothesisWarning")
EHLO = b"EHLO client.example\r\n"
MAIL = b"MAIL FROM:<ann@example.com>\r\n"
RCPT = b"RCPT TO:<bob@example.org>\r\n"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with Running(tmp_path_factory.mktemp("fuzz")) as running:
        yield running


@settings(
    max_examples=120,
    deadline=None,
    derandomize=True,
    database=None,
    phases=(Phase.generate, Phase.shrink),
    suppress_health_check=list(HealthCheck),
)
@given(program=programs(list(LISTENERS)))
def test_whatever_a_client_sends_it_hears_and_leaves_what_the_rules_say(program: Program, running: Running) -> None:
    play(program, running)


def test_a_session_is_the_same_however_it_is_cut(running: Running) -> None:
    content = b"DATA\r\n" + HEADER + b"a\n.\nb\r\n..\r\n.\r\n"
    items = (
        EHLO,
        b"MAIL FROM:<ann@example.com>\r\n",
        b"RCPT TO:<bob@example.org>\r\n",
        content,
        b"BAD\r\nNOOP\r\nQUIT\r\n",
    )
    told = set()
    for cut in ("whole", "items", "octets"):
        for pause in ("none", "read", "reply"):
            model = play(Program(listener="smtp", items=items, cut=cut, pause=pause), running)
            told.add((tuple(model.replies), model.kept[0].content))

    assert {replies[2:] for replies, _ in told} == {
        ("250 2.1.0", "250 2.1.5", "354", "250 2.0.0", "500 5.5.1", "250 2.0.0", "221 2.0.0")
    }
    assert {content for _, content in told} == {HEADER + b"a\r\n.\r\nb\r\n.\r\n"}


@pytest.mark.parametrize(
    "items",
    [
        (EHLO, b"STARTTLS\r\nMAIL FROM:<eve@example.com>\r\nNOOP\r\n", EHLO, MAIL),  # CVE-2011-0411
        (EHLO, b"STARTTLS\r\n", MAIL),  # RFC 3207 4.2: who it is must be said again
        (EHLO, b"STARTTLS\r\n", EHLO, LOG_IN, LOG_IN, MAIL + RCPT + b"DATA\r\n" + stuffed(HEADER)),
        (EHLO, MAIL + RCPT + b"DATA\r\n" + stuffed(DOT_FIRST + b".\r\n..\r\n.x")),
    ],
)
@pytest.mark.parametrize("listener", ["smtp", "tls"])
def test_what_chance_seldom_brings_is_as_the_rules_say(
    items: tuple[bytes, ...], listener: str, running: Running
) -> None:
    model = play(Program(listener=listener, items=items), running)

    assert len(model.replies) >= 4


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_recipients": 0},
        {"max_message_size": 10},
        {"open_relay": False},
        {"reject_bare_newlines": True},
        {"starttls": False},
        {"hostname": "other.example"},
    ],
)
def test_a_daemon_that_follows_other_rules_is_found_out(wrong: dict[str, object], running: Running) -> None:
    right = running.rules["smtp"]
    mail = b"MAIL FROM:<root>\r\nRCPT TO:<bob@example.org>\r\nDATA\r\n" + HEADER + b"\n\r\n.\r\n"
    running.rules["smtp"] = dataclasses.replace(right, **wrong)
    try:
        with pytest.raises(Wrong):
            play(Program(listener="smtp", items=(EHLO, mail)), running)
    finally:
        running.rules["smtp"] = right
        running.stored()


@pytest.mark.parametrize(
    "raw",
    [
        b"250 2.0.0 Ok\n",
        b"250 2.0.0 \xff\r\n",
        b"250 4.0.0 Ok\r\n",
        b"250-a\r\n251 b\r\n",
        b"500 zqx7w\r\n",
        b"220 " + b"x" * 507 + b"\r\n",
    ],
)
def test_what_is_no_reply_is_found_out(raw: bytes) -> None:
    with pytest.raises(Wrong):
        read_reply(raw)


def test_the_model_says_what_the_rfc_shows() -> None:
    """RFC 5321 D.1, with a client that pipelines."""
    model = Model(Rules(max_recipients=2))

    model.feed(EHLO + WHOLE + b"RSET\r\nMAIL FROM:<Smith@bar.com>\r\nRCPT TO:<Green@foo.com\r\nDATA\r\nQUIT\r\n")

    assert model.replies[2:] == [
        "250 2.1.0", "250 2.1.5", "354", "250 2.0.0", "250 2.0.0", "250 2.1.0", "501 5.5.4", "554 5.5.1", "221 2.0.0",
    ]  # fmt: skip
    assert model.closed
    assert [kept.recipients for kept in model.kept] == [("bob@example.org",)]


def test_the_model_reads_chunks_whatever_they_are_answered() -> None:
    """RFC 3030 2: as a program would have it that pipelines a message nobody takes."""
    model = Model(Rules(extra=("CHUNKING",)))

    model.feed(
        EHLO + b"BDAT 6 LAST\r\nQUIT\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nBDAT 2\r\nx\rDATA\r\nBDAT 3 LAST\r\n\n.\n"
    )

    assert model.replies[2:] == ["503 5.5.1", "250 2.1.0", "250 2.1.5", "250 2.0.0", "503 5.5.1", "250 2.0.0"]
    assert [kept.content for kept in model.kept] == [b"x\r\n.\r\n"]
