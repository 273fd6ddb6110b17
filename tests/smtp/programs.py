"""What clients may send: sensible mail, odd mail, nonsense, and every way to cut it into segments."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from hypothesis import strategies as st

from tests.smtp.raw import HEADER

ECHO = b"zqx7w"  # stands in much of what clients say, and never in a reply

Cut = Literal["whole", "items", "places", "octets"]
Pause = Literal[
    "none", "read", "reply"
]  # between segments: nothing, until the server has read it, until it has answered
End = Literal["half-close", "reset"]


@dataclass(frozen=True, kw_only=True)
class Program:
    """What one client does. `keep`: octets after which it ends, None for all of them; `places`: of cuts,
    in octets."""

    listener: str
    items: tuple[bytes, ...]
    cut: Cut = "items"
    pause: Pause = "reply"
    places: tuple[int, ...] = ()
    keep: int | None = None
    end: End = "half-close"

    def segments(self) -> list[bytes]:
        """STARTTLS always ends its segment, or what follows would be thrown away with good reason."""
        left = b"".join(self.items)
        kept = len(left) if self.keep is None else self.keep % (len(left) + 1)
        ends = sorted({end for end in self._ends(left) if end < kept} | {kept})
        starts = [0, *ends[:-1]]
        return [left[a:b] for a, b in zip(starts, ends, strict=True) if a < b]

    def _ends(self, stream: bytes) -> Iterator[int]:
        end = 0
        for item in self.items:
            end += len(item)
            if self.cut == "items" or item.upper() == b"STARTTLS\r\n":
                yield end
        if self.cut == "places":
            yield from (place % (len(stream) + 1) for place in self.places)
        if self.cut == "octets":
            yield from range(1, min(len(stream), 600))


def one_of(*values: Any) -> st.SearchStrategy[Any]:
    return st.sampled_from(values)


def joined(pieces: st.SearchStrategy[bytes], min_size: int = 0, max_size: int = 8) -> st.SearchStrategy[bytes]:
    return st.lists(pieces, min_size=min_size, max_size=max_size).map(b"".join)


# --- addresses and parameters

LOCALS = one_of(
    b"ann", b"bob", ECHO, b"Ann", b"a.b+c", b"a..b", b".a", b"a.", b'"a b"', b'"a@b"', b'"\\""', b'""', b'"',
    b'"a"b', b"a b",
    b"a>b", b"(x)", b"a\\b", b"\xc3\xa4", b"\xff", b"a\x01b", b"\xc2\x85", b"\xe2\x80\xa8", b"x" * 64, b"x" * 250,
    b"postmaster", b"",
)  # fmt: skip
DOMAINS = one_of(
    b"@example.com", b"@example.org", b"@EXAMPLE.org", b"@a.", b"@a..b", b"@-a", b"@a-", b"@a_b", b"@_a.b",
    b"@[127.0.0.1]", b"@[IPv6:::1]",
    b"@[]", b"@[a", b"@", b"", b"@b\xc3\xbc.example", b"@xn--bcher-kva.example", b"@" + "डाटा.भारत".encode(),
    b"@" + b"d" * 250, b"@a@b", b"@\xe3\x80\x82", b"@a b",
)  # fmt: skip
SANE_PATHS = one_of(
    b"<ann@example.com>", b"<bob@example.org>", b"<Bob@example.org>", b"<bob@EXAMPLE.org>", b"<eve@example.net>", b"<>"
)
# What a reader that tries every way to read it does not finish in a lifetime, or at least not soon.
PUMPED = st.tuples(
    one_of(
        b"a.",
        b"_a.",
        b"_.",
        b"a-",
        b"_",
        b"a",
        b".",
        b"@",
        b"@a:",
        b"@a,",
        b'"',
        b'""',
        b"\\\\",
        b'\\"',
        b"\xc3\xa9",
        b"\xe0\xa4\xbe",
        b"[",
        b" ",
    ),
    one_of(1, 30, 85, 120, 240, 900),
).map(lambda p: (p[0] * p[1])[:1900])
PATHS = (
    st.tuples(one_of(b"", b"", b"", b"@r.example:", b"@a,@b:", b"@:", b"@"), LOCALS, DOMAINS)
    .map(b"".join)
    .map(lambda p: b"<" + p + b">")
    | SANE_PATHS
    | one_of(
        b"<postmaster>",
        b"<PostMaster>",
        b"ann@example.com",
        b"<ann@example.com",
        b"<<ann@example.com>>",
        b"<a@b><c@d>",
        b"<@a:>",
        b"",
    )
    | st.tuples(one_of(b"<", b"<a@", b"<@", b'<"'), PUMPED, one_of(b">", b"!>", b'"@a>', b".example>")).map(b"".join)
    | joined(
        one_of(b"<", b">", b'"', b"\\", b"@", b":", b".", b" ", b"a", b"[", b"]", b"\xc3\xa9", b",", b"-"), max_size=12
    )
)
MAIL_WORDS = one_of(
    b"SIZE=10", b"SIZE=2000", b"SIZE=2001", b"SIZE=99999999999999999999", b"SIZE=999999999999999999999", b"SIZE=",
    b"SIZE", b"SIZE=-1",
    b"size=1", b"SIZE=\xd9\xa1", b"BODY=7BIT", b"body=8bitmime", b"BODY=BINARYMIME", b"BODY=x", b"BODY",
    b"SMTPUTF8", b"smtputf8",
    b"SMTPUTF8=1", b"AUTH=<>", b"AUTH=a+40b", b"AUTH=a+4", b"AUTH", b"AUTH=", b"RET=FULL", b"RET=hdrs",
    b"RET=HDR\xc5\xbf", b"RET=",
    b"ENVID=q+2B", b"ENVID", b"ENVID=" + b"e" * 100, b"ENVID=" + b"e" * 101, b"ENVID=" + b"+2B" * 100, b"ENVID=a=b",
    b"X-" + ECHO, b"X=1", b"=", b"-A=1", b"\xc5\xbfIZE=1", b"\xff", b"HOLDFOR=1", b"SIZE=1\t",
)  # fmt: skip
RCPT_WORDS = one_of(
    b"NOTIFY=NEVER", b"NOTIFY=SUCCESS,FAILURE", b"notify=delay", b"NOTIFY=NEVER,DELAY", b"NOTIFY=DELAY,DELAY",
    b"NOTIFY=,", b"NOTIFY",
    b"NOTIFY=\xc5\xbfUCCESS", b"ORCPT=rfc822;bob+40example.org", b"ORCPT=rfc822;", b"ORCPT=rfc822", b"ORCPT=;x",
    b"ORCPT=rfc822;+20",
    b"ORCPT=rfc822;a+4", b"ORCPT=utf-8;\xc3\xa9", b"ORCPT=rfc822;\xc3\xa9", b"ORCPT=a b;c",
    b"ORCPT=x;" + b"o" * 498, b"ORCPT=x;" + b"o" * 499,
    b"ORCPT=x_y;z", b"X=1", b"SIZE=1", b"=", b"\xff",
)  # fmt: skip


def parameters(words: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    return st.just(b"") | st.lists(words, max_size=3).map(lambda found: b"".join(b" " + word for word in found))


BLANKS = one_of(b"", b"", b"", b"", b" ", b"   ", b"\t")
LINE_ENDS = one_of(*[b"\r\n"] * 12, b"\n", b" \r\n", b"\t \r\n", b"\r\r\n", b"\0\r\n")


def spelled(verb: bytes) -> st.SearchStrategy[bytes]:
    return one_of(verb, verb, verb, verb.lower(), verb.capitalize(), b" " + verb, verb + b"\t")


def line(*parts: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    return st.tuples(*parts, LINE_ENDS).map(b"".join)


MAIL = one_of(b"MAIL FROM:<ann@example.com>\r\n", b"MAIL FROM:<>\r\n", b"MAIL FROM:<ann@example.com> SMTPUTF8\r\n")
RCPT = SANE_PATHS.map(lambda path: b"RCPT TO:" + path + b"\r\n")
ODD_MAIL = line(
    spelled(b"MAIL"),
    one_of(b" FROM:", b" FROM:", b" from:", b" FROM :", b" ", b"", b" TO:"),
    BLANKS,
    PATHS,
    parameters(MAIL_WORDS),
)
ODD_RCPT = line(
    spelled(b"RCPT"), one_of(b" TO:", b" TO:", b" to:", b" TO :", b"", b" FROM:"), BLANKS, PATHS, parameters(RCPT_WORDS)
)
UTF8_RCPT = st.tuples(LOCALS, DOMAINS, parameters(RCPT_WORDS)).map(
    lambda p: b"MAIL FROM:<" + p[0] + p[1] + b"> SMTPUTF8\r\nRCPT TO:<" + p[0] + p[1] + b">" + p[2] + b"\r\n"
)

# --- content

PIECES = one_of(
    b"\r\n", b"\r\n", b".", b"\r\n.", b"\r\n..", b"\n.\n", b"\r.\r", b"\r\n.\n", b"\n.\r\n", b"\r\n.\r",
    b"\r.\r\n", b"\r\n.\r\r\n", b"\r",
    b"\n", b"\0", b"\r\n\0.\r\n", b"\r\n. \r\n", b"\r\n .\r\n", b"\xff", b"\xc3\xa9", b"text", b"x" * 300, ECHO,
    b"MAIL FROM:<mallory@example.com>\r\nRCPT TO:<victim@example.org>\r\nDATA\r\nsmuggled\r\n",
)  # fmt: skip
BODIES = joined(PIECES | st.binary(max_size=5), max_size=12)
# Around the limit of 2000 octets, where the dots that stuffing adds do not count, and far beyond it.
FULL = st.tuples(
    one_of(-2, -1, 0, 1, 2, 3000, 70_000, 300_000), one_of(b"x", b".", b"\r\n.", b".\r\n", b"\n", b"\r\n.\r")
).map(lambda p: (p[1] * 150_000)[: max(0, 2000 - len(HEADER) - 2 + p[0])] + b"\r\n")
END = b".\r\n"


def stuffed(content: bytes) -> bytes:
    """RFC 5321 4.5.2, and the end."""
    wire = (b"\r\n" + content).replace(b"\r\n.", b"\r\n..")[2:]
    return wire + (b"" if not wire or wire.endswith(b"\r\n") else b"\r\n") + END


DOT_FIRST = b".X-Dot: 1\r\n" + HEADER
CONTENTS = (
    (BODIES | FULL).map(lambda body: stuffed(HEADER + body))
    | BODIES.map(lambda body: stuffed(DOT_FIRST + body))
    | BODIES.map(lambda body: HEADER + body + b"\r\n.\r\n")
    | BODIES.map(stuffed)
    | one_of(b".\r\n", b"\r\n.\r\n", b"..\r\n.\r\n", b".\n.\r\n", b".\r.\r\n\r\n.\r\n")
)
DATA = CONTENTS.map(lambda content: b"DATA\r\n" + content)
SIZES = one_of(b"0", b"1", b"-1", b"", b"x", b"99999999999999999999999", b"1 LAST x", b"\xd9\xa1")


@st.composite
def chunks(draw: Any) -> bytes:
    """A message by BDAT, mostly right."""
    content = draw(BODIES.map(lambda body: HEADER + body) | BODIES | st.just(b"x" * 2001))
    cut = draw(st.integers(0, len(content)))
    parts = [content[:cut], content[cut:]] if draw(st.booleans()) else [content]
    heads = [b"BDAT %d" % len(part) for part in parts]
    heads[-1] += draw(one_of(b" LAST", b" LAST", b" last", b"", b"  LAST "))
    return b"".join(head + b"\r\n" + part for head, part in zip(heads, parts, strict=True))


TRANSACTION = st.tuples(MAIL, joined(RCPT, min_size=1, max_size=5), DATA).map(b"".join)
ODD_TRANSACTION = st.tuples(MAIL | ODD_MAIL, joined(RCPT | ODD_RCPT, max_size=4), DATA | chunks()).map(b"".join)

# --- everything else

GREETINGS = one_of(
    b"EHLO client.example\r\n", b"EHLO [127.0.0.1]\r\n", b"HELO client.example\r\n", b"LHLO client.example\r\n",
    b"EHLO " + ECHO + b"\r\n", b"EHLO\r\n", b"EHLO \r\n", b"HELO\r\n", b"LHLO\r\n", b"ehlo a b\r\n",
    b"EHLO \xff\xfe\r\n", b"EHLO \x01\x1b[2J\r\n",
    b"EHLO " + "ü".encode() + b"\r\n", b"EHLO " + b"h" * 505 + b"\r\n", b"EHLO " + b"h" * 506 + b"\r\n",
)  # fmt: skip
SMALL = line(
    one_of(
        b"NOOP",
        b"RSET",
        b"VRFY",
        b"EXPN",
        b"HELP",
        b"QUIT",
        b"DATA",
        b"STARTTLS",
        b"HELO",
        b"EHLO",
        b"LHLO",
        b"RCPT",
        b"MAIL",
        b"AUTH",
    ).flatmap(spelled),
    one_of(b"", b"", b"", b" " + ECHO, b" bob", b" \xc3\xa9", b" <bob@example.org>", b"  "),
)
NONSENSE = (
    line(
        one_of(
            b"",
            ECHO,
            b"XCLIENT",
            b"BURL",
            b"\xff",
            b"\x00",
            b"\x01",
            b"NO\0OP",
            b"NO\rOP",
            b"\x80EHLO",
            b"250 Ok",
            b"=",
            b"EHLOX a",
            b"\xc5\xbfTARTTLS",
        )
    )
    | line(joined(st.binary(max_size=3).map(lambda b: b.replace(b"\n", b"")), max_size=6))
    | st.sampled_from(
        [(word, over) for word in (b"NOOP", b"MAIL", b"RCPT", b"AUTH", b"XXXX") for over in range(-2, 3)]
    ).flatmap(
        lambda p: one_of(512, 2048, 12304).map(
            lambda size: p[0] + b" " + b"o" * (size - len(p[0]) - 3 + p[1]) + b"\r\n"
        )
    )
    | one_of(b"o" * 40_000 + b"\r\n", b"\n" * 3, b"\r\n\r\n")
)
LAST = one_of(
    b"QUIT\r\n", b"QUIT\r\nNOOP\r\n", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"post /x\r\n",
    b"CONNECT a:25 HTTP/1.0\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\r\nNOOP\r\n", b"NOO", b"MAIL FROM:<ann@example.com>", b"DATA\r\nx", b"\xff",
    b"o" * 20_000,
)  # fmt: skip
STARTTLS = one_of(
    b"STARTTLS\r\n", b"starttls\r\n", b"STARTTLS\r\n", b"STARTTLS\r\nRSET\r\nMAIL FROM:<mallory@example.com>\r\n"
)

NAMES = one_of(b"printer", b"printer", b"ann", b"nobody", b"", b"\xff", b"a\0b", ECHO, "ü".encode())
PASSWORDS = one_of(b"secret", b"secret", b"annspw", b"wrong", b"", b"\xff", b"p" * 1024, b"p" * 1025)


def encoded(words: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    good = words.map(base64.b64encode)
    return (
        good
        | good
        | good
        | one_of(
            b"*",
            b"=",
            b"",
            b"====",
            b"a",
            b"YQ",
            b"YQ=",
            b"Y Q==",
            b"\xff",
            b"YQ==YQ==",
            b"\0",
            b"a" * 12286,
            b"a" * 12287,
        )
    )


PLAIN = st.tuples(one_of(b"", b"", b"printer", b"ann"), NAMES, PASSWORDS).map(b"\0".join) | one_of(
    b"", b"\0", b"\0\0", b"\0\0\0\0", b"printer"
)
AUTHS: st.SearchStrategy[bytes] = (
    st.just(b"AUTH PLAIN " + base64.b64encode(b"\0printer\0secret") + b"\r\n")
    | line(one_of(b"AUTH PLAIN ", b"auth plain ", b"AUTH  PLAIN ", b"AUTH PLAIN\r\n"), encoded(PLAIN))
    | st.tuples(
        one_of(b"AUTH LOGIN\r\n", b"AUTH LOGIN ", b"AUTH login "),
        encoded(NAMES),
        LINE_ENDS,
        encoded(PASSWORDS),
        LINE_ENDS,
    ).map(b"".join)
    | line(
        one_of(b"AUTH CRAM-MD5\r\n", b"AUTH CRAM-MD5 "),
        encoded(one_of(b"printer " + b"0" * 32, b"printer", b"\xff " + b"0" * 32)),
    )
    | line(
        one_of(
            b"AUTH",
            b"AUTH ",
            b"AUTH XOAUTH2 YQ==",
            b"AUTH PLAI\xc4\xb1",
            b"AUTH PLAIN =",
            b"AUTH LOGIN\r\n*",
            b"AUTH LOGIN =",
        )
    )
)

# How often each comes: a session of nonsense alone is closed before it has seen much.
WEIGHTED = (
    (TRANSACTION, 6), (ODD_TRANSACTION, 6), (UTF8_RCPT, 2), (GREETINGS, 2), (SMALL, 2), (NONSENSE, 2), (AUTHS, 2),
    (STARTTLS, 1),
    (ODD_MAIL, 2), (ODD_RCPT, 2), (MAIL, 2), (RCPT, 2), (DATA, 1), (chunks(), 1),
    (SIZES.map(lambda size: b"BDAT " + size + b"\r\n"), 1),
)  # fmt: skip
ITEMS = one_of(*[kind for kind, weight in WEIGHTED for _ in range(weight)]).flatmap(lambda kind: kind)
LOG_IN = b"AUTH PLAIN " + base64.b64encode(b"\0printer\0secret") + b"\r\n"
LOG_IN_AS_ANN = b"AUTH PLAIN " + base64.b64encode(b"\0ann\0annspw") + b"\r\n"


@st.composite
def programs(draw: Any, listeners: Sequence[str]) -> Program:
    listener = draw(st.sampled_from(listeners))
    items = draw(openings(listener)) + draw(st.lists(ITEMS, min_size=draw(one_of(0, 3, 6)), max_size=8))
    if draw(one_of(True, False)):
        items.append(draw(LAST))
    return Program(
        listener=listener,
        items=tuple(items),
        cut=draw(one_of("items", "items", "whole", "places", "places", "octets")),
        pause=draw(one_of("reply", "read", "none")),
        places=tuple(draw(st.lists(st.integers(0, 10_000), max_size=8))),
        keep=draw(
            one_of(None, None, None, None, True).flatmap(lambda cut: st.integers(0, 10_000) if cut else st.none())
        ),
        end=draw(one_of("half-close", "half-close", "half-close", "reset")),
    )


@st.composite
def openings(draw: Any, listener: str) -> list[bytes]:
    """Mostly what lets mail in on this listener."""
    hello = (
        b"LHLO client.example\r\n"
        if listener == "lmtp"
        else draw(one_of(*[b"EHLO client.example\r\n"] * 3, b"HELO client.example\r\n"))
    )
    secure = [b"STARTTLS\r\n", hello]
    attempts = draw(st.just([]) | st.lists(AUTHS, max_size=3))
    opening = {
        "login": [hello, *attempts, draw(one_of(LOG_IN, LOG_IN, LOG_IN_AS_ANN))],
        "tls": [hello, *secure],
        "nobody": [hello, *secure, LOG_IN],
    }.get(listener, [hello])
    if listener in ("smtp", "lmtp") and draw(one_of(*[False] * 7, True)):
        opening += [*secure, LOG_IN]
    return opening if draw(one_of(*[True] * 11, False)) else []
