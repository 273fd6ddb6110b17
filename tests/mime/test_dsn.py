"""Delivery status notifications, read back by two programs that are not ours: the standard library and flufl.bounce."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace
from email import message_from_bytes, policy
from email.message import EmailMessage, Message
from email.parser import BytesHeaderParser
from email.utils import getaddresses
from typing import Any, get_args

import pytest
from flufl.bounce import all_failures, scan_message
from hypothesis import example, given
from hypothesis import strategies as st

from bridge.mime import dsn
from bridge.mime.dsn import Action, Notice, Reported, build_notice, build_text, status_of
from bridge.model import Mailbox
from bridge.reply import Reply
from tests.mime.samples import BOMBS, ODD, mail

NO_SUCH = Reply(550, "5.1.1", "No such recipient")
BUSY = Reply(451, "4.3.2", "Try again later")
TAKEN = Reply(250, "2.0.0", "Ok: sent, id 7")
RAW = mail("Message-ID: <7@shop.example>", "Subject: Order", body=b"Thank you\r\n")
HEADER = RAW[: RAW.index(b"\r\n\r\n") + 2]
UMLAUT = "j\u00fcrgen@example.org"

TOP = ["From", "To", "Subject", "Date", "Message-ID", "In-Reply-To", "References", "Auto-Submitted", "MIME-Version",
       "Content-Type"]  # fmt: skip
OF_MESSAGE = ["Original-Envelope-Id", "Reporting-MTA", "Arrival-Date", "X-Smtp-Rest-Bridge-Queue-Id"]
OF_RECIPIENT = ["Original-Recipient", "Final-Recipient", "Action", "Status", "Remote-MTA", "Diagnostic-Code", "Last-Attempt-Date",
                "Will-Retry-Until"]  # fmt: skip


def reported(action: Action = "failed", reply: Reply | None = NO_SUCH, **changes: Any) -> Reported:
    return Reported(**{"address": "ann@example.org", "action": action, "reply": reply, **changes})


def notice(*recipients: Reported, **changes: Any) -> Notice:
    values: dict[str, Any] = {
        "queue_id": "4XyZ",
        "sender": Mailbox("postmaster@bridge.example", "Mail Delivery System"),
        "recipient": "shop@example.com",
        "hostname": "bridge.example",
        "message_id": "1.dsn@bridge.example",
        "now": 1795404438.0,
        "arrived_at": 1795404000.0,
        "reported": recipients or (reported(),),
        "raw": RAW,
    }
    return Notice(**(values | changes))


def parsed(built: bytes) -> EmailMessage:
    message = message_from_bytes(built, policy=policy.default)
    assert isinstance(message, EmailMessage)
    return message


def parts_of(built: bytes) -> list[tuple[Message, bytes]]:
    """(header, content) of each part, split here by the boundary and nothing else."""
    boundary = BytesHeaderParser().parsebytes(built).get_boundary()
    assert boundary
    mark = b"--" + boundary.encode()
    before, *parts, after = re.split(rb"(?:\r\n)?" + re.escape(mark) + rb"(?:--)?\r\n", built)
    assert (before.endswith(b"\r\n"), after) == (True, b"")
    split = [part.partition(b"\r\n\r\n") for part in parts]
    return [(BytesHeaderParser().parsebytes(header + b"\r\n\r\n"), content) for header, _, content in split]


def text_of(built: bytes) -> str:
    """As people read it, without the line breaks."""
    return " ".join(parts_of(built)[0][1].decode().split())


def groups_of(built: bytes) -> list[Message]:
    """The groups of fields of the second part, unfolded: the message's own, then one for each recipient."""
    groups = [re.sub(rb"\r\n(?=[ \t])", b"", group) for group in parts_of(built)[1][1].split(b"\r\n\r\n")]
    return [BytesHeaderParser(policy=policy.compat32).parsebytes(group) for group in groups]


def raw_value(built: bytes, name: str, group: int = 1) -> str | None:
    """The octets of a field as UTF-8, None where it is not given."""
    found = dict(groups_of(built)[group].raw_items()).get(name)
    return found.encode("ascii", "surrogateescape").decode() if isinstance(found, str) else found


def returned(built: bytes) -> bytes:
    return parts_of(built)[2][1]


