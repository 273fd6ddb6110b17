from __future__ import annotations

import base64
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.mime.parse import parse
from bridge.mime.structure import Limits
from bridge.model import Email, Mailbox
from tests.mime.samples import ODD, PDF, attached, mail, many_parts, multipart, nested, part, whole, with_disposition

ICS = b"BEGIN:VCALENDAR\r\nEND:VCALENDAR\r\n"
PLAIN = part("text/plain; charset=utf-8", b"plain")
HTML = part("text/html; charset=utf-8", b"<p>html</p>")


def bodies(email: Email) -> tuple[str, str]:
    return email.text, email.html


def assert_safe(email: Email) -> None:
    """No control character in any one-line field, no lone surrogate or NUL anywhere."""
    lines = [email.subject, email.date, email.message_id, *(text for pair in email.headers for text in pair)]
    lines += [text for box in (email.sender, *email.to, *email.cc, *email.reply_to) for text in (box.email, box.name)]
    lines += [content_type for content_type, _ in email.alternatives]
    for file in email.attachments:
        lines += [
            file.filename,
            file.content_type,
            file.content_id,
            *(text for pair in file.parameters for text in pair),
        ]
        assert len(file.content) == file.size
        assert base64.b64encode(file.content) == bytes(file.encoded)
        assert not {"/", "\\"} & set(file.filename)
    for line in lines:
        assert not [char for char in line if unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp")]
    for text in (*lines, email.text, email.html, *(content for _, content in email.alternatives)):
        assert "\x00" not in text
        text.encode("utf-8")


def test_a_plain_mail_is_its_fields() -> None:
    email = parse(
        mail(
            "Cc: Carl <carl@example.net>",
            "Reply-To: desk@example.com",
            "Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=",
            "Date: Mon, 23 Nov 2026 03:27:18 +0000",
            "Message-ID: <1@example.com>",
            body=b"Hello\r\nyou\r\n",
        )
    )

    assert email.sender == Mailbox("ann@example.com", "Ann")
    assert email.to == (Mailbox("bob@example.org"),)
    assert email.cc == (Mailbox("carl@example.net", "Carl"),)
    assert email.reply_to == (Mailbox("desk@example.com"),)
    assert (email.subject, email.message_id) == ("Grüße", "<1@example.com>")
    assert email.date == "Mon, 23 Nov 2026 03:27:18 +0000"
    assert bodies(email) == ("Hello\nyou\n", "")
    assert (email.headers, email.attachments, email.defects) == ((), (), ())


def test_other_fields_are_kept_in_order_and_trace_bcc_and_mime_fields_are_not() -> None:
    email = parse(
        mail(
            "Received: from x by y",
            "Return-Path: <ann@example.com>",
            "List-Unsubscribe: <https://example.com/u>",
            "bcc: secret@example.com",
            "Resent-Bcc: secret@example.com",
            "Resent-To: bob@example.com",
            "References: <1@x>\r\n <2@x>",
            "X-Tag: one",
            "MIME-Version: 1.0",
            "Content-Language: en",
            "DKIM-Signature: v=1",
            "X-Tag: two",
        )
    )

    assert email.headers == (
        ("List-Unsubscribe", "<https://example.com/u>"),
        ("Resent-To", "bob@example.com"),
        ("References", "<1@x> <2@x>"),
        ("X-Tag", "one"),
        ("DKIM-Signature", "v=1"),
        ("X-Tag", "two"),
    )


def test_a_field_with_an_invalid_name_is_left_out_with_a_defect() -> None:
    email = parse(mail("X-Ünd: 1", "X-Good : 2"))

    assert email.headers == (("X-Good", "2"),)
    assert email.defects == ("header field with an invalid name, left out",)


def test_repeated_address_fields_are_joined_and_the_first_from_and_subject_count() -> None:
    email = parse(mail("To: carl@x.org", "From: eve@x.org", "Subject: one", "Subject: two"))

    assert [box.email for box in email.to] == ["bob@example.org", "carl@x.org"]
    assert (email.sender.email, email.subject) == ("ann@example.com", "one")


def test_a_from_without_an_address_keeps_its_name() -> None:
    assert parse(b"From: Cron Daemon\r\n\r\n").sender == Mailbox("", "Cron Daemon")


@pytest.mark.parametrize(
    ("entity", "text", "html"),
    [
        (PLAIN, "plain", ""),
        (HTML, "", "<p>html</p>"),
        (multipart("alternative", PLAIN, HTML), "plain", "<p>html</p>"),
        (multipart("mixed", PLAIN, HTML), "plain", "<p>html</p>"),
        (
            multipart("mixed", multipart("alternative", PLAIN, HTML, boundary="in"), attached(PDF)),
            "plain",
            "<p>html</p>",
        ),
        (
            multipart("alternative", PLAIN, multipart("related", HTML, attached(PDF), boundary="in")),
            "plain",
            "<p>html</p>",
        ),
        (multipart("mixed", PLAIN, part("text/plain", b"footer")), "plain\n\nfooter\n", ""),
        (multipart("mixed", PLAIN, attached(PDF), part("text/plain", b"footer")), "plain\n\nfooter\n", ""),
        (part("text/plain; name=body.txt", b"named"), "named", ""),
        (multipart("signed", PLAIN, part("application/pgp-signature; name=s.asc", b"sig")), "plain", ""),
        (part("text/plain (comment)", b"Zg==", "Content-Transfer-Encoding:  BASE64 "), "f", ""),
        (
            part("text/plain; charset=utf-8", b"=C3=A4=\r\nb=3", "Content-Transfer-Encoding: quoted-printable"),
            "äb=3",
            "",
        ),
        (part("text/plain; charset=utf-8", b"aGVsbG8\r\n!", "Content-Transfer-Encoding: base64"), "hello", ""),
        (part("text/plain; charset=iso-8859-1", b"\xfc"), "ü", ""),
        (part("text/plain; charset=koi8-r", "привет".encode("koi8-r")), "привет", ""),
        (part("text/plain; charset=nonsense", b"\xfc"), "ü", ""),
        (part("text/plain; charset=us-ascii", "ü".encode()), "ü", ""),
        (part("text/plain", b"a\x00b\rc\r\nd"), "ab\nc\nd", ""),
    ],
)
def test_the_body_is_what_mail_programs_show(entity: bytes, text: str, html: str) -> None:
    assert bodies(parse(whole(entity))) == (text, html)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("body only", "Just text, no header at all\nsecond line\n"),
        ("header only", ""),
        ("nothing", ""),
        ("no boundary", "all of it is text"),
        ("boundary nowhere", "all of it is text"),
        ("boundary never closed", "one\n\ntwo\n"),
        ("inner boundary begins like the outer", "in"),
        ("mbox line", "Hello\n"),
        ("bare LF", "Hello\n"),
        ("charset undefined", "ÿ"),
    ],
)
def test_odd_structure_still_shows_its_text(name: str, text: str) -> None:
    assert parse(ODD[name]).text == text


