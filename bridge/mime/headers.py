"""Header values as text: unfolding, RFC 2047 encoded words, raw 8-bit; one clean line whatever stood there.

The result is valid Unicode without control characters (CR, LF, NUL and the rest): whatever an encoded word hides, no
header of an API call can be split with it. All of it is linear in the value's length.
"""

from __future__ import annotations

import binascii
import re

from bridge.mime.charset import decode, guess
from bridge.mime.transfer import decode_base64

# RFC 2047 2. The text may hold a stray "?" or blanks (seen in mail), but never the start of the next word: thus a start
# without an end costs no more than the way to the next start.
_WORD = re.compile(r"=\?([^?\s]{1,80})\?([bBqQ])\?((?:[^?=]++|=(?!\?(?!=))|\?(?!=))*+)\?=")
_FOLD = re.compile(rb"[\r\n]+(?=[ \t])")
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+")


def clean(text: str) -> str:
    """One line: runs of control characters and lone surrogates become a blank, white space at the ends goes."""
    text = text.strip()
    return text if text.isprintable() else _CONTROLS.sub(" ", text).strip()


def unfold(value: bytes) -> bytes:
    """RFC 5322 2.2.3: a line break before a blank goes."""
    return _FOLD.sub(b"", value) if b"\n" in value else value


def header_text(value: bytes, charset: str = "") -> str:
    """Unfolded text of a raw value, encoded words still encoded. Raw 8-bit is UTF-8, else `charset`, else Windows-1252."""
    value = unfold(value)
    if value.isascii():
        return value.decode("ascii")
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return decode(value, charset) if charset else guess(value)


def decode_words(value: bytes | str, charset: str = "") -> str:
    """A header value as people read it: encoded words decoded, one clean line. `charset` is for raw 8-bit that is not UTF-8."""
    text = header_text(value, charset) if isinstance(value, bytes) else value
    if not text:
        return ""
    return clean(_decode_words(text) if "=?" in text else text)


def _decode_words(text: str) -> str:
    out: list[str] = []
    pending: list[bytes] = []  # adjacent words of one charset: a character may be split over them
    pending_charset = ""
    end = 0
    for match in _WORD.finditer(text):
        charset = match[1].partition("*")[0].lower()  # RFC 2231 5: charset*language
        gap = text[end : match.start()]
        adjacent = bool(pending) and not gap.strip(" \t\r\n")  # RFC 2047 6.2: blanks between words are not shown
        if not adjacent or charset != pending_charset:
            out.append(decode(b"".join(pending), pending_charset))
            pending = []
        if not adjacent:
            out.append(gap)
        pending.append(_payload(match[2], match[3]))
        pending_charset = charset
        end = match.end()
    return "".join((*out, decode(b"".join(pending), pending_charset), text[end:]))


def _payload(encoding: str, text: str) -> bytes:
    data = text.encode("utf-8", "replace")
    if encoding in "bB":
        return decode_base64(data)
    return binascii.a2b_qp(data, header=True)
