"""Amazon SES: the contract, the signature, and moto's server as a witness of its own."""

from __future__ import annotations

import base64
import datetime
from collections.abc import Iterator
from typing import Any

import botocore.auth
import httpx
import orjson
import pytest

from bridge.mime.parse import parse
from bridge.model import Addressing, Mailbox
from bridge.providers.base import Policy
from bridge.providers.http import transport_for
from bridge.providers.outcomes import Failed
from bridge.providers.ses import Ses, SesSettings
from bridge.providers.sigv4 import Keys, SigV4
from bridge.sandbox import Sandbox
from tests.providers.api import mails
from tests.providers.api.contract import EXPECTED, KEY, ApiContract, Bench, meant
from tests.providers.api.mails import ANN, BOB, CAT, SENDER

ERRORS = {
    "bad_request": "P",
    "validation": "P",
    "message_rejected": "P",
    "not_verified": "C",
    "mail_from_not_verified": "C",
    "account_suspended": "C",
    "sending_paused": "C",
    "limit_exceeded": "Q",
    "throttling": "R",
    "daily_quota": "Q",
    "some_new_error": "O",
    "expired_token": "C",
    "access_denied": "C",
    "unrecognized_client": "C",
    "signature": "C",
    "missing_token": "C",
    "not_found": "C",
    "too_many_requests": "R",
    "internal": "T",
    "unavailable": "T",
}
COMMON = frozenset(
    {"Content", "Destination", "Destination.ToAddresses", "Destination.CcAddresses", "Destination.BccAddresses"}
    | {"EmailTags", "EmailTags[].Name", "EmailTags[].Value", "ConfigurationSetName"}
)
HOSTILE = {
    "X-SES-SOURCE-ARN": "arn:aws:ses:us-east-1:123456789012:identity/eve@example.org",
    "X-SES-FROM-ARN": "arn:aws:ses:us-east-1:123456789012:identity/eve@example.org",
    "X-SES-RETURN-PATH-ARN": "arn:aws:ses:us-east-1:123456789012:identity/eve@example.org",
}


class SesContract(ApiContract):
    kind = "ses"
    settings = {"access_key_id": "AKIDEXAMPLE", "secret_access_key": KEY, "region": "us-east-1"}
    errors = ERRORS
    hostile = HOSTILE
    wrong_key = {"secret_access_key": "wrong-key"}


class TestSesRaw(SesContract):
    documented = COMMON | {"Content.Raw", "Content.Raw.Data"}
    carries_signed = carries_invitation = True

    async def test_the_request_of_the_documentation(self, bench: Bench) -> None:
        email = parse(mails.raw(mails.build(Bcc=CAT, DKIM_Signature="v=1; b=abc")))
        (call,) = bench.provider.calls(email, SENDER, (ANN, CAT))
        request = bench.provider.build_request(email, call, queue_id="Q1", key="K1")

        assert request.url.path.endswith("/v2/email/outbound-emails")
        payload = orjson.loads(request.content)
        assert set(payload) == {"Content", "Destination"}  # a From here would replace the header's
        assert payload["Destination"] == {"ToAddresses": [ANN], "BccAddresses": [CAT]}
        raw = base64.b64decode(payload["Content"]["Raw"]["Data"])
        assert raw.isascii()
        assert CAT.encode() not in raw
        assert b"DKIM-Signature" not in raw

    async def test_domains_are_named_as_a_labels(self, bench: Bench) -> None:
        mail = await bench.received(
            mails.build(To="x <ann@m\u00fcller.example>"), mails.envelope("ann@m\u00fcller.example")
        )

        assert mail.recipients == ("ann@xn--mller-kva.example",)

    async def test_configuration_set_and_tags_of_the_smtp_service(self, bench: Bench) -> None:
        message = mails.build(
            X_SES_CONFIGURATION_SET="events", X_SES_MESSAGE_TAGS="order=17, shop=my shop", X_Bridge_Tag="a"
        )
        mail = await bench.received(message)

        assert dict(mail.metadata) == {"tag": "a", "order": "17", "shop": "my_shop"}
        assert bench.sandbox.received("ses")[-1].payload["ConfigurationSetName"] == "events"
        assert not [name for name, _ in mail.headers if name.lower().startswith("x-ses-")]


