"""The HTML of a mail, so that it can be looked at: in a frame of its own origin, without script, form or anything remote. Pure.

The browser is what keeps it in: the frame and this answer are both sandboxed, and the policy allows styles and pictures only.
Taken out here is what a policy says nothing of: `link` (preconnect), `meta` (refresh) and `base`; and frames, since Chromium
connects to the host of one before it finds that the policy forbids it (seen 2026-11), which tells its sender enough.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final
from urllib.parse import unquote

from bridge.model import Attachment, Content

SANDBOX: Final = "allow-popups allow-popups-to-escape-sandbox"  # a link opens a page of its own
MAX_HTML: Final = 1024 * 1024  # characters
MAX_EMBEDDED: Final = 12 * 1024 * 1024  # octets of pictures that are put into the page
_OUT = re.compile(r"<(/?)(?=(?:link|meta|base|i?frame|object|embed|portal|fencedframe)(?![a-z0-9]))", re.IGNORECASE)
_CID = re.compile(r"\bcid:([^\s\"'<>)\\]{1,998})", re.IGNORECASE)
_PICTURE = re.compile(r"image/(?:png|jpe?g|gif|webp|bmp|x-icon|avif)", re.IGNORECASE)  # no SVG: it is a document
# Spaces are counted, or a mail of nothing but spaces would take hours.
_REMOTE = re.compile(
    r"""(?:\b(?:src|srcset|background|poster)\s{0,9}=|url\(|@import\s{1,9})[\s"']{0,9}(?:https?:)?//""", re.IGNORECASE
)
_SEARCHED = 1024 * 1024  # characters


def headers(*, remote: bool) -> dict[str, str]:
    """`remote`: pictures from elsewhere are fetched."""
    pictures = "data: https: http:" if remote else "data:"
    policy = (
        f"default-src 'none'; style-src 'unsafe-inline'; img-src {pictures}; form-action 'none'; base-uri 'none'; "
        f"frame-ancestors 'self'; sandbox {SANDBOX}"
    )
    return {
        "Content-Security-Policy": policy,
        "X-Frame-Options": "SAMEORIGIN",
        "X-DNS-Prefetch-Control": "off",
        "Referrer-Policy": "no-referrer",
    }


def has_remote(html: str) -> bool:
    """Whether something would be fetched from elsewhere, as far as can be seen."""
    return len(html) > _SEARCHED or _REMOTE.search(html) is not None


def letter(html: str, attachments: Sequence[Attachment]) -> list[Content]:
    """With its own pictures (`cid:`) in it, links that open a page of their own, and nothing that acts on the document. In parts,
    of which the pictures are still what they are in the mail."""
    pictures = {one.content_id: one for one in attachments if one.content_id and _PICTURE.fullmatch(one.content_type)}
    inside, room, written = _OUT.sub(r"<\1x-", html[:MAX_HTML]), MAX_EMBEDDED, 0
    parts: list[Content] = [b'<!doctype html><meta charset="utf-8"><base target="_blank">']
    for found in _CID.finditer(inside):
        one = pictures.get(_unquoted(found[1])) or pictures.get(found[1])
        if one is None or one.size > room:
            continue  # the policy allows no such address
        room -= one.size
        before = f"{inside[written : found.start()]}data:{one.content_type.lower()};base64,"
        parts += [before.encode("utf-8", "replace"), one.encoded]
        written = found.end()
    return [*parts, inside[written:].encode("utf-8", "replace")]


def _unquoted(text: str) -> str:
    """RFC 2392: percent-encoded in the URL."""
    return unquote(text.replace("&amp;", "&"))