@pytest.mark.parametrize(
    ("entity", "text", "files"),
    [
        # A reader of HTML would never see a footer in the text.
        (multipart("mixed", HTML, part("text/plain", b"footer")), "", [b"footer"]),
        (multipart("mixed", multipart("alternative", PLAIN, HTML, boundary="i"), part("text/plain", b"f")), "plain", [b"f"]),
        (multipart("mixed", part("text/plain", b"in"), multipart("alternative", PLAIN, HTML, boundary="i")), "plain", [b"in"]),
        (multipart("mixed", HTML, attached(PDF), part("text/html", b"<p>more</p>")), "", [PDF, b"<p>more</p>"]),
    ],
)  # fmt: skip
def test_text_that_has_no_place_beside_the_html_becomes_an_inline_attachment(
    entity: bytes, text: str, files: list[bytes]
) -> None:
    email = parse(whole(entity))

    assert bodies(email) == (text, "<p>html</p>")
    assert [file.content for file in email.attachments] == files
    assert email.attachments[-1].disposition == "inline"


def test_a_calendar_and_other_members_of_an_alternative_are_alternatives() -> None:
    ics = part("text/calendar; method=REQUEST; charset=iso-8859-1", b"\xfc", "Content-Transfer-Encoding: 8bit")
    email = parse(whole(multipart("alternative", PLAIN, part("text/x-amp-html", b"<amp>"), HTML, ics)))

    assert bodies(email) == ("plain", "<p>html</p>")
    assert email.alternatives == (
        ("text/x-amp-html; charset=utf-8", "<amp>"),
        ("text/calendar; method=REQUEST; charset=utf-8", "ü"),
    )
    assert email.attachments == ()


def test_a_calendar_beside_the_text_is_an_attachment_with_its_method() -> None:
    email = parse(whole(multipart("mixed", PLAIN, part("text/calendar; method=CANCEL; name=i.ics", ICS))))

    (file,) = email.attachments
    assert (file.filename, file.content_type, file.content) == ("i.ics", "text/calendar", ICS)
    assert file.parameters == (("method", "CANCEL"),)


