from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.providers.htmltext import html_to_text


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("", ""),
        ("plain", "plain"),
        ("<p>One</p><p>Two</p>", "One\n\nTwo"),
        ("One<br>Two<BR/>Three", "One\nTwo\nThree"),
        ("<div>One</div><div>Two</div>", "One\n\nTwo"),
        ("a\r\n   b\t c", "a b c"),
        ("<b>bold</b> and <i>thin</i>", "bold and thin"),
        ("Ann &amp; Bob &lt;b@example.com&gt; &#8364;", "Ann & Bob <b@example.com> €"),
        ("<ul><li>One</li><li>Two</li></ul>", "- One\n\n- Two"),
        ("<table><tr><td>a</td><td>b</td></tr></table>", "a  b"),
        ("<head><title>T</title><style>p {}</style></head><body>B</body>", "B"),
        ("a<script>if (1 < 2) { x('</p>') }</script>b", "ab"),
        ("a<STYLE>x</Style>b", "ab"),
        ("a<!-- <p>no</p> -->b", "ab"),
        ("<!DOCTYPE html><?xml?>a", "a"),
        ('<a href="https://example.com/x?a=1&amp;b=2">Click</a>', "Click (https://example.com/x?a=1&b=2)"),
        ("<a href=https://example.com>https://example.com</a>", "https://example.com"),
        ("<a href='mailto:a@example.com'>a@example.com</a>", "a@example.com"),
        ('<a href="javascript:alert(1)">x</a>', "x"),
        ('<a name="top">x</a>', "x"),
        ("1 < 2 and 3 <4", "1 < 2 and 3 <4"),
        ("open <b", "open"),
        ("open <!-- never closed <p>x", "open"),
        ("open <script> never closed", "open"),
        ("İ<script>x</script>y", "İy"),
    ],
)
def test_text_of_html(source: str, text: str) -> None:
    assert html_to_text(source) == text


@given(st.text(alphabet="<>/!-ab &;\"'=phrefscript\n", max_size=80))
def test_no_markup_makes_it_fail(source: str) -> None:
    assert len(html_to_text(source)) <= 10 * len(source) + 10


@pytest.mark.parametrize(
    "piece", ["<", "<!--", "<a ", "<script", "<p>", "&", "<a href=", "</", '<a href="', "<a href=x>", "<style>", "\n"]
)
def test_hostile_markup_costs_linear_time(piece: str) -> None:
    source = piece * (1_000_000 // len(piece))
    started = time.perf_counter()

    html_to_text(source)

    assert time.perf_counter() - started < 5  # well below a second; quadratic would be hours
