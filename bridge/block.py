"""One large block of memory, written once where it stays."""

from __future__ import annotations

import contextlib
import ctypes
import io
import mmap
from collections.abc import Callable

_HUGE_PAGE = 2 << 20  # octets, on all machines that we know
_libc = ctypes.CDLL(None)


def filled(size: int, fill: Callable[[memoryview], None]) -> bytes:
    """`size` octets that `fill` writes. Nothing is copied: BytesIO takes the buffer it is given, and gives it away again."""
    whole = io.BytesIO(bytes(size))
    with whole.getbuffer() as view:
        if size >= 2 * _HUGE_PAGE:
            _ask_for_huge_pages(view)
        fill(view)
    return whole.getvalue()


def _ask_for_huge_pages(view: memoryview) -> None:
    """The first touch of each small page is a turn to the kernel, which takes longer than to copy the page (madvise(2))."""
    first = ctypes.addressof(ctypes.c_char.from_buffer(view))
    start = -(-first // _HUGE_PAGE) * _HUGE_PAGE
    end = (first + len(view)) // _HUGE_PAGE * _HUGE_PAGE
    with contextlib.suppress(AttributeError):  # not Linux
        _libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), mmap.MADV_HUGEPAGE)
