from __future__ import annotations

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.sandbox.forms import MAX_PARTS, Form, FormError, FormFile, read_form

MESSAGE = b'Content-Type: multipart/mixed; boundary="x"\r\n\r\n--x\r\n\r\nbare\rand\nline ends \xff\x00\r\n--x--\r\n'


def multipart(*parts: bytes, boundary: str = "b") -> tuple[str, bytes]:
    body = b"".join(b"--" + boundary.encode() + b"\r\n" + part + b"\r\n" for part in parts)
    return f"multipart/form-data; boundary={boundary}", body + b"--" + boundary.encode() + b"--\r\n"


def posted(**arguments: object) -> Form:
    """As httpx writes it."""
    request = httpx.Request("POST", "http://x.example/", **arguments)  # type: ignore[arg-type]
    return read_form(request.headers["content-type"], request.read())


def test_a_file_comes_back_octet_by_octet_even_when_it_is_a_multipart_itself() -> None:
    form = posted(files={"message": ("a.eml", MESSAGE, "message/rfc822")}, data={"to": ["a@x.example", "b@x.example"]})

    assert form.files == (FormFile(name="message", filename="a.eml", content_type="message/rfc822", content=MESSAGE),)
    assert form.values("to") == ["a@x.example", "b@x.example"]
    assert form.names() == ["to", "message"]


@given(st.binary(max_size=200), st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=30))
def test_any_octets_and_any_file_name_survive_httpx(content: bytes, filename: str) -> None:
    (file,) = posted(files={"f": (filename, content)}).files

    assert (file.content, file.filename) == (content, filename)


def test_fields_are_urlencoded_when_there_is_no_file() -> None:
    form = posted(data={"subject": "Grüße & mehr", "empty": "", "to": ["a", "b"]})

    assert form.value("subject") == "Grüße & mehr"
    assert (form.values("empty"), form.values("to"), form.value("nothing")) == ([""], ["a", "b"], "")


def test_a_text_field_of_a_multipart_is_utf_8_and_may_be_empty() -> None:
    kind, body = multipart(
        'Content-Disposition: form-data; name="s"\r\n\r\nGrüße'.encode(),
        b'content-disposition: form-data; name="e"\r\n\r\n',
    )

    assert read_form(kind, body).fields == (("s", "Grüße"), ("e", ""))


def test_a_file_name_may_be_quoted_escaped_or_encoded() -> None:
    names = [b'filename="a%22b.txt"', 'filename="Übersicht.pdf"'.encode(), b"filename*=UTF-8''%C3%9Cbersicht.pdf"]
    kind, body = multipart(*(b'Content-Disposition: form-data; name="f"; ' + n + b"\r\n\r\nx" for n in names))

    assert [file.filename for file in read_form(kind, body).files] == ['a"b.txt', "Übersicht.pdf", "Übersicht.pdf"]


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("application/json", b"{}"),
        ("", b""),
        ("multipart/form-data", b"--b--\r\n"),
        ("multipart/form-data; boundary=b", b""),
        ("multipart/form-data; boundary=b", b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\nx'),
        multipart(b"no head"),
        multipart(b"Content-Type: text/plain\r\n\r\nno name"),
        multipart(b'Content-Disposition: attachment; name="a"\r\n\r\nx'),
        multipart(b'Content-Disposition: form-data; name="a"\r\n\r\n\xff'),
        multipart(b'Content-Disposition: form-data; name="\xff"\r\n\r\nx'),
        multipart(b"X: " + b"y" * 20_000 + b"\r\n\r\nx"),
        multipart(*[b'Content-Disposition: form-data; name="a"\r\n\r\nx'] * (MAX_PARTS + 1)),
        ("application/x-www-form-urlencoded", b"a=%ff"),
        ("application/x-www-form-urlencoded", b"a=\xff"),
        ("application/x-www-form-urlencoded", b"a=1&" * (MAX_PARTS + 1)),
    ],
)
def test_what_is_no_form_is_an_error(kind: str, body: bytes) -> None:
    with pytest.raises(FormError):
        read_form(kind, body)
