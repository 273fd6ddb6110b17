"""The OpenAPI document: what it says is what happens, over real HTTP; and its page."""

from __future__ import annotations

import asyncio
import re
from html.parser import HTMLParser
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import load_all_checks
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from bridge.web import docs
from bridge.web.api import OPERATIONS, PREFIX
from bridge.web.openapi import PLAIN, SEVERAL, WHOLE, document
from bridge.web.order import FIELDS, FILE_FIELDS, KEY_FIELD
from tests.web.conftest import KEYS, bearer, keys
from tests.web.test_send import CAPTURE

load_all_checks()
SHORT = settings(
    max_examples=8,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


def operations(url: str) -> dict[str, Any]:
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    return {found.ok().label: found.ok() for found in schema.get_all_operations()}


DOOR = ("POST /send-email", "GET /messages/{id}")
API_FEW = settings(SHORT, max_examples=4)


def ask(url: str, operation: Any, scope: str, mode: Any, how_many: settings = SHORT) -> set[int]:
    """The statuses of what was answered, each as the document says."""
    seen: set[int] = set()
    with requests.Session() as session:
        session.trust_env = False

        @how_many
        @given(case=operation.as_strategy(generation_mode=mode))
        def run(case: Any) -> None:
            # An address is more than a schema can say, so what fits the schema may still be none. Of several messages
            # each has an answer of its own.
            several = isinstance(case.body, dict) and "messages" in case.body
            left_out = [positive_data_acceptance, *([negative_data_rejection] if several else [])]
            answer = case.call_and_validate(
                base_url=url, headers=bearer(scope), session=session, excluded_checks=left_out
            )
            seen.add(answer.status_code)

        run()
    return seen


@pytest.mark.parametrize("operation", DOOR)
@pytest.mark.parametrize("mode", schemathesis.GenerationMode)
async def test_it_holds_whatever_is_asked(start_web: Any, operation: str, mode: Any) -> None:
    daemon, _ = await start_web(config=CAPTURE + keys("send"))
    url = f"http://127.0.0.1:{daemon.http.port}"
    known = await asyncio.to_thread(operations, url)

    assert await asyncio.to_thread(ask, url, known[operation], "send", mode)
    assert daemon.budget.used == 0


@pytest.mark.parametrize("mode", schemathesis.GenerationMode)
async def test_it_holds_whatever_is_asked_of_the_queue(start_web: Any, mode: Any) -> None:
    daemon, client = await start_web(config=CAPTURE + keys("send", "manage"))
    assert (await client.post("/send-email", json=PLAIN, headers=bearer("send"))).status_code == 200
    url = f"http://127.0.0.1:{daemon.http.port}"
    known = await asyncio.to_thread(operations, url)
    seen = {
        label: await asyncio.to_thread(ask, url, operation, "manage", mode, API_FEW)
        for label, operation in known.items()
        if label not in DOOR
    }

    assert set(seen) == {f"{method} {PREFIX}{path.replace(':path', '')}" for method, path in OPERATIONS}
    assert all(seen.values())
    assert not any(status >= 500 for statuses in seen.values() for status in statuses)


async def test_what_it_shows_works_and_is_answered_as_it_says(start_web: Any) -> None:
    daemon, _ = await start_web(config=CAPTURE + keys("send"))
    url = f"http://127.0.0.1:{daemon.http.port}"
    known = await asyncio.to_thread(operations, url)

    def check() -> dict[str, int]:
        found = {}
        with requests.Session() as session:
            session.trust_env = False
            for name, body in {"plain": PLAIN, "whole": WHOLE, "several": SEVERAL}.items():
                case = known["POST /send-email"].Case(body=body, media_type="application/json")
                found[name] = case.call_and_validate(base_url=url, headers=bearer("send"), session=session)
            queue_id = found["plain"].json()["id"]
            case = known["GET /messages/{id}"].Case(path_parameters={"id": queue_id})
            found["shown"] = case.call_and_validate(base_url=url, headers=bearer("send"), session=session)
        return {name: answer.status_code for name, answer in found.items()}

    assert await asyncio.to_thread(check) == {"plain": 200, "whole": 200, "several": 200, "shown": 200}


def test_every_field_is_described() -> None:
    schemas = document()["components"]["schemas"]

    assert set(schemas["Message"]["properties"]) == set(FIELDS)
    assert set(schemas["Member"]["properties"]) == {*FIELDS, KEY_FIELD}
    assert set(schemas["Attachment"]["properties"]) == set(FILE_FIELDS)
    assert set(WHOLE) == set(FIELDS)


class Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.targets: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.tags.add(tag)
        assert not {"style", "onclick", "onload"} & values.keys()
        self.targets += [values[name] for name in ("href", "src") if name in values]
        if "id" in values:
            assert values["id"] not in self.ids
            self.ids.add(values["id"])


async def test_the_page_shows_it_and_fetches_nothing_from_elsewhere(start_web: Any) -> None:
    _, client = await start_web(config=CAPTURE + keys("send"))
    page = await client.get("/docs")
    found = Links()
    found.feed(page.text)

    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert not found.tags & {"script", "style", "iframe"}
    assert {target for target in found.targets if not target.startswith("#")} == {"docs.css", "openapi.json"}
    assert {target[1:] for target in found.targets if target.startswith("#")} <= found.ids
    assert (await client.get("/docs.css")).headers["content-type"].startswith("text/css")
    for name in (*FIELDS, *FILE_FIELDS, "Idempotency-Key", "POST /send-email", "GET /messages/{id}"):
        assert name in page.text
    assert KEYS["send"][0] not in page.text


def test_what_is_shown_as_code_stays_text() -> None:
    assert docs._ticks("a `<b>` <c>") == "a <code>&lt;b&gt;</code> &lt;c&gt;"
    assert not re.search(r"\{\{|\{%", docs.render(document()))
