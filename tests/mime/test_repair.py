"""What is mended in a mail so that a provider takes it, and that each repair is named."""

from __future__ import annotations

import pytest

from bridge.mime.repair import Needs, ascii_filename, ending_agrees, ending_for, repaired
from bridge.model import Attachment, Email, Mailbox


def email(**fields: object) -> Email:
    given: dict[str, object] = {"sender": Mailbox("a@x.example"), "subject": "s", "text": "t"}
    return Email(**{**given, **fields})  # type: ignore[arg-type]


def attachment(name: str, kind: str = "application/pdf") -> Attachment:
    return Attachment(filename=name, content_type=kind, encoded=b"YQ==", size=1)


def test_a_mail_that_needs_nothing_is_the_same_object() -> None:
    mail = email(headers=(("X-A", "1"),), attachments=(attachment("a.pdf"),))

    assert repaired(mail, Needs()) == (mail, ())
    assert repaired(mail, Needs())[0] is mail


@pytest.mark.parametrize(
    ("fields", "needs", "changed", "note"),
    [
        ({"subject": ""}, Needs(subject=True), {"subject": "(no subject)"}, "empty subject filled"),
        ({"subject": "s" * 300}, Needs(max_subject=255), {"subject": "s" * 255}, "subject cut to 255"),
        (
            {"subject": "Hi", "text": "long enough"},
            Needs(least_text=10),
            {"subject": "Hi ......."},
            "subject of less than 10",
        ),
        ({"text": ""}, Needs(body=True), {"text": " "}, "empty body filled"),
        ({"headers": (("DKIM-Signature", "v=1"),)}, Needs(), {"headers": ()}, "DKIM-Signature dropped"),
        ({"headers": (("ARC-Seal", "i=1"),)}, Needs(), {"headers": ()}, "ARC-Seal dropped"),
        (
            {"headers": (("X-MJ-A", "1"),)},
            Needs(reserved=frozenset({"x-mj-*"})),
            {"headers": ()},
            "header X-MJ-A dropped",
        ),
        ({"headers": (("List-Id", "1"),)}, Needs(only_headers=frozenset({"x-*"})), {"headers": ()}, "List-Id dropped"),
        ({"headers": (("X-A", "1"), ("x-a", "2"))}, Needs(), {"headers": (("X-A", "1, 2"),)}, "more than once"),
        ({"headers": (("A", "1"), ("B", "2"))}, Needs(max_headers=1), {"headers": (("A", "1"),)}, "header B dropped"),
    ],
)
def test_each_repair_changes_one_thing_and_says_so(fields: dict, needs: Needs, changed: dict, note: str) -> None:  # type: ignore[type-arg]
    mended, notes = repaired(email(**fields), needs)

    assert {name: getattr(mended, name) for name in changed} == changed
    assert len(notes) == 1
    assert note in notes[0]


@pytest.mark.parametrize(
    ("name", "kind", "sent"),
    [
        ("scan.txt", "application/pdf", "text/plain"),
        ("data.csv", "application/vnd.ms-excel", "text/csv"),
        ("photo.jpeg", "image/jpeg", ""),
        ("photo.jpg", "image/jpg", ""),
        ("invoice.pdf", "application/octet-stream", ""),
        ("x.unheardof", "application/pdf", ""),
    ],
)
def test_a_type_gives_way_to_the_ending_people_see(name: str, kind: str, sent: str) -> None:
    mended, notes = repaired(email(attachments=(attachment(name, kind),)), Needs(matching_endings=True))

    assert [(a.filename, a.content_type) for a in mended.attachments] == [(name, sent or kind)]
    assert bool(notes) == bool(sent)


def test_an_empty_file_a_reply_to_that_is_none_and_a_misspelt_bcc() -> None:
    given = email(
        attachments=(Attachment(filename="a.txt", content_type="text/plain", encoded=b"", size=0),),
        reply_to=(Mailbox("noreply"), Mailbox("a@x\u2474y.example"), Mailbox("a@m\u00fcller.example")),
        headers=(('"Bcc"', "secret@example.org"), (".bcc:", "secret@example.org"), ("X-Empty", ""), ("X-A", "1")),
    )
    mended, notes = repaired(given, Needs(filled_files=True))

    assert [a.size for a in mended.attachments] == [2]
    assert mended.reply_to == (Mailbox("a@xn--mller-kva.example"),)
    assert mended.headers == (("X-A", "1"),)
    assert len(notes) == 4


def test_of_too_many_header_fields_those_that_matter_are_kept() -> None:
    given = email(
        headers=(*((f"X-{n}", "1") for n in range(5)), ("Auto-Submitted", "auto-generated"), ("List-Id", "x"))
    )
    mended, notes = repaired(given, Needs(max_headers=3))

    assert [name for name, _ in mended.headers] == ["Auto-Submitted", "List-Id", "X-0"]
    assert len(notes) == 4


@pytest.mark.parametrize(
    ("given", "kind", "needs", "sent"),
    [
        ("", "application/pdf", Needs(), "attachment-1.pdf"),
        ("", "application/x-unheard-of", Needs(), "attachment-1.bin"),
        ("", "text/calendar", Needs(), "attachment-1.ics"),
        ("Rechnung für Ärger.pdf", "application/pdf", Needs(ascii_filenames=True), "Rechnung fur Arger.pdf"),
        ("請求書.pdf", "application/pdf", Needs(ascii_filenames=True), "attachment-1.pdf"),
        ("scan", "application/pdf", Needs(matching_endings=True), "scan.pdf"),
        (".profile", "text/plain", Needs(matching_endings=True), ".profile.txt"),
    ],
)
def test_names_of_files(given: str, kind: str, needs: Needs, sent: str) -> None:
    mended, notes = repaired(email(attachments=(attachment(given, kind),)), needs)

    assert [a.filename for a in mended.attachments] == [sent]
    assert len(notes) == 1
    assert sent in notes[0]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.pdf", "application/pdf"),
        ("A.JPEG", "image/jpeg"),
        ("a.jpg", "image/jpeg"),
        ("a.pdf", "application/octet-stream"),
        ("a.xyz123", "application/pdf"),
        ("a.anything", "application/x-unheard-of"),
    ],
)
def test_an_ending_that_agrees_or_that_nobody_knows_is_left_alone(name: str, kind: str) -> None:
    assert ending_agrees(name, kind)
    mail = email(attachments=(attachment(name, kind),))
    assert repaired(mail, Needs(matching_endings=True)) == (mail, ())


def test_a_feature_that_was_read_is_no_header_any_more_and_no_repair() -> None:
    mended, notes = repaired(email(headers=(("X-PM-Tag", "a"),)), Needs(), used={"x-pm-tag"})

    assert (mended.headers, notes) == ((), ())


def test_endings_and_ascii_names() -> None:
    assert ending_for("image/png") == ".png"
    assert ascii_filename("../Größe\r\n.pdf") == "Grosse.pdf"
