"""Exit statuses, as in sysexits.h. A module of its own: `queue` needs them without loading the daemon."""

from __future__ import annotations

import signal

EX_USAGE = 2  # as the option parsers have it
EX_BAD_USAGE = 64  # EX_USAGE of sysexits.h, where that is expected: sendmail
EX_DATAERR = 65
EX_NOINPUT = 66
EX_NOUSER = 67
EX_NOHOST = 68
EX_UNAVAILABLE = 69
EX_SOFTWARE = 70
EX_CANTCREAT = 73
EX_IOERR = 74
EX_TEMPFAIL = 75
EX_PROTOCOL = 76
EX_NOPERM = 77
EX_CONFIG = 78
INTERRUPTED = 128 + signal.SIGINT
