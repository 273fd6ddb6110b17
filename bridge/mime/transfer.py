"""Content-Transfer-Encoding, leniently: broken base64 and quoted-printable give what can be read, and never raise.

Clean base64 is not decoded at all: it is what the APIs want, so only its line breaks go.
"""

from __future__ import annotations

import base64
import binascii
import io
import re
from collections.abc import Iterable

ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
BLANKS = b"\r\n \t"
_FOREIGN = bytes(set(range(256)) - set(ALPHABET) - set(b"=-_"))
_URL_SAFE = bytes.maketrans(b"-_", b"+/")
_PADDING = re.compile(rb"=+")


def decode_base64(data: bytes) -> bytes:
    """What the base64 says; foreign characters are skipped, wrong or missing padding is mended, padded runs are joined."""
    try:
        return binascii.a2b_base64(data, strict_mode=True)
    except (binascii.Error, ValueError):
        runs = _PADDING.split(data.translate(_URL_SAFE, _FOREIGN))
    return b"".join(_decode_run(run) for run in runs)


def decode_base64_pieces(pieces: Iterable[bytes]) -> bytes:
    """As `decode_base64` of all of them, of which one at a time is in memory beside what they say."""
    found = io.BytesIO()
    rest = b""
    for piece in pieces:
        *ended, last = _PADDING.split(rest + piece.translate(_URL_SAFE, _FOREIGN))
        for run in ended:
            found.write(_decode_run(run))
        whole = len(last) // 4 * 4
        found.write(binascii.a2b_base64(last[:whole]))
        rest = last[whole:]
    found.write(_decode_run(rest))
    return found.getvalue()


def _decode_run(run: bytes) -> bytes:
    if len(run) % 4 == 1:  # six bits are no byte
        run = run[:-1]
    return binascii.a2b_base64(run + b"=" * (-len(run) % 4))


def decode_transfer(data: bytes, encoding: str) -> bytes:
    """The payload under a Content-Transfer-Encoding (lower case); an unknown one is taken as it is (RFC 2045 6.4)."""
    if encoding == "base64":
        return decode_base64(data.translate(None, BLANKS))
    if encoding == "quoted-printable":
        return binascii.a2b_qp(data)
    return data


def encode_payload(data: bytes, encoding: str) -> tuple[bytes, int, bool]:
    """(clean base64 without line breaks, size of the payload, whether the base64 was clean)."""
    if encoding == "base64":
        packed = data.translate(None, BLANKS)
        if _is_clean(packed):
            return canonical(packed), len(packed) // 4 * 3 - packed.count(b"=", -2), True
        content, clean = decode_base64(packed), False
    else:
        content, clean = decode_transfer(data, encoding), True
    return base64.b64encode(content), len(content), clean


def _is_clean(packed: bytes) -> bool:
    """Whether this is whole quanta of the alphabet, padded only at the end. Deleting the alphabet beats a regex by far."""
    return len(packed) % 4 == 0 and packed.translate(None, ALPHABET) in (b"", b"=", b"==") and _pads_last(packed)


def _pads_last(packed: bytes) -> bool:
    pad = packed.find(b"=")
    return pad < 0 or packed[pad:].strip(b"=") == b""


def canonical(packed: bytes) -> bytes:
    """Clean base64 in which the bits under the padding are zero (RFC 4648 3.5): strict decoders refuse others."""
    if not packed.endswith(b"="):
        return packed
    last = base64.b64encode(base64.b64decode(packed[-4:]))
    return packed if packed.endswith(last) else packed[:-4] + last