def test_a_notice_is_a_report_of_three_parts_in_exactly_these_octets() -> None:
    one = reported(
        provider="postmark", remote_mta="api.example", orcpt="rfc822;Ann@example.org", last_attempt_at=1795404400.0
    )
    built = build_notice(notice(one, envid="QQ314"))
    boundary = parsed(built).get_boundary()

    assert built.decode("ascii").replace(str(boundary), "BOUNDARY").split("\r\n") == [
        "From: Mail Delivery System <postmaster@bridge.example>",
        "To: shop@example.com",
        "Subject: Undelivered Mail Returned to Sender",
        "Date: Mon, 23 Nov 2026 03:27:18 +0000",
        "Message-ID: <1.dsn@bridge.example>",
        "In-Reply-To: <7@shop.example>",
        "References: <7@shop.example>",
        "Auto-Submitted: auto-replied",
        "MIME-Version: 1.0",
        "Content-Type: multipart/report; report-type=delivery-status;",
        ' boundary="BOUNDARY"',
        "",
        "--BOUNDARY",
        "Content-Type: text/plain; charset=us-ascii",
        "",
        "This is the mail system of bridge.example.",
        "",
        "Your message could not be sent to the recipients named here, and is not",
        "tried again. The reason stands beneath each. If it tells you nothing, ask",
        "your postmaster and pass this notice on.",
        "",
        "<ann@example.org>",
        "    postmark (api.example) answered: 550 5.1.1 No such recipient",
        "",
        "The message is attached.",
        "",
        "--BOUNDARY",
        "Content-Type: message/delivery-status",
        "",
        "Original-Envelope-Id: QQ314",
        "Reporting-MTA: dns; bridge.example",
        "Arrival-Date: Mon, 23 Nov 2026 03:20:00 +0000",
        "X-Smtp-Rest-Bridge-Queue-Id: 4XyZ",
        "",
        "Original-Recipient: rfc822; Ann@example.org",
        "Final-Recipient: rfc822; ann@example.org",
        "Action: failed",
        "Status: 5.1.1",
        "Remote-MTA: dns; api.example",
        "Diagnostic-Code: smtp; 550 5.1.1 No such recipient",
        "Last-Attempt-Date: Mon, 23 Nov 2026 03:26:40 +0000",
        "",
        "--BOUNDARY",
        "Content-Type: message/rfc822",
        "",
        *RAW.decode().split("\r\n"),
        "--BOUNDARY--",
        "",
    ]  # fmt: skip


def test_both_modes_of_the_standard_library_read_the_same() -> None:
    built = build_notice(notice(reported(), reported("delayed", BUSY, address="bob@example.org")))

    for message in (parsed(built), message_from_bytes(built, policy=policy.compat32)):
        assert message.get_content_type() == "multipart/report"
        assert message.get_param("report-type") == "delivery-status"
        text, status, original = message.get_payload()
        assert [p.get_content_type() for p in (text, status, original)] == [
            "text/plain", "message/delivery-status", "message/rfc822",
        ]  # fmt: skip
        assert [group.get("Action") for group in status.get_payload()] == [None, "failed", "delayed"]
        assert [group.get("Status") for group in status.get_payload()] == [None, "5.1.1", "4.3.2"]
        assert original.get_payload()[0]["Message-ID"] == "<7@shop.example>"
        assert not message.defects


def test_another_program_finds_who_failed_and_who_is_late() -> None:
    recipients = (
        reported(),
        reported("delayed", BUSY, address="bob@example.org"),
        reported("relayed", TAKEN, address="eve@example.org"),
        reported(address="alias@example.org", orcpt="rfc822;cat+2Bnews@example.org"),
    )
    message = message_from_bytes(build_notice(notice(*recipients)))

    assert all_failures(message) == ({b"bob@example.org"}, {b"ann@example.org", b"cat+news@example.org"})
    assert scan_message(message) == {b"ann@example.org", b"cat+news@example.org"}


def test_another_program_takes_a_late_or_a_handed_on_message_for_no_failure() -> None:
    late = message_from_bytes(build_notice(notice(reported("delayed", BUSY))))
    handed_on = message_from_bytes(build_notice(notice(reported("relayed", TAKEN))))

    assert all_failures(late) == ({b"ann@example.org"}, set())
    assert all_failures(handed_on) == (set(), set())


@pytest.mark.parametrize(
    ("actions", "subject"),
    [
        (["failed"], "Undelivered Mail Returned to Sender"),
        (["delayed"], "Delayed Mail (still being retried)"),
        (["relayed"], "Successful Mail Delivery Report"),
        (["relayed", "delayed"], "Delayed Mail (still being retried)"),
        (["relayed", "delayed", "failed"], "Undelivered Mail Returned to Sender"),
    ],
)
def test_the_most_serious_action_gives_the_subject(actions: list[Action], subject: str) -> None:
    assert parsed(build_notice(notice(*(reported(action, None) for action in actions))))["Subject"] == subject


def test_a_notice_about_nobody_is_refused() -> None:
    with pytest.raises(ValueError, match="one recipient"):
        notice(reported=())


