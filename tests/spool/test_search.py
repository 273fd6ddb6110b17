"""Searching the history: what is found, with and without summaries, page by page, and that it stops when the time is up."""

from __future__ import annotations

import random
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bridge.spool import listing, memory, schema, summaries
from bridge.spool import search as searching
from bridge.spool.base import Search, SpoolError
from bridge.spool.ids import LENGTH, id_at, new_queue_id, time_of
from bridge.spool.opening import _connect_reader
from bridge.spool.sqlite import SqliteSpool

from .support import ANN, BOB, BOUNCED, NOW, SENT, OpenSpool, deferred, message

OLD = time.time() - 86_400


async def found(spool: SqliteSpool, **wanted: Any) -> list[str]:
    """Subjects, newest first."""
    page = await spool.search(Search(**wanted))
    assert not page.more
    return [row["subject"] for row in page.rows]


async def put(spool: SqliteSpool, subject: str, *recipients: str, **other: Any) -> str:
    results = other.pop("results", {})
    mail = message(*recipients, subject=subject, **other)
    await spool.put(mail, results=results)
    return mail.queue_id


def test_a_queue_id_tells_its_time_and_is_bounded_by_times() -> None:
    before = time.time()
    queue_id = new_queue_id()

    assert time_of(queue_id) == pytest.approx(before, abs=1)
    assert len(id_at(before)) == LENGTH
    assert id_at(before - 1) < queue_id < id_at(before + 1)
    assert id_at(0) == "0" * LENGTH
    assert [time_of(text) for text in ("", "Q1", "U" * LENGTH, queue_id.lower(), "1_" * 8, "٣" * LENGTH)] == [None] * 6


@pytest.mark.parametrize("text", ["ann", "ANN@Example.COM", "ann@exam", "@example.com", "example.com", "com"])
async def test_an_address_is_found_by_its_words_its_domain_and_its_beginning(spool: SqliteSpool, text: str) -> None:
    await put(spool, "one", "Ann@example.com")
    await put(spool, "two", "john.ann@example.com")
    await put(spool, "three", "joann@elsewhere.net")

    assert await found(spool, address=text) == ["two", "one"]
    assert await found(spool, text=text) == ["two", "one"]
    assert await found(spool, subject=text) == []


async def test_the_sender_is_found_and_a_part_in_the_middle_of_a_word_is_not(spool: SqliteSpool) -> None:
    await put(spool, "an invoice", ANN)

    assert await found(spool, address="sender@example.org") == ["an invoice"]
    assert await found(spool, text="invo") == ["an invoice"]
    assert await found(spool, text="nvoice") == []
    assert await found(spool, text="") == ["an invoice"]


async def test_all_words_are_to_be_there_in_any_order_and_without_case(spool: SqliteSpool) -> None:
    await put(spool, "Rechnung 4711 für Zoë", ANN)
    await put(spool, "Rechnung 4712", BOB)

    assert await found(spool, subject="zoë RECHNUNG") == ["Rechnung 4711 für Zoë"]
    assert await found(spool, text="rechnung bob") == ["Rechnung 4712"]
    assert await found(spool, text="4711", address="bob") == []
    assert await found(spool, text="100% _ * \\ '") == []


async def test_an_id_is_found_whole(spool: SqliteSpool, path: Path) -> None:
    queue_id = await put(spool, "one", ANN, results={ANN: SENT})
    await put(spool, "two", BOB)

    for indexed in (False, True):
        if indexed:
            with sqlite3.connect(path) as db:
                db.execute(
                    "CREATE INDEX IF NOT EXISTS recipient_provider_id ON recipient (provider_message_id)"
                    " WHERE provider_message_id <> ''"
                )
        for name in (queue_id, queue_id.lower(), "id-1"):
            assert await found(spool, text=name) == await found(spool, id=name) == ["one"]
        assert await found(spool, id="<1@example.org>") == await found(spool, text="1@example.org") == ["two", "one"]
        assert await found(spool, id=queue_id, status="bounced") == []
        assert await found(spool, id=queue_id, text="nothing") == []
        assert await found(spool, id=queue_id[:8]) == []


