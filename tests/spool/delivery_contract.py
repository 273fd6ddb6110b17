"""The part of the contract that the delivery side relies on: lanes and turns, notices, what is remembered."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bridge.model import Message, Wish
from bridge.reply import Reply
from bridge.spool.base import Asked, Lease, Post, Result
from bridge.spool.sqlite import SqliteSpool

from .support import (
    ANN,
    BLOCKED,
    BOB,
    BOUNCED,
    EVE,
    HELD,
    LIFETIME,
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


async def put(spool: SqliteSpool, lane: str, source: str = "", *, results: Result | None = None) -> Message:
    mail = replace(message(), source=source)
    await spool.put(mail, lanes={ANN: lane}, results={ANN: results} if results else None)
    return mail


async def claimed_ids(spool: SqliteSpool, *lanes: str, limit: int = 100, now: float = NOW) -> list[str]:
    found = await spool.claim(owner="me", now=now, lease_s=60, limit=limit, lanes=lanes, provider="main")
    return [item.message.queue_id for item in found]


class LaneContract:
    async def test_a_claim_takes_only_what_waits_in_its_lanes(self, spool: SqliteSpool) -> None:
        one, other = await put(spool, "a"), await put(spool, "b")

        assert await claimed_ids(spool, "b", "c") == [other.queue_id]
        assert await claimed_ids(spool, "a") == [one.queue_id]

    async def test_recipients_of_one_message_may_wait_in_different_lanes(self, spool: SqliteSpool) -> None:
        await spool.put(message(ANN, BOB, EVE), lanes={ANN: "a", BOB: "b", EVE: "a"})

        (item,) = await spool.claim(owner="me", now=NOW, lease_s=60, limit=9, lanes=["a"], provider="main")
        assert [one.address for one in item.recipients] == [ANN, EVE]
        assert item.message.envelope.recipients == (ANN, BOB, EVE)

    async def test_who_will_try_is_noted_before_the_attempt_and_nobody_else_may_after_a_crash(
        self, spool: SqliteSpool, opened: OpenSpool
    ) -> None:
        mail = await put(spool, "main>backup")
        await spool.claim(owner="me", now=NOW, lease_s=60, limit=9, lanes=["main>backup"], provider="backup")
        await spool.close()
        spool = await opened()

        assert await claimed_ids(spool, "main>backup") == []
        (item,) = await spool.claim(owner="me", now=NOW, lease_s=60, limit=9, lanes=["=backup"])
        assert item.message.queue_id == mail.queue_id
        assert (item.recipients[0].interrupted, item.recipients[0].provider) == (True, "backup")

    async def test_a_lost_answer_leaves_the_recipient_to_whom_it_was_lost_with(self, spool: SqliteSpool) -> None:
        await put(spool, "main>backup")
        (item,) = await spool.claim(owner="me", now=NOW, lease_s=60, limit=9, lanes=["main>backup"], provider="main")
        await record(spool, item, LOST)

        assert await claimed_ids(spool, "main>backup", now=NOW + 10) == []
        assert len(await claimed_ids(spool, "=main", now=NOW + 10)) == 1

    async def test_a_result_may_move_a_recipient_to_another_lane(self, spool: SqliteSpool) -> None:
        mail = await put(spool, "main>backup")
        (item,) = await spool.claim(owner="me", now=NOW, lease_s=60, limit=9, lanes=["main>backup"], provider="main")
        await record(spool, item, replace(deferred(NOW), lane="main>backup|1"))

        assert await claimed_ids(spool, "main>backup|1") == [mail.queue_id]

    async def test_what_is_given_back_may_wait_elsewhere_and_no_attempt_is_counted(self, spool: SqliteSpool) -> None:
        await put(spool, "old")
        item = await claim_one(spool)
        await spool.give_back(item.message.queue_id, item.lease, now=NOW, lanes={ANN: "new"})

        (again,) = await spool.claim(owner="me", now=NOW, lease_s=60, limit=9, lanes=["new"])
        assert (again.recipients[0].attempts, again.recipients[0].lane) == (1, "new")

    async def test_the_lanes_in_which_somebody_waits_are_known(self, spool: SqliteSpool) -> None:
        for lane, results in (("a", None), ("b", deferred(NOW + 50)), ("c", SENT), ("d", HELD)):
            await put(spool, lane, results=results)

        assert sorted(await spool.lanes()) == ["a", "b"]

    async def test_the_sources_take_turns_however_much_one_of_them_has(self, spool: SqliteSpool) -> None:
        for _ in range(30):
            await put(spool, "a", "newsletter")
        first = {(await put(spool, "a", source)).queue_id for source in ("shop", "cron")}

        taken = await claimed_ids(spool, "a", limit=6)
        assert first <= set(taken)
        assert len(taken) == 6

    async def test_a_source_that_was_served_is_last_in_the_next_claim(self, spool: SqliteSpool) -> None:
        sources = {(await put(spool, "a", name)).queue_id: name for name in "aaabbbccc"}

        served = [sources[queue_id] for _ in range(9) for queue_id in await claimed_ids(spool, "a", limit=1)]
        assert served == list("abcabcabc")

    async def test_what_one_source_leaves_of_its_share_goes_to_the_others(self, spool: SqliteSpool) -> None:
        for name in ("a", "b", "c", "c", "c", "c", "a"):
            await put(spool, "lane", name)

        assert len(await claimed_ids(spool, "lane", limit=7)) == 7

    async def test_lanes_of_one_provider_take_turns_as_well(self, spool: SqliteSpool) -> None:
        for _ in range(10):
            await put(spool, "a", "s")
        lone = await put(spool, "b", "s")

        taken = [*await claimed_ids(spool, "a", "b", limit=1), *await claimed_ids(spool, "a", "b", limit=1)]
        assert lone.queue_id in taken

    async def test_large_mail_of_one_source_does_not_keep_the_others_from_their_turn(self, spool: SqliteSpool) -> None:
        for _ in range(40):
            big = replace(message(raw=b"x" * 1_000_000), source="newsletter")
            await spool.put(big, lanes={ANN: "a"})
        small = await put(spool, "a", "shop")

        assert small.queue_id in await claimed_ids(spool, "a", limit=40)

    async def test_a_hold_and_a_release_leave_a_lost_answer_with_its_provider(self, spool: SqliteSpool) -> None:
        mail = await put(spool, "main>backup")
        (item,) = await spool.claim(owner="me", now=NOW, lease_s=60, limit=9, lanes=["main>backup"], provider="main")
        await record(spool, item, LOST)
        await spool.hold([mail.queue_id], now=NOW + 1)
        await spool.release([mail.queue_id], now=NOW + 2)

        assert await claimed_ids(spool, "main>backup", "", now=NOW + 3) == []
        assert await claimed_ids(spool, "=main", now=NOW + 3) == [mail.queue_id]

    async def test_when_a_provider_is_back_all_that_it_deferred_is_due_oldest_first(self, spool: SqliteSpool) -> None:
        mails = [await put(spool, "a", results=deferred(NOW + 5000)) for _ in range(1200)]
        refused = Result(status="deferred", reply=Reply(451, "4.2.1", "Mailbox busy"), at=NOW + 5000, provider="main")
        own = await put(spool, "a", results=refused)
        other = await put(spool, "b", results=deferred(NOW + 5000))

        assert await spool.resume(["a"], now=NOW + 10) == 1200
        taken = await claimed_ids(spool, "a", "b", limit=2000, now=NOW + 10)
        assert taken == [mail.queue_id for mail in mails]
        assert {own.queue_id, other.queue_id}.isdisjoint(taken)

    async def test_time_in_which_the_account_was_blocked_does_not_count_for_those_that_were_not_tried(
        self, spool: SqliteSpool
    ) -> None:
        old, tried = await put(spool, "a"), await put(spool, "a", results=BLOCKED)
        await spool.resume(["a"], now=NOW + 700, blocked_s=700)
        late = message(at=NOW + 800)
        await spool.put(late, lanes={ANN: "a"})
        await spool.resume(["a"], now=NOW + 900, blocked_s=500)

        ends = {item.message.queue_id: item.recipients[0].expires_at for item in await claim(spool, NOW + 900)}
        assert ends == {
            old.queue_id: NOW + LIFETIME + 1200,
            tried.queue_id: NOW + LIFETIME + 900,  # by its own count
            late.queue_id: NOW + 800 + LIFETIME + 100,
        }

    async def test_what_outlives_its_time_where_nothing_is_tried_ends_with_its_last_reply(
        self, spool: SqliteSpool
    ) -> None:
        tried, fresh = await put(spool, "a", results=deferred(NOW)), await put(spool, "a")
        blocked, other = await put(spool, "a", results=replace(BLOCKED, at=NOW)), await put(spool, "b")
        assert await spool.expire(["a"], now=NOW + LIFETIME - 1) == {}

        ended = await spool.expire(["a"], now=NOW + LIFETIME)
        assert {queue_id: ended[queue_id][ANN].reply for queue_id in ended} == {
            tried.queue_id: Reply(451, "4.4.1", "Later"),
            fresh.queue_id: None,
        }
        assert await statuses(spool, tried.queue_id) == {ANN: "expired"}
        assert await statuses(spool, blocked.queue_id) == {ANN: "deferred"}
        assert await statuses(spool, other.queue_id) == {ANN: "queued"}
        assert [due.recipients[0].kind for due in await spool.notices()] == ["failure", "failure"]
        assert (await events(spool, fresh.queue_id))[-1] == "expired"


def wished(*recipients: str, **wishes: Wish) -> Message:
    mail = message(*recipients)
    names = {"ann": ANN, "bob": BOB, "eve": EVE}
    envelope = replace(
        mail.envelope, ret="HDRS", envid="QQ314159", wishes={names[name]: wish for name, wish in wishes.items()}
    )
    return replace(mail, envelope=envelope)


class NoticeContract:
    async def test_what_the_client_asked_for_comes_back(self, spool: SqliteSpool) -> None:
        mail = wished(ANN, BOB, ann=Wish("NEVER", "rfc822;a+2Bb@example.com"))
        await spool.put(mail)

        assert (await claim_one(spool)).message.envelope == mail.envelope

    @pytest.mark.parametrize("at_once", [True, False])
    async def test_of_what_failed_the_sender_is_told_once(self, spool: SqliteSpool, at_once: bool) -> None:
        mail = message(ANN, BOB, EVE)
        results = {ANN: BOUNCED, BOB: SENT, EVE: deferred(NOW + 50)}
        if at_once:
            await spool.put(mail, results=results)
        else:
            await spool.put(mail)
            await record(spool, await claim_one(spool), results)

        (due,) = await spool.notices()
        assert due.message == mail
        (told,) = due.recipients
        assert (told.address, told.kind, told.status, told.reply) == (ANN, "failure", "bounced", BOUNCED.reply)
        assert (told.provider, told.fault, told.attempts, told.tried_at) == ("main", "recipient", 1, NOW)
        await spool.settle_notices(due, now=NOW)
        assert await spool.notices() == []

    async def test_the_body_stays_until_the_sender_is_told(self, opened: OpenSpool) -> None:
        spool = await opened(failed_s=0, history_s=0)
        for size in (10, 50_000):
            mail = message(raw=b"x" * size)
            await spool.put(mail)
            await record(spool, await claim_one(spool), BOUNCED)
            (due,) = await spool.notices()
            assert due.message.raw == mail.raw

            await tell_senders(spool)
            assert await spool.show(mail.queue_id) is None

    async def test_notice_and_its_mark_are_one_transaction(self, spool: SqliteSpool) -> None:
        await spool.put(message(), results={ANN: BOUNCED})
        (due,) = await spool.notices()
        notice = replace(message(EVE), kind="dsn")
        post = Post(id="msg_1", target="bounce", body="{}", created_at=NOW)
        await spool.settle_notices(due, messages=[(notice, "a")], posts=[post], now=NOW)

        (item,) = await spool.claim(owner="me", now=NOW, lease_s=60, limit=9, lanes=["a"])
        assert (item.message.kind, item.message.queue_id) == ("dsn", notice.queue_id)
        assert await spool.due_posts(now=NOW) == [post]
        assert await spool.notices() == []

    async def test_a_success_is_told_only_where_that_was_asked_for(self, spool: SqliteSpool) -> None:
        mail = wished(ANN, BOB, EVE, ann=Wish("SUCCESS,FAILURE"), bob=Wish("FAILURE"))
        await spool.put(mail)
        await record(spool, await claim_one(spool), SENT)

        (due,) = await spool.notices()
        assert [(told.address, told.kind) for told in due.recipients] == [(ANN, "success")]
        await spool.settle_notices(due, now=NOW)
        assert await spool.body(mail.queue_id) is None

    async def test_of_what_is_late_the_sender_is_told_once_and_of_its_failure_later_as_well(
        self, spool: SqliteSpool
    ) -> None:
        late, done, held = message(), message(), message()
        await spool.put(late, results={ANN: deferred(NOW + 500)})
        await spool.put(done, results={ANN: SENT})
        await spool.put(held, results={ANN: HELD})
        young = message(at=NOW + 50)
        await spool.put(young)

        assert await spool.note_late(now=NOW + 99, after=100) == 0
        assert await spool.note_late(now=NOW + 120, after=100) == 3
        (due,) = await spool.notices()
        assert (due.message.queue_id, due.recipients[0].kind) == (late.queue_id, "delay")
        await spool.settle_notices(due, now=NOW + 120)
        assert await spool.note_late(now=NOW + 130, after=100) == 0
        items = {item.message.queue_id: item for item in await claim(spool, NOW + 500)}
        await record(spool, items[late.queue_id], BOUNCED, NOW + 500)
        (due,) = await spool.notices()
        assert (due.message.queue_id, due.recipients[0].kind) == (late.queue_id, "failure")

    async def test_a_failure_that_comes_while_the_delay_is_told_is_told_as_well(self, spool: SqliteSpool) -> None:
        mail = message()
        await spool.put(mail)
        item = await claim_one(spool)
        await spool.note_late(now=NOW + 100, after=100)
        (delay,) = await spool.notices()
        await record(spool, item, BOUNCED)
        await spool.settle_notices(delay, now=NOW)

        (due,) = await spool.notices()
        assert due.recipients[0].kind == "failure"

    async def test_who_retries_by_hand_and_fails_again_hears_it_from_the_queue_and_the_sender_no_second_time(
        self, spool: SqliteSpool
    ) -> None:
        mail = message()
        await spool.put(mail, results={ANN: BOUNCED})
        await tell_senders(spool)
        await spool.retry([mail.queue_id], now=NOW)
        await record(spool, await claim_one(spool), BOUNCED)

        assert await spool.notices() == []
        assert await statuses(spool, mail.queue_id) == {ANN: "bounced"}

    async def test_what_was_retried_while_its_notice_was_made_is_not_told(self, spool: SqliteSpool) -> None:
        mail = message()
        await spool.put(mail, results={ANN: BOUNCED})
        (due,) = await spool.notices()
        await spool.retry([mail.queue_id], now=NOW)
        notice = replace(message(EVE), kind="dsn")
        await spool.settle_notices(due, messages=[(notice, "a")], now=NOW)

        assert await spool.show(notice.queue_id) is None

    async def test_a_success_that_the_next_system_tells_is_not_told_by_us(self, spool: SqliteSpool) -> None:
        await spool.put(wished(ANN, ann=Wish("SUCCESS")))
        await record(spool, await claim_one(spool), replace(SENT, passed_on=True))

        assert await spool.notices() == []

    async def test_what_is_dropped_is_told_to_nobody(self, spool: SqliteSpool) -> None:
        mail = message()
        await spool.put(mail, results={ANN: BOUNCED})
        await spool.drop([mail.queue_id], now=NOW)

        assert await spool.notices() == []

    async def test_of_mail_that_was_never_queued_the_client_heard_all_itself(self, spool: SqliteSpool) -> None:
        mail = wished(ANN, BOB, ann=Wish("SUCCESS"))
        await spool.put_history(mail, {ANN: SENT, BOB: BOUNCED}, durable=True)

        assert await spool.notices() == []

    async def test_a_mark_survives_a_restart(self, spool: SqliteSpool, opened: OpenSpool) -> None:
        await spool.put(message(), results={ANN: BOUNCED})
        await spool.close()

        assert len(await (await opened()).notices()) == 1

    async def test_a_lost_body_does_not_keep_the_notice_back(self, spool: SqliteSpool, path: object) -> None:
        mail = message(raw=b"x" * 50_000)
        await spool.put(mail, results={ANN: BOUNCED})
        spool._bodies.remove([mail.queue_id])

        (due,) = await spool.notices()
        assert due.message.raw == b""


class MemoryContract:
    async def test_a_post_is_due_until_it_is_settled(self, spool: SqliteSpool) -> None:
        post = Post(id="msg_1", target="alert", body='{"a": 1}', created_at=NOW)
        await spool.remember({}, now=NOW, durable=True, posts=[post])
        assert await spool.due_posts(now=NOW) == [post]
        await spool.settle_post(post, next_attempt_at=NOW + 60)
        assert await spool.due_posts(now=NOW + 59) == []
        assert await spool.due_posts(now=NOW + 60) == [replace(post, attempts=1)]
        await spool.settle_post(post, next_attempt_at=None)

        assert await spool.due_posts(now=NOW + 999) == []

    async def test_values_are_remembered_over_a_restart(self, spool: SqliteSpool, opened: OpenSpool) -> None:
        await spool.remember({"sent.main": "1", "sent.backup": "2", "other": "3"}, now=NOW)
        await spool.remember({"sent.main": "4", "sent.backup": ""}, now=NOW)
        await spool.close()

        assert await (await opened()).recall("sent.") == {"sent.main": "4"}

    async def test_what_was_seen_is_known_for_a_time(self, spool: SqliteSpool) -> None:
        await spool.note_seen(b"\x00\xff", "250 2.0.0 Ok: queued as Q1", now=NOW)

        assert await spool.find_seen(b"\x00\xff", since=NOW) == "250 2.0.0 Ok: queued as Q1"
        assert await spool.find_seen(b"\x00\xff", since=NOW + 1) is None
        assert await spool.find_seen(b"\x00", since=0) is None
        assert await spool.forget(seen_before=NOW) == 0
        assert await spool.forget(seen_before=NOW + 1) == 1
        assert await spool.find_seen(b"\x00\xff", since=0) is None

    async def test_a_request_is_known_for_a_time_and_over_a_restart(
        self, spool: SqliteSpool, opened: OpenSpool
    ) -> None:
        asked = Asked(b"\x00key", b"\xffbody", "Q1")
        await spool.note_request(asked, now=NOW)
        assert await spool.find_request(asked.key, since=NOW) == asked
        answered = replace(asked, status=202, answer='{"id": "Q1"}')
        await spool.note_request(answered, now=NOW + 1)
        await spool.close()
        spool = await opened()

        assert await spool.find_request(asked.key, since=NOW + 1) == answered
        assert await spool.find_request(asked.key, since=NOW + 2) is None
        assert await spool.find_request(b"\x00", since=0) is None
        assert await spool.forget_requests(before=NOW + 1) == 0
        assert await spool.forget_requests(before=NOW + 2) == 1
        assert await spool.find_request(asked.key, since=0) is None

    async def test_addresses_are_suppressed_whatever_their_case(self, spool: SqliteSpool) -> None:
        assert await spool.suppress("Ann@Example.com", "no such user", provider="main", now=NOW)
        assert not await spool.suppress("ann@example.com", "another reason", now=NOW)
        assert not await spool.suppress('"ann"@example.com.', "another spelling", now=NOW)
        assert await spool.suppressions() == {"ann@example.com": "no such user"}
        assert [row["provider"] for row in await spool.list_suppressions()] == ["main"]

        assert await spool.unsuppress("ANN@example.com")
        assert not await spool.unsuppress("ann@example.com")
        assert await spool.suppressions() == {}

    async def test_a_lease_that_ran_out_may_still_be_recorded_until_somebody_takes_it(self, spool: SqliteSpool) -> None:
        await spool.put(message(), lanes={ANN: "a"})
        (item,) = await spool.claim(owner="me", now=NOW, lease_s=10, limit=9, lanes=["a"], provider="main")
        await spool.claim(owner="me", now=NOW + 20, lease_s=10, limit=9, lanes=["b"])

        assert await record(spool, item, SENT, NOW + 20) == {ANN}
        assert await spool.next_due() is None

    async def test_the_lease_of_an_attempt_that_a_client_waited_for_names_who_makes_it(
        self, spool: SqliteSpool, opened: OpenSpool
    ) -> None:
        lease = Lease(owner="me", epoch=1, until=NOW + 60)
        await spool.put(message(ANN, BOB), lease=lease, leased={ANN: "main", BOB: "backup"})
        await spool.close()

        (item,) = await claim(await opened())
        assert {one.address: one.provider for one in item.recipients} == {ANN: "main", BOB: "backup"}