@pytest.mark.parametrize(
    ("action", "reply", "status"),
    [
        ("failed", Reply(550, "5.1.1", ""), "5.1.1"),
        ("failed", Reply(451, "4.3.2", ""), "5.3.2"),
        ("failed", Reply(451, "4.4.7", ""), "5.4.7"),
        ("failed", Reply(554, "", ""), "5.0.0"),
        ("failed", Reply(421, "", ""), "5.0.0"),
        ("failed", Reply(250, "2.1.5", ""), "5.0.0"),
        ("failed", None, "4.4.7"),
        ("delayed", Reply(451, "4.3.2", ""), "4.3.2"),
        ("delayed", Reply(550, "5.7.1", ""), "4.7.1"),
        ("delayed", Reply(451, "", ""), "4.0.0"),
        ("delayed", Reply(250, "2.0.0", ""), "4.0.0"),
        ("delayed", None, "4.4.1"),
        ("relayed", Reply(250, "2.1.5", ""), "2.0.0"),
        ("relayed", Reply(451, "4.3.2", ""), "2.0.0"),
        ("relayed", None, "2.0.0"),
    ],
)
def test_the_status_is_that_of_the_last_reply_in_the_class_of_the_action(
    action: Action, reply: Reply, status: str
) -> None:
    one = reported(action, reply)

    assert status_of(one) == status
    assert raw_value(build_notice(notice(one)), "Status") == status


def test_the_diagnostic_is_the_reply_as_it_was() -> None:
    built = build_notice(notice(reported("failed", BUSY)))

    assert raw_value(built, "Status") == "5.3.2"
    assert raw_value(built, "Diagnostic-Code") == "smtp; 451 4.3.2 Try again later"


@pytest.mark.parametrize("action", get_args(Action))
def test_what_is_not_known_is_left_out_of_the_status(action: Action) -> None:
    message, recipient = groups_of(build_notice(notice(reported(action, None))))

    assert message.keys() == OF_MESSAGE[1:]
    assert recipient.keys() == ["Final-Recipient", "Action", "Status"]


def test_only_a_delayed_recipient_has_a_time_until_which_it_is_tried() -> None:
    until = 1795490838.0
    built = build_notice(notice(*(reported(action, BUSY, will_retry_until=until) for action in get_args(Action))))

    assert [group["Will-Retry-Until"] for group in groups_of(built)] == [
        None,
        None,
        "Tue, 24 Nov 2026 03:27:18 +0000",
        None,
    ]
    assert text_of(built).count("It is tried until Tue, 24 Nov 2026 03:27:18 +0000.") == 1


@pytest.mark.parametrize(
    ("one", "told"),
    [
        (reported(provider="ses", remote_mta="api.example"), "ses (api.example) answered: 550 5.1.1 No such recipient"),
        (reported(provider="ses"), "> ses answered: 550 5.1.1 No such recipient"),
        (reported(remote_mta="api.example"), "> api.example answered: 550 5.1.1 No such recipient"),
        (reported(provider="api.example", remote_mta="api.example"), "> api.example answered: 550"),
        (reported(), "> The reason: 550 5.1.1 No such recipient"),
        (reported("failed", BUSY), "before its time was over. The last try: The reason: 451 4.3.2"),
        (reported("failed", None), "It could not be tried before its time was over."),
        (reported("delayed", BUSY), "There is nothing you have to do"),
        (reported("delayed", BUSY), "<ann@example.org> The reason: 451 4.3.2 Try again later The header"),
        (reported("delayed", None), "It could not be tried yet."),
        (reported("relayed", TAKEN, provider="ses"), "ses answered: 250 2.0.0 Ok: sent, id 7"),
        (reported("relayed", None), "It was taken."),
    ],
)
def test_people_are_told_what_happened_in_the_words_of_the_service(one: Reported, told: str) -> None:
    text = text_of(build_notice(notice(one)))

    assert text.startswith("This is the mail system of bridge.example. Your message ")
    assert "<ann@example.org>" in text
    assert told in text


def test_a_link_in_the_words_of_the_service_stays_whole() -> None:
    link = "https://service.example/" + "why-" * 50
    assert f"see {link} for" in text_of(
        build_notice(notice(reported(reply=Reply(550, "5.7.1", f"no, see {link} for why"))))
    )


def test_a_field_is_folded_at_its_blanks_and_none_is_lost() -> None:
    words = "no " * 30 + " " * 200 + "such"
    built = build_notice(notice(reported(reply=Reply(550, "5.1.1", words))))

    assert raw_value(built, "Diagnostic-Code") == f"smtp; 550 5.1.1 {words}"
    folded = parts_of(built)[1][1].split(b"\r\n ")[1:]
    assert len(folded) == 2
    assert all(line.strip() for line in folded)


