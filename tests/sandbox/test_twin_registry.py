"""Every twin there is: what can be said of all of them."""

from __future__ import annotations

import httpx
import pytest

from bridge.sandbox import Sandbox
from bridge.sandbox.exchange import Response
from bridge.sandbox.twins import kinds, twin_class
from tests.sandbox.conftest import KEY, InstantClock


def test_a_module_of_the_folder_is_a_twin() -> None:
    assert "sendgrid" in kinds()
    assert not {"base", "schema", "mimemail"} & set(kinds())


def test_an_unknown_kind_is_an_error_that_lists_the_known() -> None:
    with pytest.raises(ValueError, match=r"unknown provider 'pigeon'; known: .*sendgrid"):
        twin_class("pigeon")


@pytest.mark.parametrize("kind", kinds())
def test_each_twin_has_routes_that_send_and_errors_that_can_be_answered(kind: str) -> None:
    twin = twin_class(kind)(key=KEY, clock=InstantClock())

    assert {route.target for route in twin.routes()} - {""} == set(twin.targets)
    assert twin.errors
    assert all(isinstance(answer.response(), Response) for answer in twin.errors.values())
    assert all(isinstance(twin.error_body(status), Response) for status in (400, 401, 404, 429, 500, 503))


@pytest.mark.parametrize("kind", kinds())
async def test_each_twin_refuses_strangers_and_unknown_paths(
    sandbox: Sandbox, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    twin = twin_class(kind)(key=KEY, clock=InstantClock())
    async with httpx.AsyncClient(base_url=sandbox.twin_url(kind), trust_env=False) as stranger:
        await stranger.get("/no/such/path")
        for route in twin.routes():
            await stranger.request(route.method, route.path.replace("{", "").replace("}", ""))

    # Some say everything with 200, some with 500: what counts is that nothing was taken and nothing broke.
    assert sandbox.messages == []
    assert "request failed" not in caplog.text
