"""Messages that leave a spool as JSON and mail, and go on in another one as if nothing had been."""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from pathlib import Path
from typing import Any

import pytest

from bridge.model import Envelope, Message, Origin, Wish
from bridge.reply import Reply
from bridge.spool.base import Result, SpoolError, SpoolFull
from bridge.spool.bodies import Bodies
from bridge.spool.ids import new_queue_id
from bridge.spool.portable import NotPortable, Portable, parse
from bridge.spool.retention import IMPORTED_S
from bridge.spool.sqlite import SqliteSpool

from .support import (
    ANN,
    BLOCKED,
    BOB,
    BOUNCED,
    EVE,
    EXPIRED,
    HELD,
    LOST,
    NOW,
    SENT,
    OpenSpool,
    claim,
    claim_one,
    deferred,
    events,
    message,
    record,
    statuses,
    tell_senders,
)

LARGE = bytes(range(256)) * 100  # above the threshold of these tests: a file


@pytest.fixture
async def other(opened: OpenSpool, tmp_path: Path) -> SqliteSpool:
    return await opened(path=tmp_path / "other" / "spool.db")


async def carried(spool: SqliteSpool, queue_id: str) -> tuple[Portable, bytes]:
    """Out of it, through JSON."""
    found = await spool.take_out(queue_id)
    assert found
    return parse(found[0].model_dump_json().encode()), found[1]


async def move(spool: SqliteSpool, other: SqliteSpool, queue_id: str, now: float = NOW) -> bool:
    return await other.bring_in(*await carried(spool, queue_id), now=now)


def odd_mail(chance: random.Random) -> Message:
    """Whatever SMTP lets in."""
    recipients = chance.sample(
        [
            ANN,
            BOB,
            "Ann@Example.com",
            '"a b@c"@example.com',
            "jürgen@bücher.example",
            "x" * 64 + "@example.com",
            "Postmaster",
        ],
        k=chance.randint(1, 5),
    )
    wishes = [
        Wish(), Wish(notify="NEVER"), Wish(notify="SUCCESS,DELAY", orcpt="rfc822;a+2Bb@example.com"),
        Wish(orcpt="utf-8;jürgen@bücher.example"),
    ]  # fmt: skip
    raws = [b"", b"\0\r\n\xff\xfe", b"Subject: \xe4\r\n\r\n8 bit \xe4\r\n", b"no line end", b"\r\n.\r\n..\r\n",
            chance.randbytes(300), LARGE, b"x" * 10_000, b"x" * 10_001]  # fmt: skip
    return Message(
        queue_id=new_queue_id(),
        envelope=Envelope(
            reverse_path=chance.choice(["", "a@example.org", "grüße@example.org", '"\\"q"@example.org']),
            recipients=tuple(recipients),
            smtputf8=chance.random() < 0.5,
            ret=chance.choice(["", "FULL", "HDRS"]),
            envid=chance.choice(["", "QQ+2B314159"]),
            wishes={one: wish for one in recipients if (wish := chance.choice(wishes)) != Wish()},
        ),
        raw=chance.choice(raws),
        created_at=NOW - chance.random() * 1e5,
        expires_at=NOW + chance.random() * 1e5,
        origin=Origin(
            client=chance.choice(["192.0.2.7", "2001:db8::1", "unix"]),
            helo="printer",
            user="ü",
            listener="smtp-1",
            protocol="ESMTPSA",
        ),
        message_id="<1@example.org>",
        subject=chance.choice(["", "Grüße \U0001f600", "\u2028 odd"]),
        source=chance.choice(["printer", "192.0.2.7 bulk"]),
        kind=chance.choice(["mail", "dsn"]),
    )


@pytest.mark.parametrize("seed", range(4))
async def test_odd_mail_arrives_as_it_was(spool: SqliteSpool, other: SqliteSpool, seed: int) -> None:
    chance = random.Random(seed)
    mails = [odd_mail(chance) for _ in range(15)]
    for mail in mails:
        await spool.put(mail)
    for queue_id in await spool.portable_ids():
        assert await move(spool, other, queue_id)

    arrived = {item.message.queue_id: item for item in await claim(other)}
    for item in await claim(spool):
        assert arrived[item.message.queue_id].message == item.message
        assert arrived[item.message.queue_id].recipients == item.recipients
    assert sorted(arrived) == sorted(mail.queue_id for mail in mails)


