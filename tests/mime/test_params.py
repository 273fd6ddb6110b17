from __future__ import annotations

import pytest

from bridge.mime.params import clean_filename, file_name, parse_value

NOTHING = parse_value(b"application/pdf")


@pytest.mark.parametrize(
    ("raw", "name"),
    [
        (b'attachment; filename="a.pdf"', "a.pdf"),
        (b"attachment; filename=a.pdf", "a.pdf"),
        (b"attachment; filename=report (1).pdf", "report (1).pdf"),
        (b'attachment; filename="semi;colon.pdf"', "semi;colon.pdf"),
        (rb'attachment; filename="a \"b\".pdf"', 'a "b".pdf'),
        (rb'attachment; filename="C:\temp\new.pdf"', "new.pdf"),
        (b'attachment; filename="../../etc/passwd"', "passwd"),
        (b'attachment; filename=".."', ""),
        (b"attachment; filename*=UTF-8''na%C3%AFve%20file.pdf", "naïve file.pdf"),
        (b"attachment; filename*=\"UTF-8''na%C3%AFve.pdf\"", "naïve.pdf"),
        (b"attachment; filename*=iso-8859-1'en'%A3.pdf", "£.pdf"),
        (b"attachment; filename*=nocharset%20.pdf", "nocharset .pdf"),
        (b"attachment; filename*0=long; filename*1=er.pdf", "longer.pdf"),
        (b"attachment; filename*1*=%A4.pdf; filename*0*=UTF-8''%C3", "ä.pdf"),
        (b"attachment; filename*0*=UTF-8''%C3%A4; filename*1=\"b%20.pdf\"", "äb%20.pdf"),
        (b"attachment; filename=\"plain.pdf\"; filename*=UTF-8''%C3%A4.pdf", "ä.pdf"),
        (b"attachment; filename*=UTF-8''%C3%A4.pdf; filename=\"plain.pdf\"", "ä.pdf"),
        (b'attachment; filename="=?utf-8?q?Gr=C3=BC=C3=9Fe=2Epdf?="', "Grüße.pdf"),
        (b'attachment; filename="=?utf-8?q?Gr=C3=BC?=\r\n =?utf-8?q?=C3=9Fe.pdf?="', "Grüße.pdf"),
        (b"attachment; filename==?utf-8?q?Gr=C3=BC=C3=9Fe.pdf?=", "Grüße.pdf"),
        (b'attachment; filename="=?utf-8?q?a=0D=0AX=3A_y=00.pdf?="', "a X: y .pdf"),
        ('attachment; filename="rÜ.pdf"'.encode(), "rÜ.pdf"),
        (b'attachment; filename="r\xdc.pdf"', "rÜ.pdf"),
        (b'attachment; filename="unclosed.pdf; size=1', "unclosed.pdf"),
        (b"attachment; filename*=utf-8''u%CC%88.pdf", "ü.pdf"),  # NFC
        (b"attachment; filename*=utf-8''invoice%E2%80%AEfdp.exe", "invoicefdp.exe"),
        (b"attachment", ""),
        (b"filename=only.pdf", "only.pdf"),
    ],
)
def test_file_names_are_read_as_real_mail_writes_them(raw: bytes, name: str) -> None:
    assert file_name(NOTHING, parse_value(raw)) == name


@pytest.mark.parametrize(
    ("content_type", "disposition", "name"),
    [
        (b"a/b; name=n.pdf", b"attachment; filename=f.pdf", "f.pdf"),
        (b"a/b; name=n.pdf", b"attachment", "n.pdf"),
        (b"a/b; name*=utf-8''%C3%A4.pdf; name=n.pdf", b"attachment", "ä.pdf"),
        (b"a/b; name*=utf-8''%C3%A4.pdf", b"attachment; filename=f.pdf", "f.pdf"),
        (b"a/b; name=n.pdf", b"attachment; filename*=utf-8''%C3%B6.pdf", "ö.pdf"),
    ],
)
def test_the_best_of_both_fields_names_the_file(content_type: bytes, disposition: bytes, name: str) -> None:
    assert file_name(parse_value(content_type), parse_value(disposition)) == name


def test_a_very_long_file_name_keeps_its_suffix() -> None:
    name = clean_filename("ü" * 1000 + ".pdf")

    assert len(name) == 255
    assert name.endswith("ü.pdf")
