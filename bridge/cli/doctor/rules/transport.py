"""What comes before the first command: which protocol, which TLS, from where."""

from __future__ import annotations

from collections.abc import Iterator

from bridge.cli.doctor.dialogue import Command, Dialogue, Handshake, Proxied, Setup
from bridge.cli.doctor.findings import Finding, Setting, listener
from bridge.smtp import replies

HTTP = ("GET", "POST", "PUT", "HEAD", "DELETE", "OPTIONS", "CONNECT", "PATCH", "TRACE")
OLD = ("SSL 2", "SSL 3", "1.0", "1.1", "1.2", "1.3")
_UNTRUSTED = frozenset(
    {"UNKNOWN_CA", "BAD_CERTIFICATE", "CERTIFICATE_UNKNOWN", "CERTIFICATE_EXPIRED", "UNSUPPORTED_CERTIFICATE"}
    | {"ACCESS_DENIED", "CERTIFICATE_REVOKED", "DECRYPT_ERROR"}
)


def http(dialogue: Dialogue, setup: Setup) -> Iterator[Finding]:
    if dialogue.commands(*HTTP):
        yield Finding(
            rule="http",
            weight="change",
            says="The device speaks HTTP, as a browser does: this is not a mail client, or the port stands in the wrong field.",
            reply=replies.NOT_HTTP,
            do=("Enter this address and port as the SMTP (outgoing mail) server of the device, not as a web address.",),
        )


def proxy(dialogue: Dialogue, setup: Setup) -> Iterator[Finding]:
    proxied = dialogue.first(Proxied) or (Proxied() if dialogue.commands("PROXY") else None)
    if proxied and not setup.proxy_protocol:
        source = f" (it names {proxied.source} as the client)" if proxied.source else ""
        yield Finding(
            rule="proxy-header",
            weight="change",
            says=f"A PROXY header comes first{source}: something between the device and the bridge, a load balancer, adds it.",
            reply=replies.UNKNOWN_COMMAND,
            do=("Give the load balancer a listener of its own: nobody else can connect to it then.",),
            settings=(listener("proxy_protocol", True), listener("proxy_networks", (proxied.by,))),
        )
    elif setup.proxy_protocol and not proxied:
        yield Finding(
            rule="no-proxy-header",
            weight="change",
            says="The listener expects a PROXY header first (`proxy_protocol = true`), and the device sends none.",
            do=("Let the device connect through the load balancer, or give it a listener of its own.",),
            settings=(listener("proxy_protocol", False),),
        )


def implicit(dialogue: Dialogue, setup: Setup) -> Iterator[Finding]:
    begun = dialogue.first(Handshake)
    wanted = bool(begun and (begun.implicit or begun.late))
    if wanted and setup.policy.tls != "implicit":
        yield Finding(
            rule="tls-at-once",
            weight="change",
            says="The device begins with TLS at once (called SSL, SSL/TLS, SMTPS or port 465 in its menus), and the listener"
            " begins in plain text.",
            reply=replies.GARBLED,
            do=(
                "On the device: choose STARTTLS (sometimes just TLS) instead of SSL.",
                'Or give it a listener of its own: `tls = "implicit"` shuts out whoever begins in plain text.',
            )
            if setup.policy.tls == "starttls"
            else ('Give it a listener of its own: `tls = "implicit"` shuts out whoever begins in plain text.',),
            settings=(listener("tls", "implicit"),),
        )
    elif setup.policy.tls == "implicit" and not wanted and dialogue.first(Command):
        yield Finding(
            rule="plain-on-implicit",
            weight="change",
            says="The device begins in plain text and waits for a greeting; the listener waits for TLS"
            ' (`tls = "implicit"`): neither would say a word.',
            do=("On the device: choose SSL (SSL/TLS, SMTPS) instead of STARTTLS or none.",),
            settings=(listener("tls", "starttls", "in plain text, with STARTTLS for who wants it"),),
        )


def starttls_where_none(dialogue: Dialogue, setup: Setup) -> Iterator[Finding]:
    if setup.policy.tls == "none" and dialogue.commands("STARTTLS"):
        yield Finding(
            rule="starttls",
            weight="change",
            says="The device asks for STARTTLS, and the listener has no TLS.",
            reply=replies.NOT_IMPLEMENTED,
            do=("Or on the device: choose no encryption.",),
            settings=(listener("tls", "starttls"),),
        )


def old_tls(dialogue: Dialogue, setup: Setup) -> Iterator[Finding]:
    for shake in dialogue.all(Handshake):
        offered = shake.hello.version if shake.hello else shake.version
        if not offered or OLD.index(offered) >= OLD.index(setup.tls_minimum):
            continue
        if offered.startswith("SSL"):
            yield Finding(
                rule="tls-version",
                weight="change",
                says=f"The device offers {offered} and nothing newer. No setting lets that through: it is broken.",
                do=("On the device: turn encryption off (or update it), and let it in by its address.",),
            )
        else:
            yield Finding(
                rule="tls-version",
                weight="change",
                says=f"The device offers TLS {offered} and nothing newer; the listener wants {setup.tls_minimum} or newer.",
                do=(
                    "Or update the device. Old TLS is better than none, but not much: keep it within your own network.",
                ),
                settings=(
                    listener("tls_minimum", offered, "lets old ciphers in too; better on a listener of its own"),
                ),
            )
        return