async def test_every_recipient_goes_on_from_where_he_was(spool: SqliteSpool, other: SqliteSpool) -> None:
    results = {
        "sent@x": SENT, "bounced@x": BOUNCED, "expired@x": EXPIRED, "lost@x": LOST, "held@x": HELD, "blocked@x": BLOCKED,
        "later@x": deferred(NOW + 500), "soon@x": deferred(NOW + 5),
    }  # fmt: skip
    mail = message(*results, "new@x")
    await spool.put(mail, results=results)
    assert await move(spool, other, mail.queue_id, NOW + 50)

    def facts(row: Any) -> dict[str, dict[str, Any]]:
        return {one.pop("address"): one for one in (dict(each) for each in row["recipients"])}

    was, is_ = facts(await spool.show(mail.queue_id)), facts(await other.show(mail.queue_id))
    due = {address: one.pop("next_attempt_at") for address, one in is_.items()}
    for one in was.values():
        del one["next_attempt_at"]
    assert is_ == was
    assert due == {
        "sent@x": None, "bounced@x": None, "expired@x": None, "held@x": None,
        "new@x": NOW + 50, "soon@x": NOW + 50, "lost@x": NOW + 50, "blocked@x": NOW + 50, "later@x": NOW + 500,
    }  # fmt: skip
    assert await events(other, mail.queue_id) == ["imported"]
    (due_now,) = await other.notices()
    assert {one.address for one in due_now.recipients} == {"bounced@x", "expired@x"}
    item = await claim_one(other, NOW + 50)
    assert {one.address for one in item.recipients} == {"new@x", "soon@x", "lost@x", "blocked@x"}


async def test_a_lost_answer_keeps_its_group_and_its_provider(spool: SqliteSpool, other: SqliteSpool) -> None:
    mail = message(ANN, BOB, EVE)
    await spool.put(mail)
    await record(spool, await claim_one(spool), {ANN: LOST, BOB: LOST, EVE: deferred(NOW + 10)})
    await move(spool, other, mail.queue_id, NOW + 20)

    here, there = await claim_one(spool, NOW + 20), await claim_one(other, NOW + 20)
    assert there.recipients == here.recipients
    groups = {one.address: one.group for one in there.recipients}
    assert groups[ANN] == groups[BOB] is not None
    assert groups[EVE] is None
    assert [one.lane for one in there.recipients] == ["=main", "=main", ""]


async def test_who_was_being_tried_is_in_doubt_where_he_arrives(spool: SqliteSpool, other: SqliteSpool) -> None:
    mail = message()
    await spool.put(mail)
    await spool.claim(owner="me", now=NOW, lease_s=60, limit=1, provider="main")
    portable, raw = await carried(spool, mail.queue_id)
    await other.bring_in(portable, raw, now=NOW)

    (recipient,) = (await claim_one(other)).recipients
    assert portable.recipients[0].in_doubt
    assert (recipient.interrupted, recipient.unknowns, recipient.lane) == (True, 1, "=main")
    assert recipient.group is not None


async def test_a_failed_message_can_be_retried_where_it_arrives(spool: SqliteSpool, other: SqliteSpool) -> None:
    mail = message(raw=LARGE)
    await spool.put(mail)
    await record(spool, await claim_one(spool), BOUNCED)
    await tell_senders(spool)
    assert await move(spool, other, mail.queue_id)

    assert await claim(other) == []
    assert await other.notices() == []
    assert await other.retry([mail.queue_id], now=NOW) == 1
    assert (await claim_one(other)).message.raw == LARGE


async def test_what_is_over_is_not_taken_out(spool: SqliteSpool) -> None:
    mails = [message() for _ in range(3)]
    await spool.put(mails[0])
    await record(spool, await claim_one(spool), SENT)
    await spool.put_history(mails[1], {ANN: SENT}, keep_body=True)
    await spool.put(mails[2])

    assert await spool.portable_ids() == [mails[2].queue_id]
    assert [await spool.take_out(mail.queue_id) for mail in mails[:2]] == [None, None]


@pytest.mark.parametrize("raw", [b"small", LARGE], ids=["row", "file"])
async def test_a_message_that_is_there_is_left_alone(spool: SqliteSpool, other: SqliteSpool, raw: bytes) -> None:
    mail = message(raw=raw)
    await spool.put(mail)
    taken = await carried(spool, mail.queue_id)
    assert await other.bring_in(*taken, now=NOW)
    await record(other, await claim_one(other), SENT)

    assert not await other.bring_in(*taken, now=NOW)
    assert not await spool.bring_in(*taken, now=NOW)
    assert await statuses(other, mail.queue_id) == {ANN: "sent"}
    assert await claim(other) == []
    assert (await claim_one(spool)).message.raw == raw


