"""Odd mails, built here: each is the smallest message that shows one habit of a mail program or one attack."""

from __future__ import annotations

import base64

PDF = b"%PDF-1.4 \x00\xff\r\n\n\rend"


def mail(*lines: str | bytes, body: bytes = b"Hello\r\n") -> bytes:
    """Header lines and a body, with a From and a To."""
    own = [line.encode() if isinstance(line, str) else line for line in lines]
    return b"\r\n".join((b"From: Ann <ann@example.com>", b"To: bob@example.org", *own, b"", b"")) + body


def part(content_type: str, body: bytes, *lines: str | bytes) -> bytes:
    own = [line.encode() if isinstance(line, str) else line for line in lines]
    return b"\r\n".join((b"Content-Type: " + content_type.encode(), *own, b"", b"")) + body


def multipart(subtype: str, *parts: bytes, boundary: str = "b1", params: str = "") -> bytes:
    """An entity: its Content-Type and its body."""
    mark = b"\r\n--" + boundary.encode()
    body = b"".join(mark + b"\r\n" + entity for entity in parts) + mark + b"--\r\n"
    head = f'Content-Type: multipart/{subtype}; boundary="{boundary}"{params}\r\n\r\n'.encode()
    return head + body.removeprefix(b"\r\n")


def whole(entity: bytes, *lines: str | bytes) -> bytes:
    """An entity as a message."""
    own = [line.encode() if isinstance(line, str) else line for line in lines]
    return b"\r\n".join((b"From: Ann <ann@example.com>", b"To: bob@example.org", *own, b"")) + entity


def attached(content: bytes, *lines: str | bytes, content_type: str = "application/pdf") -> bytes:
    encoded = base64.encodebytes(content).replace(b"\n", b"\r\n")
    return part(content_type, encoded, "Content-Transfer-Encoding: base64", *lines)


def with_disposition(disposition: bytes, content_type: str = "application/pdf") -> bytes:
    """A text and one file with that Content-Disposition."""
    named = b"Content-Disposition: " + disposition
    return whole(multipart("mixed", part("text/plain", b"see file"), attached(PDF, named, content_type=content_type)))


def nested(depth: int) -> bytes:
    """Multiparts inside each other, each with its own boundary, a text at the bottom."""
    opening = b"".join(
        b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n" % (level, level) for level in range(depth)
    )
    closing = b"".join(b"\r\n--b%d--" % level for level in reversed(range(depth)))
    return b"From: a@b.c\r\n" + opening + part("text/plain", b"bottom") + closing


def many_parts(count: int) -> bytes:
    return whole(multipart("mixed", *(part("text/plain", b"part %d" % number) for number in range(count))))


BOMBS: dict[str, bytes] = {
    "300 nested multiparts": nested(300),
    "1000 nested multiparts": nested(1000),
    "5000 nested multiparts": nested(5000),
    "5000 parts": many_parts(5000),
    "100000 boundaries": whole(b"Content-Type: multipart/mixed; boundary=b\r\n\r\n" + b"--b\r\n" * 100_000),
    "100000 boundaries that only begin alike": whole(
        b"Content-Type: multipart/mixed; boundary=b\r\n\r\n" + b"--bb\r\n" * 100_000
    ),
    "500 messages inside each other": b"Content-Type: message/rfc822\r\n\r\n" * 500,
    "20000 header fields": mail(*(f"X-Field-{number}: {number}" for number in range(20_000))),
    "20000 fields without a name": mail(*["X-\xfc: 1"] * 20_000),
    "1 MB header field": mail(b"X-Long: " + b"a" * 1_000_000),
    "1 MB folded header field": mail(b"X-Long: " + b"a\r\n " * 250_000),
    "1 MB header name": mail(b"X" * 1_000_000),
    "20000 encoded words": mail(b"Subject: " + b"\r\n ".join([b"=?utf-8?q?w=C3=B6rd?="] * 20_000)),
    "20000 unended encoded words": mail(b"Subject: " + b"=?utf-8?q?word " * 20_000),
    "5000 addresses": mail(b"Cc: " + b",\r\n ".join(b'"Lee, %d" <a%d@x.org>' % (n, n) for n in range(5000))),
    "900 open comments": mail(b"Cc: " + b"(" * 900 + b"a@b"),
    "1 MB of open comments": mail(b"Cc: " + b"(" * 1_000_000),
    "1 MB of quotes": mail(b"Cc: " + b'"' * 1_000_000),
    "1 MB of escaped quotes": mail(b'Cc: "' + b'\\"' * 500_000),
    "1 MB of groups": mail(b"Cc: " + b"a:" * 500_000),
    "1 MB of brackets": mail(b"Cc: " + b"<" * 1_000_000),
    "1 MB of domain literals": mail(b"Cc: " + b"[" * 1_000_000),
    "1 MB of at signs": mail(b"Cc: " + b"@ " * 500_000),
    "5000 parameters": mail(b"Content-Type: text/plain" + b"; a=b" * 5000),
    "10000 parameter sections": mail(b"Content-Type: text/plain" + b"".join(b"; name*%d=x" % n for n in range(10_000))),
    "1 MB of semicolons": mail(b"Content-Type: text/plain" + b";" * 1_000_000),
    "1 MB parameter without a value": mail(b"Content-Type: text/plain; " + b"a" * 1_000_000),
    "1 MB of open quotes in parameters": mail(b'Content-Type: text/plain; a="' + b'\\";a="' * 160_000),
    "1 MB of broken base64": mail("Content-Transfer-Encoding: base64", body=b"Y=" * 500_000),
    "1 MB of broken quoted-printable": mail("Content-Transfer-Encoding: quoted-printable", body=b"=\r" * 500_000),
}