def test_people_find_each_action_introduced_once_with_its_recipients_beneath() -> None:
    recipients = [reported(action, None, address=f"{action}{n}@x") for n in "12" for action in get_args(Action)]
    text = text_of(build_notice(notice(*recipients)))

    assert re.findall(r"<(\S+?)@x>", text) == ["failed1", "failed2", "delayed1", "delayed2", "relayed1", "relayed2"]
    assert [text.count(words) for words in ("could not be sent", "still being tried", "handed on")] == [1, 1, 1]


@pytest.mark.parametrize(
    ("envid", "shown"),
    [
        ("QQ314159", "QQ314159"),
        ("a+2Bb+3Dc+20d", "a+b=c d"),
        ("a+2bb", "a+2bb"),
        ("x+0D+0ABcc:+20eve@example.org", None),
        ("+00", None),
        ("+FF", None),
        ("+C3+BC", None),
        ("+20", None),
        ("x" * 5000, None),
        ("", None),
    ],
)
def test_the_envelope_id_is_decoded_and_left_out_if_it_is_no_printable_line(envid: str, shown: str | None) -> None:
    assert raw_value(build_notice(notice(envid=envid)), "Original-Envelope-Id", group=0) == shown


@pytest.mark.parametrize(
    ("orcpt", "shown"),
    [
        ("rfc822;Ann+2Bnews@example.org", "rfc822; Ann+news@example.org"),
        ("RFC822;ann@example.org", "RFC822; ann@example.org"),
        ("x400;/c=us/", "x400; /c=us/"),
        (r"utf-8;j\x{FC}rgen@example.org", f"utf-8; {UMLAUT}"),
        (r"UTF-8;ann\x{2B}3D@example.org", "UTF-8; ann+3D@example.org"),
        (f"utf-8;{UMLAUT}", f"utf-8; {UMLAUT}"),
        (f"rfc822;{UMLAUT}", f"utf-8; {UMLAUT}"),
        (r"rfc822;j\x{FC}rgen@example.org", r"rfc822; j\x{FC}rgen@example.org"),
        (r"utf-8;a\x{110000}@example.org", r"utf-8; a\x{110000}@example.org"),
        (r"utf-8;a\x{D800}@example.org", None),
        (r"utf-8;a\x{D}\x{A}Bcc: x", None),
        ("rfc822;a+0D+0ABcc:+20eve@example.org", None),
        ("rfc822;a\r\nBcc: eve@example.org", None),
        ("rfc822;+FF@example.org", None),
        (f"x400;{UMLAUT}", None),
        ("rfc 822;ann@example.org", None),
        ("ann@example.org", None),
        ("rfc822;", None),
        ("rfc822;" + "x" * 5000, None),
        ("", None),
    ],
)
def test_the_original_recipient_is_decoded_and_left_out_if_it_is_none(orcpt: str, shown: str | None) -> None:
    assert raw_value(build_notice(notice(reported(orcpt=orcpt))), "Original-Recipient") == shown


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("ann+news@example.org", "rfc822; ann+news@example.org"),
        ('"Ann Lee"@example.org', 'rfc822; "Ann Lee"@example.org'),
        ("ann@[IPv6:2001:db8::1]", "rfc822; ann@[IPv6:2001:db8::1]"),
        ("Postmaster", "rfc822; Postmaster"),
        ("ann@m\u00fcller.example", "rfc822; ann@xn--mller-kva.example"),
        (UMLAUT, f"utf-8; {UMLAUT}"),
        ("ann@stra\u00dfe.example", "utf-8; ann@stra\u00dfe.example"),
        ("ann@\uff0cevil\uff20x.example", "rfc822; ann@_evil_x.example"),
        ("a b@example.org", 'rfc822; "a b"@example.org'),
        ('a"b\\c@example.org', 'rfc822; "a\\"b\\\\c"@example.org'),
        ("a@b, eve@example.org", 'rfc822; "a@b, eve"@example.org'),
        ("ann@x>, <eve", "rfc822; ann@x____eve"),
        ("ann@example.org\r\nStatus: 2.0.0", "rfc822; ann@example.org_Status__2.0.0"),
        ("", "rfc822; MAILER-DAEMON"),
        ('""', "rfc822; MAILER-DAEMON"),
    ],
)
def test_the_final_recipient_is_one_address_whatever_it_is(address: str, shown: str) -> None:
    assert raw_value(build_notice(notice(reported(address=address))), "Final-Recipient") == shown