class TestSesJson(SesContract):
    settings = {**SesContract.settings, "content": "json"}
    documented = (
        COMMON
        | {"FromEmailAddress", "ReplyToAddresses", "Content.Simple", "Content.Simple.Subject", "Content.Simple.Body"}
        | {f"Content.Simple.Subject.{key}" for key in ("Data", "Charset")}
        | {f"Content.Simple.Body.{kind}{end}" for kind in ("Text", "Html") for end in ("", ".Data", ".Charset")}
        | {f"Content.Simple.Headers{end}" for end in ("", "[].Name", "[].Value")}
        | {"Content.Simple.Attachments"}
        | {
            f"Content.Simple.Attachments[].{key}"
            for key in (
                "FileName",
                "RawContent",
                "ContentType",
                "ContentDisposition",
                "ContentTransferEncoding",
                "ContentId",
            )
        }
    )

    async def test_more_header_fields_than_it_takes_are_dropped_and_named(self, bench: Bench) -> None:
        message = mails.build(**{f"X-Field-{n}": str(n) for n in range(20)})
        mail = await bench.received(message)

        assert len(mail.headers) == 15
        assert "X-Field-19 dropped" in " ".join(bench.provider.repairs(parse(mails.raw(message)), mails.envelope()))

    async def test_names_and_header_values_are_encoded_words(self, bench: Bench) -> None:
        await bench.received(mails.build(From=f'"J\u00fcrgen, Shop" <{SENDER}>', X_Order="gr\u00fc\u00dfe"))
        payload = orjson.loads(bench.requests[-1].content)

        assert payload["FromEmailAddress"].isascii()
        assert payload["Content"]["Simple"]["Headers"][0]["Value"].startswith("=?utf-8?b?")


# --- the signature

VECTORS = [
    ("", "content-type;host;x-amz-date", "db546417513b165fd56ee7e937a85396e77d73666f5bd796245ef63d731dee0e"),
    (
        "SESSIONTOKEN",
        "content-type;host;x-amz-date;x-amz-security-token",
        "cd7bd82329be8d3ef7407069b2f7fbf6f9b9ae3ddf56b169d5fc97acd5619cea",
    ),
]


async def no_fetch(request: httpx.Request) -> httpx.Response:
    raise AssertionError


@pytest.mark.parametrize(("token", "headers", "expected"), VECTORS, ids=["a key", "with a session"])
async def test_the_golden_vector(monkeypatch: pytest.MonkeyPatch, token: str, headers: str, expected: str) -> None:
    moment = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)
    monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda: moment)
    keys = Keys(
        access_key_id="AKIDEXAMPLE",
        secret_access_key="wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY",
        session_token=token,
    )
    request = httpx.Request(
        "POST",
        "https://email.us-east-1.amazonaws.com/v2/email/outbound-emails",
        headers={"Content-Type": "application/json", "User-Agent": "x"},
        content=b'{"Content":{"Raw":{"Data":"SGVsbG8="}},"FromEmailAddress":"a@example.com"}',
    )
    await SigV4(service="ses", region="us-east-1", keys=keys).sign(request, no_fetch)

    assert request.headers["x-amz-date"] == "20260102T030405Z"
    assert f"SignedHeaders={headers}, Signature={expected}" in request.headers["authorization"]


async def test_credentials_of_the_environment_are_found(monkeypatch: pytest.MonkeyPatch, sandbox: Sandbox) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDENV")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", KEY)
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    assert await status(sandbox) == ("sent", "250 2.0.0")


