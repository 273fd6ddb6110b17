"""Programs that people use, each sending through a running bridge with STARTTLS and a login."""

from __future__ import annotations

import asyncio
import os
import shutil
import smtplib
import ssl
import sys
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import aiosmtplib
import pytest

from bridge.sandbox import Sandbox
from tests.e2e.conftest import rest

USER, PASSWORD = "printer", "sécret p@ss"
NODE_MODULES = Path(sys.prefix) / "node" / "node_modules"


@pytest.fixture
async def port(sandbox: Sandbox, bridge_process: Any) -> int:
    from argon2 import PasswordHasher

    process = await bridge_process(
        **rest(sandbox.url),
        SMTP_BRIDGE_SMTP__LISTENER__REQUIRE_AUTH="true",
        SMTP_BRIDGE_SMTP__LISTENER__REQUIRE_TLS="true",
        SMTP_BRIDGE_USER__NAME=USER,
        SMTP_BRIDGE_USER__PASSWORD_HASH=PasswordHasher(1, 1024, 1).hash(PASSWORD),
    )
    return int(process.port)


def message() -> EmailMessage:
    mail = EmailMessage()
    mail["From"] = "Drücker <printer@example.com>"
    mail["To"] = "Bob <bob@example.org>"
    mail["Subject"] = "Größe: 5 €"
    mail.set_content("Grüße\n")
    mail.add_attachment(b"%PDF-1.4 bytes", "application", "pdf", filename="Übersicht.pdf")
    return mail


def context() -> ssl.SSLContext:
    unverified = ssl.create_default_context()
    unverified.check_hostname = False
    unverified.verify_mode = ssl.CERT_NONE
    return unverified


def check(sandbox: Sandbox, subject: str = "Größe: 5 €") -> None:
    (received,) = sandbox.messages
    assert received.recipients == ("bob@example.org",)
    assert received.subject == subject
    assert received.payload["body"].startswith("Grüße")


async def run(*command: str, stdin: bytes = b"", env: dict[str, str] | None = None) -> str:
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, **(env or {})},
    )
    output, _ = await asyncio.wait_for(process.communicate(stdin), 30)
    assert process.returncode == 0, output.decode("utf-8", "replace")
    return output.decode("utf-8", "replace")


def needs(program: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(
        not shutil.which(program), reason=f"the program {program} is not installed on this machine"
    )


async def test_smtplib(port: int, sandbox: Sandbox) -> None:
    def send() -> None:
        with smtplib.SMTP("127.0.0.1", port, timeout=10) as client:
            client.starttls(context=context())
            # smtplib knows only ASCII passwords for itself
            import base64

            client.ehlo()
            secret = base64.b64encode(f"\0{USER}\0{PASSWORD}".encode()).decode()
            assert client.docmd("AUTH", f"PLAIN {secret}")[0] == 235
            client.send_message(message())

    await asyncio.to_thread(send)

    check(sandbox)
    assert sandbox.messages[0].payload["attachments"][0]["filename"] == "Übersicht.pdf"


async def test_aiosmtplib(port: int, sandbox: Sandbox) -> None:
    await aiosmtplib.send(
        message(),
        hostname="127.0.0.1",
        port=port,
        start_tls=True,
        tls_context=context(),
        username=USER,
        password=PASSWORD,
    )

    check(sandbox)


@needs("curl")
async def test_curl(port: int, sandbox: Sandbox, tmp_path: Path) -> None:
    (tmp_path / "mail").write_bytes(message().as_bytes())

    await run(
        *("curl", "--silent", "--show-error", "--insecure", "--ssl-reqd", f"smtp://127.0.0.1:{port}"),
        *("--user", f"{USER}:{PASSWORD}", "--mail-from", "printer@example.com"),
        *("--mail-rcpt", "bob@example.org", "--upload-file", str(tmp_path / "mail")),
    )

    check(sandbox)


@needs("swaks")
@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
async def test_swaks(port: int, sandbox: Sandbox, tmp_path: Path, mechanism: str) -> None:
    (tmp_path / "mail").write_bytes(message().as_bytes())

    await run(
        *("swaks", "--server", "127.0.0.1", "--port", str(port), "--tls", "--auth", mechanism),
        *("--auth-user", USER, "--auth-password", PASSWORD, "--from", "printer@example.com"),
        *("--to", "bob@example.org", "--data", str(tmp_path / "mail")),
    )

    check(sandbox)


@needs("msmtp")
async def test_msmtp(port: int, sandbox: Sandbox) -> None:
    await run(
        *("msmtp", "--file=/dev/null", "--host=127.0.0.1", f"--port={port}", "--tls=on", "--tls-starttls=on"),
        *("--tls-certcheck=off", "--auth=plain", f"--user={USER}", "--passwordeval=printenv BRIDGE_PASSWORD"),
        *("--from=printer@example.com", "bob@example.org"),
        stdin=message().as_bytes(),
        env={"BRIDGE_PASSWORD": PASSWORD},
    )

    check(sandbox)


@pytest.mark.skipif(
    not (shutil.which("node") and (NODE_MODULES / "nodemailer").exists()),
    reason="nodemailer is not installed on this machine (needs node and npm)",
)
async def test_nodemailer(port: int, sandbox: Sandbox) -> None:
    script = """
    const transport = require("nodemailer").createTransport({
      host: "127.0.0.1", port: +process.env.PORT, requireTLS: true, tls: {rejectUnauthorized: false},
      auth: {user: process.env.SMTP_USER, pass: process.env.SMTP_PASSWORD}});
    transport.sendMail({from: "printer@example.com", to: "bob@example.org", subject: "Größe: 5 €", text: "Grüße",
      attachments: [{filename: "Übersicht.pdf", content: "bytes"}]}).then(
        info => { if (!info.response.startsWith("250")) process.exit(1) });
    """
    await run(
        "node",
        "-e",
        script,
        env={"PORT": str(port), "SMTP_USER": USER, "SMTP_PASSWORD": PASSWORD, "NODE_PATH": str(NODE_MODULES)},
    )

    check(sandbox)
    assert sandbox.messages[0].payload["attachments"][0]["filename"] == "Übersicht.pdf"
