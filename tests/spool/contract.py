"""What every spool promises, whatever it is built on. A back-end's tests inherit these classes and give the fixtures:
`spool`, an empty one, and `opened`, which opens the same one again (`await opened(history_s=0)`)."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from bridge.model import Envelope, Message, Origin
from bridge.reply import Reply
from bridge.spool.base import Lease, Result, SpoolError
from bridge.spool.sqlite import SqliteSpool

from .delivery_contract import LaneContract, MemoryContract, NoticeContract
from .support import (
    ANN,
    BLOCKED,
    BOB,
    BOUNCED,
    EVE,
    EXPIRED,
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
    other_epoch,
    record,
    statuses,
    tell_senders,
)


class IntakeContract:
    async def test_a_message_comes_back_as_it_was_put(self, spool: SqliteSpool) -> None:
        put = Message(
            queue_id="Q1",
            envelope=Envelope(reverse_path="", recipients=("zoë@example.com", "Ann@x.org", "ann@x.org"), smtputf8=True),
            raw=bytes(range(256)) * 20,
            created_at=NOW + 0.123456,
            expires_at=NOW + 500.654321,
            origin=Origin(client="unix", helo="h", user="u", protocol="LMTP"),
            message_id="<a@b>",
            subject="Grüße\u2028",
            kind="dsn",
        )
        await spool.put(put)

        claimed = await claim_one(spool, NOW + 1)
        assert claimed.message == put
        assert [one.address for one in claimed.recipients] == list(put.envelope.recipients)
        assert {(one.attempts, one.group, one.interrupted, one.last_reply) for one in claimed.recipients} == {
            (1, None, False, None)
        }

    @pytest.mark.parametrize(
        ("results", "expected"),
        [
            ({}, {ANN: "queued", BOB: "queued"}),
            ({ANN: SENT}, {ANN: "sent", BOB: "queued"}),
            ({ANN: BOUNCED, BOB: deferred(NOW + 5)}, {ANN: "bounced", BOB: "deferred"}),
            ({ANN: HELD, BOB: LOST}, {ANN: "held", BOB: "deferred"}),
            ({ANN: SENT, BOB: BOUNCED}, {ANN: "sent", BOB: "bounced"}),
        ],
    )
    async def test_what_was_decided_while_the_client_waited_is_kept(
        self, spool: SqliteSpool, results: dict[str, Result], expected: dict[str, str]
    ) -> None:
        mail = message(ANN, BOB)
        await spool.put(mail, results=results)

        assert await statuses(spool, mail.queue_id) == expected
        due = {one.address for item in await claim(spool) for one in item.recipients}
        assert due == {address for address, status in expected.items() if status == "queued"}

    async def test_recipients_in_the_callers_attempt_are_leased_to_it(self, spool: SqliteSpool) -> None:
        mail = message(ANN, BOB, EVE)
        lease = Lease(owner="me", epoch=1, until=NOW + 60)
        await spool.put(mail, results={EVE: SENT}, lease=lease, leased=[ANN], provider="main")

        assert [one.address for one in (await claim_one(spool)).recipients] == [BOB]
        assert await spool.record(mail.queue_id, lease, {ANN: SENT, BOB: SENT}, now=NOW) == {ANN}
        assert await statuses(spool, mail.queue_id) == {ANN: "sent", BOB: "queued", EVE: "sent"}

    async def test_a_lost_answer_in_the_first_attempt_gives_a_group(self, spool: SqliteSpool) -> None:
        await spool.put(message(ANN, BOB, EVE), results={ANN: LOST, BOB: LOST, EVE: deferred(NOW + 10)})

        claimed = await claim_one(spool, NOW + 10)
        groups = {one.address: one.group for one in claimed.recipients}
        assert groups[ANN] is not None
        assert groups[ANN] == groups[BOB]
        assert groups[EVE] is None

    @pytest.mark.parametrize("stranger", ["carl@example.com", "Ann@example.com"])
    async def test_a_result_for_an_address_not_in_the_envelope_is_refused(
        self, spool: SqliteSpool, stranger: str
    ) -> None:
        mail = message(ANN)
        with pytest.raises(SpoolError, match="not in the envelope"):
            await spool.put(mail, results={stranger: SENT})

        assert await spool.show(mail.queue_id) is None

    async def test_a_queue_id_is_used_once(self, spool: SqliteSpool) -> None:
        first = message(ANN)
        await spool.put(first)
        with pytest.raises(SpoolError):
            await spool.put(message(BOB, queue_id=first.queue_id))

        assert await statuses(spool, first.queue_id) == {ANN: "queued"}

    async def test_one_failing_put_fails_alone(self, spool: SqliteSpool) -> None:
        known, good = message(), [message() for _ in range(5)]
        await spool.put(known)
        puts = [spool.put(one) for one in [*good[:3], message(queue_id=known.queue_id), *good[3:]]]
        outcomes = await asyncio.gather(*puts, return_exceptions=True)

        assert [type(one) for one in outcomes] == [type(None)] * 3 + [SpoolError] + [type(None)] * 2
        assert len(await claim(spool)) == 6

    async def test_an_undecodable_subject_does_not_cost_the_message(self, spool: SqliteSpool) -> None:
        mail = message(subject="bad \udce4 one")
        await spool.put(mail)

        assert (await claim_one(spool)).message.subject == "bad ? one"

    async def test_many_puts_at_once_are_all_there(self, spool: SqliteSpool) -> None:
        mails = [message(f"r{n}@example.com") for n in range(300)]
        await asyncio.gather(*(spool.put(mail) for mail in mails))

        claimed = [item for _ in range(4) for item in await claim(spool)]
        assert {item.message.queue_id for item in claimed} == {mail.queue_id for mail in mails}
        assert len(claimed) == 300

    async def test_after_close_every_call_is_a_spool_error(self, spool: SqliteSpool) -> None:
        await spool.close()
        await spool.close()

        for call in (spool.put(message()), spool.claim(owner="me", now=NOW, lease_s=1, limit=1), spool.next_due()):
            with pytest.raises(SpoolError):
                await call

    async def test_history_after_close_is_lost_without_an_error(self, spool: SqliteSpool) -> None:
        await spool.close()
        await spool.put_history(message(), {ANN: SENT})

        await spool.close()

    async def test_close_finishes_what_waits(self, spool: SqliteSpool, opened: OpenSpool) -> None:
        puts = [asyncio.ensure_future(spool.put(message())) for _ in range(50)]
        await asyncio.sleep(0)
        await spool.close()
        await asyncio.gather(*puts)

        assert len(await claim(await opened())) == 50


class HistoryContract:
    async def test_history_is_shown_and_never_claimed(self, spool: SqliteSpool) -> None:
        mail = message(ANN, BOB)
        await spool.put_history(mail, {ANN: SENT, BOB: BOUNCED})

        row = await spool.show(mail.queue_id)
        assert row
        assert (row["status"], row["has_body"], row["resolved_at"]) == ("bounced", False, NOW)
        assert await events(spool, mail.queue_id) == ["sent", "bounced"]
        assert await claim(spool, NOW + LIFETIME) == []
        assert await spool.body(mail.queue_id) is None

    async def test_what_is_deferred_elsewhere_is_never_ours_to_send(self, spool: SqliteSpool) -> None:
        mail = message(ANN)
        await spool.put_history(mail, {ANN: deferred(NOW)})

        assert await statuses(spool, mail.queue_id) == {ANN: "dropped"}
        assert await spool.next_due() is None

    @pytest.mark.parametrize("size", [10, 50_000])
    async def test_what_a_provider_keeps_stays_with_its_body(self, opened: OpenSpool, size: int) -> None:
        mail = message(raw=b"x" * size)
        first = await opened()
        await first.put_history(mail, {ANN: SENT}, keep_body=True, durable=True)
        await first.close()

        assert await (await opened()).body(mail.queue_id) == mail.raw

    async def test_a_history_of_zero_keeps_nothing(self, opened: OpenSpool) -> None:
        spool = await opened(history_s=0)
        gone, queued, failed = message(), message(), message()
        await spool.put_history(gone, {ANN: SENT}, keep_body=True, durable=True)
        await spool.put(message(), results={ANN: SENT})
        await spool.put(queued)
        await record(spool, await claim_one(spool), SENT)
        await spool.put(failed, results={ANN: BOUNCED})

        assert [row["queue_id"] for row in await spool.list_messages()] == [failed.queue_id]


class LeaseContract:
    async def test_the_oldest_come_first_whatever_they_waited_for(self, spool: SqliteSpool) -> None:
        mails = [message(), message(), message(), message()]
        for mail, due in zip([mails[n] for n in (2, 0, 3, 1)], (50, 5, 20, 30), strict=True):
            await spool.put(mail, results={ANN: deferred(NOW - due)})

        first = await claim(spool, limit=2)
        second = await claim(spool, limit=2)
        ids = [item.message.queue_id for item in first + second]
        assert ids == [mail.queue_id for mail in mails]

    async def test_a_claim_takes_all_due_recipients_of_a_message(self, spool: SqliteSpool) -> None:
        many = [f"r{n}@example.com" for n in range(300)]
        await spool.put(message(*many))
        await spool.put(message(BOB, at=NOW + 1))

        first, second = await claim(spool, NOW + 1, limit=2)
        assert [one.address for one in first.recipients] == many
        assert [one.address for one in second.recipients] == [BOB]

    async def test_of_large_bodies_no_more_are_claimed_than_asked_for_but_one_in_any_case(
        self, spool: SqliteSpool
    ) -> None:
        for _ in range(5):
            await spool.put(message(raw=b"x" * 400_000))

        claims = [
            await spool.claim(owner="me", now=NOW, lease_s=60, limit=5, octets=octets) for octets in (900_000, 0, 10**7)
        ]

        assert [len(found) for found in claims] == [2, 1, 2]
        assert {r.attempts for found in claims for item in found for r in item.recipients} == {1}

    async def test_what_is_not_due_is_not_claimed(self, spool: SqliteSpool) -> None:
        await spool.put(message(ANN, BOB), results={ANN: deferred(NOW + 10)})

        assert [one.address for one in (await claim_one(spool)).recipients] == [BOB]
        assert await claim(spool, NOW + 9) == []
        assert [one.address for one in (await claim_one(spool, NOW + 10)).recipients] == [ANN]

    async def test_nothing_is_claimed_twice(self, spool: SqliteSpool) -> None:
        await asyncio.gather(*(spool.put(message()) for _ in range(60)))
        claims = await asyncio.gather(*(spool.claim(owner=f"o{n}", now=NOW, lease_s=60, limit=10) for n in range(8)))

        counted = Counter(item.message.queue_id for items in claims for item in items)
        assert len(counted) == 60
        assert set(counted.values()) == {1}

    @pytest.mark.parametrize("wrong", ["owner", "epoch"])
    async def test_only_the_holder_of_the_lease_records(self, spool: SqliteSpool, wrong: str) -> None:
        await spool.put(message())
        item = await claim_one(spool)
        lease = other_epoch(item.lease) if wrong == "epoch" else Lease(owner="you", epoch=item.lease.epoch, until=0)

        assert await spool.record(item.message.queue_id, lease, {ANN: SENT}, now=NOW) == frozenset()
        assert not await spool.renew(item.message.queue_id, lease, NOW + 99)
        assert await statuses(spool, item.message.queue_id) == {ANN: "queued"}

    async def test_a_result_is_recorded_once(self, spool: SqliteSpool) -> None:
        await spool.put(message(ANN, BOB))
        item = await claim_one(spool)
        twice = await asyncio.gather(record(spool, item, {ANN: SENT}), record(spool, item, {ANN: BOUNCED, BOB: SENT}))

        assert list(twice) == [frozenset({ANN}), frozenset({BOB})]
        assert await statuses(spool, item.message.queue_id) == {ANN: "sent", BOB: "sent"}
        assert await record(spool, item, SENT) == frozenset()
        assert await events(spool, item.message.queue_id) == ["sent", "sent"]

    async def test_a_renewed_lease_lasts_longer(self, spool: SqliteSpool) -> None:
        await spool.put(message())
        item = await claim_one(spool, lease_s=60)

        assert await spool.renew(item.message.queue_id, item.lease, NOW + 200)
        assert await claim(spool, NOW + 61) == []
        assert await record(spool, item, SENT, NOW + 150) == {ANN}
        assert not await spool.renew(item.message.queue_id, item.lease, NOW + 300)

    async def test_an_expired_lease_is_claimed_as_interrupted(self, spool: SqliteSpool) -> None:
        await spool.put(message(ANN, BOB))
        lost = await claim_one(spool, lease_s=60)
        await record(spool, lost, {BOB: deferred(NOW + 60)})

        found = await claim_one(spool, NOW + 60)
        ann, bob = found.recipients
        assert (ann.interrupted, ann.unknowns, ann.attempts, ann.group) == (True, 1, 2, lost.lease.epoch)
        assert (bob.interrupted, bob.unknowns, bob.attempts, bob.group) == (False, 0, 2, None)
        assert await record(spool, lost, {ANN: SENT}) == frozenset()
        assert await record(spool, found, SENT) == {ANN, BOB}

    async def test_an_expired_lease_that_nobody_took_still_records(self, spool: SqliteSpool) -> None:
        await spool.put(message())
        item = await claim_one(spool, lease_s=60)

        assert await record(spool, item, SENT, NOW + 100) == {ANN}

    async def test_what_is_lost_again_keeps_its_group(self, spool: SqliteSpool) -> None:
        await spool.put(message(ANN, BOB))
        first = await claim_one(spool, lease_s=10)
        second = await claim_one(spool, NOW + 10, lease_s=10)
        await record(spool, second, LOST, NOW + 10)
        third = await claim_one(spool, NOW + 20)

        assert {(one.group, one.unknowns, one.interrupted) for one in third.recipients} == {
            (first.lease.epoch, 2, False)
        }
        assert third.recipients[0].last_reply == LOST.reply
        assert third.recipients[0].provider == "main"

    @pytest.mark.parametrize(("result", "grouped"), [(LOST, True), (deferred(NOW + 10), False), (BLOCKED, False)])
    async def test_a_definite_answer_ends_the_group(self, spool: SqliteSpool, result: Result, grouped: bool) -> None:
        await spool.put(message(), results={ANN: LOST})
        item = await claim_one(spool, NOW + 10)
        await record(spool, item, result, NOW)

        again = await claim_one(spool, NOW + 10)
        assert (again.recipients[0].group is not None) == grouped
        assert again.recipients[0].unknowns == (2 if grouped else 1)

    async def test_calls_lost_under_different_leases_are_different_groups(self, spool: SqliteSpool) -> None:
        await spool.put(message(ANN, BOB), results={BOB: deferred(NOW + 1)})
        for now in (NOW, NOW + 1):
            await record(spool, await claim_one(spool, now), LOST, now)

        ann, bob = (await claim_one(spool, NOW + 10)).recipients
        assert None not in (ann.group, bob.group)
        assert ann.group != bob.group

    async def test_claims_given_back_were_never_begun(self, spool: SqliteSpool) -> None:
        await spool.put(message(ANN, BOB))
        await spool.put(message(EVE))
        await spool.claim(owner="you", now=NOW, lease_s=60, limit=1)
        (mine,) = await claim(spool)

        assert await spool.give_back(mine.message.queue_id, mine.lease, now=NOW + 1) == 1
        again = await claim_one(spool, NOW + 1)
        assert [(r.address, r.attempts, r.interrupted) for r in again.recipients] == [(EVE, 1, False)]

    async def test_an_interrupted_claim_given_back_stays_interrupted(self, spool: SqliteSpool) -> None:
        await spool.put(message())
        lost = await claim_one(spool, lease_s=10)
        again = await claim_one(spool, NOW + 10)
        await spool.give_back(again.message.queue_id, again.lease, now=NOW + 11)

        (ann,) = (await claim_one(spool, NOW + 11)).recipients
        assert (ann.interrupted, ann.unknowns, ann.attempts, ann.group) == (True, 1, 2, lost.lease.epoch)

    async def test_next_due_is_the_first_attempt_or_the_end_of_a_lease(self, spool: SqliteSpool) -> None:
        assert await spool.next_due() is None
        await spool.put(message(), results={ANN: deferred(NOW + 70)})
        assert await spool.next_due() == NOW + 70
        await spool.put(message())
        assert await spool.next_due() == 0
        await claim_one(spool, lease_s=50)
        assert await spool.next_due() == NOW + 50


class ExpiryContract:
    async def test_time_blocked_by_the_account_does_not_count(self, spool: SqliteSpool) -> None:
        await spool.put(message())
        await record(spool, await claim_one(spool, NOW), BLOCKED, NOW)
        item = await claim_one(spool, NOW + 10)
        assert item.recipients[0].expires_at == NOW + LIFETIME + 10
        await record(spool, item, BLOCKED, NOW + 20)
        item = await claim_one(spool, NOW + 30)
        assert item.recipients[0].expires_at == NOW + LIFETIME + 30
        await record(spool, item, deferred(NOW + 50), NOW + 40)

        item = await claim_one(spool, NOW + 60)
        assert item.recipients[0].expires_at == NOW + LIFETIME + 40

    async def test_time_on_hold_does_not_count(self, spool: SqliteSpool) -> None:
        mail = message()
        await spool.put(mail)
        assert await spool.hold([mail.queue_id], now=NOW + 5) == 1
        assert await claim(spool, NOW + LIFETIME * 2) == []
        assert await spool.release([mail.queue_id], now=NOW + 105) == 1

        assert (await claim_one(spool, NOW + 105)).recipients[0].expires_at == NOW + LIFETIME + 100

    async def test_held_by_a_result_waits_for_the_operator(self, spool: SqliteSpool) -> None:
        mail = message()
        await spool.put(mail)
        await record(spool, await claim_one(spool), HELD, NOW)
        assert await claim(spool, NOW + LIFETIME) == []
        await spool.release([mail.queue_id], now=NOW + 50)

        (ann,) = (await claim_one(spool, NOW + 50)).recipients
        assert (ann.expires_at, ann.attempts, ann.last_reply) == (NOW + LIFETIME + 50, 2, HELD.reply)

    async def test_blocked_and_then_held_is_counted_once(self, spool: SqliteSpool) -> None:
        mail = message()
        await spool.put(mail)
        await record(spool, await claim_one(spool), BLOCKED, NOW)
        await spool.hold([mail.queue_id], now=NOW + 20)
        await spool.release([mail.queue_id], now=NOW + 50)
        await record(spool, await claim_one(spool, NOW + 50), deferred(NOW + 60), NOW + 55)

        assert (await claim_one(spool, NOW + 60)).recipients[0].expires_at == NOW + LIFETIME + 50


class RetentionContract:
    @pytest.mark.parametrize(
        ("results", "body_kept", "resolved"),
        [
            ({ANN: SENT, BOB: SENT}, False, True),
            ({ANN: SENT, BOB: BOUNCED}, True, True),
            ({ANN: SENT, BOB: EXPIRED}, True, True),
            ({ANN: SENT, BOB: deferred(NOW)}, True, False),
            ({ANN: SENT, BOB: HELD}, True, False),
            ({ANN: SENT}, True, False),
        ],
    )
    @pytest.mark.parametrize("size", [10, 50_000])
    async def test_a_body_is_kept_while_somebody_may_need_it(
        self, spool: SqliteSpool, results: dict[str, Result], body_kept: bool, resolved: bool, size: int
    ) -> None:
        mail = message(ANN, BOB, raw=b"x" * size)
        await spool.put(mail)
        await record(spool, await claim_one(spool), results, NOW + 7)
        await tell_senders(spool, NOW + 7)

        row = await spool.show(mail.queue_id)
        assert row
        assert row["resolved_at"] == (NOW + 7 if resolved else None)
        assert await spool.body(mail.queue_id) == (mail.raw if body_kept else None)

    @pytest.mark.parametrize(
        ("result", "age", "left"),
        [
            (SENT, 99, 1),
            (SENT, 100, 0),
            (BOUNCED, 299, 1),
            (BOUNCED, 300, 0),
            (deferred(NOW + 9999), 9999, 1),
            (HELD, 9999, 1),
        ],
    )
    @pytest.mark.parametrize("size", [10, 50_000])
    async def test_finished_messages_go_in_time(
        self, spool: SqliteSpool, result: Result, age: float, left: int, size: int
    ) -> None:
        await spool.put(message(raw=b"x" * size))
        await record(spool, await claim_one(spool), result, NOW)
        await tell_senders(spool)

        assert await spool.prune(now=NOW + age) == 1 - left
        assert len(await spool.list_messages()) == left

    async def test_with_a_long_history_a_failed_message_only_loses_its_body(self, opened: OpenSpool) -> None:
        spool = await opened(history_s=1000, failed_s=300)
        mail = message()
        await spool.put(mail, results={ANN: BOUNCED})
        await tell_senders(spool)
        assert await spool.prune(now=NOW + 300) == 0

        assert await spool.body(mail.queue_id) is None
        assert await statuses(spool, mail.queue_id) == {ANN: "bounced"}
        assert await spool.prune(now=NOW + 1000) == 1
        assert await spool.list_messages() == []

    async def test_with_a_long_history_many_failed_messages_all_stay(self, opened: OpenSpool) -> None:
        spool = await opened(history_s=1000, failed_s=300)
        for _ in range(250):
            await spool.put(message(), results={ANN: BOUNCED})
        await tell_senders(spool)

        assert await spool.prune(now=NOW + 300) == 0
        assert len(await spool.list_messages(limit=1000)) == 250
        assert await spool.prune(now=NOW + 1000) == 250

    async def test_pruning_is_limited_and_goes_on(self, spool: SqliteSpool) -> None:
        await asyncio.gather(*(spool.put_history(message(), {ANN: SENT}) for _ in range(250)))
        await spool.stats()

        counts = [await spool.prune(now=NOW + 200, limit=120) for _ in range(4)]
        assert counts == [120, 120, 10, 0]

    async def test_stats_count_the_queue(self, spool: SqliteSpool) -> None:
        assert await spool.stats() == (empty := await spool.stats())
        assert (dict(empty.by_status), empty.oldest) == ({}, None)
        await spool.put(message(ANN, BOB, at=NOW - 50), results={BOB: SENT})
        await spool.put(message(ANN, BOB, at=NOW - 40), results={ANN: deferred(NOW), BOB: HELD})
        await spool.put(message(at=NOW - 90), results={ANN: BOUNCED})
        await spool.put(message(raw=b"x" * 50_000))
        await tell_senders(spool)

        stats = await spool.stats()
        assert stats.by_status == {"queued": 2, "deferred": 1, "held": 1, "bounced": 1}
        assert stats.oldest == NOW - 50
        assert stats.bytes >= 50_000

    async def test_the_depth_of_the_queue_and_who_waits_longest_by_status(self, spool: SqliteSpool) -> None:
        empty = await spool.queue_depth()
        assert (empty.recipients, empty.oldest) == ({"queued": 0, "deferred": 0, "held": 0}, {})
        await spool.put(message(ANN, BOB, at=NOW - 50), results={BOB: SENT})
        await spool.put(message(ANN, BOB, at=NOW - 40), results={ANN: deferred(NOW), BOB: HELD})
        await spool.put(message(at=NOW - 90), results={ANN: BOUNCED})
        await spool.put(message(raw=b"x" * 50_000))

        found = await spool.queue_depth()
        assert found.recipients == {"queued": 2, "deferred": 1, "held": 1}
        assert found.oldest == {"queued": NOW - 50, "deferred": NOW - 40, "held": NOW - 40}
        assert found.bytes >= 50_000


class RestartContract:
    async def test_a_restart_finds_every_lease_interrupted(self, spool: SqliteSpool, opened: OpenSpool) -> None:
        await spool.put(message(ANN, BOB))
        lease = Lease(owner="me", epoch=7, until=NOW + 500)
        await spool.put(message(EVE), lease=lease, leased=[EVE], provider="main")
        claimed = await claim_one(spool, lease_s=500)
        await record(spool, claimed, {BOB: SENT})
        await spool.close()
        spool = await opened(now=NOW + 5)

        found = {item.recipients[0].address: item.recipients[0] for item in await claim(spool, NOW + 5)}
        assert {a: (r.interrupted, r.unknowns, r.group) for a, r in found.items()} == {
            ANN: (True, 1, claimed.lease.epoch),
            EVE: (True, 1, 7),
        }
        assert found[EVE].provider == "main"

    async def test_an_epoch_is_never_used_twice(self, opened: OpenSpool) -> None:
        epochs = []
        for _ in range(3):
            spool = await opened()
            await spool.put(message())
            epochs += [item.lease.epoch for item in await claim(spool)]
            await spool.close()

        assert len(set(epochs)) == 3  # each claim took all there was, under one lease

    async def test_a_reply_survives(self, spool: SqliteSpool, opened: OpenSpool) -> None:
        await spool.put(message(), results={ANN: deferred(NOW)})
        await spool.close()

        (ann,) = (await claim_one(await opened())).recipients
        assert ann.last_reply == Reply(451, "4.4.1", "Later")


class SpoolContract(
    IntakeContract,
    HistoryContract,
    LeaseContract,
    ExpiryContract,
    RetentionContract,
    RestartContract,
    LaneContract,
    NoticeContract,
    MemoryContract,
):
    """All of it."""