async def test_status_and_provider_and_address_are_of_one_recipient(spool: SqliteSpool) -> None:
    await put(spool, "mixed", ANN, BOB, results={ANN: SENT, BOB: BOUNCED})
    await put(spool, "waits", ANN, results={ANN: deferred(NOW + 500)})
    await put(spool, "new", ANN)

    assert await found(spool, status="failed") == ["mixed"]
    assert await found(spool, status="active") == ["new", "waits"]
    assert await found(spool, status="sent", provider="main") == ["mixed"]
    assert await found(spool, provider="main") == ["waits", "mixed"]
    assert await found(spool, status="failed", address=ANN) == []
    assert await found(spool, status="failed", address=BOB) == ["mixed"]
    with pytest.raises(SpoolError, match="no such status"):
        await spool.search(Search(status="lost"))


async def test_times_are_those_of_queue_ids_and_the_end_is_not_in_it(spool: SqliteSpool) -> None:
    for hour in range(4):
        await put(spool, str(hour), ANN, queue_id=id_at(OLD + 3600 * hour))

    assert await found(spool, since=OLD + 3600, until=OLD + 3 * 3600) == ["2", "1"]
    assert await found(spool, since=OLD + 3600, until=OLD + 3 * 3600, status="queued") == ["2", "1"]
    assert await found(spool, until=OLD) == []


async def test_pages_are_by_queue_id_and_what_is_new_comes_after(spool: SqliteSpool) -> None:
    ids = [await put(spool, "x", ANN) for _ in range(5)]
    for wanted in (Search(), Search(status="queued"), Search(text="ann")):
        seen: list[str] = []
        before, more = "", True
        while more:
            page = await spool.search(wanted, limit=2, before=before)
            seen += [row["queue_id"] for row in page.rows]
            before, more = page.before, page.more
        assert seen == ids[::-1]
        new = await spool.search(wanted, after=ids[2])
        assert [row["queue_id"] for row in new.rows] == [ids[4], ids[3]]


# --- a large history


def fill(path: Path, count: int, chance: random.Random) -> None:
    """Messages of a day, each with one or two recipients; of every 300th one is bounced."""
    db = schema.connect(path)
    words = ["invoice", "order", "report", "über", "a-b", "x_y", "ann@shop.example", "re:"]
    db.execute("BEGIN")
    for n in range(count):
        queue_id = id_at(OLD + n)
        subject = f"{' '.join(chance.choices(words, k=3))} {chance.randrange(count)}"
        db.execute(
            "INSERT INTO message (queue_id, reverse_path, smtputf8, size, kind, created_at, expires_at, client, helo, user,"
            " protocol, message_id, subject, body, keep_body, failed, resolved_at)"
            " VALUES (?, ?, 0, 1, 'mail', ?, ?, '', '', '', '', ?, ?, '', 0, 0, ?)",
            (queue_id, f"s{n % 7}@Sender{n % 3}.example", OLD, OLD, f"<m{n}@h.example>", subject, OLD),
        )
        for place in range(1 + n % 2):
            db.execute(
                "INSERT INTO recipient (queue_id, address, position, status, attempts, begun, unknowns, provider,"
                " provider_message_id, enhanced, text, fault, expires_at) VALUES (?, ?, ?, ?, 1, 0, 0, ?, '', '', '', '', 0)",
                (
                    *(queue_id, f"C{chance.randrange(count)}.x@d{chance.randrange(99)}.example", place),
                    *("bounced" if n % 300 == 0 else "sent", "main" if n % 5 else "backup"),
                ),
            )
    db.execute("COMMIT")
    db.close()


COUNT = 1500


