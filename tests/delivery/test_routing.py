"""Routes and lanes: who may take whose mail, and in which order."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.delivery.lanes import Lane
from bridge.delivery.routing import NO_ROUTE, REFUSED_BY_ROUTE, Route, Routes
from bridge.reply import Reply

NAMES = st.lists(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True), min_size=1, max_size=5, unique=True)
MAIL = {"user": "", "listener": "", "sender": "ann@example.com", "recipient": "bob@example.org"}


def chosen(routes: Routes, **facts: str) -> tuple[str, ...]:
    route = routes.choose(**{**MAIL, **facts})
    return route.providers if isinstance(route, Route) else ()


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
    assert Routes([Route(providers=("a",), user="shop")], ["a"]).choose(**MAIL) == NO_ROUTE


FORBIDDEN = Route(recipient="*@example.org", refuse=True)
REST = Route(refuse=True)


def test_a_route_that_refuses_wins_by_its_place() -> None:
    friends = Route(providers=("a",), recipient="bob@*")

    assert Routes([FORBIDDEN, friends], ["a"]).choose(**MAIL) == REFUSED_BY_ROUTE
    assert Routes([friends, FORBIDDEN], ["a"]).choose(**MAIL) == friends
    assert chosen(Routes([FORBIDDEN], ["a"]), recipient="x@example.net") == ("a",)
    assert Routes([friends, REST], ["a"]).choose(**{**MAIL, "recipient": "x@example.net"}) == REFUSED_BY_ROUTE


@pytest.mark.parametrize("recipient", ["eve@y.example", '"eve"@y.example', '"e\\ve"@Y.example.'])
def test_a_forbidden_mailbox_gets_no_mail_between_quotes(recipient: str) -> None:
    routes = Routes([Route(recipient="eve@y.example", refuse=True)], ["a"])

    assert routes.choose(**{**MAIL, "recipient": recipient}) == REFUSED_BY_ROUTE
    assert chosen(routes, recipient='"eve x"@y.example') == ("a",)


@pytest.mark.parametrize("domain", ["bücher.example", "xn--bcher-kva.example"])
@pytest.mark.parametrize(
    ("recipient", "forbidden"),
    [
        ("eve@bücher.example", True),
        ("eve@BU\u0308CHER.example", True),  # decomposed
        ("eve@XN--Bcher-kva.example", True),
        ("eve@xn--bcher-kva.example.", True),
        ("eve@bücher。example", True),  # IDNA 2003 3.1: a dot as well
        ("eve@bucher.example", False),
        ("eve@bücher.example.net", False),
        ("bücher.example@example.net", False),
        ("eve@xn--\xfc.example", False),
        ("eve@xn--zzzzzzzzzz9999.example", False),
        (f"eve@{'xn--' * 100}.example", False),
    ],
)
def test_a_forbidden_domain_gets_no_mail_under_another_spelling(domain: str, recipient: str, forbidden: bool) -> None:
    routes = Routes([Route(recipient=f"*@{domain}", refuse=True)], ["a"])

    assert (routes.choose(**{**MAIL, "recipient": recipient}) == REFUSED_BY_ROUTE) is forbidden


OF_ANN = Route(providers=("a",), sender="ann@*")
NOT_OF_ANN = Route(refuse=True, sender="ann@*")


@pytest.mark.parametrize(
    ("routes", "known", "unknown"),
    [
        ([FORBIDDEN], REFUSED_BY_ROUTE, REFUSED_BY_ROUTE),
        ([OF_ANN, REST], None, None),  # it may be hers
        ([NOT_OF_ANN], REFUSED_BY_ROUTE, None),  # it need not be hers
        ([NOT_OF_ANN, REST], REFUSED_BY_ROUTE, REFUSED_BY_ROUTE),
        ([REST, OF_ANN], REFUSED_BY_ROUTE, REFUSED_BY_ROUTE),
        ([Route(providers=("a",), user="shop"), REST], REFUSED_BY_ROUTE, REFUSED_BY_ROUTE),
        ([Route(providers=("a",), user="shop")], NO_ROUTE, None),
        ([], None, None),
    ],
)
def test_before_the_sender_is_known_only_what_is_refused_from_everybody_is_refused(
    routes: list[Route], known: Reply | None, unknown: Reply | None
) -> None:
    assert Routes(routes, ["a"]).refusal(**MAIL) == known
    assert Routes(routes, ["a"]).refusal(**{**MAIL, "sender": ""}) == unknown


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