@pytest.mark.parametrize(
    "address",
    [
        "x" * 5000 + "@example.org",
        "ann@" + "x" * 5000,
        "ann@[" + "1" * 5000 + "]",
        "\u00fc." * 5000 + "@" + "\u00fc." * 5000,
        '"' * 5000 + "@" + "\u00fc." * 84,
        "x@" + "\ufdfa" * 300,
    ],
)
def test_an_address_beyond_all_reason_is_cut_and_the_lines_stay_short(address: str) -> None:
    built = build_notice(
        notice(
            reported(address=address, provider=address, remote_mta=address),
            recipient=address,
            sender=Mailbox(address, "x" * 5000),
        )
    )

    assert max(len(line) for line in built.split(b"\r\n")) <= 998
    assert parsed(built).keys()[: len(TOP)] == TOP
    assert len(groups_of(built)) == 2


def test_addresses_that_ascii_cannot_write_make_the_notice_a_global_one() -> None:
    built = build_notice(notice(reported(address=UMLAUT), recipient=UMLAUT))
    (text, words), (status, _), _ = parts_of(built)

    assert text["Content-Type"] == "text/plain; charset=utf-8"
    assert status["Content-Type"] == "message/global-delivery-status"
    assert text["Content-Transfer-Encoding"] == status["Content-Transfer-Encoding"] == "8bit"
    assert f"<{UMLAUT}>".encode() in words
    assert f"\r\nTo: {UMLAUT}\r\n".encode() in built
    assert parsed(built)["Content-Transfer-Encoding"] == "8bit"


def test_a_name_or_a_domain_of_other_letters_leaves_the_notice_in_ascii() -> None:
    one = reported(address="ann@m\u00fcller.example", provider="anbieter-\u00fc", remote_mta="\u00fc.example")
    sender = Mailbox("post@m\u00fcller.example", "J\u00fcrgen")
    built = build_notice(
        notice(one, sender=sender, recipient="shop@m\u00fcller.example", hostname="m\u00fcller.example")
    )

    assert built.isascii()
    assert parsed(built)["From"].addresses[0].display_name == "J\u00fcrgen"
    assert raw_value(built, "Reporting-MTA", group=0) == "dns; xn--mller-kva.example"
    assert raw_value(built, "Remote-MTA") == "dns; xn--tda.example"


@pytest.mark.parametrize("ret", ["", "FULL", "HDRS"])
@pytest.mark.parametrize("action", get_args(Action))
def test_only_a_failure_returns_the_whole_message_and_only_if_the_header_was_not_asked_for(
    action: Action, ret: str
) -> None:
    built = build_notice(notice(reported(action, None), ret=ret))
    whole = action == "failed" and ret != "HDRS"

    assert returned(built) == (RAW if whole else HEADER)
    assert parts_of(built)[2][0].items() == [("Content-Type", "message/rfc822" if whole else "text/rfc822-headers")]
    assert text_of(built).endswith(
        "The message is attached." if whole else "The header of the message is attached, without its text."
    )


def test_one_failure_among_others_returns_the_whole_message() -> None:
    assert returned(build_notice(notice(reported("delayed", None), reported("failed", None)))) == RAW


@pytest.mark.parametrize(("max_size", "content"), [(len(RAW), RAW), (len(RAW) - 1, HEADER)])
@pytest.mark.parametrize("ret", ["", "FULL"])
def test_a_message_above_the_size_is_returned_as_its_header(max_size: int, content: bytes, ret: str) -> None:
    assert returned(build_notice(notice(max_size=max_size, ret=ret))) == content


@pytest.mark.parametrize("end", [b"", b"\r\n", b"\r\n\r\n", b"--\r\n.\r\n"])
def test_a_returned_message_keeps_its_octets_to_the_last(end: bytes) -> None:
    raw = mail("X: \u00fc", body=b"a  b \t\r\n--b1--\r\nFrom x\r\n\xff\x01" + end)
    built = build_notice(notice(raw=raw))

    assert returned(built) == raw
    assert parts_of(built)[2][0].items() == [("Content-Type", "message/global"), ("Content-Transfer-Encoding", "8bit")]
    assert parsed(built)["Content-Transfer-Encoding"] == "8bit"


def test_a_message_whose_header_is_no_utf_8_is_returned_as_it_came() -> None:
    raw = b"Subject: \xfc\r\n\r\nx\r\n"
    built = build_notice(notice(raw=raw))

    assert parts_of(built)[2][0].items()[0] == ("Content-Type", "message/rfc822")
    assert returned(built) == raw


def test_where_no_report_is_carried_the_text_alone_says_it() -> None:
    built = build_text(notice())
    mail_ = parsed(built)

    assert (mail_.get_content_type(), mail_["Auto-Submitted"]) == ("text/plain", "auto-replied")
    assert mail_.get_payload() in build_notice(notice(ret="HDRS")).decode()


