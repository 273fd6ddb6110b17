"""Messages written anew, read back by the standard library: what was said is what stands there, whatever it was."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from email import message_from_bytes, policy
from email.headerregistry import Address
from email.message import EmailMessage
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bridge.mime.headers import clean
from bridge.mime.parse import parse
from bridge.mime.strict import BadAddress, read_addresses
from bridge.mime.write import Draft, File, write
from bridge.model import Mailbox

ANN = Mailbox("ann@example.com", "Ann Lee")
BOB = Mailbox("bob@example.org")


def boundaries() -> Callable[[], str]:
    counter = itertools.count()
    return lambda: f"=_boundary{next(counter)}"


def written(draft: Draft) -> bytes:
    return b"".join(write(draft, boundaries()))


def reread(draft: Draft) -> EmailMessage:
    found = message_from_bytes(written(draft), policy=policy.default)
    assert isinstance(found, EmailMessage)
    return found


def shape(message: Any) -> Any:
    if not message.is_multipart() or message.get_content_type() == "message/rfc822":
        return message.get_content_type()
    return [message.get_content_subtype(), *map(shape, message.iter_parts())]


def test_a_plain_mail_is_as_plain_as_it_can_be() -> None:
    draft = Draft(sender=ANN, to=(BOB,), subject="hello", text="one\ntwo\n")

    assert written(draft) == (
        b"From: Ann Lee <ann@example.com>\r\nTo: bob@example.org\r\nSubject: hello\r\nMIME-Version: 1.0\r\n"
        b'Content-Type: text/plain;\r\n\tcharset="us-ascii"\r\nContent-Transfer-Encoding: 7bit\r\n\r\none\r\ntwo\r\n\r\n'
    )


@pytest.mark.parametrize(
    ("draft", "expected"),
    [
        (Draft(sender=ANN, text=""), "text/plain"),
        (Draft(sender=ANN, html="<p>"), "text/html"),
        (Draft(sender=ANN, text="a", html="<p>"), ["alternative", "text/plain", "text/html"]),
        (
            Draft(sender=ANN, text="a", files=(File(filename="a.pdf", content=b"x", content_id="x"),)),
            ["mixed", "text/plain", "application/pdf"],
        ),
        (
            Draft(
                sender=ANN,
                text="a",
                html="<img>",
                files=(
                    File(filename="a.png", content=b"x", content_id="x"),
                    File(filename="b.csv", content=b"y"),
                    File(filename="", content=b"z"),
                ),
            ),
            [
                "mixed",
                ["alternative", "text/plain", ["related", "text/html", "image/png"]],
                "text/csv",
                "application/octet-stream",
            ],
        ),
    ],
)
def test_parts_stand_as_readers_want_them(draft: Draft, expected: Any) -> None:
    assert shape(reread(draft)) == expected


@pytest.mark.parametrize("size", [0, 1, 57, 58, 57 * 1024, 57 * 1024 + 1, 300_000])
def test_a_file_comes_back_to_the_octet_in_lines_of_76(size: int) -> None:
    content = bytes(number * 7 % 256 for number in range(size))
    raw = written(Draft(sender=ANN, text="", files=(File(filename="a.bin", content=content),)))

    (file,) = message_from_bytes(raw, policy=policy.default).iter_attachments()  # type: ignore[attr-defined]
    assert file.get_content() == content
    assert max(map(len, raw.split(b"\r\n"))) <= 76
    assert b"\n" not in raw.replace(b"\r\n", b"")


def test_a_message_in_it_is_not_encoded() -> None:
    inner = written(Draft(sender=BOB, subject="inner", text="é"))
    raw = written(Draft(sender=ANN, text="", files=(File(filename="a.eml", content=inner),)))

    assert inner in raw
    (file,) = parse(raw).attachments
    assert (file.content_type, file.content) == ("message/rfc822", inner)


def test_a_type_keeps_its_parameters() -> None:
    file = File(filename="a.ics", content=b"BEGIN:", content_type='text/calendar; method=REQUEST; charset="utf-8"')
    (part,) = parse(written(Draft(sender=ANN, text="", files=(file,)))).attachments

    assert (part.content_type, dict(part.parameters)) == ("text/calendar", {"method": "REQUEST", "charset": "utf-8"})


INJECTION = "x\r\nBcc: evil@example.net\r\n\r\n--=_guessed\r\nX: y"
anything = st.text(max_size=200)
line = st.text(st.characters(exclude_categories=["Cs"]), max_size=200).map(clean)


def lines(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n").removesuffix("\n")


@settings(max_examples=150, deadline=None, derandomize=True)
@example(INJECTION, INJECTION, INJECTION, INJECTION)
@example("=?utf-8?q?x?=", "a\u2028b", ".\r\n.", "\ud800")
@given(anything, anything, anything, anything)
def test_no_text_becomes_anything_else(subject: str, name: str, text: str, value: str) -> None:
    draft = Draft(
        sender=Mailbox("ann@example.com", name),
        to=(BOB,),
        subject=subject,
        text=text,
        html=text,
        headers=(("X-Value", value),),
        files=(File(filename=name, content=text.encode("utf-8", "replace"), content_id="x"),),
    )
    found = reread(draft)

    assert found.keys() == ["From", "To", "Subject", "X-Value", "MIME-Version", "Content-Type"]
    assert shape(found) == ["alternative", "text/plain", ["related", "text/html", draft.files[0].type]]
    assert [address.addr_spec for address in found["From"].addresses] == ["ann@example.com"]
    email = parse(written(draft))
    assert (email.subject, email.sender.name) == (clean(subject), clean(name))
    assert dict(email.headers)["X-Value"] == clean(value)
    wanted = text.encode("utf-8", "replace").decode().replace("\0", "")
    assert lines(email.text.replace("\0", "")) == lines(wanted)
    assert email.attachments[0].content == text.encode("utf-8", "replace")


@settings(max_examples=100, deadline=None, derandomize=True)
@given(line.filter(bool))
def test_a_name_that_was_written_is_read_again(name: str) -> None:
    quoted = (
        str(Address(name, addr_spec="ann@example.com")) if name.isascii() else f'"{escaped(name)}" <ann@example.com>'
    )

    assert read_addresses(quoted) == [Mailbox("ann@example.com", name)]


def escaped(name: str) -> str:
    return name.replace("\\", "\\\\").replace('"', '\\"')


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ann@example.com", [("ann@example.com", "")]),
        (
            " Ann L. Lee  <ann@example.com> ,bob@example.org,",
            [("ann@example.com", "Ann L. Lee"), ("bob@example.org", "")],
        ),
        ('"Lee, \\"Ann\\"" <ann@example.com>', [("ann@example.com", 'Lee, "Ann"')]),
        ('"a,b>"@example.com, <"a b"@example.com>', [('"a,b>"@example.com', ""), ('"a b"@example.com', "")]),
        ("ann@müller.example", [("ann@xn--mller-kva.example", "")]),
        ("jürgen@example.com", [("jürgen@example.com", "")]),
        ("", []),
    ],
)
def test_addresses_are_read(text: str, expected: list[tuple[str, str]]) -> None:
    assert [(one.email, one.name) for one in read_addresses(text)] == expected


@pytest.mark.parametrize(
    "text",
    [
        "ann",
        "Ann Lee",
        "Lee, Ann <ann@example.com>",
        "ann@example.com bob@example.org",
        "ann@example.com; bob@example.org",
        "Ann <ann@example.com",
        '"Ann <ann@example.com>',
        "ann@",
        "@example.com",
        "ann@exa mple.com",
        "ann@example.com>\r\nBcc: evil@example.net",
        '"A\nB" <ann@example.com>',
        "a" * 250 + "@example.com",
        "ann@" + "ü" * 300,
        "<>",
        "a@b@c\0",
    ],
)
def test_what_is_not_certain_is_refused(text: str) -> None:
    with pytest.raises(BadAddress):
        read_addresses(text)
