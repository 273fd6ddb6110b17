"""Durations, sizes, rates, addresses: what is read, what is refused, and that each is shown as it can be read again."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge import units
from bridge.config.settings import spool_file
from bridge.config.types import is_loopback, mask_url, parse_listen_address
from tests.settings.conftest import CAPTURE, Folder

DURATIONS = [
    ("500ms", 0.5),
    ("20s", 20.0),
    ("5m", 300.0),
    ("2h", 7200.0),
    ("7d", 604800.0),
    ("1.5h", 5400.0),
    ("0", 0.0),
    ("0s", 0.0),
    (" 5s ", 5.0),
]
SIZES = [
    ("25MiB", 25 * 1024**2),
    ("500MB", 500_000_000),
    ("10 GiB", 10 * 1024**3),
    ("0", 0),
    ("1024", 1024),
    ("1.5KiB", 1536),
    ("2kb", 2000),
    ("3b", 3),
    ("1TiB", 1024**4),
]


@pytest.mark.parametrize(("text", "seconds"), DURATIONS)
def test_durations_are_a_number_and_a_unit(text: str, seconds: float) -> None:
    assert units.parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "5", "5 s", "-5s", "5w", "5S", "1e3s", "4000d", "5s5s", "٥s"])
def test_a_duration_without_a_known_unit_is_none(text: str) -> None:
    with pytest.raises(ValueError, match="duration"):
        units.parse_duration(text)


@pytest.mark.parametrize(("text", "octets"), SIZES)
def test_sizes_are_a_number_and_a_unit(text: str, octets: int) -> None:
    assert units.parse_size(text) == octets


@pytest.mark.parametrize("text", ["", "-1", "5 MegaBytes", "1.5B", "1iB", "9999999999TiB", "1e3", "0.1kB3"])
def test_a_size_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="size"):
        units.parse_size(text)


@pytest.mark.parametrize("text", ["", "10", "0/s", "10/w", "-1/s", "1.5/s", "10 / s"])
def test_a_rate_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="rate"):
        units.parse_rate(text)


@given(st.integers(0, units.MAX_DURATION_S * 1000))
def test_a_duration_is_shown_as_it_is_read(milliseconds: int) -> None:
    seconds = milliseconds / 1000

    assert units.parse_duration(units.format_duration(seconds)) == seconds


@given(st.integers(0, 2**63 - 1) | st.integers(0, 4096).map(lambda n: n * 1024**3))
def test_a_size_is_shown_as_it_is_read(octets: int) -> None:
    assert units.parse_size(units.format_size(octets)) == octets


@given(st.integers(1, 999_999_999), st.sampled_from("smhd"))
def test_a_rate_is_shown_as_it_is_read(count: int, unit: str) -> None:
    rate = units.Rate(count, unit)

    assert units.parse_rate(str(rate)) == rate


@given(st.text(max_size=12))
def test_an_error_about_a_unit_never_repeats_the_text(text: str) -> None:
    for parse in (units.parse_duration, units.parse_size, units.parse_rate):
        with pytest.raises(ValueError, match="not a") as caught:
            parse(f"s3cr3t{text}")
        assert "s3cr3t" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("127.0.0.1:2525", ""),
        ("[::1]:2525", ""),
        (":2525", ""),
        ("*:25", ":25"),
        ("LocalHost:25", "localhost:25"),
        ("[::]:0", ""),
        ("[0:0:0:0:0:0:0:1]:25", "[::1]:25"),
        ("unix:/run/a b.sock", ""),
        ("systemd:smtp", ""),
        ("mail.example:65535", ""),
    ],
)
def test_an_address_to_listen_on_is_shown_as_it_is_read(text: str, shown: str) -> None:
    address = parse_listen_address(text)

    assert str(address) == shown or text == str(address)
    assert parse_listen_address(str(address)) == address


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2525",
        "127.0.0.1",
        "127.0.0.1:",
        "256.0.0.1:25",
        "1.2.3:25",
        "::1:25",
        "[::g]:25",
        "[]:25",
        "a:65536",
        "a:9999999",
        "a b:25",
        "unix:run/x",
        "unix:",
        "unix:/" + "x" * 200,
        "unix:/a\0b",
        "systemd:",
        "systemd:a:b",
        "systemd:a b",
        "http://a:25",
        "a_-:25",
    ],
)
def test_an_address_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"address|path|name|port"):
        parse_listen_address(text)


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("", "/state/spool.db"),
        ("sqlite:////var/lib/x.db", "/var/lib/x.db"),
        ("sqlite:///var/lib/x.db", "/var/lib/x.db"),
        ("sqlite:////a%20b/x.db", "/a b/x.db"),
    ],
)
def test_the_spools_file_is_named_by_an_address(url: str, path: str) -> None:
    assert spool_file(url, Path("/state")) == Path(path)


@pytest.mark.parametrize(
    "url",
    [
        "x.db",
        "/a/x.db",
        "sqlite:",
        "sqlite://",
        "sqlite:///",
        "sqlite:////",
        "sqlite://host/x.db",
        "sqlite:///a?b",
        "sqlite:///a#b",
        "sqlite:///a%00b",
        "mysql://h/d",
        "postgresql://h/d",
    ],
)
def test_an_address_that_names_no_file_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="not a spool"):
        spool_file(url, Path("/state"))


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://a.example/x", "https://a.example/x"),
        ("https://u:p@a.example:8/x?k=v#f", "https://********@a.example:8/x?********"),
        ("sqlite:////a/b.db", "sqlite:////a/b.db"),
        ("", ""),
    ],
)
def test_an_address_is_shown_without_what_may_be_secret(url: str, shown: str) -> None:
    assert mask_url(url) == shown


@pytest.mark.parametrize(
    ("host", "is_one"),
    [
        ("localhost", True),
        ("a.localhost", True),
        ("127.1.2.3", True),
        ("::1", True),
        ("localhost.example", False),
        ("10.0.0.1", False),
    ],
)
def test_loopback_is_this_machine(host: str, is_one: bool) -> None:
    assert is_loopback(host) is is_one


def test_settings_hold_seconds_and_octets(folder: Folder) -> None:
    settings = folder.load(
        "[smtp]\ntimeout = '2m'\nmax_message_size = 1000\nauth_cache = 0\n" + CAPTURE, SPOOL__MIN_FREE="1GB"
    )

    assert (settings.smtp.timeout, settings.smtp.max_message_size, settings.smtp.auth_cache) == (120.0, 1000, 0.0)
    assert settings.spool.min_free == 10**9