@pytest.mark.parametrize(
    "body",
    [b"x" * 999, b"x" * 999 + b"\r\nend\r\n", b"a\nb\r\n", b"a\rb\r\n", b"a\0b\r\n"],
    ids=["long last line", "long line", "bare LF", "bare CR", "NUL"],
)
def test_a_message_that_cannot_stand_in_lines_is_returned_as_its_header(body: bytes) -> None:
    assert returned(build_notice(notice(raw=mail("Subject: x", body=body)))) == mail("Subject: x", body=b"")[:-2]
    assert returned(build_notice(notice(raw=mail(body=b"x" * 998)))).endswith(b"x" * 998)


@pytest.mark.parametrize("ret", ["FULL", "HDRS"])
def test_nobody_sees_a_bcc_in_what_is_returned(ret: str) -> None:
    raw = mail("Bcc: eve@example.org,\r\n mallory@example.org", "Resent-Bcc: eve@example.org", body=b"Bcc: is text\r\n")
    content = returned(build_notice(notice(raw=raw, ret=ret)))

    assert content == (mail(body=b"Bcc: is text\r\n") if ret == "FULL" else mail(body=b"")[:-2])


@pytest.mark.parametrize(
    ("lines", "kind", "encoding"),
    [
        ([b"Subject: x"], "text/rfc822-headers", None),
        ([b"Subject: \xc3\xbc"], "message/global-headers", "8bit"),
        ([b"Subject: \xff"], "text/rfc822-headers", "quoted-printable"),
        ([b"X: " + b"x" * 996], "text/rfc822-headers", "quoted-printable"),
        ([b"X: \xc3\xbc" + b"x" * 996], "message/global-headers", "quoted-printable"),
        ([b"X: \0"], "text/rfc822-headers", "quoted-printable"),
    ],
    ids=["ASCII", "UTF-8", "Latin-1", "long", "long UTF-8", "NUL"],
)
def test_a_returned_header_is_described_and_reads_as_it_was(
    lines: list[bytes], kind: str, encoding: str | None
) -> None:
    header = mail(*lines, body=b"")[:-2]
    part, content = parts_of(build_notice(notice(raw=header + b"\r\nbody", ret="HDRS")))[2]
    part.set_payload(content.decode("ascii", "surrogateescape"))

    assert (part["Content-Type"], part["Content-Transfer-Encoding"]) == (kind, encoding)
    part.replace_header("Content-Type", "text/plain")  # or the library sees a message that cannot be decoded
    assert part.get_payload(decode=True) == header


def test_a_returned_header_of_one_long_line_is_broken_softly_with_crlf() -> None:
    assert (
        returned(build_notice(notice(raw=b"X: " + b"x" * 1000)))
        == b"X: " + b"x" * 72 + b"=\r\n" + b"".join(b"x" * size + b"=\r\n" for size in [75] * 12) + b"x" * 28
    )


def test_a_returned_header_begins_after_an_mbox_line() -> None:
    assert returned(build_notice(notice(raw=b"From ann Mon Nov 23\r\n" + RAW, ret="HDRS"))) == HEADER


@pytest.mark.parametrize(
    ("value", "usable"),
    [
        ("<7@shop.example>", True),
        ("<a@b@c>", True),
        ("7@shop.example", False),
        ("<7>", False),
        ("<7@x> <8@x>", False),
        ("<7 8@x>", False),
        ("<\u00fc@x>", False),
        ("=?utf-8?q?=3C7=40x=3E=0D=0ABcc:_eve=40example.org?=", False),
        ("<" + "7" * 5000 + "@x>", False),
        ("", False),
    ],
)
def test_a_notice_answers_the_message_only_by_an_id_that_is_one(value: str, usable: bool) -> None:
    message = parsed(build_notice(notice(raw=mail(f"Message-ID: {value}"), ret="HDRS")))

    for name in ("In-Reply-To", "References"):
        assert message[name] == (value if usable else None)


def test_a_boundary_that_occurs_in_the_content_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    digests = [bytes([n]) * 32 for n in range(4)]
    counted = itertools.count()

    class Hash:
        def __init__(self, data: bytes) -> None:
            self.data = data

        def digest(self) -> bytes:
            return digests[next(counted)]

    taken = [f"report-{digest.hex()[:40]}" for digest in digests]
    raw = mail(body=f"--{taken[0]}--\r\nx{taken[1]}\r\n--{taken[2]}\r\n".encode())
    monkeypatch.setattr(dsn.hashlib, "sha256", Hash)
    built = build_notice(notice(raw=raw))

    assert parsed(built).get_boundary() == taken[3]
    assert returned(built) == raw


def test_a_notice_about_a_notice_keeps_both_apart() -> None:
    inner = build_notice(notice())
    outer = build_notice(notice(raw=inner))

    assert returned(outer) == inner
    assert parsed(outer).get_boundary() != parsed(inner).get_boundary()
    assert groups_of(returned(outer))[1]["Status"] == "5.1.1"


