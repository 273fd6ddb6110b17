"""/api/v1 over real HTTP, on a real spool: what is listed and shown, what is done and said first, and who may."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

import httpx
import pytest

from bridge.model import Envelope, Message
from bridge.reply import Reply
from bridge.spool.base import Result
from bridge.spool.ids import new_queue_id, time_of
from bridge.web import operations
from tests.e2e.conftest import eventually
from tests.web.conftest import CAPTURE, KEYS, bearer, keys

ANN, BOB = "ann@example.com", "bob@example.net"
SENT = Result(status="sent", reply=Reply(250, "2.0.0", "Ok"), provider="main", provider_message_id="p-1")
BOUNCED = Result(
    status="bounced", reply=Reply(550, "5.1.1", "No such user"), provider="main", detail="HTTP 422: nobody"
)
HELD = Result(status="held", reply=Reply(451, "4.4.2", "Held"), provider="main")
LOST = Result(status="held", reply=Reply(451, "4.4.2", "Answer lost"), provider="main", unknown=True)
RAW = b"Subject: hi\r\n\r\nHello\r\n"
# Nobody listens there, and nothing is tried: everything put here is on hold or over.
TWO = "".join(
    f'[[provider]]\nname = "{name}"\nkind = "rest"\nurl = "http://127.0.0.1:9/"\nrate = "10/s"\n'
    for name in ("main", "backup")
)
ALL = keys("send", "read", "manage") + TWO


async def put(daemon: Any, subject: str, results: dict[str, Result], *, keep: bool = True) -> str:
    now = daemon.clock.now()
    mail = Message(
        queue_id=new_queue_id(),
        envelope=Envelope(reverse_path="erp@example.org", recipients=tuple(results)),
        raw=RAW,
        created_at=now,
        expires_at=now + 1000,
        subject=subject,
        message_id="<m@example.org>",
    )
    if keep:
        await daemon.spool.put(mail, results=results)
    else:
        await daemon.spool.put_history(mail, results)
    return mail.queue_id


class Site:
    def __init__(self, daemon: Any, client: httpx.AsyncClient) -> None:
        self.daemon, self.client = daemon, client

    async def get(self, path: str, scope: str = "read", **params: str) -> httpx.Response:
        return await self.client.get(f"/api/v1{path}", params=params, headers=bearer(scope))

    async def post(self, path: str, body: Any, scope: str = "manage") -> httpx.Response:
        return await self.client.post(f"/api/v1{path}", json=body, headers=bearer(scope))

    async def status_of(self, queue_id: str) -> dict[str, str]:
        row = await self.daemon.spool.show(queue_id)
        return {one["address"]: one["status"] for one in row["recipients"]}


@pytest.fixture
async def site(start_web: Any) -> Site:
    return Site(*await start_web(config=ALL))


def error_of(answer: httpx.Response) -> tuple[int, str, str]:
    error = answer.json()["error"]
    assert error["message"]
    return answer.status_code, error["code"], error["field"]


async def test_messages_are_listed_and_searched_newest_first_in_pages(site: Site) -> None:
    ids = [await put(site.daemon, f"invoice {n}", {ANN: SENT if n % 2 else BOUNCED}) for n in range(5)]
    await put(site.daemon, "else", {BOB: SENT}, keep=False)

    first = (await site.get("/messages", q="invoice", limit="2")).json()
    assert [row["queue_id"] for row in first["messages"]] == [ids[4], ids[3]]
    assert first["more"]
    rest = (await site.get("/messages", q="invoice", before=first["before"])).json()
    assert [row["queue_id"] for row in rest["messages"]] == ids[2::-1]
    assert (rest["more"], rest["before"]) == (False, "")
    new = (await site.get("/messages", after=ids[4])).json()
    assert [row["subject"] for row in new["messages"]] == ["else"]
    failed = (await site.get("/messages", status="failed", address="@example.com", provider="main")).json()
    assert [row["queue_id"] for row in failed["messages"]] == ids[4::-2]


async def test_what_is_new_is_walked_in_pages_between_two_bounds(site: Site) -> None:
    ids = [await put(site.daemon, f"mail {n}", {ANN: SENT}) for n in range(7)]
    found: list[str] = []
    before, more = "", True
    while more:
        page = (await site.get("/messages", after=ids[1], before=before, limit="2")).json()
        found += [row["queue_id"] for row in page["messages"]]
        before, more = page["before"], page["more"]
    between = (await site.get("/messages", after=ids[1], before=ids[4])).json()
    exported = [json.loads(line)["queue_id"] for line in (await site.get("/export", after=ids[4])).text.splitlines()]

    assert found == ids[:1:-1]
    assert [row["queue_id"] for row in between["messages"]] == [ids[3], ids[2]]
    assert exported == ids[:4:-1]


async def test_times_are_given_as_seconds_or_as_dates(site: Site) -> None:
    queue_id = await put(site.daemon, "one", {ANN: SENT})
    came = time_of(queue_id)
    assert came

    for since, found in ((str(came - 9), 1), (str(came + 9), 0), ("2020-01-01", 1), ("2999-01-01T00:00:00Z", 0)):
        assert len((await site.get("/messages", since=since)).json()["messages"]) == found


UNSEARCHABLE: list[tuple[dict[str, str], str]] = [
    ({"status": "lost"}, "status"),
    ({"limit": "0"}, "limit"),
    ({"limit": "501"}, "limit"),
    ({"limit": "²"}, "limit"),
    ({"since": "soon"}, "since"),
    ({"until": "nan"}, "until"),
    ({"since": "1e99"}, "since"),
    ({"q": "x" * 501}, "q"),
    ({"text": "x"}, "text"),
    ({"adress": "x"}, "adress"),
]


async def test_what_cannot_be_searched_for_is_named(site: Site) -> None:
    for params, field in UNSEARCHABLE:
        assert error_of(await site.get("/messages", **params)) == (422, "invalid", field), params


async def test_a_message_is_shown_with_every_attempt_and_its_body(site: Site) -> None:
    queue_id = await put(site.daemon, "one", {ANN: BOUNCED, BOB: HELD})

    shown = (await site.get(f"/messages/{queue_id}")).json()
    assert shown["status"] == "held"
    (bounced,) = shown["timelines"][ANN]
    assert (bounced["event"], bounced["attempt"], bounced["text"]) == ("bounced", 1, "No such user")
    assert bounced["detail"] == "HTTP 422: nobody"
    raw = await site.get(f"/messages/{queue_id}/raw")
    assert (raw.content, raw.headers["content-type"]) == (RAW, "message/rfc822")
    assert raw.headers["content-disposition"] == f'attachment; filename="{queue_id}.eml"'

    assert error_of(await site.get("/messages/NOBODY")) == (404, "not_found", "")
    gone = await put(site.daemon, "gone", {ANN: SENT})
    assert error_of(await site.get(f"/messages/{gone}/raw")) == (404, "no_body", "")


async def test_an_export_has_a_message_with_its_body_in_each_line(site: Site) -> None:
    for n in range(60):
        await put(site.daemon, f"no. {n}", {ANN: BOUNCED if n % 2 else SENT})

    answer = await site.get("/export", status="bounced")
    rows = [json.loads(line) for line in answer.text.splitlines()]
    assert [row["subject"] for row in rows] == [f"no. {n}" for n in range(59, 0, -2)]
    assert base64.b64decode(rows[0]["raw"]) == RAW
    everything = await site.get("/export")
    assert len(everything.text.splitlines()) == 60
    assert error_of(await site.get("/export", limit="5")) == (422, "invalid", "limit")


async def test_an_action_is_said_first_and_then_done(site: Site) -> None:
    one, two = await put(site.daemon, "one", {ANN: BOUNCED, BOB: SENT}), await put(site.daemon, "two", {ANN: HELD})
    asked = {"ids": [one, two, "NOBODY"], "dry_run": True}

    said = (await site.post("/messages/drop", asked)).json()
    assert (said["dry_run"], said["changed"], said["more"]) == (True, 0, False)
    assert said["forecast"] == {
        "messages": 2,
        "before": {"bounced": 1, "sent": 1, "held": 1},
        "changed": {"bounced": 1, "held": 1},
        "left": {"it is over": 1},
        "unknown": 1,
        "text": "2 recipients of 2 messages will be changed (1 bounced, 1 held), 1 will be left as they are (1: it is over), "
        "1 message of these are not here",
    }
    assert await site.status_of(two) == {ANN: "held"}
    done = (await site.post("/messages/drop", {**asked, "dry_run": False})).json()
    assert done["changed"] == 2
    assert await site.status_of(one) == {ANN: "dropped", BOB: "sent"}


async def test_a_filter_chooses_and_a_large_one_is_done_in_parts(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = [await put(site.daemon, f"batch {n}", {ANN: HELD}) for n in range(5)]
    other = await put(site.daemon, "other", {ANN: HELD})
    choose = operations.choose
    monkeypatch.setattr(operations, "choose", lambda *args, **kwargs: choose(*args, **kwargs, limit=2))

    asked, changed, rounds = {"filter": {"subject": "batch", "status": "held"}, "before": ""}, 0, 0
    more = True
    while more:
        answer = (await site.post("/messages/drop", asked)).json()
        changed, rounds = changed + answer["changed"], rounds + 1
        more, asked["before"] = answer["more"], answer["before"]
    assert (changed, rounds) == (5, 3)
    assert [await site.status_of(one) for one in ids] == [{ANN: "dropped"}] * 5
    assert await site.status_of(other) == {ANN: "held"}


async def test_hold_release_and_retry(site: Site) -> None:
    queue_id = await put(site.daemon, "one", {ANN: HELD})

    assert (await site.post("/messages/release", {"ids": [queue_id]})).json()["changed"] == 1
    row = await site.daemon.spool.show(queue_id)
    assert "released" in [event["event"] for event in row["events"]]
    failed = await put(site.daemon, "two", {ANN: BOUNCED})
    assert (await site.post("/messages/retry", {"ids": [failed]})).json()["changed"] == 1
    assert (await site.status_of(failed))[ANN] == "deferred"


async def test_a_retry_through_another_provider_waits_for_that_one_alone(site: Site) -> None:
    failed, lost = await put(site.daemon, "one", {ANN: BOUNCED}), await put(site.daemon, "two", {ANN: LOST})
    asked = {"ids": [failed, lost], "provider": "backup"}

    answer = (await site.post("/messages/retry", asked)).json()
    assert answer["changed"] == 1
    assert answer["forecast"]["left"] == {"it is bound to main, which may have sent it already": 1}
    row = await site.daemon.spool.show(failed)
    assert row["recipients"][0]["lane"] == site.daemon.dispatchers.lane_of("backup")
    forced = (await site.post("/messages/retry", {"ids": [lost], "provider": "backup", "force": True})).json()
    assert forced["changed"] == 1

    nobody = await site.post("/messages/retry", {**asked, "provider": "nobody"})
    assert error_of(nobody) == (422, "invalid", "provider")
    assert error_of(await site.post("/messages/hold", asked)) == (422, "invalid", "provider")


IMPOSSIBLE: list[tuple[Any, tuple[int, str, str]]] = [
    ({}, (422, "invalid", "ids")),
    ({"ids": ["a"], "filter": {"q": "a"}}, (422, "invalid", "ids")),
    ({"ids": []}, (422, "invalid", "ids")),
    ({"ids": "a"}, (422, "invalid", "ids")),
    ({"ids": ["a", 1]}, (422, "invalid", "ids[1]")),
    ({"ids": ["a"] * 10_001}, (422, "invalid", "ids")),
    ({"filter": {}}, (422, "invalid", "filter")),
    ({"filter": {"q": " "}}, (422, "invalid", "filter")),
    ({"filter": {"q": 1}}, (422, "invalid", "filter.q")),
    ({"filter": {"since": True}}, (422, "invalid", "filter.since")),
    ({"filter": {"nothing": ""}}, (422, "invalid", "filter.nothing")),
    ({"ids": ["a"], "dryrun": True}, (422, "invalid", "dryrun")),
    ({"ids": ["a"], "dry_run": "yes"}, (422, "invalid", "dry_run")),
    ([], (400, "bad_request", "")),
    ("x" * (1 << 20), (413, "too_large", "")),
]


async def test_what_cannot_be_done_is_named(site: Site) -> None:
    for body, expected in IMPOSSIBLE:
        assert error_of(await site.post("/messages/drop", body)) == expected, str(body)[:80]


async def test_an_unknown_action_and_a_body_that_is_no_json(site: Site) -> None:
    assert error_of(await site.post("/messages/burn", {"ids": ["a"]}))[:2] == (404, "not_found")
    broken = await site.client.post("/api/v1/messages/drop", content=b"{", headers=bearer("manage"))
    assert error_of(broken) == (400, "bad_request", "")


async def test_looking_needs_read_and_changing_needs_manage(site: Site) -> None:
    looking = ["/messages", "/messages/Q", "/messages/Q/raw", "/export", "/providers", "/suppressions", "/status"]
    for path in looking:
        assert (await site.get(path, scope="send")).status_code == 403
        assert (await site.client.get(f"/api/v1{path}")).status_code == 401
        assert (await site.get(path, scope="manage")).status_code in (200, 404)
    for path in ("/messages/drop", "/suppressions"):
        assert (await site.post(path, {}, scope="read")).status_code == 403
    removed = await site.client.delete(f"/api/v1/suppressions/{ANN}", headers=bearer("read"))
    assert removed.status_code == 403


async def test_without_keys_this_machine_may_look_and_not_change(start_web: Any) -> None:
    _, client = await start_web(**CAPTURE)

    assert (await client.get("/api/v1/messages")).json() == {"messages": [], "more": False, "before": ""}
    assert (await client.post("/api/v1/messages/drop", json={"ids": ["a"]})).status_code == 401


async def test_a_page_changes_things_only_with_its_token(site: Site) -> None:
    visits = site.daemon.web.visits
    token = visits.begin("manage", KEYS["manage"][1], site.daemon.clock.now())
    cookie = {"cookie": f"smtp_bridge={token}"}
    csrf = visits.find(token, site.daemon.clock.now()).csrf

    for path, body in (("/messages/drop", {"ids": ["a"]}), ("/suppressions", {"address": ANN})):
        refused = await site.client.post(f"/api/v1{path}", json=body, headers=cookie)
        assert error_of(refused)[:2] == (403, "csrf")
        taken = await site.client.post(f"/api/v1{path}", json=body, headers={**cookie, "x-csrf-token": csrf})
        assert taken.status_code in (200, 201)


async def test_providers_say_how_they_stand(site: Site) -> None:
    breaker = site.daemon.dispatchers.named("main").breaker
    breaker.restore_blocked(site.daemon.clock.now(), "401 bad key")

    main, backup = (await site.get("/providers")).json()["providers"]
    assert (main["name"], main["state"], main["reason"]) == ("main", "blocked", "401 bad key")
    assert main["blocked_since"] == main["since"] == breaker.since
    assert (backup["state"], backup["blocked_since"], backup["reason"], backup["rate"]) == ("closed", None, "", "10/s")


async def test_the_status_counts_what_waits_and_what_happened(site: Site) -> None:
    await put(site.daemon, "one", {ANN: BOUNCED})
    await put(site.daemon, "two", {ANN: HELD, BOB: SENT})

    found = (await site.get("/status")).json()
    assert found["queue"]["by_status"] == {"bounced": 1, "held": 1}
    assert found["queue"]["by_age"]["1 minute"] == 2
    assert found["queue"]["oldest"] is not None
    last = {
        word: sum(minute[word] for minute in found["minutes"]) for word in ("accepted", "sent", "deferred", "bounced")
    }
    assert last == {"accepted": 2, "sent": 1, "deferred": 1, "bounced": 1}
    assert [error["text"] for error in found["errors"]] == ["Held", "No such user"]
    assert (found["latency"]["count"], len(found["minutes"]), len(found["quarters"])) == (1, 60, 96)
    assert found["spool"]["bytes"] > 0
    assert found["spool"]["free"] > 0
    assert found["spool"]["writable"] is True
    assert [one["name"] for one in found["providers"]] == ["main", "backup"]


async def test_suppressions_are_listed_added_and_taken_back_and_hold_at_once(site: Site) -> None:
    assert (
        await site.post("/suppressions", {"address": "Ann@Example.com", "reason": "asked\nfor it"})
    ).status_code == 201
    assert (await site.post("/suppressions", {"address": ANN})).status_code == 200
    assert site.daemon.suppressions.refusal(ANN) is not None
    (listed,) = (await site.get("/suppressions")).json()["suppressions"]
    assert (listed["address"], listed["reason"], listed["provider"]) == (ANN, "asked for it", "")

    for address in ("", "nobody", "a@", "@b", "a@b c", "a\n@b", "x" * 330 + "@b"):
        assert error_of(await site.post("/suppressions", {"address": address})) == (422, "invalid", "address")
    removed = await site.client.delete(f"/api/v1/suppressions/{ANN}", headers=bearer("manage"))
    assert removed.status_code == 204
    assert site.daemon.suppressions.refusal(ANN) is None
    again = await site.client.delete(f"/api/v1/suppressions/{ANN}", headers=bearer("manage"))
    assert error_of(again) == (404, "not_found", "address")


async def test_suppressions_come_in_pages(site: Site) -> None:
    for n in range(3):
        await site.post("/suppressions", {"address": f"a{n}@example.com"})

    first = (await site.get("/suppressions", limit="2")).json()
    rest = (await site.get("/suppressions", after=first["after"])).json()
    assert [row["address"] for row in first["suppressions"] + rest["suppressions"]] == [
        f"a{n}@example.com" for n in range(3)
    ]
    assert rest["after"] == ""


async def test_a_spool_that_cannot_be_read_is_no_defect(site: Site) -> None:
    await site.daemon.spool.close()

    assert error_of(await site.get("/messages")) == (503, "spool_error", "")


async def test_a_retry_through_another_provider_is_sent_by_that_one(start_web: Any) -> None:
    config = (
        keys("read", "manage") + TWO.replace("backup", "spare") + '[[provider]]\nname = "shelf"\nkind = "capture"\n'
    )
    site = Site(*await start_web(config=config))
    queue_id = await put(site.daemon, "one", {ANN: BOUNCED})

    assert (await site.post("/messages/retry", {"ids": [queue_id], "provider": "shelf"})).json()["changed"] == 1
    for _ in range(200):
        if await site.status_of(queue_id) != {ANN: "deferred"}:
            break
        await asyncio.sleep(0.02)
    row = (await site.get(f"/messages/{queue_id}")).json()
    assert [(one["status"], one["provider"]) for one in row["recipients"]] == [("sent", "shelf")]
    assert [(one["event"], one["attempt"]) for one in row["timelines"][ANN]] == [
        ("bounced", 1),
        ("rerouted", None),
        ("sent", 2),
    ]


MANY = [f"u{number:03}@example.org" for number in range(150)]


async def test_of_many_recipients_the_list_gives_some_and_a_message_all_of_them_in_pages(site: Site) -> None:
    queue_id = await put(site.daemon, "wide", dict.fromkeys(MANY, SENT) | {MANY[99]: BOUNCED}, keep=False)

    (row,) = (await site.get("/messages", limit="500")).json()["messages"]
    assert [one["address"] for one in row["recipients"]] == MANY[:20]
    assert (row["recipients_total"], row["trouble"]["address"], row["status"]) == (150, MANY[99], "bounced")
    first = (await site.get(f"/messages/{queue_id}")).json()
    assert ([one["address"] for one in first["recipients"]], set(first["timelines"])) == (MANY[:100], set(MANY[:100]))
    second = (await site.get(f"/messages/{queue_id}", page="2")).json()
    assert ([one["address"] for one in second["recipients"]], len(second["events"])) == (MANY[100:], 50)
    whole = (await site.get(f"/messages/{queue_id}", limit="1000")).json()
    assert len(whole["recipients"]) == whole["recipients_total"] == 150
    await eventually(lambda: site.daemon.budget.used == 0)
    for params, field in (({"limit": "1001"}, "limit"), ({"page": "0"}, "page")):
        assert error_of(await site.get(f"/messages/{queue_id}", **params)) == (422, "invalid", field)
    door = (await site.client.get(f"/messages/{queue_id}?limit=60&page=3", headers=bearer("read"))).json()
    assert ([one["address"] for one in door["recipients"]], door["recipients_total"]) == (MANY[120:], 150)
    (line,) = [json.loads(text) for text in (await site.get("/export")).text.splitlines()]
    assert [one["address"] for one in line["recipients"]] == MANY