async def test_credentials_of_a_container_are_fetched(
    monkeypatch: pytest.MonkeyPatch, sandbox: Sandbox, role: str, no_files: None
) -> None:
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", role)
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    assert await status(sandbox) == ("sent", "250 2.0.0")


async def test_credentials_of_an_instance_are_fetched(
    monkeypatch: pytest.MonkeyPatch, sandbox: Sandbox, role: str, no_files: None
) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", role.removesuffix("role"))
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    assert await status(sandbox) == ("sent", "250 2.0.0")


async def test_without_credentials_mail_waits_for_the_operator(
    monkeypatch: pytest.MonkeyPatch, sandbox: Sandbox, no_files: None
) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    with pytest.raises(Failed):
        await SigV4(service="ses", region="eu-west-1", keys=Keys()).sign(httpx.Request("GET", "http://x/"), no_fetch)
    assert await status(sandbox) == ("deferred", "451 4.3.5")


def test_a_region_is_needed(no_files: None) -> None:
    with pytest.raises(ValueError, match="region"):
        Ses.base_of(SesSettings())
    assert Ses.base_of(SesSettings(region="eu-west-1")) == "https://email.eu-west-1.amazonaws.com"
    assert Ses.base_of(SesSettings(region="cn-north-1")) == "https://email.cn-north-1.amazonaws.com.cn"


@pytest.fixture
async def sandbox() -> Any:
    async with Sandbox(key=KEY) as running:
        yield running


@pytest.fixture
def no_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """Nothing of this machine's own."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))


@pytest.fixture
def role() -> Iterator[str]:
    """The endpoints for the credentials of a role: a container's, and an instance's with its token (IMDSv2)."""
    import threading
    from http.server import BaseHTTPRequestHandler, HTTPServer

    class Handler(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            self.answer(b"metadata-token")

        def do_GET(self) -> None:
            if self.path.endswith("/security-credentials/"):
                self.answer(b"mail-role" if self.headers["x-aws-ec2-metadata-token"] == "metadata-token" else b"")
                return
            later = datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=1)
            body = {"AccessKeyId": "AKIDROLE", "SecretAccessKey": KEY, "Token": "T", "Expiration": later.isoformat()}
            self.answer(orjson.dumps({"Code": "Success", **body}))

        def answer(self, content: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/role"
    server.shutdown()
    thread.join()
    server.server_close()


async def status(sandbox: Sandbox) -> tuple[str, str]:
    """What becomes of a mail sent without credentials in the settings."""
    url = sandbox.twin_url("ses")
    provider = Ses("main", Policy(timeout=10), SesSettings(url=url), transport=transport_for(url, Policy()))
    outcome = await Bench(provider, sandbox).outcome()
    await provider.aclose()
    return meant(outcome)[:2]


# --- moto, which is written from the service's description by others


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.mark.parametrize("content", ["raw", "json"])
async def test_moto_takes_what_we_send(moto: str, content: str) -> None:
    settings = SesSettings(
        url=moto, region="us-east-1", access_key_id="AKID", secret_access_key="secret", content=content
    )
    provider = Ses("main", Policy(timeout=20), settings, transport=transport_for(moto, Policy()))
    email = parse(mails.raw(mails.with_parts()))
    call = Addressing(reverse_path=SENDER, to=(Mailbox(ANN),), bcc=(BOB,))

    httpx.post(f"{moto}/moto-api/reset")
    refused = await provider.send(email, call, queue_id="Q", key="K")
    headers = {"Authorization": "AWS4-HMAC-SHA256 Credential=AKID/20260101/us-east-1/ses/aws4_request"}
    httpx.post(f"{moto}/v2/email/identities", json={"EmailIdentity": "example.com"}, headers=headers)
    sent = await provider.send(email, call, queue_id="Q", key="K")
    await provider.aclose()

    assert {meant(outcome) for outcome in refused.values()} == {EXPECTED["C"]}
    assert {outcome.status for outcome in sent.values()} == {"sent"}
    assert all(outcome.provider_message_id for outcome in sent.values())