def test_the_same_notice_is_the_same_octets_and_another_has_another_boundary() -> None:
    assert build_notice(notice()) == build_notice(notice())
    assert parsed(build_notice(notice())).get_boundary() != parsed(build_notice(notice(raw=RAW + b"x"))).get_boundary()


FRAGMENTS = ["\r\n", "\n", "\r", "\0", "\x85", "\u2028", "\r\n\r\n", "Bcc: eve@example.org", "Status: 2.0.0", "--", "@", ",",
             ";", "<", ">", '"', "\\", "(", ":", "[", "]", " ", "a", "example.org", "=?utf-8?q?=0D=0ABcc:_x?=", "+0D+0A", "+2B",
             "\\x{A}", "rfc822;", "utf-8;", "\u00fc", "\u00df", "\uff0c", "\uff20", "\u2474", "\ud800", "x" * 300,
             "x" * 1500]  # fmt: skip
hostile = st.lists(st.sampled_from(FRAGMENTS) | st.characters(), max_size=8).map("".join)
replies = st.one_of(
    st.none(),
    st.builds(Reply.safe, st.sampled_from([250, 334, 421, 451, 550]), st.just(""), hostile),
    st.builds(
        lambda digit, detail, text: Reply.safe(digit * 100 + 50, f"{digit}.{detail}", text),
        st.sampled_from([2, 4, 5]),
        st.sampled_from(["0.0", "1.1", "4.7", "7.26"]),
        hostile,
    ),
)
times = st.floats(min_value=0, max_value=4e9)
recipients = st.builds(
    Reported,
    address=hostile,
    action=st.sampled_from(get_args(Action)),
    reply=replies,
    provider=hostile,
    remote_mta=hostile,
    orcpt=hostile | hostile.map("utf-8;".__add__) | hostile.map("rfc822;".__add__),
    last_attempt_at=st.none() | times,
    will_retry_until=st.none() | times,
)
headers = st.lists(
    st.sampled_from([b"Message-ID: <7@x>\r\n", b"Subject: ", b"Bcc: eve@example.org\r\n", b"a", b"\r\n", b"\r\n ", b"\n",
                     b"\r", b"\0", b"\xc3\xbc", b"\xff", b"x" * 999, b": ", b"From x\r\n",
                     b"Message-ID: =?utf-8?q?=0D=0A?=\r\n"]),
    max_size=12,
).map(b"".join)  # fmt: skip
notices = st.builds(
    Notice,
    queue_id=hostile,
    sender=st.builds(Mailbox, hostile, hostile),
    recipient=hostile,
    hostname=hostile,
    message_id=hostile,
    now=times,
    arrived_at=times,
    envid=hostile,
    ret=st.sampled_from(["", "FULL", "HDRS"]),
    reported=st.lists(recipients, min_size=1, max_size=3).map(tuple),
    raw=headers | st.binary(max_size=60) | st.sampled_from([RAW, *ODD.values()]),
    max_size=st.sampled_from([0, 1 << 20]),
)


def in_order(names: list[str], allowed: list[str], needed: set[str]) -> bool:
    """Each at most once, in this order, none but the allowed and all that are needed."""
    return names == [name for name in allowed if name in names] and needed <= set(names)


@given(notices)
def test_no_text_adds_or_ends_a_field_or_a_part(one: Notice) -> None:
    built = build_notice(one)
    kept = {"From", "To", "Subject", "Date", "Message-ID", "Auto-Submitted", "MIME-Version", "Content-Type"}

    for message in (parsed(built), message_from_bytes(built, policy=policy.compat32)):
        assert in_order(message.keys(), [*TOP, "Content-Transfer-Encoding"], kept)
        assert len(message.get_payload()) == 3
    parts = parts_of(built)
    for header, _ in parts:
        assert in_order(header.keys(), ["Content-Type", "Content-Transfer-Encoding"], {"Content-Type"})
    of_message, *of_recipients = groups_of(built)
    assert in_order(of_message.keys(), OF_MESSAGE, set(OF_MESSAGE[1:]))
    assert len(of_recipients) == len(one.reported)
    for group in of_recipients:
        assert in_order(group.keys(), OF_RECIPIENT, {"Final-Recipient", "Action", "Status"})
    assert not any(message.defects for message in (of_message, *of_recipients))


@given(hostile, hostile, hostile)
@example("a@b, eve@example.org", "Eve <eve@example.org>, ", "\u00fc@\uff0ceve\uff20example.org")
@example("\u00fc@\u2474x", '"', "a@\u00df\uff0c")
def test_from_and_to_name_one_mailbox_each(sender: str, name: str, recipient: str) -> None:
    message = message_from_bytes(build_notice(notice(sender=Mailbox(sender, name), recipient=recipient)))

    values = dict(message.raw_items())
    for value in (values["From"], values["To"]):
        ((_, address),) = getaddresses([value.encode("ascii", "surrogateescape").decode()])
        assert address


