"""Who the device says it is, and whether it may send."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

from bridge.cli.doctor.dialogue import Command, Delivered, Dialogue, Login, Setup
from bridge.cli.doctor.findings import Finding, Setting, listener
from bridge.delivery.preparation import SENDER_NOT_ALLOWED as FROM_NOT_ALLOWED
from bridge.reply import Reply
from bridge.smtp import replies
from bridge.smtp.policy import address_of, is_allowed

KNOWN = ("PLAIN", "LOGIN", "CRAM-MD5")  # what the product speaks at all
_HASH = "made by: smtp-bridge hash-password"
_NEW_USER = "printer"
_BROKEN = (replies.BAD_BASE64, replies.BAD_CREDENTIALS_SYNTAX, replies.AUTH_CANCELLED, replies.AUTH_LINE_TOO_LONG)


def user(name: str) -> tuple[Setting, ...]:
    return (
        Setting(table="user", key="name", value=name),
        Setting(table="user", key="password_hash", value="$argon2id$...", remark=_HASH),
    )


def without_tls(dialogue: Dialogue, setup: Setup) -> Iterator[Finding]:
    if setup.policy.auth_without_tls or not any(not login.tls for login in dialogue.all(Login)):
        return
    can = setup.policy.tls != "none"
    yield Finding(
        rule="auth-without-tls",
        weight="change",
        says="The device logs in without TLS: its password goes over the network for anybody to read.",
        reply=replies.AUTH_NEEDS_TLS,
        do=("On the device: turn STARTTLS (TLS) on; then nothing has to change here.",) if can else (),
        settings=(listener("auth_without_tls", True, "only within your own network"),),
    )


def mechanism(dialogue: Dialogue, setup: Setup) -> Iterator[Finding]:
    logins = dialogue.all(Login)
    for name, login in {login.mechanism: login for login in reversed(logins)}.items():
        if name in setup.policy.auth_mechanisms:
            continue
        if name in KNOWN:
            yield _not_listed(login, setup)
        else:
            later = any(other.mechanism in setup.policy.auth_mechanisms for other in logins)
            yield Finding(
                rule="mechanism",
                weight="note" if later else "change",
                says=f"The device logs in by {name[:40]}, which the bridge does not know{', then in another' if later else ''}.",
                reply=replies.UNKNOWN_MECHANISM,
                do=("On the device: choose PLAIN or LOGIN (basic, normal password), or no login at all.",),
            )


def _not_listed(login: Login, setup: Setup) -> Finding:
    name = login.mechanism
    with_password = (
        Setting(table="user", key="name", value=login.name or _NEW_USER),
        Setting(
            table="user",
            key="password",
            value="...",
            remark="the plain one, instead of password_hash: CRAM-MD5 needs it",
        ),
    )
    return Finding(
        rule="mechanism",
        weight="change",
        says=f"The device logs in by {name}, which the listener does not offer.",
        reply=replies.UNKNOWN_MECHANISM,
        do=("Or on the device: choose PLAIN or LOGIN, with TLS.",) if name == "CRAM-MD5" else (),
        settings=(
            listener("auth_mechanisms", (*setup.policy.auth_mechanisms, name)),
            *(with_password if name == "CRAM-MD5" else ()),
        ),
    )


def credentials(dialogue: Dialogue, setup: Setup) -> Iterator[Finding]:
    logins = dialogue.all(Login)
    if any(login.right for login in logins):
        return
    for login in {login.name: login for login in logins if login.name}.values():
        if not setup.users:
            yield _no_users(login, setup)
        elif not login.known:
            yield Finding(
                rule="unknown-user",
                weight="change",
                says=f"The device logs in as {login.name!r}; the settings know no such user (names are case-sensitive).",
                reply=replies.BAD_CREDENTIALS,
                do=(f"On the device: enter a user name that there is: {', '.join(map(repr, setup.users[:5]))}.",),
                settings=user(login.name),
            )
        elif login.mechanism == "CRAM-MD5" and login.hashed:
            yield Finding(
                rule="cram-md5-hash",
                weight="change",
                says=f"The device logs in as {login.name!r} by CRAM-MD5, which cannot be checked against a `password_hash`.",
                reply=replies.BAD_CREDENTIALS,
                settings=(
                    Setting(table="user", key="name", value=login.name),
                    Setting(
                        table="user", key="password", value="...", remark="the plain one, instead of password_hash"
                    ),
                ),
            )
        else:
            yield Finding(
                rule="wrong-password",
                weight="change",
                says=f"The device logs in as {login.name!r} with a wrong password.",
                reply=replies.BAD_CREDENTIALS,
                do=(
                    "On the device: enter the password again; some cut long ones off, or cannot send other characters than"
                    " letters and digits.",
                    f"Or give {login.name!r} a new one: smtp-bridge hash-password, into password_hash.",
                ),
            )


def _no_users(login: Login, setup: Setup) -> Finding:
    return Finding(
        rule="no-users",
        weight="change",
        says=f"The device logs in as {login.name!r}; the settings have no [[user]], so nobody can.",
        reply=replies.NOT_IMPLEMENTED,
        do=("Or on the device: turn the login (SMTP authentication) off.",),
        settings=user(login.name),
    )


def broken_login(dialogue: Dialogue, setup: Setup) -> Iterator[Finding]:
    for reply in _BROKEN:
        if dialogue.refused(reply, to=("AUTH",)):
            yield Finding(
                rule="broken-login",
                weight="change",
                says="The device's part of the login is not what the mechanism asks for (base64, or its form), or it gave up.",
                reply=reply,
                do=(
                    "On the device: choose another login method (PLAIN, LOGIN), or no login; enter name and password again.",
                ),
            )
            return


def order(dialogue: Dialogue, setup: Setup) -> Iterator[Finding]:
    if dialogue.refused(replies.NEED_HELO, to=("AUTH",)):
        yield Finding(
            rule="auth-after-helo",
            weight="change",
            says="The device logs in without EHLO before it (RFC 4954 4).",
            reply=replies.NEED_HELO,
            do=("On the device: turn the login off, and let it in by its address (`allowed_networks`).",),
        )


def initial(dialogue: Dialogue, setup: Setup) -> Iterator[Finding]:
    if any(login.mechanism == "LOGIN" and login.initial for login in dialogue.all(Login)):
        yield Finding(
            rule="login-initial",
            weight="note",
            says="AUTH LOGIN comes with the name on the same line. That is fine here.",
        )


def relay(dialogue: Dialogue, setup: Setup) -> Iterator[Finding]:
    reply = next((r for r in (replies.NEED_AUTH, replies.RELAY_DENIED) if dialogue.refused(r, to=("MAIL",))), None)
    if reply is None:
        return
    client, policy = dialogue.client, setup.policy
    inside = is_allowed(client, policy.allowed_networks)
    settings = () if inside else (listener("allowed_networks", (*map(str, policy.allowed_networks), host(client))),)
    if policy.require_auth:
        says = f"The device does not log in, and everybody must here (`require_auth = true`); it comes from {client}."
        settings = (listener("require_auth", False, "then allowed_networks may send without a login"), *settings)
    else:
        says = f"The device does not log in, and its address {client} is in none of `allowed_networks`."
    yield Finding(
        rule="no-login",
        weight="change",
        says=says,
        reply=reply,
        do=(
            *_changing(client),
            "Or on the device: turn the login on, with"
            + (
                f" a user that there is ({', '.join(map(repr, setup.users[:5]))})."
                if setup.users
                else " a [[user]] of its own."
            ),
        ),
        settings=settings,
    )


def _changing(client: str) -> tuple[str, ...]:
    """A device whose address comes by DHCP."""
    if ":" in client or client.startswith("127.") or not client[:1].isdigit():
        return ()
    network = ipaddress.ip_network(f"{client}/24", strict=False)
    return (f"If the address of the device changes, name its network instead, as in {network}.",)


def host(client: str) -> str:
    """The network of one address."""
    address = address_of(client)
    return f"{address}/{address.max_prefixlen}" if address else client


def sender(dialogue: Dialogue, setup: Setup) -> Iterator[Finding]:
    """Of MAIL, and the From in the message, which is held against the same patterns."""
    refused = dialogue.refused(replies.SENDER_NOT_ALLOWED, to=("MAIL",))
    login = next((login for login in dialogue.all(Login) if login.right), None)
    if login is None:
        return
    if refused:
        yield _not_allowed(login.name, "send as", bracketed(refused), replies.SENDER_NOT_ALLOWED)
    for delivered in dialogue.all(Delivered):
        if delivered.refusal == FROM_NOT_ALLOWED and delivered.sender:
            yield _not_allowed(login.name, "write From", delivered.sender, FROM_NOT_ALLOWED)
            return


def _not_allowed(name: str, what: str, address: str, reply: Reply) -> Finding:
    return Finding(
        rule="sender",
        weight="change",
        says=f"{name!r} may not {what} {address} (`senders` of the user).",
        reply=reply,
        do=("Or on the device: enter a sender (From, reply) address that the user may send as.",),
        settings=(
            Setting(table="user", key="name", value=name),
            Setting(table="user", key="senders", value=(address,), remark="beside what stands there"),
        ),
    )


def bracketed(command: Command) -> str:
    """The address in the argument of MAIL or RCPT, as far as there is one."""
    inner = command.argument.partition(":")[2].strip()
    return (inner.partition("<")[2].partition(">")[0] if "<" in inner else inner.partition(" ")[0]).strip()


LOGIN = (without_tls, mechanism, credentials, broken_login, order, initial, relay, sender)