def test_an_inline_image_keeps_its_content_id() -> None:
    image = attached(PDF, "Content-ID: <logo@1>", content_type="image/png")
    email = parse(whole(multipart("related", HTML, image)))

    (file,) = email.attachments
    assert (file.content_id, file.disposition, file.content) == ("logo@1", "inline", PDF)


def test_the_root_of_related_may_stand_anywhere() -> None:
    root = part("text/html", b"<p>root</p>", "Content-ID: <root>")
    email = parse(whole(multipart("related", attached(PDF, "Content-ID: <a>"), root, params='; start="<root>"')))

    assert email.html == "<p>root</p>"
    assert [file.content_id for file in email.attachments] == ["a"]


@pytest.mark.parametrize(
    ("disposition", "filename", "how"),
    [
        (b"attachment; filename=a.pdf", "a.pdf", "attachment"),
        (b"inline; filename=a.pdf", "a.pdf", "inline"),
        (b"whatever; filename=a.pdf", "a.pdf", "attachment"),
        (b"attachment", "", "attachment"),
        (b"attachment; filename=\"=?utf-8?q?=C3=A4=2Epdf?=\"; filename*=utf-8''%C3%B6.pdf", "ö.pdf", "attachment"),
        (b'attachment; filename="r\xfc.pdf"', "rü.pdf", "attachment"),
        (b'attachment; filename="a;b \\"c\\".pdf"', 'a;b "c".pdf', "attachment"),
    ],
)
def test_an_attachment_is_byte_identical_under_its_name(disposition: bytes, filename: str, how: str) -> None:
    (file,) = parse(with_disposition(disposition)).attachments

    assert (file.filename, file.disposition, file.content) == (filename, how, PDF)


@pytest.mark.parametrize("content_type", ["text/plain", "text/html", "text/csv; charset=iso-8859-1"])
def test_a_text_file_stays_bytes(content_type: str) -> None:
    raw = with_disposition(b"attachment; filename=a.txt", content_type)
    (file,) = parse(raw).attachments

    assert (file.content, file.content_type) == (PDF, content_type.partition(";")[0])


def test_a_lone_text_marked_attachment_is_one() -> None:
    email = parse(mail("Content-Type: text/plain", "Content-Disposition: attachment; filename=a.txt", body=b"file"))

    assert (email.text, [file.content for file in email.attachments]) == ("", [b"file"])


def test_a_named_file_without_a_type_is_bytes() -> None:
    raw = whole(multipart("mixed", PLAIN, b"Content-Disposition: attachment; filename=a.bin\r\n\r\n\xff\x00"))
    (file,) = parse(raw).attachments

    assert (file.content_type, file.content) == ("application/octet-stream", b"\xff\x00")


@pytest.mark.parametrize(
    ("encoding", "payload", "content"),
    [
        ("base64", b"YWJj\r\nZGVm\r\n", b"abcdef"),
        ("base64", b"YWI=\r\nYw==\r\n", b"abc"),  # two padded runs
        ("base64", b"YW*Jj", b"abc"),
        ("base64", b"YWI", b"ab"),
        ("base64", b"YWJjZ", b"abc"),
        ("base64", b"YR==", b"a"),  # bits under the padding
        ("base64", b"", b""),
        ("quoted-printable", b"a=3Db=\r\nc", b"a=bc"),
        ("8bit", b"\xff\r\n", b"\xff\r\n"),
        ("nonsense", b"as it is", b"as it is"),
    ],
)
def test_payloads_are_decoded_leniently_and_come_as_clean_base64(encoding: str, payload: bytes, content: bytes) -> None:
    file_part = part("application/x; name=f", payload, f"Content-Transfer-Encoding: {encoding}")
    (file,) = parse(whole(multipart("mixed", PLAIN, file_part))).attachments

    assert (file.content, file.size) == (content, len(content))
    assert bytes(file.encoded) == base64.b64encode(content)


@pytest.mark.parametrize(
    ("lines", "message", "filename"),
    [
        ((), b"Subject: Re: a/b?\r\n\r\nhi", "Re_ a_b_.eml"),
        ((), b"From: x@y\r\n\r\nhi", "message.eml"),
        (("Content-Disposition: attachment; filename=fw.eml",), b"Subject: s\r\n\r\nhi", "fw.eml"),
        (("Content-Transfer-Encoding: base64",), base64.b64encode(b"Subject: s\r\n\r\nhi"), "s.eml"),
    ],
)
def test_a_message_inside_the_message_stays_whole(lines: tuple[str, ...], message: bytes, filename: str) -> None:
    email = parse(whole(multipart("mixed", PLAIN, part("message/rfc822", message, *lines))))

    (file,) = email.attachments
    assert (file.content_type, file.filename, email.text) == ("message/rfc822", filename, "plain")
    assert file.content.endswith(b"\r\n\r\nhi")


