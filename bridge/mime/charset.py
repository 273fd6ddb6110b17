"""Bytes to text by a charset's name, whatever the name and whatever the bytes: never raises, never a lone surrogate.

Names come from strangers, so only known text encodings are looked up: `undefined`, `idna`, `base64` or `rot13` are not
charsets, and Python keeps every unknown name it was ever asked for.
"""

from __future__ import annotations

import re
from encodings.aliases import aliases
from functools import lru_cache

# Codecs that are not charsets, or warn, or take quadratic time, or make surrogates by design.
_NOT_CHARSETS = frozenset(
    {"base64_codec", "bz2_codec", "hex_codec", "quopri_codec", "rot_13", "uu_codec", "zlib_codec", "mbcs", "oem"}
    | {"idna", "punycode", "undefined", "unicode_escape", "raw_unicode_escape"}
)
_UNALIASED = ("cp720", "cp737", "cp856", "cp874", "cp875", "cp1006", "koi8_t", "koi8_u", "mac_croatian", "utf_8_sig")
# What mail calls things: labels nobody registered, and supersets for what senders really write (WHATWG Encoding 4.2).
_MAIL_NAMES = {
    "iso8859_1": "cp1252",
    "latin_1": "cp1252",
    "shift_jis": "cp932",
    "x_sjis": "cp932",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "x_gbk": "gb18030",
    "euc_kr": "cp949",
    "x_euc_jp": "euc_jp",
    "iso_8859_8_i": "iso8859_8",
    "iso_8859_8_e": "iso8859_8",
    "x_mac_roman": "mac_roman",
    "unicode_1_1_utf_7": "utf_7",
    "tis_620": "cp874",
}
_SEPARATORS = re.compile(r"[^a-z0-9]+")
_SURROGATES = re.compile("[\ud800-\udfff]")
_NON_ASCII = re.compile("[^\x00-\x7f\ufffd]")
_PLAIN_CODECS = ("utf_8", "cp125", "iso8859_", "koi8_")
_AT_ONCE = 65536  # characters
_GUESS = ""  # ASCII and unknown: look at the bytes


def _known() -> dict[str, str]:
    pairs = {**aliases, **{name: name for name in (*aliases.values(), *_UNALIASED)}}
    usable = {name: codec for name, codec in pairs.items() if codec not in _NOT_CHARSETS}
    merged = {name: _MAIL_NAMES.get(codec, codec) for name, codec in usable.items()} | _MAIL_NAMES
    return {name: _GUESS if codec == "ascii" else codec for name, codec in merged.items()}


_KNOWN = _known()


@lru_cache(maxsize=256)
def _codec(charset: str) -> str:
    name = _SEPARATORS.sub("_", charset.lower()).strip("_")
    for candidate in (name, name.removeprefix("x_"), name.replace("windows_", "cp"), name.replace("_", "")):
        if candidate in _KNOWN:
            return _KNOWN[candidate]
    return _GUESS


def codec_name(charset: str) -> str:
    """The Python codec for a charset's name, "" when there is none (or plain ASCII): then the bytes are looked at."""
    return _codec(charset) if len(charset) <= 40 else _GUESS


def keeps_line_ends(charset: str) -> bool:
    """Whether CR and LF in it are always the octets they are in ASCII, also beside what is broken."""
    return codec_name(charset).startswith(_PLAIN_CODECS) or codec_name(charset) == _GUESS


def utf8_size(text: str) -> int:
    """Octets as UTF-8, without making them all at once."""
    if text.isascii():
        return len(text)
    if len(text) <= _AT_ONCE:
        return len(text.encode("utf-8", "replace"))
    return sum(
        len(text[start : start + _AT_ONCE].encode("utf-8", "replace")) for start in range(0, len(text), _AT_ONCE)
    )


def guess(data: bytes) -> str:
    """UTF-8 when it is, else Windows-1252, as mail programs do."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("cp1252", "replace")


def decode(data: bytes, charset: str = "") -> str:
    """Text in the named charset. Bytes that do not fit it become U+FFFD; text that is plainly not in it is guessed."""
    if data.isascii() and charset.lower() in ("", "utf-8", "us-ascii", "iso-8859-1", "windows-1252"):
        return data.decode("ascii")
    codec = codec_name(charset)
    if codec == _GUESS:
        return guess(data)
    try:
        text = data.decode(codec)
    except UnicodeError:
        text = _decode_broken(data, codec)
    return _SURROGATES.sub("\ufffd", text) if codec not in ("utf_8", "cp1252") else text


def _decode_broken(data: bytes, codec: str) -> str:
    text = data.decode(codec, "replace")
    # "UTF-8" without one good multi-byte character is what a Windows program with the wrong label wrote.
    if codec == "utf_8" and not _NON_ASCII.search(text):
        return data.decode("cp1252", "replace")
    return text
