"""Hostile mail costs time linear in its size: each within an absolute bound, and doubling the size never quadruples it."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable

import pytest

from bridge.mime.parse import parse, strip_bcc, summary
from bridge.mime.structure import parse_structure
from bridge.mime.trace import count_hops, normalize_newlines, stamp
from tests.mime.samples import BOMBS, attached, mail, multipart, part, whole

pytestmark = pytest.mark.serial


def seconds(work: Callable[[], object], times: int = 1) -> float:
    """The best of a few runs: the machine may be busy with something else."""
    best = float("inf")
    for _ in range(times):
        began = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - began)
    return best


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_parsed_in_bounded_time(name: str) -> None:
    assert seconds(lambda: parse(BOMBS[name]), times=2) < 1.5


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_stamped_and_listed_in_bounded_time(name: str) -> None:
    raw = BOMBS[name]

    def handle() -> None:
        count_hops(raw)
        strip_bcc(normalize_newlines(stamp(raw, received="Received: from a by b; date", date="d", message_id="m")))
        summary(raw)

    assert seconds(handle, times=2) < 0.5


LINEAR = {
    "quotes": b'"',
    "escaped quotes": b'"\\',
    "quotes after commas": b",'\"",
    "open comments": b"(",
    "comments and escapes": b"(\\",
    "brackets and quotes": b'<"',
    "domain literals": b"[",
    "at signs": b"@ ",
    "encoded words": b"=?a?q?b?= ",
    "open encoded words": b"=?a?q?",
    "semicolons": b";",
    "parameters": b";a=b",
    "open parameters": b';a="\\"',
}


@pytest.mark.parametrize("field", [b"To: ", b"Subject: ", b"Content-Type: text/plain;", b"Content-Disposition: "])
@pytest.mark.parametrize("name", LINEAR)
def test_a_header_of_four_times_the_size_costs_about_four_times_as_much(name: str, field: bytes) -> None:
    size = 30_000
    once, four = (mail(field + LINEAR[name] * (size * factor // len(LINEAR[name]))) for factor in (1, 4))

    assert seconds(lambda: parse(four), 3) < 9 * seconds(lambda: parse(once), 3) + 0.005


def test_nested_multiparts_around_a_large_body_cost_a_bounded_number_of_passes() -> None:
    body = part("text/plain", b"--b\r\n-- \r\n" * 200_000)
    entity = body
    for level in range(90):
        entity = multipart("mixed", entity, boundary=f"level{level}")

    assert seconds(lambda: parse_structure(whole(entity)), times=2) < 1.5


def test_ten_megabytes_of_clean_base64_are_passed_through() -> None:
    raw = whole(multipart("mixed", part("text/plain", b"see file"), attached(bytes(range(256)) * 30_000)))
    (file,) = parse(raw).attachments

    assert bytes(file.encoded) == base64.b64encode(bytes(range(256)) * 30_000)
    assert seconds(lambda: parse(raw), times=5) < 0.06


def test_a_small_mail_costs_little() -> None:
    raw = mail(
        "Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=",
        "Date: Mon, 23 Nov 2026 03:27:18 +0000",
        "Message-ID: <1@example.com>",
        "X-Mailer: test",
        "MIME-Version: 1.0",
        "Content-Type: text/plain; charset=utf-8",
        body=b"A line of seventy characters or so, and nothing to decode in it at all\r\n" * 70,
    )

    assert seconds(lambda: [parse(raw) for _ in range(100)], times=5) / 100 < 0.0005  # about 60 us on a quiet machine
