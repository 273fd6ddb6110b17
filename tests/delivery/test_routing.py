"""Routes and lanes: who may take whose mail, and in which order."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.delivery.lanes import Lane
from bridge.delivery.routing import Route, Routes

NAMES = st.lists(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True), min_size=1, max_size=5, unique=True)
MAIL = {"user": "", "listener": "", "sender": "ann@example.com", "recipient": "bob@example.org"}


def chosen(routes: Routes, **facts: str) -> tuple[str, ...]:
    route = routes.choose(**{**MAIL, **facts})
    return route.providers if route else ()


@pytest.mark.parametrize(
    ("route", "facts", "takes"),
    [
        ({"user": "shop"}, {"user": "shop"}, True),
        ({"user": "shop"}, {"user": "Shop"}, False),
        ({"user": "shop"}, {}, False),
        ({"sender": "*@news.example.com"}, {"sender": "a@NEWS.example.com"}, True),
        ({"sender": "*@news.example.com"}, {"sender": "a@xnews.example.com"}, False),
        ({"sender": "*@news.example.com"}, {"sender": "a@news.example.com.evil.example"}, False),
        ({"recipient": "*@example.org"}, {}, True),
        ({"recipient": "b.b@example.org"}, {"recipient": "bxb@example.org"}, False),
        ({"listener": "printers"}, {"listener": "printers"}, True),
        ({"listener": "printers"}, {}, False),
        ({"user": "shop", "recipient": "*@example.org"}, {"user": "shop", "recipient": "x@example.net"}, False),
        ({}, {}, True),
    ],
)
def test_a_route_takes_what_matches_all_it_says(route: dict[str, Any], facts: dict[str, str], takes: bool) -> None:
    assert Route(providers=("a",), **route).takes(**{**MAIL, **facts}) is takes


def test_the_first_match_wins() -> None:
    routes = Routes(
        [Route(providers=("a",), sender="ann@*"), Route(providers=("b",), sender="*@example.com")], ["a", "b"]
    )

    assert chosen(routes) == ("a",)
    assert chosen(routes, sender="eve@example.com") == ("b",)


def test_without_a_route_every_provider_is_there_in_order() -> None:
    assert chosen(Routes([], ["b", "a"])) == ("b", "a")
    assert chosen(Routes([Route(providers=("a",), sender="x@y")], ["b", "a"])) == ("b", "a")


def test_credentials_of_one_user_never_serve_anothers_mail() -> None:
    routes = Routes(
        [Route(providers=("shop", "shared"), user="shop"), Route(providers=("shared",), user="", sender="x@*")],
        ["shop", "shared", "open"],
    )

    assert chosen(routes, user="shop") == ("shop", "shared")
    assert chosen(routes, user="printer") == ("shared", "open")
    assert chosen(routes) == ("shared", "open")


def test_where_all_providers_belong_to_users_nobody_else_sends() -> None:
    assert Routes([Route(providers=("a",), user="shop")], ["a"]).choose(**MAIL) is None


@given(names=NAMES, data=st.data(), risky=st.booleans())
def test_a_lane_is_read_as_it_was_written(names: list[str], data: Any, risky: bool) -> None:
    start = data.draw(st.integers(0, len(names) - 1))
    lane = Lane(names=tuple(names), start=start, risky=risky, mark="0a1f")

    assert Lane.parse(str(lane)) == lane


@given(name=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True))
def test_a_bound_lane_names_one_provider(name: str) -> None:
    lane = Lane(names=(name,), bound=True)

    assert str(lane) == f"={name}"
    assert Lane.parse(str(lane)) == lane


@pytest.mark.parametrize(
    "text", ["", "=", "main", "main>#1", "main|3#1", ">a#1", "main#xyz", "a b#1", "main>backup|2#1"]
)
def test_what_is_no_lane_is_none(text: str) -> None:
    assert Lane.parse(text) is None


def test_after_the_last_provider_a_round_is_over() -> None:
    lane = Lane(names=("a", "b", "c"), mark="1")

    assert lane.after("a") == ("b", "c")
    assert lane.at("b").after("b") == ("c",)
    assert lane.at("c").after("c") == ()
    assert lane.at("c").order == ("c", "a", "b")
    assert lane.at("b").after("a") == ()  # its turn was over before this one's
    assert lane.at("b").afresh() == lane
