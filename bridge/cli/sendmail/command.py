"""From the arguments to the exit status."""

from __future__ import annotations

import contextlib
import os
import pwd
import socket
import sys
import threading
from collections.abc import Iterable, Sequence
from itertools import chain

from bridge.cli.exits import EX_BAD_USAGE, EX_IOERR, EX_TEMPFAIL, EX_UNAVAILABLE
from bridge.cli.sendmail.client import BLOCK, Client, Reply, connect, stuffed
from bridge.cli.sendmail.failure import Failure, status_of
from bridge.cli.sendmail.message import Message, read_message
from bridge.cli.sendmail.options import Options, parse_options
from bridge.cli.sendmail.places import hostname, places
from bridge.cli.sendmail.recipients import addresses, qualified

_TOO_MANY = "4.5.3"  # RFC 5321 4.5.3.1.10: the rest goes in another transaction


def run_sendmail(arguments: Sequence[str], name: str = "sendmail") -> int:
    """The exit status, of sysexits.h."""
    try:
        options = parse_options(arguments, name)
        if options.mode == "nothing":
            return 0
        if options.mode == "queue":
            return _list_queue(options)
        where = places(options.address, options.config, os.environ)
        return _speak(where) if options.mode == "smtp" else _submit(options, where)
    except Failure as failure:
        print(f"sendmail: {failure}", file=sys.stderr)
        return failure.status
    except OSError as error:
        print(f"sendmail: {error.strerror or error}", file=sys.stderr)
        return EX_IOERR


def _list_queue(options: Options) -> int:
    from bridge.cli.app import app

    app(["queue", "list", *(["--config", options.config] if options.config else [])], prog_name="smtp-bridge")
    return 0


# --- a message on standard input


def _submit(options: Options, where: Sequence[str]) -> int:
    if not options.recipients and not options.from_header:
        raise Failure(EX_BAD_USAGE, "no recipients: name them, or take those of the message with -t")
    host = hostname()
    message = read_message(sys.stdin.buffer, ignore_dots=options.ignore_dots)
    recipients = _recipients(options, message, host)
    author, full_name = _user()
    own = f"{author}@{host}"
    sender = own if options.sender is None else qualified(options.sender, host) if options.sender else ""
    message.complete(sender or own, options.full_name or os.environ.get("NAME", "") or full_name, host)
    # What is typed at a terminal has been read by now, and says what is wrong beside it.
    client = Client(connect(where), _tell if options.verbose else _say_nothing)
    try:
        client.greet(host)
        _send(client, options, message, sender, recipients)
    finally:
        client.close()
    return 0


def _recipients(options: Options, message: Message, host: str) -> list[str]:
    values = list(options.recipients)
    if options.from_header:
        values += message.recipient_values()
        message.without_bcc()
    found = list(dict.fromkeys(chain.from_iterable(addresses(value, host) for value in values)))
    if not found:
        raise Failure(EX_BAD_USAGE, "no recipient addresses found in the message")
    return found


def _user() -> tuple[str, str]:
    """(name, full name) of who runs this."""
    try:
        entry = pwd.getpwuid(os.getuid())
    except KeyError:  # a container that runs as any number
        return os.environ.get("LOGNAME") or f"uid{os.getuid()}", ""
    # passwd(5), and finger's use of it: up to the comma, & is the login name.
    return entry.pw_name, entry.pw_gecos.partition(",")[0].replace("&", entry.pw_name.capitalize())


def _send(client: Client, options: Options, message: Message, sender: str, recipients: Sequence[str]) -> None:
    """In one transaction, or in several where the daemon takes fewer recipients in one. Nobody is mailed when one of them is
    refused. Raises Failure."""
    rest = list(recipients)
    while rest:
        try:
            _accepted(client.command(_mail_from(client, options, message, sender, rest)))
            taken = _rcpt_to(client, options, rest)
            message.body.seek(0)
            _accepted(client.data(chain([b"".join(message.fields) + b"\r\n"], stuffed(message.body))))  # type: ignore[arg-type]
        except Failure as failure:
            if len(rest) == len(recipients):
                raise
            # Whoever tried all of it again would mail those twice who were taken.
            text = (
                f"{failure}; sent to {len(recipients) - len(rest)} of {len(recipients)}, and not to {rest[0]} and after"
            )
            raise Failure(EX_UNAVAILABLE, text) from failure
        rest = rest[taken:]


def _mail_from(client: Client, options: Options, message: Message, sender: str, recipients: Iterable[str]) -> str:
    words = [f"MAIL FROM:<{sender}>"]
    if "8BITMIME" in client.extensions and (message.eight_bit or options.eight_bit):
        words.append("BODY=8BITMIME")
    if "SMTPUTF8" in client.extensions and not "".join([sender, *recipients]).isascii():
        words.append("SMTPUTF8")
    if "DSN" in client.extensions:
        words += [f"RET={options.ret}"] if options.ret else []
        words += [f"ENVID={_xtext(options.envid)}"] if options.envid else []
    return " ".join(words)


def _xtext(text: str) -> str:
    """RFC 3461 4."""
    return "".join(f"+{ord(each):02X}" if each in "+= " else each for each in text)


def _rcpt_to(client: Client, options: Options, recipients: Sequence[str]) -> int:
    """How many were taken: all of them, or as many as the daemon takes at once."""
    notify = f" NOTIFY={options.notify}" if options.notify and "DSN" in client.extensions else ""
    refused: list[tuple[str, Reply]] = []
    for number, recipient in enumerate(recipients):
        reply = client.command(f"RCPT TO:<{recipient}>{notify}")
        if reply.enhanced == _TOO_MANY and number and not refused:
            return number
        if reply.code // 100 != 2:
            refused.append((recipient, reply))
            if reply.code == 421:
                break
    if refused:
        # One that is only for now says that it is worth trying again; the others will be heard of then.
        _, worst = min(refused, key=lambda each: each[1].code)
        text = "; ".join(f"{recipient}: {reply}" for recipient, reply in refused[:10])
        raise Failure(status_of(worst.code, worst.enhanced), f"{text}; nothing was sent")
    return len(recipients)


def _accepted(reply: Reply) -> None:
    if reply.code // 100 != 2:
        raise Failure(status_of(reply.code, reply.enhanced), str(reply))


def _tell(who: str, line: str) -> None:
    with contextlib.suppress(OSError):  # whoever looked has gone; the mail goes on
        sys.stdout.buffer.write(f"{who} {line}\n".encode("utf-8", "backslashreplace"))
        sys.stdout.buffer.flush()


def _say_nothing(who: str, line: str) -> None:
    pass


# --- -bs


def _speak(where: Sequence[str]) -> int:
    """SMTP on standard input and output, word for word, until the daemon hangs up."""
    with connect(where) as sock:
        threading.Thread(target=_forward, args=(sock,), daemon=True).start()
        out = sys.stdout.buffer
        said_goodbye = False
        try:
            while octets := sock.recv(BLOCK):
                out.write(octets)
                out.flush()
                last = octets.rstrip(b"\r\n").rpartition(b"\n")[2]
                said_goodbye = last.startswith(b"221")
        except BrokenPipeError:
            return EX_IOERR
        except OSError as error:
            raise Failure(EX_TEMPFAIL, f"the connection to the daemon was lost: {error.strerror or error}") from None
        finally:
            out.close()
    return 0 if said_goodbye or _ended.is_set() else EX_TEMPFAIL


_ended = threading.Event()


def _forward(sock: socket.socket) -> None:
    try:
        while octets := os.read(0, BLOCK):
            sock.sendall(octets)
        _ended.set()
        sock.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # the daemon has gone: the other direction says so
