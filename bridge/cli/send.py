"""`smtp-bridge send`: a test message by SMTP, and what became of it."""

from __future__ import annotations

import mimetypes
import re
import smtplib
import socket
import ssl
import time
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import formatdate, make_msgid
from io import StringIO
from pathlib import Path
from typing import Any, Literal, NoReturn

from bridge.cli.common import fail, print_json, warn
from bridge.cli.exits import EX_BAD_USAGE, EX_DATAERR, EX_NOPERM, EX_TEMPFAIL, EX_USAGE
from bridge.cli.sendmail.client import connect_to
from bridge.cli.sendmail.failure import Failure, status_of
from bridge.cli.sendmail.places import places

TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """What to send. `headers`: "Name: value" each. `attach`: files."""

    sender: str
    to: Sequence[str]
    subject: str
    text: str
    html: str = ""
    headers: Sequence[str] = ()
    attach: Sequence[Path] = ()

    def message(self) -> EmailMessage:
        """Raises ValueError for a field that cannot be, OSError for a file that cannot be read."""
        message = EmailMessage(policy=SMTP)
        message["From"], message["To"], message["Subject"] = self.sender, ", ".join(self.to), self.subject
        message["Date"], message["Message-ID"] = formatdate(localtime=True), make_msgid(domain=_domain(self.sender))
        for line in self.headers:
            name, found, value = line.partition(":")
            if not found or not re.fullmatch(r"[!-9;-~]+", name):
                raise ValueError(f'--header wants "Name: value", not {line!r}')
            del message[name]
            message[name] = value.strip()
        message.set_content(self.text)
        if self.html:
            message.add_alternative(self.html, subtype="html")
        for path in self.attach:
            kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
            maintype, _, subtype = kind.partition("/")
            message.add_attachment(path.read_bytes(), maintype=maintype, subtype=subtype, filename=path.name)
        return message


def _domain(address: str) -> str:
    return address.rpartition("@")[2].strip("<> ") or "localhost"


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """`address` "": where the settings say that this user may. `tls`: none, starttls, implicit; not checked against any
    authority, since the daemon's own certificate is self-signed."""

    address: str = ""
    config: str = ""
    user: str = ""
    password: str = ""
    tls: Literal["none", "starttls", "implicit"] = "none"


class _Dialogue(smtplib.SMTP):
    """Shows what is said when `loud`; of a message its size, of a login nothing. The last reply is kept."""

    def __init__(self, place: str, *, loud: bool, implicit: bool) -> None:
        self._loud = loud
        self._place = place
        self._implicit = implicit
        self._secret = False
        super().__init__(timeout=TIMEOUT_S)
        self._host = place.rpartition(":")[0]
        code, text = self.connect(self._host or "localhost", 1)
        if code != 220:
            raise smtplib.SMTPConnectError(code, text)

    def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
        sock = connect_to(self._place)
        sock.settimeout(timeout)
        return _context().wrap_socket(sock) if self._implicit else sock

    def putcmd(self, cmd: str, args: str = "") -> None:
        shown = f"{cmd} {args}".strip()
        self._secret = self._secret or cmd.upper().startswith("AUTH")
        self._show(">>>", re.sub(r"(?i)^(AUTH \S+).*|^.*$", r"\1 ********", shown) if self._secret else shown)
        super().putcmd(cmd, args)

    def getreply(self) -> tuple[int, bytes]:
        code, text = super().getreply()
        self._secret = self._secret and code == 334
        for line in text.decode("utf-8", "replace").split("\n"):
            self._show("<<<", f"{code} {line}")
        return code, text

    def _show(self, who: str, line: str) -> None:
        if self._loud:
            print(who, line, flush=True)