async def test_a_message_that_comes_twice_at_once_is_there_once(spool: SqliteSpool, other: SqliteSpool) -> None:
    mail = message()
    await spool.put(mail)
    taken = await carried(spool, mail.queue_id)

    assert sorted(await asyncio.gather(*(other.bring_in(*taken, now=NOW) for _ in range(5)))) == [False] * 4 + [True]


async def test_it_arrives_beside_a_daemon_which_is_woken(
    spool: SqliteSpool, other: SqliteSpool, opened: OpenSpool
) -> None:
    mail = message(raw=LARGE)
    await spool.put(mail)
    cli = await opened(path=other._bodies.root.with_suffix(""), daemon=False, owner="cli")
    woken = asyncio.Event()
    other.on_wake(woken.set)
    assert await move(spool, cli, mail.queue_id)

    await asyncio.wait_for(woken.wait(), 5)
    assert (await claim_one(other)).message.raw == LARGE


@pytest.mark.parametrize("raw", [b"small", LARGE], ids=["row", "file"])
@pytest.mark.parametrize("history_s", [0.0, 100.0])
async def test_what_was_sent_is_not_brought_in_again_when_the_history_has_forgotten_it(
    spool: SqliteSpool, opened: OpenSpool, tmp_path: Path, raw: bytes, history_s: float
) -> None:
    other = await opened(path=tmp_path / "other" / "spool.db", history_s=history_s)
    mail = message(raw=raw)
    await spool.put(mail)
    taken = await carried(spool, mail.queue_id)
    assert await other.bring_in(*taken, now=NOW)
    await record(other, await claim_one(other), SENT)
    await other.prune(now=NOW + 1000)
    assert await other.show(mail.queue_id) is None

    assert await other.known([mail.queue_id]) == {mail.queue_id}
    assert not await other.bring_in(*taken, now=NOW + 1000)
    assert await claim(other, NOW + 1000) == []


async def test_an_import_is_known_for_a_year(spool: SqliteSpool, opened: OpenSpool, tmp_path: Path) -> None:
    other = await opened(path=tmp_path / "other" / "spool.db", history_s=0)
    mails = [message() for _ in range(250)]
    for mail in mails:
        await spool.put(mail)
        await move(spool, other, mail.queue_id)
    for item in await claim(other, limit=1000):
        await record(other, item, SENT)
    ids = {mail.queue_id for mail in mails}

    await other.prune(now=NOW + IMPORTED_S - 1)
    assert await other.known(list(ids)) == ids
    await other.prune(now=NOW + IMPORTED_S + 1, limit=500)
    assert await other.known(list(ids)) == set()


async def test_a_daemon_that_starts_meanwhile_keeps_the_body_file(tmp_path: Path) -> None:
    bodies = Bodies(tmp_path / "spool.db.d")
    (tmp_path / "spool.db").touch()
    bodies.write("0000000000000001", LARGE, beside=True)
    bodies.write("0000000000000002", LARGE)
    assert bodies.sweep(frozenset(), time.time() + 1) == 1
    assert bodies.sweep(frozenset(), time.time() + 7200) == 1


async def test_what_an_import_left_that_was_cut_short_is_used(spool: SqliteSpool, other: SqliteSpool) -> None:
    mail = message(raw=LARGE)
    await spool.put(mail)
    other._bodies.write(mail.queue_id, LARGE, beside=True)
    assert await move(spool, other, mail.queue_id)

    assert (await claim_one(other)).message.raw == LARGE


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give a file away")
async def test_what_root_brings_in_belongs_to_the_daemons_user(
    spool: SqliteSpool, opened: OpenSpool, tmp_path: Path
) -> None:
    place = tmp_path / "theirs" / "spool.db"
    await (await opened(path=place)).close()
    os.chown(place, 12345, 12345)
    mail = message(raw=LARGE)
    await spool.put(mail)
    cli = await opened(path=place, daemon=False, reserve_bytes=0)
    await move(spool, cli, mail.queue_id)

    files = [path for path in (tmp_path / "theirs").rglob("*") if path.suffix not in (".lock", ".reserve")]
    assert {path.stat().st_uid for path in files} == {12345}
    assert {path.stat().st_mode & 0o077 for path in files} == {0}