@pytest.fixture
async def large(opened: OpenSpool, path: Path) -> SqliteSpool:
    spool = await opened(history_s=1e9)
    fill(path, COUNT, random.Random(7))
    return spool


@pytest.fixture
def reader(large: SqliteSpool, path: Path) -> Iterator[sqlite3.Connection]:
    db = _connect_reader(path)
    yield db
    db.close()


def every(db: sqlite3.Connection, wanted: Search, *, time_s: float = 10.0, limit: int = 50) -> list[str]:
    """Queue ids of all pages."""
    ids: list[str] = []
    before, more = "", True
    for _ in range(10_000):
        page = searching.search(db, wanted, limit, before, "", time_s)
        ids += [row["queue_id"] for row in page.rows]
        assert not page.more or not before or page.before < before
        before, more = page.before, page.more
        if not more:
            return ids
    raise AssertionError("it has no end")


WANTED = [
    Search(),
    Search(text="invoice 7"),
    Search(text="über"),
    Search(text="ann@shop.example"),
    Search(text="b"),
    Search(text="x_y a-b"),
    Search(address="c12"),
    Search(address="c12.x@d"),
    Search(address="x@d77.example"),
    Search(address="@d77.example"),
    Search(address="s3@sender0.example", subject="re:"),
    Search(address="nobody@nowhere.example"),
    Search(id="<m700@h.example>"),
    Search(text="m700@H.example"),
    Search(text="report", status="bounced"),
    Search(text="report", provider="backup", status="sent"),
    Search(text="order", since=OLD + 500, until=OLD + 900),
]


@pytest.mark.parametrize("wanted", WANTED, ids=[str(number) for number in range(len(WANTED))])  # some have a time
async def test_summaries_change_nothing_in_what_is_found(
    large: SqliteSpool, reader: sqlite3.Connection, wanted: Search
) -> None:
    plain = every(reader, wanted)
    while await large.summarize(now=OLD + 1400):
        pass

    (number,) = reader.execute("SELECT count(*) FROM summary").fetchone()
    assert number == 1400 // summaries.BLOCK
    assert every(reader, wanted) == plain
    assert every(reader, wanted, time_s=0.0) == plain  # a step at a time
    assert every(reader, wanted, limit=7) == plain
    assert len(plain) == len(set(plain))
    assert bool(plain) == (wanted.address != "nobody@nowhere.example")


async def test_summaries_spare_most_of_the_reading(large: SqliteSpool, reader: sqlite3.Connection) -> None:
    while await large.summarize(now=OLD + COUNT + 60):
        pass
    read: list[str] = []
    reader.set_trace_callback(lambda sql: read.append(sql) if "m.queue_id" in sql else None)

    every(reader, Search(address="nobody@nowhere.example"))
    assert len(read) == 1  # what is not summarized yet
    read.clear()
    every(reader, Search(id="<m10@h.example>"))
    assert len(read) == COUNT // summaries.BLOCK + 1  # the provider's ids cannot be looked up
    reader.set_trace_callback(None)


async def test_a_message_put_late_is_found_and_its_summary_made_again(
    large: SqliteSpool, reader: sqlite3.Connection
) -> None:
    while await large.summarize(now=OLD + COUNT + 60):
        pass
    block = await large._searcher.run(summaries.next_summary, id_at(OLD + COUNT))
    assert block is None
    late = id_at(OLD + 600.5)

    await put(large, "late", "late@nowhere.example", queue_id=late)
    assert every(reader, Search(address="late@nowhere.example")) == [late]
    (number,) = reader.execute("SELECT count(*) FROM summary").fetchone()
    assert number == 600 // summaries.BLOCK
    while await large.summarize(now=OLD + COUNT + 60):
        pass
    assert every(reader, Search(address="late@nowhere.example")) == [late]
    (number,) = reader.execute("SELECT count(*) FROM summary").fetchone()
    assert number == (COUNT + 1) // summaries.BLOCK


