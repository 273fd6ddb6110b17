"""A retry through another provider, and what is said before anything is done."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from bridge.spool import changes
from bridge.spool.base import Action
from bridge.spool.sqlite import SqliteSpool

from .operator_contract import put_as
from .support import ANN, BOB, BOUNCED, LIFETIME, LOST, NOW, SENT, claim, claim_one, events, message, record, statuses

LANE = "backup#0"
ACTIONS: tuple[Action, ...] = ("retry", "hold", "release", "drop")
STATUSES = ("queued", "deferred", "held", "sent", "bounced", "expired", "dropped")


async def reroute(spool: SqliteSpool, *ids: str, force: bool = False, provider: str = "backup") -> int:
    return await spool.reroute(ids, provider=provider, lane=f"{provider}#0", force=force, now=NOW + 1)


@pytest.mark.parametrize("status", ["queued", "deferred", "held", "bounced", "expired"])
async def test_it_is_due_at_once_in_the_lane_of_that_provider(spool: SqliteSpool, status: str) -> None:
    queue_id = await put_as(spool, status)

    assert await reroute(spool, queue_id) == 1
    assert await claim(spool, NOW + 1) != []
    row = await spool.show(queue_id)
    assert row
    assert row["recipients"][0]["lane"] == LANE
    assert (row["events"][-1]["event"], row["events"][-1]["text"]) == ("rerouted", "backup")
    assert row["resolved_at"] is None


@pytest.mark.parametrize("status", ["sent", "dropped"])
async def test_what_is_over_stays_so(spool: SqliteSpool, status: str) -> None:
    queue_id = await put_as(spool, status)

    assert await reroute(spool, queue_id, force=True) == 0
    assert await statuses(spool, queue_id) == {ANN: status}


async def test_whom_a_provider_may_have_mailed_already_is_not_given_to_another_unless_forced(
    spool: SqliteSpool,
) -> None:
    mail = message()
    await spool.put(mail)
    await record(spool, await claim_one(spool), LOST)

    said = await spool.forecast("retry", [mail.queue_id], now=NOW + 1, provider="backup")
    assert (said.changed, said.left) == ({}, {"it is bound to main, which may have sent it already": 1})
    assert await reroute(spool, mail.queue_id) == 0
    assert (await spool.forecast("retry", [mail.queue_id], now=NOW + 1, provider="main")).changed == {"deferred": 1}
    assert await reroute(spool, mail.queue_id, provider="main") == 1
    row = await spool.show(mail.queue_id)
    assert row
    assert row["recipients"][0]["lane"] == "=main"
    assert row["recipients"][0]["unknowns"] == 1

    said = await spool.forecast("retry", [mail.queue_id], now=NOW + 1, provider="backup", force=True)
    assert (said.changed, said.left) == ({"deferred": 1}, {})
    assert await reroute(spool, mail.queue_id, force=True) == 1
    (claimed,) = await spool.claim(owner="me", now=NOW + 1, lease_s=60, limit=9, lanes=[LANE], provider="backup")
    (recipient,) = claimed.recipients
    assert (recipient.unknowns, recipient.interrupted, recipient.group) == (0, False, None)


async def test_an_attempt_that_was_never_recorded_counts_as_perhaps_mailed(spool: SqliteSpool) -> None:
    mail = message()
    await spool.put(mail)
    await spool.claim(owner="me", now=NOW, lease_s=1, limit=9, provider="main")

    assert (await spool.forecast("retry", [mail.queue_id], now=NOW, provider="backup")).left == {changes.RUNNING: 1}
    assert await spool.reroute([mail.queue_id], provider="backup", lane=LANE, now=NOW) == 0
    later = await spool.forecast("retry", [mail.queue_id], now=NOW + 2, provider="backup")
    assert later.left == {"it is bound to main, which may have sent it already": 1}


async def test_failed_mail_begins_a_new_lifetime_and_held_mail_gets_back_the_time_on_hold(spool: SqliteSpool) -> None:
    failed, held = await put_as(spool, "bounced"), await put_as(spool, "held")
    await reroute(spool, failed, held)

    ends = [(await spool.show(queue_id) or {})["recipients"][0]["expires_at"] for queue_id in (failed, held)]
    assert ends == [NOW + 1 + LIFETIME, NOW + LIFETIME + 1]


@pytest.mark.parametrize(
    ("action", "provider", "force"),
    [*((action, "", False) for action in ACTIONS), ("retry", "backup", False), ("retry", "backup", True)],
)
async def test_what_is_said_is_what_is_done(spool: SqliteSpool, action: Action, provider: str, force: bool) -> None:
    ids = [await put_as(spool, status, ANN, BOB) for status in STATUSES]
    mixed, running, lost, gone = (message(ANN, BOB) for _ in range(4))
    await spool.put(mixed, results={ANN: SENT, BOB: BOUNCED})
    await spool.put(running)
    await spool.claim(owner="me", now=NOW, lease_s=600, limit=99, provider="main")
    await spool.put(lost, results={ANN: LOST, BOB: SENT})
    await spool.put(gone, results={ANN: BOUNCED, BOB: BOUNCED})
    with sqlite3.connect(spool._writer._connect.args[0]) as db:  # type: ignore[attr-defined]
        db.execute("UPDATE message SET body = '' WHERE queue_id = ?", (gone.queue_id,))
    ids += [mail.queue_id for mail in (mixed, running, lost, gone)]
    before = {queue_id: await spool.show(queue_id) for queue_id in ids}

    said = await spool.forecast(action, [*ids, "nobody"], now=NOW + 1, provider=provider, force=force)
    assert {queue_id: await spool.show(queue_id) for queue_id in ids} == before
    work = {"retry": spool.retry, "hold": spool.hold, "release": spool.release, "drop": spool.drop}[action]
    if provider:
        done = await spool.reroute(ids, provider=provider, lane=LANE, force=force, now=NOW + 1)
    else:
        done = await work(ids, now=NOW + 1)

    assert done == sum(said.changed.values()) > 0
    assert said.messages == len(ids)
    assert said.unknown == 1
    assert sum(said.before.values()) == 2 * len(ids) == done + sum(said.left.values())


async def test_a_timeline_has_every_attempt_of_one_recipient_with_its_number(spool: SqliteSpool, path: Path) -> None:
    mail = message(ANN, BOB)
    await spool.put(mail)
    await record(spool, await claim_one(spool), {ANN: SENT, BOB: LOST})
    await spool.retry([mail.queue_id], now=NOW + 2)
    await record(spool, await claim_one(spool, NOW + 2), BOUNCED, NOW + 3)

    row = await spool.show(mail.queue_id)
    assert row
    told = {a: [(e["event"], e["attempt"], e["text"]) for e in line] for a, line in row["timelines"].items()}
    assert told == {
        ANN: [("sent", 1, "Ok: sent"), ("retried", None, "")],
        BOB: [("unknown", 1, "Answer lost"), ("retried", None, ""), ("bounced", 2, "No such user")],
    }
    assert await events(spool, mail.queue_id) == [event["event"] for event in row["events"]]