async def test_a_spool_without_room_takes_nothing(spool: SqliteSpool, opened: OpenSpool, tmp_path: Path) -> None:
    full = await opened(path=tmp_path / "full" / "spool.db", max_bytes=150_000)
    for raw in (b"x" * 9_000, LARGE * 8):
        mails = [message(raw=raw) for _ in range(20)]
        for mail in mails:
            await spool.put(mail)
        brought = [await _brings(spool, full, mail.queue_id) for mail in mails]
        assert False in brought
        assert len(await claim(full)) == sum(brought)
    assert [path for path in full._bodies.root.rglob("*") if path.is_file()] == []


async def _brings(spool: SqliteSpool, full: SqliteSpool, queue_id: str) -> bool:
    try:
        return await move(spool, full, queue_id)
    except SpoolFull:
        return False


async def test_whatever_a_spool_holds_can_be_read_again(spool: SqliteSpool) -> None:
    reply = Reply.safe(550, "5.1.1", "no\r\nsuch\0user" + "x" * 3000)
    mail = message(ANN, subject="two\r\nlines")
    await spool.put(mail, results={ANN: Result(status="bounced", reply=reply, provider_message_id="a\nb" * 2000)})

    portable, _ = await carried(spool, mail.queue_id)
    assert portable.subject == "two  lines"


# --- what is no message


def given(**changes: Any) -> dict[str, Any]:
    recipient = {
        "address": ANN, "status": "queued", "attempts": 0, "next_attempt_at": NOW, "expires_at": NOW, "blocked_at": None,
        "notify": "", "orcpt": "", "notice": "", "provider": "", "provider_message_id": "", "code": None, "enhanced": "",
        "text": "", "fault": "", "unknowns": 0, "group": None, "in_doubt": False, "bound_to": "",
    }  # fmt: skip
    whole = {
        "format": "smtp-rest-bridge message", "version": 1, "queue_id": new_queue_id(), "size": 0, "sha256": "0" * 64,
        "kind": "mail", "created_at": NOW, "expires_at": NOW, "reverse_path": "", "smtputf8": False, "ret": "", "envid": "",
        "client": "", "helo": "", "user": "", "listener": "", "protocol": "", "source": "", "message_id": "", "subject": "",
        "recipients": [recipient | changes.pop("recipient", {})],
    }  # fmt: skip
    return whole | changes


def test_a_message_that_is_well_said_is_taken() -> None:
    assert parse(json.dumps(given()).encode()).open


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format": "other"}, "format: Input should be 'smtp-rest-bridge message'"),
        ({"version": 2}, "version: Input should be 1"),
        ({"queue_id": "../../etc/passwd"}, "queue_id: .*no queue id"),
        ({"queue_id": "short"}, "queue_id"),
        ({"sha256": "0" * 63}, "sha256"),
        ({"size": -1}, "size"),
        ({"size": "1"}, "size"),
        ({"size": 1 << 63}, "size"),
        ({"created_at": float("nan")}, "created_at|Invalid JSON"),
        ({"reverse_path": "a\r\nRCPT TO:<b>"}, "reverse_path: .*control"),
        ({"recipients": []}, "recipients"),
        ({"recipients": [given()["recipients"][0]] * 2}, "twice"),
        ({"surprise": 1}, "surprise: Extra inputs"),
        ({"recipient": {"address": ""}}, "recipients.0.address"),
        ({"recipient": {"address": "a\n@x"}}, "recipients.0.address: .*control"),
        ({"recipient": {"status": "lost"}}, "recipients.0.status"),
        ({"recipient": {"attempts": True}}, "recipients.0.attempts"),
        ({"recipient": {"notify": "SUCCESS;NEVER"}}, "recipients.0.notify"),
        ({"recipient": {"code": 99}}, "recipients.0.code"),
        ({"recipient": {"group": 1 << 64}}, "recipients.0.group"),
        ({"recipient": {"fault": "mine"}}, "recipients.0.fault"),
    ],
)
def test_what_is_no_message_is_named_in_one_line(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(NotPortable, match=words) as error:
        parse(json.dumps(given(**changes)).encode())

    assert "\n" not in str(error.value)


@pytest.mark.parametrize("octets", [b"", b"{", b"[]", b"null", b"\xff", b'{"format": 1}', b"[" * 100_000])
def test_what_is_no_json_is_named(octets: bytes) -> None:
    with pytest.raises(NotPortable):
        parse(octets)


async def test_an_id_with_a_stranger_s_file_is_refused(spool: SqliteSpool, other: SqliteSpool) -> None:
    mail = message(raw=LARGE)
    await spool.put(mail)
    other._bodies.write(mail.queue_id, b"another's")

    with pytest.raises(SpoolError, match="in the spool already"):
        await move(spool, other, mail.queue_id)
    assert await other.show(mail.queue_id) is None