def test_winmail_dat_is_just_an_attachment() -> None:
    tnef = attached(PDF, content_type='application/ms-tnef; name="winmail.dat"')
    (file,) = parse(whole(multipart("mixed", PLAIN, tnef))).attachments

    assert (file.filename, file.content) == ("winmail.dat", PDF)


@pytest.mark.parametrize(
    ("entity", "protections"),
    [
        (PLAIN, ()),
        (multipart("signed", PLAIN, attached(b"sig")), ("multipart/signed",)),
        (multipart("mixed", multipart("signed", PLAIN, boundary="in"), PLAIN), ("multipart/signed",)),
        (multipart("encrypted", attached(b"1"), attached(PDF)), ("multipart/encrypted",)),
        (attached(PDF, content_type="application/pkcs7-mime; smime-type=signed-data"), ("application/pkcs7-mime",)),
        (attached(PDF, content_type="application/x-pkcs7-mime"), ("application/x-pkcs7-mime",)),
        (multipart("mixed", PLAIN, part("message/rfc822", multipart("signed", PLAIN, boundary="in"))), ()),
    ],
)
def test_signed_and_encrypted_parts_are_noted(entity: bytes, protections: tuple[str, ...]) -> None:
    assert parse(whole(entity)).protections == protections


@pytest.mark.parametrize(
    ("raw", "limits", "end"),
    [
        (nested(200), Limits(), b"--b100--"),
        (many_parts(1500), Limits(), b"part 1499\r\n--b1--\r\n"),
        (many_parts(9), Limits(parts=3), b"part 8\r\n--b1--\r\n"),
    ],
)
def test_what_lies_beyond_a_limit_is_attached_whole(raw: bytes, limits: Limits, end: bytes) -> None:
    email = parse(raw, limits)
    rest = email.attachments[-1]

    assert (rest.filename, rest.content_type) == ("unparsed.eml", "application/octet-stream")
    assert rest.content in raw
    assert rest.content.endswith(end)
    assert email.defects


@pytest.mark.parametrize("name", ODD)
def test_odd_mail_is_parsed_safely(name: str) -> None:
    assert_safe(parse(ODD[name]))


hidden = st.sampled_from(
    [
        b"=?utf-8?q?a=0D=0ABcc=3A_e=40x?=",
        b"=?utf-8?b?DQpYOiB5AA==?=",
        b"\x00",
        b"\r",
        b"=?utf-7?q?+2AA-?=",
        b"\xff",
        b"\xc2\x85",
        b'"',
        b"<a@b>",
        b",",
        b";",
        b"%0D%0A",
        b"../",
        b"\\",
        b"x",
        b"'",
        b"=E2=80=A8",
    ]
)
hostile = st.lists(hidden, max_size=6).map(b"".join)
FIELDS = [
    b"Subject: ",
    b"From: ",
    b"To: ",
    b"Cc: ",
    b"Reply-To: ",
    b"Message-ID: ",
    b"Date: ",
    b"X-Any: ",
    b"Content-ID: <",
    b"Content-Type: a/b; name=",
    b"Content-Type: a/b; name*=utf-8''",
    b'Content-Type: a/b; x="',
    b"Content-Type: ",
    b"Content-Disposition: attachment; filename=",
    b"Content-Disposition: attachment; filename*0*=utf-8''",
    b"X-\x00: ",
    b"Content-Transfer-Encoding: ",
]
headers = st.lists(st.tuples(st.sampled_from(FIELDS), hostile).map(b"".join), max_size=8).map(b"\r\n".join)


@given(headers, headers, st.binary(max_size=40))
def test_nothing_hidden_in_a_header_reaches_a_field(top: bytes, inner: bytes, body: bytes) -> None:
    alone = top + b"\r\n\r\n" + body
    inside = top + b"\r\nContent-Type: multipart/alternative; boundary=b\r\n\r\n--b\r\n" + inner + b"\r\n\r\n" + body

    assert_safe(parse(alone))
    assert_safe(parse(inside))


@given(st.binary(max_size=300))
def test_any_bytes_are_parsed_safely(raw: bytes) -> None:
    assert_safe(parse(raw))


@given(
    st.binary(max_size=200),
    st.sampled_from([b"utf-8", b"utf-16", b"utf-7", b"hz", b"iso-2022-kr", b"punycode", b"x" * 99]),
)
def test_any_body_in_any_charset_is_valid_text(body: bytes, charset: bytes) -> None:
    assert_safe(parse(b"Content-Type: text/html; charset=" + charset + b"\r\n\r\n" + body))