def ciphers(dialogue: Dialogue, setup: Setup) -> Iterator[Finding]:
    """The version would do, but no suite is known to both: old devices have no ECDHE, or cannot use an ECDSA certificate."""
    for shake in dialogue.all(Handshake):
        hello = shake.hello
        if not hello or not hello.ciphers or not setup.ciphers or hello.version == "1.3":
            continue
        if OLD.index(hello.version) < OLD.index("1.0") or _common(
            hello.ciphers, _list(setup, hello.version), setup.key
        ):
            continue
        yield _no_cipher(hello.ciphers, setup, old=OLD.index(hello.version) < OLD.index(setup.tls_minimum))
        return


def _list(setup: Setup, version: str) -> dict[int, str]:
    """What it would be when the version is let in."""
    return dict(setup.old_ciphers if OLD.index(version) < OLD.index(setup.tls_minimum) else setup.ciphers)


def _common(offered: frozenset[int], known: dict[int, str], key: str) -> bool:
    return any(number in offered and owner in ("any", key) for number, owner in known.items())


def _no_cipher(offered: frozenset[int], setup: Setup, *, old: bool) -> Finding:
    known = dict(setup.old_ciphers if old else setup.ciphers)
    certificate = Setting(table="tls", key="cert_file", value="secrets/rsa.pem", remark="with its key, RSA")
    making = (
        "openssl req -x509 -newkey rsa:2048 -nodes -days 3650 -subj /CN=mail -keyout rsa.key -out rsa.crt"
        " && cat rsa.crt rsa.key > rsa.pem"
    )
    oldest = listener("tls_minimum", "1.0", "lets old ciphers in, which this device has only")
    if _common(offered, known, "rsa"):
        settings: tuple[Setting, ...] = (certificate,)
    elif _common(offered, dict(setup.old_ciphers), setup.key):
        settings, making = (oldest,), ""
    elif _common(offered, dict(setup.old_ciphers), "rsa"):
        settings = (oldest, certificate)
    else:
        settings, making = (), "On the device: turn encryption off (or update it): its ciphers are broken ones."
    what = "cannot use the listener's certificate (ECDSA)" if certificate in settings else "knows only old TLS ciphers"
    do = (f"A certificate with an RSA key: {making}" if certificate in settings else making,) if making else ()
    return Finding(rule="tls-ciphers", weight="change", says=f"The device {what}.", do=do, settings=settings)


def failed_tls(dialogue: Dialogue, setup: Setup) -> Iterator[Finding]:
    explained = any(old_tls(dialogue, setup)) or any(ciphers(dialogue, setup))
    for shake in dialogue.all(Handshake):
        if shake.refused in _UNTRUSTED:
            own = (
                "the certificate is one the bridge made for itself"
                if setup.self_signed
                else "its chain may be incomplete"
            )
            yield Finding(
                rule="certificate",
                weight="change",
                says=f"The device does not trust the certificate (its alert: {_words(shake.refused)}); {own}.",
                do=(
                    "On the device: turn the check of the server's certificate off, or import the bridge's certificate.",
                    "Or give the bridge a certificate that the device trusts, with the name that is entered into the device.",
                ),
                settings=(
                    Setting(table="tls", key="cert_file", value="secrets/fullchain.pem"),
                    Setting(table="tls", key="key_file", value="secrets/privkey.pem"),
                ),
            )
        elif not shake.version and not shake.late and not explained:
            alert = shake.refused or shake.alert
            why = f" ({'its' if shake.refused else 'our'} alert: {_words(alert)})" if alert else ""
            yield Finding(
                rule="tls-failed",
                weight="change" if alert else "guess",
                says=f"The TLS handshake came to no end{why}: the device left, or waited for something else.",
                do=("On the device: try without encryption; or turn the check of the certificate off.",),
            )


def tls_required(dialogue: Dialogue, setup: Setup) -> Iterator[Finding]:
    if dialogue.refused(replies.NEED_TLS):
        yield Finding(
            rule="tls-required",
            weight="change",
            says="The device sends without encryption, and the listener wants TLS first (`require_tls = true`).",
            reply=replies.NEED_TLS,
            do=("On the device: turn STARTTLS (TLS) on.",),
            settings=(listener("require_tls", False, "only where nobody else can listen in"),),
        )


def protocol(dialogue: Dialogue, setup: Setup) -> Iterator[Finding]:
    speaks = (
        "lmtp" if dialogue.commands("LHLO") else "smtp" if dialogue.commands("EHLO", "HELO") else setup.policy.protocol
    )
    if speaks != setup.policy.protocol:
        yield Finding(
            rule="protocol",
            weight="change",
            says=f"The device speaks {speaks.upper()}, and the listener {setup.policy.protocol.upper()}.",
            reply=replies.UNKNOWN_COMMAND,
            settings=(listener("protocol", speaks),),
        )


def address(dialogue: Dialogue, setup: Setup) -> Iterator[Finding]:
    host = setup.address.rpartition(":")[0].strip("[]")
    outside = (
        not dialogue.first(Proxied)
        and not dialogue.client.startswith("127.")
        and dialogue.client not in ("::1", "unix")
    )
    if outside and (host.startswith("127.") or host in ("::1", "localhost")):
        port = setup.address.rpartition(":")[2]
        yield Finding(
            rule="address",
            weight="change",
            says=f"The device is another machine ({dialogue.client}); the listener is on {setup.address}, which only programs"
            " on this machine reach.",
            settings=(listener("address", f"0.0.0.0:{port}"),),
        )


def _words(alert: str) -> str:
    return alert.lower().replace("_", " ")


TRANSPORT = (
    http,
    proxy,
    address,
    implicit,
    starttls_where_none,
    old_tls,
    ciphers,
    failed_tls,
    tls_required,
    protocol,
)