@given(notices)
def test_every_line_ends_with_crlf_and_has_at_most_998_octets(one: Notice) -> None:
    built = build_notice(one)

    assert built.endswith(b"--\r\n")
    assert built.count(b"\r\n") == built.count(b"\r") == built.count(b"\n")
    assert b"\0" not in built
    assert max(map(len, built.split(b"\r\n"))) <= 998


@given(notices)
def test_every_recipient_is_told_of_once_with_a_status_in_the_class_of_its_action(one: Notice) -> None:
    built = build_notice(one)

    told = [(group["Action"], group["Status"]) for group in groups_of(built)[1:]]
    assert told == [(r.action, status_of(r)) for r in one.reported]
    for recipient, (_, status) in zip(one.reported, told, strict=True):
        expired_untried = recipient.action == "failed" and recipient.reply is None
        assert (
            status[0] == {"failed": "4" if expired_untried else "5", "delayed": "4", "relayed": "2"}[recipient.action]
        )
        assert re.fullmatch(r"[245]\.\d{1,3}\.\d{1,3}", status)


@given(st.lists(st.from_regex(r"\A[a-z0-9]{1,8}@[a-z]{1,5}\.example\Z"), min_size=1, max_size=9, unique=True))
def test_both_the_text_and_the_status_name_every_recipient_once(addresses: list[str]) -> None:
    built = build_notice(notice(*(reported(address=address) for address in addresses)))

    assert re.findall(r"<(\S+@\S+)>", text_of(built)) == addresses
    assert [group["Final-Recipient"] for group in groups_of(built)[1:]] == [f"rfc822; {a}" for a in addresses]
    assert scan_message(message_from_bytes(built)) == {address.encode() for address in addresses}


ascii_only = st.text(st.characters(codec="ascii"), max_size=30)


@given(ascii_only, ascii_only, ascii_only, hostile, hostile)
def test_the_notice_is_seven_bit_when_nothing_needs_utf8(
    local: str, orcpt: str, envid: str, name: str, provider: str
) -> None:
    one = reported(address=f"{local}@m\u00fcller.example", orcpt=orcpt, provider=provider, remote_mta=provider)
    built = build_notice(
        notice(
            one, envid=envid, recipient=f"{local}@m\u00fcller.example", sender=Mailbox("post@x", name), hostname=name
        )
    )

    # Encoded in the ORCPT there may be an address that needs it.
    assert built.isascii() or not str(raw_value(built, "Original-Recipient")).isascii()
    assert built.isascii() == (b"8bit" not in built)


@given(notices)
def test_the_encodings_told_are_those_that_the_content_needs(one: Notice) -> None:
    built = build_notice(one)
    body = built.partition(b"\r\n\r\n")[2]

    assert (parsed(built)["Content-Transfer-Encoding"] == "8bit") is not body.isascii()
    for header, content in parts_of(built):
        assert (header["Content-Transfer-Encoding"] == "8bit") is not content.isascii()


@given(notices)
def test_the_same_input_gives_the_same_octets(one: Notice) -> None:
    assert build_notice(one) == build_notice(replace(one))


@given(replies, hostile, hostile, headers)
def test_another_program_finds_exactly_who_failed_whatever_is_said(
    reply: Reply | None, provider: str, envid: str, raw: bytes
) -> None:
    said: dict[str, Any] = {"reply": reply, "provider": provider, "remote_mta": provider}
    one = notice(
        reported(**said),
        reported("delayed", **said, address="bob@example.org"),
        reported("relayed", **said, address="eve@example.org"),
        envid=envid,
        raw=raw,
    )

    assert all_failures(message_from_bytes(build_notice(one))) == ({b"bob@example.org"}, {b"ann@example.org"})


@pytest.mark.parametrize("raw", [*ODD.values(), *BOMBS.values()], ids=[*ODD, *BOMBS])
@pytest.mark.parametrize("ret", ["FULL", "HDRS"])
def test_odd_mail_is_reported_in_sound_lines_and_three_parts(raw: bytes, ret: str) -> None:
    built = build_notice(notice(raw=raw, ret=ret))

    assert max(map(len, built.split(b"\r\n"))) <= 998
    assert built.count(b"\r\n") == built.count(b"\r") == built.count(b"\n")
    assert [header.get_content_type() for header, _ in parts_of(built)][:2] == ["text/plain", "message/delivery-status"]
    assert len(parts_of(built)) == 3
