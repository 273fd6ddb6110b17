"""The status page: its charts as shapes, and that what it says of the queue and the providers is so."""

from __future__ import annotations

from typing import Any

from bridge.web.pages.charts import HEIGHT, WIDTH, make_chart
from tests.web.conftest import keys
from tests.web.pages.conftest import AWAY, CAPTURE, Browser, mail, send

WORDS = ("accepted", "sent", "deferred", "bounced")


def series(*columns: tuple[int, int, int, int]) -> list[dict[str, int]]:
    return [{"at": 60 * place, **dict(zip(WORDS, column, strict=True))} for place, column in enumerate(columns)]


def test_what_became_of_mail_is_piled_up_from_the_ground() -> None:
    chart = make_chart("hour", "The last hour", series((4, 2, 1, 1), (2, 2, 0, 0)), each="minute")

    assert [(one.word, one.y, one.height) for one in chart.blocks] == [
        ("sent", HEIGHT / 2, HEIGHT / 2),
        ("deferred", HEIGHT / 4, HEIGHT / 4),
        ("bounced", 0.0, HEIGHT / 4),
        ("sent", HEIGHT / 2, HEIGHT / 2),
    ]
    assert chart.peak == 4
    assert all(one.x >= 0 and one.x + one.width <= WIDTH for one in chart.blocks)
    assert chart.blocks[0].x + chart.blocks[0].width < chart.blocks[3].x


def test_one_among_thousands_is_seen_and_stays_in_the_chart() -> None:
    chart = make_chart("hour", "The last hour", series((9999, 9990, 0, 9), (1, 0, 0, 1)), each="minute")

    assert all(one.height >= 2 and one.y >= 0 for one in chart.blocks)


def test_a_chart_says_in_words_what_it_shows() -> None:
    chart = make_chart("hour", "The last hour", series((1, 1, 0, 0), (0, 0, 0, 0), (4, 2, 1, 1)), each="minute")

    assert "3 sent, 1 deferred, 1 failed" in chart.description
    assert "4, at 00:02 UTC" in chart.description
    assert [row["at"] for row in chart.rows] == [120, 0]
    assert make_chart("hour", "", series((0, 0, 0, 0)), each="minute").description.startswith("Nothing")


async def test_it_counts_what_was_sent_and_where(start_web: Any) -> None:
    daemon, client = await start_web(config=CAPTURE)
    await send(daemon, mail("one"), mail("two"))
    page = await Browser(client).get("/status")

    assert "Accepted in the last hour 2 2 in the last day" in page.text
    assert "Sent in the last hour 2 2 in the last day" in page.text
    assert "the queue is empty" in page.text
    assert "main capture in use 0 0 2 0 0 2" in page.text
    assert "listening" in page.text
    assert [one["class"] for one in page.all("rect")] == ["sent", "sent"]


async def test_who_waits_since_when_and_for_whom_is_said(start_web: Any) -> None:
    daemon, client = await start_web(
        config=AWAY + keys("read"), SMTP_BRIDGE_RETRY__FIRST="1h", SMTP_BRIDGE_RETRY__MAXIMUM="2h"
    )
    (queue_id,) = await send(daemon, mail(to="zoe@example.net"))
    browser = await Browser(client).sign_in("read")
    page = await browser.get("/status")

    assert "up to a minute 1 1 to 5 minutes 0" in page.text
    assert "1 deferred" in page.text
    assert page.all("a", href=f"/mail/{queue_id}")
    assert "zoe@example.net" in page.text
    assert "very-secret" not in page.html


async def test_a_blocked_provider_is_told_with_its_reason_and_since_when(start_web: Any) -> None:
    daemon, client = await start_web(config=AWAY)
    daemon.dispatchers.named("spare").breaker.restore_blocked(1_800_000_000.0, "HTTP 401: <b>no</b> such key")
    page = await Browser(client).get("/status")

    assert "spare is blocked since 2027-01-15 08:00:00 UTC : HTTP 401: <b>no</b> such key" in page.text
    assert not page.all("b")


async def test_nobody_looks_without_a_key(start_web: Any) -> None:
    _, client = await start_web(config=CAPTURE + keys("send"))

    answer = await client.get("/status")
    assert (answer.status_code, answer.headers["location"]) == (303, "/sign-in?next=%2Fstatus")


async def test_a_port_that_the_system_chose_is_the_one_that_is_shown(start_web: Any) -> None:
    daemon, client = await start_web(config=CAPTURE)
    port = daemon.listeners[0].port
    status = await Browser(client).get("/status")
    empty = await Browser(client).get("/")
    daemon.listeners[0].close()
    reason = (await client.get("/readyz")).json()["checks"]["listeners"]["reason"]

    assert f"127.0.0.1:{port} listening" in status.text
    assert f"localhost:{port}" in empty.text
    assert reason == f"not listening on 127.0.0.1:{port}"
    assert ":0 " not in status.text + empty.text