async def test_a_summary_is_not_written_when_a_message_came_in_between(
    large: SqliteSpool, reader: sqlite3.Connection
) -> None:
    stale = summaries.next_summary(reader, id_at(OLD + COUNT))
    assert stale
    await put(large, "late", "late@nowhere.example", queue_id=id_at(OLD + 100.5))

    assert await large._writer.submit(large._summarize, stale) is False
    fresh = summaries.next_summary(reader, id_at(OLD + COUNT))
    assert await large._writer.submit(large._summarize, fresh) is True
    assert await large._writer.submit(large._summarize, fresh) is False  # it is there


async def test_summaries_go_with_their_messages(opened: OpenSpool, large: SqliteSpool, path: Path) -> None:
    while await large.summarize(now=OLD + 1100):
        pass
    with sqlite3.connect(path) as db:
        db.execute("UPDATE message SET resolved_at = 0 WHERE queue_id < ?", (id_at(OLD + 700),))
        db.execute("UPDATE message SET resolved_at = 2e9 WHERE queue_id >= ?", (id_at(OLD + 700),))
    assert await large.prune(now=1.5e9, limit=700) == 700

    while await large.summarize(now=OLD + COUNT + 60):
        pass
    with sqlite3.connect(path) as db:
        first = db.execute("SELECT min(last_id) FROM summary").fetchone()[0]
    assert first == id_at(OLD + 767)


def test_a_filter_holds_what_was_put_in_and_little_else() -> None:
    keys = [f"word{n}" for n in range(3000)]
    words = summaries.make_filter(keys)

    assert all(summaries.may_hold(words, summaries.hash_of(key)) for key in keys)
    wrong = sum(summaries.may_hold(words, summaries.hash_of(f"other{n}")) for n in range(5000))
    assert wrong < 50
    assert not summaries.may_hold(summaries.make_filter([]), summaries.hash_of("x"))


# --- suppressions


def suppressed(path: Path, count: int) -> None:
    with sqlite3.connect(path) as db:
        rows = ((f"a{number:06}@example.org", f"Reason {number} GRÜN", NOW) for number in range(count))
        db.executemany("INSERT INTO suppression VALUES (?, ?, 'main', ?)", rows)
    db.close()


def test_suppressions_are_found_by_address_and_reason_page_by_page(reader: sqlite3.Connection, path: Path) -> None:
    suppressed(path, 10_000)

    def pages(typed: str, time_s: float = 10.0) -> list[list[str]]:
        found, after = [], ""
        while after or not found:
            rows, after = memory.find_suppressions(reader, typed, 4, after, time_s)
            found.append([str(row["address"]) for row in rows])
        return found

    ends = [f"a{number:06}@example.org" for number in (999, 1999, 2999, 3999, 4999, 5999, 6999, 7999, 8999, 9999)]
    assert pages("999@EXAMPLE") == [ends[:4], ends[4:8], ends[8:]]
    assert pages("reason 9999") == [[ends[9]]]
    assert len(memory.find_suppressions(reader, "GRÜN", 4, "")[0]) == 4
    assert [one for page in pages("999@EXAMPLE", 0.0) for one in page] == ends
    assert pages("nothing", 0.0) == [[], [], []]


async def test_a_search_of_all_suppressions_comes_to_its_end(spool: SqliteSpool, path: Path) -> None:
    suppressed(path, 5000)

    assert await spool.find_suppressions("a000000") == ([(await spool.list_suppressions(limit=1))[0]], "")
    assert await spool.find_suppressions("no such thing") == ([], "")


# --- many recipients

MANY = [f"u{number:03}@{'example' if number % 2 else 'other'}.org" for number in range(300)]