def _context() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def send(draft: Draft, server: Server, *, verbose: bool) -> str:
    """The reply after the message, "250 2.0.0 Ok: ...". Ends the command when it was refused."""
    try:
        message = draft.message()
    except ValueError as error:
        fail(str(error), EX_USAGE)
    except OSError as error:
        fail(f"{error.filename}: {error.strerror}", EX_DATAERR)
    try:
        return _deliver(message, draft, server, verbose=verbose)
    except smtplib.SMTPRecipientsRefused as error:
        _refused(next(iter(error.recipients.values())))
    except smtplib.SMTPResponseException as error:
        _refused((error.smtp_code, error.smtp_error))
    except smtplib.SMTPNotSupportedError as error:
        fail(str(error), EX_NOPERM)
    except Failure as failure:
        fail(str(failure), failure.status if failure.status != EX_BAD_USAGE else EX_USAGE)
    except (OSError, ValueError) as error:  # SMTPException too
        fail(f"the server cannot be reached: {getattr(error, 'strerror', '') or error}", EX_TEMPFAIL)


def _refused(reply: tuple[int, Any]) -> NoReturn:
    code, said = reply
    text = said.decode("utf-8", "replace").replace("\n", " ") if isinstance(said, bytes) else str(said)
    found = re.match(r"\d\.\d+\.\d+", text)
    fail(f"refused: {code} {text}", status_of(code, found[0] if found else ""))


def _deliver(message: EmailMessage, draft: Draft, server: Server, *, verbose: bool) -> str:
    environ = _environ()
    place = places(server.address, server.config or _file_here(environ), environ)[0]
    with _Dialogue(place, loud=verbose, implicit=server.tls == "implicit") as client:
        client.ehlo()
        if server.tls == "starttls":
            client.starttls(context=_context())
            client.ehlo()
        if server.user:
            client.login(server.user, server.password)
        options = ["BODY=8BITMIME"] if client.has_extn("8bitmime") else []
        for code, text in (
            client.mail(_bare(draft.sender), options),
            *(client.rcpt(_bare(recipient)) for recipient in draft.to),
        ):
            if code // 100 != 2:
                raise smtplib.SMTPResponseException(code, text)
        code, text = client.data(message.as_bytes())
    if code // 100 != 2:
        raise smtplib.SMTPDataError(code, text)
    return f"{code} {text.decode('utf-8', 'replace')}"


def _file_here(environ: Mapping[str, str]) -> str:
    """`./config.toml`, where every command but `sendmail` finds its settings."""
    here = Path("config.toml")
    return str(here) if "SMTP_BRIDGE_CONFIG" not in environ and here.is_file() else ""


def _environ() -> dict[str, str]:
    import os

    return dict(os.environ)


def _bare(address: str) -> str:
    found = re.search(r"<([^<>]*)>", address)
    return found[1] if found else address.strip()


def tell(reply: str, config: str, *, wait_s: float, as_json: bool) -> None:
    """The reply, and where the message stands in the queue after at most `wait_s` seconds."""
    queued = re.search(r"queued as (\S+)", reply)
    kept = re.search(r"sent, id (\S+)", reply)  # of a provider; of what was captured the queue id
    found = queued or kept
    if not as_json:
        print(reply, flush=True)
    row = _find(found[1], config, wait_s) if found else None
    queue_id = found[1] if found and (queued or row) else ""
    recipients = [
        {key: one[key] for key in ("address", "status", "provider")} for one in (row or {}).get("recipients", ())
    ]
    if as_json:
        print_json({"reply": reply, "queue_id": queue_id, "recipients": recipients})
        return
    for one in recipients:
        print(f"{one['address']}: {one['status']}{' by ' + one['provider'] if one['provider'] else ''}", flush=True)
    if queue_id:
        warn(f"more of it: smtp-bridge queue show {queue_id}")


def _find(queue_id: str, config: str, wait_s: float) -> Any:
    """None where the queue is not this one's, or is not for this user."""
    import typer

    from bridge.cli.spool import with_spool

    deadline = time.monotonic() + wait_s
    while True:
        try:
            with redirect_stderr(StringIO()):  # why its queue cannot be read is of no interest
                row = with_spool(config, lambda spool: spool.show(queue_id))
        except typer.Exit:
            return None
        waiting = row and any(one["status"] in ("queued", "deferred") for one in row["recipients"])
        if not waiting or time.monotonic() >= deadline:
            return row
        time.sleep(min(0.2, wait_s))
