"""`smtp-bridge doctor` without a device: a real daemon and sandbox, and a name server on loopback."""

from __future__ import annotations

import datetime
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import orjson
import pytest

from bridge.cli.doctor.check import Check
from bridge.cli.doctor.checkup import sending_domains
from bridge.cli.doctor.health import clock_checks
from bridge.cli.doctor.records import check_domain
from bridge.config.load import load_settings
from tests.cli.conftest import CAPTURE, KEY, bridge, invoke, sandbox

Zone = Mapping[tuple[str, str], Sequence[str]]
GOOD: Zone = {
    ("example.com", "MX"): ["10 mx.example.com."],
    ("example.com", "TXT"): ['"other=1"', '"v=spf1 include:mail" "gun.org -all"'],
    ("mailgun.org", "TXT"): ['"v=spf1 ip4:192.0.2.0/24 ~all"'],
    ("k1._domainkey.example.com", "TXT"): ['"k=rsa; p=MIGf"'],
    ("_dmarc.example.com", "TXT"): ['"v=DMARC1; p=reject"'],
}


@contextmanager
def name_server(zone: Zone) -> Iterator[str]:
    """Answers from `zone` over UDP; a name that is nowhere in it does not exist."""
    pytest.importorskip("dns", reason="dnspython is not installed")
    import dns.message
    import dns.rcode
    import dns.rdatatype
    import dns.rrset

    names = {name for name, _ in zone}

    def serve(sock: socket.socket) -> None:
        while True:
            octets, client = sock.recvfrom(4096)
            if octets == b"end":
                return
            query = dns.message.from_wire(octets)
            question = query.question[0]
            name, kind = question.name.to_text(omit_final_dot=True).lower(), dns.rdatatype.to_text(question.rdtype)
            answer = dns.message.make_response(query)
            if records := zone.get((name, kind)):
                answer.answer.append(dns.rrset.from_text(question.name, 60, "IN", kind, *records))
            elif not any(each == name or each.endswith(f".{name}") for each in names):
                answer.set_rcode(dns.rcode.NXDOMAIN)
            sock.sendto(answer.to_wire(), client)

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        thread = threading.Thread(target=serve, args=(sock,))
        thread.start()
        try:
            yield "{}:{}".format(*sock.getsockname())
        finally:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
                other.sendto(b"end", sock.getsockname())
            thread.join(10)


def examine(zone: Zone, kinds: Sequence[str] = ("mailgun",), domain: str = "example.com") -> dict[str, Check]:
    from bridge.cli.doctor.resolver import make_lookup

    with name_server(zone) as server:
        return {check.subject.rpartition(" ")[2]: check for check in check_domain(domain, kinds, make_lookup(server))}


def test_a_domain_in_order_has_no_problem() -> None:
    found = examine(GOOD)

    assert {name: check.level for name, check in found.items()} == dict.fromkeys(("MX", "SPF", "DKIM", "DMARC"), "ok")


def without(*keys: tuple[str, str], **more: Sequence[str]) -> Zone:
    spf = {("example.com", "TXT"): more["spf"]} if "spf" in more else {}
    return {**{key: value for key, value in GOOD.items() if key not in keys}, **spf}


@pytest.mark.parametrize(
    ("zone", "record", "words"),
    [
        (without(("example.com", "MX")), "MX", "replies and bounces can reach nobody"),
        ({**GOOD, ("example.com", "MX"): ["0 ."]}, "MX", "null MX"),
        (without(("example.com", "TXT")), "SPF", "there is none"),
        (without(spf=['"v=spf1 -all"']), "SPF", "does not allow mailgun"),
        (without(spf=['"v=spf1 include:mailgun.org -all"', '"v=spf1 -all"']), "SPF", "2 records"),
        (without(spf=['"v=spf1 include:mailgun.org +all"']), "SPF", "everybody"),
        (without(spf=['"v=spf1 include:mailgun.org include:gone.example -all"']), "SPF", "gone.example"),
        (without(spf=['"v=spf1 include:mailgun.org a mx ' + "exists:x.example " * 8 + '-all"']), "SPF", "11 lookups"),
        (without(("k1._domainkey.example.com", "TXT")), "DKIM", "there is no key of mailgun"),
        ({**GOOD, ("k1._domainkey.example.com", "TXT"): ['"v=DKIM1; p="']}, "DKIM", "withdrawn"),
        (without(("_dmarc.example.com", "TXT")), "DMARC", "there is none"),
        ({**GOOD, ("_dmarc.example.com", "TXT"): ['"v=DMARC1; pct=5"']}, "DMARC", "no valid policy"),
    ],
)
def test_each_fault_is_named_with_what_to_do(zone: Zone, record: str, words: str) -> None:
    found = examine(zone)

    assert (found[record].level, bool(found[record].todo)) == ("problem", True)
    assert words in found[record].text
    assert {check.level for name, check in found.items() if name != record} == {"ok"}