ODD: dict[str, bytes] = {
    "nothing": b"",
    "an empty line": b"\r\n",
    "body only": b"Just text, no header at all\r\nsecond line\r\n",
    "header only": b"From: ann@example.com\r\nSubject: no body\r\n",
    "header without a last line break": b"From: ann@example.com",
    "mbox line": b"From ann@example.com Mon Nov 23 03:27:18 2026\r\n" + mail("Subject: mbox"),
    "bare LF": mail("Subject: unix").replace(b"\r\n", b"\n"),
    "only CR": mail("Subject: mac").replace(b"\r\n", b"\r"),
    "NULs": mail("Subject: a\x00b", body=b"a\x00b"),
    "every byte": bytes(range(256)) * 4,
    "continuation first": b" folded: before any field\r\n\r\nbody",
    "no boundary": whole(b"Content-Type: multipart/mixed\r\n\r\nall of it is text"),
    "boundary nowhere": whole(b"Content-Type: multipart/mixed; boundary=x\r\n\r\nall of it is text"),
    "boundary never closed": whole(
        b"Content-Type: multipart/mixed; boundary=x\r\n\r\n--x\r\n\r\none\r\n--x\r\n\r\ntwo"
    ),
    "inner boundary like the outer": whole(multipart("mixed", multipart("mixed", part("text/plain", b"in")))),
    "inner boundary begins like the outer": whole(
        multipart("mixed", multipart("alternative", part("text/plain", b"in"), boundary="b1x"))
    ),
    "parts without header": whole(multipart("mixed", b"\r\none", b"\r\ntwo")),
    "empty parts": whole(b"Content-Type: multipart/mixed; boundary=x\r\n\r\n--x\r\n--x\r\n--x--"),
    "blanks after the boundary": whole(
        b"Content-Type: multipart/mixed; boundary=x\r\n\r\n--x  \r\n\r\none\r\n--x-- \r\nend"
    ),
    "charset undefined": mail("Content-Type: text/plain; charset=undefined", body=b"\xff"),
    "charset idna": mail("Content-Type: text/plain; charset=idna", body=b"\xff"),
    "charset base64": mail("Content-Type: text/plain; charset=base64", body=b"\xff"),
    "charset utf-7 with a surrogate": mail("Content-Type: text/plain; charset=utf-7", body=b"+2AA-"),
    "charset utf-16 cut": mail("Content-Type: text/plain; charset=utf-16", body=b"\xff\xfe\x00\xd8a"),
    "odd charset in a word": mail("Subject: =?rot13?q?a?= =?undefined?b?/w==?= =?\x01?q?x?="),
    "recursion in types": whole(multipart("digest", b"\r\nSubject: in\r\n\r\nx")),
}