async def test_of_many_recipients_the_first_are_given_and_of_all_what_numbers_say(spool: SqliteSpool) -> None:
    results = dict.fromkeys(MANY, SENT) | {MANY[250]: BOUNCED, MANY[260]: BOUNCED, MANY[299]: deferred(NOW + 9)}
    wide = await put(spool, "wide", *MANY, results=results)
    plain = await put(spool, "plain", ANN, BOB, results={ANN: SENT})

    one, other = (await spool.search(Search(), recipients=3)).rows
    assert (one["queue_id"], [r["address"] for r in one["recipients"]], one["trouble"]) == (plain, [ANN, BOB], None)
    assert (one["status"], one["recipients_total"], one["recipients_by_status"]) == (
        "queued",
        2,
        {"queued": 1, "sent": 1},
    )
    assert [r["address"] for r in other["recipients"]] == MANY[:3]
    assert (other["queue_id"], other["recipients_total"], other["status"]) == (wide, 300, "deferred")
    assert other["recipients_by_status"] == {"deferred": 1, "bounced": 2, "sent": 297}
    assert (other["trouble"]["address"], other["trouble"]["status"]) == (MANY[250], "bounced")
    whole = (await spool.search(Search())).rows
    assert [len(row["recipients"]) for row in whole] == [2, 300]
    added = {"recipients", "recipients_total", "recipients_by_status", "trouble"}
    assert {k: v for k, v in other.items() if k not in added} == {k: v for k, v in whole[1].items() if k not in added}
    assert (await spool.search(Search(), recipients=0)).rows == [{"queue_id": plain}, {"queue_id": wide}]


async def test_recipients_are_shown_part_by_part_with_their_events(spool: SqliteSpool) -> None:
    wide = await put(spool, "wide", *MANY, results=dict.fromkeys(MANY, SENT))
    whole = await spool.show(wide)
    parts = [await spool.show_part(wide, limit=120, skip=skip) for skip in (0, 120, 240, 360)]

    assert whole
    assert [one for part in parts for one in (part or {})["recipients"]] == whole["recipients"]
    assert [len((part or {})["events"]) for part in parts] == [120, 120, 60, 0]
    timelines: dict[str, Any] = {}
    for part in parts:
        timelines |= (part or {})["timelines"]
    assert timelines == whole["timelines"]
    assert await spool.show_part("nothing", limit=1) is None


async def test_words_are_sought_in_all_recipients(spool: SqliteSpool) -> None:
    wide, plain = await put(spool, "wide", *MANY), await put(spool, "plain", ANN)
    ids = [wide, plain]

    assert await spool.mailed_to(ids, ["u299@EXAMPLE".lower()]) == {wide}
    assert await spool.mailed_to(ids, ["u298@other", "u001"]) == {wide}
    assert await spool.mailed_to(ids, ["u298@other", "nobody"]) == set()
    assert await spool.mailed_to([plain], ["u298@other"]) == set()


async def test_a_search_gives_up_within_the_messages_of_many_recipients_and_goes_on_there(
    spool: SqliteSpool, path: Path
) -> None:
    for number in range(6):
        await put(spool, f"wide {number}", *MANY)
    last = await put(spool, "other", "zoe@example.org")
    db = _connect_reader(path)
    wanted = Search(address="zoe@example.org")

    first = searching.search(db, wanted, 50, "", "", 0.0)
    assert ([row["queue_id"] for row in first.rows], first.more, first.before) == ([last], True, last)
    assert len(every(db, Search(address=MANY[299]), time_s=0.0)) == 6
    db.close()


def test_the_events_of_many_recipients_are_looked_at_once() -> None:
    class Told(dict[str, Any]):
        looked = 0

        def __getitem__(self, name: str) -> Any:
            Told.looked += 1
            return super().__getitem__(name)

    events = [Told(address=one, event="sent", provider="main") for one in MANY]
    events += [Told(address="", event="held", provider=""), Told(address=MANY[0], event="sent", provider="main")]
    found = listing.timelines(events, MANY)

    assert [one["attempt"] for one in found[MANY[0]]] == [1, None, 2]
    assert [one["attempt"] for one in found[MANY[9]]] == [1, None]
    assert Told.looked < 10 * len(events)