def test_the_policy_of_the_domain_above_counts_and_none_is_a_note() -> None:
    zone = {("sub.example.com", "MX"): ["1 mx.example.com."], ("_dmarc.example.com", "TXT"): ['"v=DMARC1; p=none"']}

    assert examine(zone, (), "sub.example.com")["DMARC"].level == "note"


def test_a_domain_that_is_not_there_and_a_server_that_is_not_are_told_apart() -> None:
    from bridge.cli.doctor import resolver

    (missing,) = examine(GOOD, domain="exmaple.com").values()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resolver, "LIFETIME_S", 0.2)
        (silent,) = check_domain("example.com", (), resolver.make_lookup("127.0.0.1:1"))

    assert "there is no such domain" in missing.text
    assert "no name server answered" in silent.text


def test_all_of_it_with_a_daemon_that_runs(tmp_path: Path) -> None:
    with sandbox(tmp_path) as url, bridge(tmp_path) as (_, port), name_server(GOOD) as server:
        (tmp_path / "config.toml").write_text(
            f'[smtp.listener]\naddress = "127.0.0.1:{port}"\n[relay]\nfrom = "a@example.com"\n[alert]\ndisk_free = 0\n'
            f'[spool]\nmin_free = 0\n[[provider]]\nkind = "mailgun"\nurl = "{url}/mailgun"\napi_key = "{KEY}"\n'
            'domain = "example.com"\n'
        )
        done = invoke(tmp_path, "doctor", "--dns", server)

    assert done.returncode == 0, done.stdout
    assert f"port: 127.0.0.1:{port}: the daemon listens there\n" in done.stdout
    assert "provider: mailgun (mailgun): " in done.stdout
    assert "dns: example.com DKIM: mailgun signs with k1\n" in done.stdout
    assert done.stdout.endswith("\nNo problems found.\n")


def test_another_program_on_the_port_is_a_problem(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:

        def greet() -> None:
            for _ in range(2):
                sock, _ = other.accept()
                with sock:
                    sock.sendall(b"220 x ESMTP Postfix\r\n")

        thread = threading.Thread(target=greet)
        thread.start()
        address = f"127.0.0.1:{other.getsockname()[1]}"
        done = invoke(
            tmp_path, "doctor", "--offline", "--json", **{**CAPTURE, "SMTP_BRIDGE_SMTP__LISTENER__ADDRESS": address}
        )
        thread.join(10)
    (found,) = [check for check in orjson.loads(done.stdout)["checks"] if check["level"] == "problem"]

    assert (done.returncode, found["area"]) == (1, "port")
    assert "Postfix" in found["text"]


@pytest.mark.parametrize(("days", "words"), [(-1, "expired on"), (5, "expires on"), (100, "")])
def test_a_certificate_is_told_about_before_it_expires(
    tmp_path: Path, days: int, words: str, make_certificate: Callable[[Path, int], Path]
) -> None:
    path = make_certificate(tmp_path, days)
    done = invoke(tmp_path, "doctor", "--offline", "--json", **CAPTURE, SMTP_BRIDGE_TLS__CERT_FILE=str(path))
    texts = [check["text"] for check in orjson.loads(done.stdout)["checks"] if check["level"] == "problem"]

    assert done.returncode == int(bool(words))
    assert [words in text for text in texts] == ([True] if words else [])


@pytest.fixture
def make_certificate() -> Callable[[Path, int], Path]:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    def make(directory: Path, days: int) -> Path:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "x")])
        now, day = datetime.datetime.now(datetime.UTC), datetime.timedelta(days=1)
        builder = x509.CertificateBuilder(name, name, key.public_key(), 1, now - 9 * day, now + days * day)
        path = directory / "cert.pem"
        private = serialization.PrivateFormat.PKCS8
        path.write_bytes(
            builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
            + key.private_bytes(serialization.Encoding.PEM, private, serialization.NoEncryption())
        )
        return path

    return make


def test_the_clock_is_held_against_the_providers() -> None:
    date = "Tue, 24 Nov 2026 12:00:00 GMT"
    now = datetime.datetime(2026, 11, 24, 12, 0, 0, tzinfo=datetime.UTC).timestamp()

    assert [check.level for check in clock_checks("main", date, now + 30)] == ["ok"]
    assert [check.text for check in clock_checks("main", date, now - 400)] == ["this machine's clock is 400 s behind"]
    assert clock_checks("main", "", now) == ()


def test_the_sending_domains_are_those_of_the_settings(tmp_path: Path) -> None:
    config = tmp_path / "bridge.toml"
    config.write_text(
        '[relay]\nfrom = "Us <us@one.example.com>"\n[[relay.rewrite]]\nsender = "root@*"\nfrom = "x@two.example.com"\n'
        '[[user]]\nname = "u"\npassword = "p"\nsenders = ["*@three.example.com", "*", "*@*.example.com"]\n'
        '[[provider]]\nkind = "capture"\n'
    )

    assert sending_domains(load_settings(str(config), {})) == [
        f"{each}.example.com" for each in ("one", "two", "three")
    ]
