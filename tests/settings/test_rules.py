"""The rules between keys, and the keys that this version does not act on yet."""

from __future__ import annotations

import pytest

from bridge.config.load import load_spool_settings
from bridge.config.pending import PENDING
from bridge.config.warnings import warnings
from bridge.smtp.policy import is_allowed
from tests.settings.conftest import CAPTURE, REST, Folder

HASH = "$argon2id$v=19$m=1024,t=1,p=1$c29tZXNhbHRzb21l$Zm9vYmFyZm9vYmFyZm9vYmFyZm9vYmFyZm9vYmFyZm8"
USER = f"[[user]]\nname = 'ann'\npassword_hash = '{HASH}'\n"
LISTENER = "[[smtp.listener]]\n"
OPEN = "with require_auth = false is an open relay; name your own networks, or set require_auth = true"

CERTIFIED = (
    LISTENER + "client_ca_file = 'ca.pem'\nrequire_auth = true\n"
    "[[user]]\nname = 'printer'\ncertificate = 'printer.example.com'\n"
)

BROKEN = [
    (
        LISTENER + "tls = 'none'\nrequire_tls = true\n",
        "line 3",
        'smtp.listener.require_tls: is true, but tls = "none": no mail could ever come in',
    ),
    (
        USER + LISTENER + "tls = 'none'\nrequire_auth = true\n",
        "line 6",
        'smtp.listener.require_auth: is true, but tls = "none" and auth_without_tls = false: nobody could log in',
    ),
    (
        USER + LISTENER + "require_auth = true\nauth_mechanisms = []\n",
        "line 6",
        "smtp.listener.auth_mechanisms: is empty, but require_auth = true: nobody could log in",
    ),
    (
        LISTENER + "require_auth = true\n",
        "line 2",
        "smtp.listener.require_auth: is true, but there is no [[user]]: nobody could log in",
    ),
    (
        USER + LISTENER + "auth_mechanisms = 'cram-md5'\n",
        "line 5",
        "smtp.listener.auth_mechanisms: CRAM-MD5 needs a user with 'password' (not 'password_hash')",
    ),
    (
        LISTENER + "protocol = 'lmtp'\naddress = ':25'\n",
        "line 3",
        "smtp.listener.address: LMTP may not be spoken on port 25 (RFC 2033 5)",
    ),
    (LISTENER + LISTENER, "line 2", "smtp.listener.address: 127.0.0.1:2525 is there twice"),
    (
        LISTENER + "address = ':25'\n" + LISTENER + "address = '*:25'\n",
        "line 4",
        "smtp.listener.address: :25 is there twice",
    ),
    ("[smtp]\nlistener = []\n", "line 2", "smtp.listener: is empty: no mail could ever come in"),
    (USER + USER, "line 5", "user.name: the name 'ann' is there twice"),
    (
        "[[user]]\nname = 'ann'\n",
        "line 1",
        "user.password_hash: is missing: give 'password_hash' (or 'password', which CRAM-MD5 needs; or 'certificate')",
    ),
    (
        "[[user]]\nname = 'ann'\ncertificate = 'ann.example.com'\n",
        "line 3",
        "user.certificate: is given, but no listener has 'client_ca_file': none is asked for",
    ),
    (
        LISTENER + "proxy_protocol = true\n",
        "line 1",
        "smtp.listener.proxy_networks: is empty, but proxy_protocol = true: nobody could connect; name the load balancers",
    ),
    (
        LISTENER + "proxy_protocol = true\naddress = 'systemd:mail'\n",
        "line 1",
        "smtp.listener.proxy_networks: is empty, but proxy_protocol = true: nobody could connect; name the load balancers",
    ),
    (
        LISTENER + "proxy_networks = '192.0.2.0/24'\n",
        "line 2",
        "smtp.listener.proxy_networks: is given, but proxy_protocol = false: no header is looked for",
    ),
    (
        LISTENER + "proxy_protocol = true\nrequire_auth = true\nproxy_networks = '0.0.0.0/0'\n" + USER,
        "line 4",
        "smtp.listener.proxy_networks: 0.0.0.0/0: whoever is in it may claim any client's address; name the load balancers",
    ),
    (USER + "password = 'x'\n", "line 4", "user.password: give either 'password_hash' or 'password'"),
    ("[smtp]\nauth_delay = '1m'\n", "line 2", "smtp.auth_delay: is longer than 'smtp.auth_delay_maximum'"),
    ("[retry]\nfirst = '1h'\n", "line 2", "retry.first: is longer than 'retry.maximum'"),
    (
        "[spool]\nmax_bytes = '1MB'\n",
        "line 2",
        "spool.max_bytes: is smaller than 'smtp.max_message_size': such a message could never be kept",
    ),
]


@pytest.mark.parametrize(("text", "line", "problem"), BROKEN)
def test_keys_that_contradict_each_other_are_told_at_the_key(
    folder: Folder, text: str, line: str, problem: str
) -> None:
    assert folder.problems(text + CAPTURE) == [f"config.toml {line}: {problem}"]


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        (CERTIFIED, []),
        (LISTENER + "client_ca_file = 'ca.pem'\nrequire_auth = true\n", []),
        (LISTENER + "client_ca_file = 'ca.pem'\nrequire_auth = true\nauth_mechanisms = []\n", []),
        (LISTENER + "client_ca_file = 'ca.pem'\nrequire_auth = true\n" + LISTENER + "address = ':25'\n", []),
        (
            CERTIFIED + LISTENER + "address = ':25'\nrequire_auth = true\n",
            ["line 9: smtp.listener.require_auth: is true, but no [[user]] has a password: nobody could log in"],
        ),
        (
            LISTENER + "client_ca_file = 'ca.pem'\ntls = 'none'\n",
            ['line 2: smtp.listener.client_ca_file: is given, but tls = "none": no client could show a certificate'],
        ),
        (
            CERTIFIED + "[[user]]\nname = 'other'\ncertificate = 'Printer.Example.com'\n",
            ["line 9: user.certificate: the certificate 'printer.example.com' is there twice"],
        ),
        (
            LISTENER + "client_ca_file = 'none.pem'\n",
            ["line 2: smtp.listener.client_ca_file: none.pem cannot be read: "],
        ),
    ],
)
def test_what_client_certificates_need(folder: Folder, text: str, problems: list[str]) -> None:
    folder.write("ca.pem", "x")

    found = folder.problems(text + CAPTURE)

    assert len(found) == len(problems)
    for line, problem in zip(found, problems, strict=True):
        assert line.startswith(f"config.toml {problem}")


def test_a_unix_socket_needs_no_balancers_network(folder: Folder) -> None:
    assert folder.problems(LISTENER + "proxy_protocol = true\naddress = 'unix:/run/x.sock'\n" + CAPTURE) == []


def test_what_is_allowed_but_should_be_seen(folder: Folder) -> None:
    folder.write("ca.pem", "x")
    old = LISTENER + "name = 'old'\naddress = ':25'\ntls_minimum = '{}'\n"

    assert list(warnings(folder.load(old.format("1.2") + CERTIFIED + CAPTURE))) == []
    assert list(warnings(folder.load(old.format("1.0") + "tls = 'none'\n" + CAPTURE))) == []
    for version in ("1.0", "1.1"):
        (text,) = warnings(folder.load(old.format(version) + CAPTURE))
        assert text.startswith(f'listener old: tls_minimum = "{version}" allows versions of TLS')
    with_authority = LISTENER + "client_ca_file = 'ca.pem'\n"
    (text,) = warnings(folder.load(with_authority + USER + CAPTURE))
    assert text.endswith("no [[user]] has 'certificate': nobody can log in with one")
    (text,) = warnings(folder.load(with_authority + "client_certificates = 'any'\n" + USER + CAPTURE))
    assert text.startswith("listener 127.0.0.1:2525: any certificate of ")


def test_a_key_file_needs_its_certificate(folder: Folder) -> None:
    folder.write("key.pem", "x")

    assert folder.problems("[tls]\nkey_file = 'key.pem'\n" + CAPTURE) == [
        "config.toml line 1: tls.cert_file: is required with 'tls.key_file'"
    ]
    folder.write("cert.pem", "x")
    tls = folder.load("[tls]\nkey_file = 'key.pem'\ncert_file = 'cert.pem'\n" + CAPTURE).tls
    assert (tls.cert_file, tls.key_file) == (str(folder.path / "cert.pem"), str(folder.path / "key.pem"))


@pytest.mark.parametrize(
    "text",
    [
        LISTENER + "address = '127.0.0.1:0'\n" + LISTENER + "address = '127.0.0.1:0'\n",
        LISTENER + "tls = 'none'\nrequire_auth = true\nauth_without_tls = true\n" + USER,
        LISTENER + "auth_mechanisms = ['cram-md5', 'CRAM-MD5']\n[user]\nname = 'a'\npassword = 'x'\n",
        "[spool]\nmax_bytes = 0\n",
        "[spool]\nurl = 'sqlite:///var/lib/x.db'\n",
    ],
)
def test_what_looks_like_a_contradiction_and_is_none(folder: Folder, text: str) -> None:
    assert folder.problems(text + CAPTURE) == []


TOO_WIDE = [
    "0.0.0.0/0",
    "0.0.0.0/1",
    "10.0.0.0/7",
    "::/0",
    "2000::/3",
    "2001:db8::/31",
    "::ffff:0:0/96",
    "::ffff:10.0.0.0/103",
    "::/64",
    "64:ff9b::/96",
    "64:ff9b::/32",
    "64:ff9b::a00:0/103",
    "64:ff9b:1::/48",
    "2002::/16",
    "2002:a00::/23",
    "2001::/32",
    "2001:0:c000:200::/64",
]
NARROW = [
    "10.0.0.0/8",
    "17.0.0.0/8",
    "2001:db8::/32",
    "::ffff:10.0.0.0/104",
    "::1/128",
    "64:ff9b::a00:0/104",
    "2002:c000:204::/48",
    "2001:0:c000:200::a00:1/128",
]
TOGETHER = [
    ["17.0.0.0/8", "18.0.0.0/8"],
    ["17.0.0.0/8", "19.0.0.1/32"],
    [f"{n}.0.0.0/9" for n in (1, 2, 3)],
    ["16.0.0.0/8", "17.0.0.0/8"],  # a /7
    [f"17.{n}.0.0/16" for n in range(256)] + ["192.0.2.0/24"],
    ["2001:db8::/32", "2a00::/48"],
    ["2001:db8::/33", "2a00::/33", "2a01::/33"],
    ["17.0.0.0/8", "64:ff9b::c000:201/128"],
    ["::ffff:17.0.0.0/104", "18.0.0.0/24"],
    [f"2002:11{n:02x}::/32" for n in range(256)] + ["192.0.2.0/24"],
]
APART = [
    ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "17.0.0.0/8"],
    ["17.0.0.0/9", "18.0.0.0/9"],
    ["17.0.0.0/8", "17.1.0.0/16", "17.0.0.0/8"],
    ["2001:db8::/33", "2a00::/33", "fd00::/32", "fe80::/64", "::1/128", "17.0.0.0/8"],
    ["fd00:1::/32", "fd00:2::/32", "fd01::/32"],
]


@pytest.mark.parametrize("network", TOO_WIDE)
def test_a_network_that_is_the_internet_is_refused_without_a_login(folder: Folder, network: str) -> None:
    (problem,) = folder.problems(f"{CAPTURE}{LISTENER}allowed_networks = ['{network}']\n")

    assert problem.startswith("config.toml line 4: smtp.listener.allowed_networks: ")
    assert problem.endswith(OPEN)


@pytest.mark.parametrize(
    ("network", "login"), [*((network, "false") for network in NARROW), *((network, "true") for network in TOO_WIDE)]
)
def test_a_network_of_ones_own_or_with_a_login_is_none(folder: Folder, network: str, login: str) -> None:
    text = f"{CAPTURE}{USER}{LISTENER}require_auth = {login}\nallowed_networks = ['{network}']\n"

    assert folder.problems(text) == []


@pytest.mark.parametrize("networks", TOGETHER)
def test_networks_that_are_the_internet_together_are_refused_without_a_login(
    folder: Folder, networks: list[str]
) -> None:
    text = f"{CAPTURE}{LISTENER}allowed_networks = {networks}\n"
    (problem,) = folder.problems(text)

    assert problem.startswith("config.toml line 4: smtp.listener.allowed_networks: ")
    assert problem.endswith(OPEN)
    assert folder.problems(USER + text + "require_auth = true\n") == []
    (problem,) = folder.problems(CAPTURE, SMTP__LISTENER__ALLOWED_NETWORKS=",".join(networks))
    assert problem.endswith(OPEN)


@pytest.mark.parametrize("networks", APART)
def test_what_is_near_does_not_count_nor_does_anything_twice(folder: Folder, networks: list[str]) -> None:
    assert folder.problems(f"{CAPTURE}{LISTENER}allowed_networks = {networks}\n") == []


@pytest.mark.parametrize("address", ["unix:/run/x.sock", "systemd:smtp", ":25"])
@pytest.mark.parametrize("network", ["0.0.0.0/0", "::ffff:0:0/96"])
def test_no_kind_of_address_and_no_way_to_give_it_makes_an_open_relay(
    folder: Folder, address: str, network: str
) -> None:
    names = {"SMTP__LISTENER__ADDRESS": address, "SMTP__LISTENER__ALLOWED_NETWORKS": f'["{network}"]'}

    (problem,) = folder.problems(CAPTURE, **names)
    assert "allowed_networks: 0.0.0.0/0 " in problem
    assert problem.endswith(OPEN)


def test_mapped_addresses_are_the_ipv4_ones_they_hold(folder: Folder) -> None:
    """A client on a dual-stack socket is seen as IPv4; as IPv6 the network would match nobody."""
    text = f"{CAPTURE}{LISTENER}allowed_networks = ['::ffff:10.0.0.0/104', '::ffff:192.0.2.1', '::1']\n"
    (listener,) = folder.load(text).smtp.listener

    assert [str(network) for network in listener.allowed_networks] == ["10.0.0.0/8", "192.0.2.1/32", "::1/128"]
    assert is_allowed("::ffff:10.1.2.3", listener.allowed_networks)
    assert is_allowed("10.1.2.3", listener.allowed_networks)
    assert not is_allowed("192.0.2.2", listener.allowed_networks)


@pytest.mark.parametrize("network", ["10.0.0.1/8", "2001:db8::1/32", "::ffff:10.0.0.1/104", "64:ff9b::1/96"])
def test_a_network_with_bits_in_its_host_part_is_refused(folder: Folder, network: str) -> None:
    (problem,) = folder.problems(f"{CAPTURE}{LISTENER}allowed_networks = ['{network}']\n")

    assert "not a network" in problem


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ("password = ''", "password_hash: is missing"),
        ("password_hash = ''", "password_hash: is missing"),
        ("password = ''\npassword_hash = ''", "password_hash: is missing"),
        ("password_file = 'empty'", "password_file: empty is empty"),
        ("password_hash_file = 'empty'", "password_hash_file: empty is empty"),
    ],
)
def test_a_user_without_a_password_is_refused(folder: Folder, keys: str, problem: str) -> None:
    folder.write("empty", "\n")

    assert any(problem in line for line in folder.problems(f"{CAPTURE}[user]\nname = 'ann'\n{keys}\n"))


@pytest.mark.parametrize("name", ["a\\u0000b", "a\\nb", "\\u001bx", "a\\u007f", "a\\u0085b", "a" * 256])
def test_a_name_that_nobody_could_log_in_with_is_refused(folder: Folder, name: str) -> None:
    (problem,) = folder.problems(f'{CAPTURE}[user]\nname = "{name}"\npassword = "x"\n'.replace("\\\\", "\\"))

    assert problem.endswith("user.name: a user's name is 1 to 255 characters without control characters")


def test_a_name_in_a_variable_that_is_no_utf_8_is_refused(folder: Folder) -> None:
    (problem,) = folder.problems(CAPTURE, USER__NAME=b"a\xff".decode("utf-8", "surrogateescape"), USER__PASSWORD="x")

    assert "user.name" in problem or "USER__NAME" in problem


def test_a_password_in_a_variable_that_is_no_utf_8_is_refused(folder: Folder) -> None:
    (problem,) = folder.problems(
        CAPTURE, USER__NAME="ann", USER__PASSWORD=b"planted\xff".decode("utf-8", "surrogateescape")
    )

    assert problem.endswith("is not UTF-8 text")
    assert "planted" not in problem


CREDENTIALS = [
    ("auth = 'bearer'", ['token: is required with auth = "bearer"']),
    ("auth = 'basic'", ['username: is required with auth = "basic"', 'password: is required with auth = "basic"']),
    ("auth = 'header'\ntoken = 'x'", ['header: is required with auth = "header"']),
    ("token = 'x'", ['token: is not used with auth = "none"']),
    ("auth = 'bearer'\ntoken = 'x'\nusername = 'u'", ['username: is not used with auth = "bearer"']),
    (
        "auth = 'basic'\nusername = 'a:b'\npassword = 'x'",
        ["username: holds a colon, which basic authentication cannot carry (RFC 7617 2)"],
    ),
    (
        "auth = 'header'\nheader = 'X-Key'\ntoken = 'x'\nheaders = {x-key = 'y'}",
        ["headers: names a header that 'auth', 'header' or 'idempotency_header' sets too"],
    ),
    ("auth = 'header'\nheader = 'A B'\ntoken = 'x'", ["header: not a header name"]),
]
CONTENT = [
    ("url = 'http://api.example/'", ["url: is http:// to another machine; use https://, or set allow_http = true"]),
    ("url = 'https://u@api.example/'", ["url: holds credentials; give them with keys of their own"]),
    ("url = 'https://api.example/#x'", ["url: ends in a #fragment, which is never sent"]),
    ("shape = 'full'\nbody = {to = '{to}', text = '{text}'}", ["body: give either 'shape' or 'body'"]),
    ("content_type = 'message/rfc822'", ['content_type: is "message/rfc822" only with shape = "raw"']),
    (
        "idempotent = true\nidempotency_header = ''",
        ["idempotent: needs 'idempotency_header': nothing else carries the key"],
    ),
    ("body = {to = '{too}', text = '{text}'}", ["body: to: unknown placeholder {too}, did you mean {to}?"]),
    ("body = {to = '{to}', text = '{'}", ["body: text: a single '{'; write '{{' for the character itself"]),
    ("body = {to = '{to}'}", ["body: no placeholder holds what the mail says: use {body}, {text}, {html} or {raw}"]),
    ("body = {text = '{text}'}", ["body: no placeholder names the recipients: use {to} or {envelope_to}"]),
]
OUTCOMES = [
    ("", "outcome: give 'status' or 'error', or the rule would match every response"),
    ("status = 99", "outcome.status: an HTTP status is a number from 100 to 599"),
    ("status = 'x'", "outcome.status: must be a whole number"),
    ("status = 400\nequals = 5", "outcome.error: says where 'equals' or 'contains' looks, and is missing"),
    ("error = '/e'\nequals = 'a'\ncontains = 'b'", "outcome.contains: give either 'equals' or 'contains'"),
    ("error = 'e'", "outcome.error: not a JSON pointer; it starts with '/', as in \"/error/code\""),
]


@pytest.mark.parametrize(("keys", "lines"), CREDENTIALS + CONTENT)
def test_what_a_rest_provider_lacks_or_has_too_much_is_told(folder: Folder, keys: str, lines: list[str]) -> None:
    text = f"[[provider]]\nkind = 'rest'\n{keys}\n"
    if "url" not in keys:
        text += "url = 'https://api.example/'\n"

    assert [problem.partition(": provider.")[2] for problem in folder.problems(text)] == lines


@pytest.mark.parametrize(("keys", "line"), OUTCOMES)
def test_a_rule_for_outcomes_must_make_sense(folder: Folder, keys: str, line: str) -> None:
    rule = f"[[provider.outcome]]\nreply = '550 5.1.1 No'\nfault = 'recipient'\n{keys}\n"

    (problem,) = folder.problems(REST + rule)
    assert problem.partition(": provider.")[2] == line


@pytest.mark.parametrize(
    ("reply", "fault", "line"),
    [
        ("550 5.1.1 No", "account", "reply: a fault of the account never bounces mail; give a 4xx"),
        ("550 5.1.1 No", "provider", "reply: a fault of the provider never bounces mail; give a 4xx"),
        ("250 2.0.0 Ok", "message", "reply: an outcome's reply is a 4xx (try again) or a 5xx (refused)"),
        (
            "550 4.1.1 No",
            "message",
            'reply: not a reply; write for example "550 5.1.1 No such recipient", with two codes that agree',
        ),
        (
            "no",
            "message",
            'reply: not a reply; write for example "550 5.1.1 No such recipient", with two codes that agree',
        ),
        ("550 5.1.1 No", "me", 'fault: must be "recipient", "message", "provider" or "account"'),
    ],
)
def test_a_rule_never_bounces_mail_for_a_fault_that_is_not_the_mails(
    folder: Folder, reply: str, fault: str, line: str
) -> None:
    text = f"{REST}[[provider.outcome]]\nstatus = 422\nreply = '{reply}'\nfault = '{fault}'\n"

    (problem,) = folder.problems(text)
    assert problem.partition(": provider.outcome.")[2] == line


@pytest.mark.parametrize(
    ("keys", "sent"),
    [
        ("", {"auth": "none", "shape": "simple"}),
        ("shape = 'full'\nauth = 'bearer'\ntoken = 't'", {"auth": "bearer", "shape": "full"}),
        ("shape = 'raw'\nauth = 'basic'\nusername = 'u'\npassword = 'p'", {"auth": "basic", "shape": "raw"}),
        (
            "shape = 'raw'\ncontent_type = 'message/rfc822'\nauth = 'header'\nheader = 'X-Key'\ntoken = 't'",
            {"auth": "header", "header": "X-Key", "content_type": "message/rfc822"},
        ),
        (
            "body = {to = '{to_email}', message = ['{text}', 1, true]}",
            {"body": {"to": "{to_email}", "message": ["{text}", 1, True]}},
        ),
        ("shape = 'full'\nidempotent = true\nidempotency_header = ''", {"idempotent": True, "idempotency_header": ""}),
        ("url = 'http://127.0.0.1:8026/send-email'", {"url": "http://127.0.0.1:8026/send-email"}),
        ("url = 'http://api.localhost/'", {"url": "http://api.localhost/"}),
        ("url = 'http://api.example/'\nallow_http = true", {"allow_http": True}),
    ],
)
def test_every_shape_and_way_to_log_in_is_accepted(folder: Folder, keys: str, sent: dict[str, object]) -> None:
    text = f"[[provider]]\nkind = 'rest'\n{keys}\n" + ("" if "url" in keys else "url = 'https://api.example/'\n")
    shown = folder.load(text).provider[0].model_dump(mode="json")

    assert {key: shown[key] for key in sent} == sent


# Key: the text at its "off" value, the text at another, and the end of the line that refuses it.
LATER = {
    "provider.auth": (REST + "auth = {}\n", "'none'", "'hmac'"),
    "spool.url": ("[spool]\nurl = {}\n", "'sqlite:////a/b.db'", "'PostgreSQL://u:p@h/d'"),
    "workers.count": ("[workers]\ncount = {}\n", "1", "2"),
}


def test_every_key_that_comes_later_is_tried_here() -> None:
    assert set(LATER) == set(PENDING)


@pytest.mark.parametrize("key", LATER)
def test_a_key_that_comes_later_may_be_off_and_nothing_else(folder: Folder, key: str) -> None:
    text, off, on = LATER[key]
    rest = "" if "[[provider]]" in text else CAPTURE

    assert folder.problems(text.format(off) + rest) == []
    (problem,) = folder.problems(text.format(on) + rest)
    assert f": {key}: " in problem
    assert "not available yet in this version" in problem


def test_a_header_that_would_come_before_the_credential_is_told(folder: Folder) -> None:
    text = """
        [[provider]]
        kind = "rest"
        url = "https://api.example/"
        auth = "bearer"
        token = "planted"
        headers = {Authorization = "Other planted"}
    """

    (problem,) = folder.problems(text)
    assert "provider.headers: names a header that 'auth'" in problem
    assert "planted" not in problem


def test_capture_without_a_history_would_be_a_black_hole(folder: Folder) -> None:
    (problem,) = folder.problems('[[provider]]\nkind = "capture"\n[spool]\nhistory = "0s"\n')

    assert "spool.history: is 0, but capture keeps mail for that long" in problem


def test_the_operators_commands_need_none_of_the_daemons_secrets(folder: Folder) -> None:
    text = f"""
        [spool]
        url = "sqlite://{folder.path}/elsewhere.db"
        [[provider]]
        kind = "rest"
        url = "https://api.example/"
        auth = "bearer"
        token_file = "/nowhere/that/can/be/read"
    """
    file = folder.write("config.toml", text)

    settings = load_spool_settings(str(file), environ={"HOME": str(folder.path)}, cwd=folder.path)

    assert settings.spool_path == folder.path / "elsewhere.db"


TWO = """
    [[provider]]
    kind = "capture"
    name = "main"
    [[provider]]
    kind = "capture"
    name = "backup"
"""


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[[route]]\nproviders = []\n", "route.providers: is empty: this mail would have nowhere to go"),
        ("[[route]]\nrecipient = '*@x.example'\n", "route.providers: is empty: this mail would have nowhere to go"),
        ("[[route]]\nrefuse = false\n", "route.providers: is empty: this mail would have nowhere to go"),
        ("[[route]]\nproviders = ['main']\nrefuse = true\n", "route.refuse: is true, but the route has 'providers'"),
        ("[[route]]\nproviders = ['main', 'main']\n", "route.providers: the name 'main' is there twice"),
        ("[[route]]\nproviders = ['mian']\n", "route.providers: names 'mian', and there is none of that name"),
        ("[[route]]\nproviders = ['main']\nuser = 'x'\n", "route.user: names 'x', and there is none of that name"),
        (
            "[[route]]\nproviders = ['main']\nlistener = 'x'\n",
            "route.listener: names 'x', and there is none of that name",
        ),
        ("[[route]]\nproviders = ['main']\nsender = 'a b'\n", "route.sender: not an address or a pattern of one"),
        ("[relay]\nfrom = 'root@localhost'\n", "relay.from: not a mailbox with a full domain"),
        ("[relay]\nfrom = 'x'\n", "relay.from: not an email address"),
        ("[[relay.rewrite]]\nsender = 'root@*'\n", "relay.rewrite.from: is missing"),
        ("[[relay.rewrite]]\nsender = 'root@*'\nfrom = ''\n", "relay.rewrite.from: is empty"),
        ("[bounce]\nfrom = 'no'\n", "bounce.from: not an email address"),
        ("[bounce]\nwebhook = 'http://example.com/x'\n", "bounce.webhook: is http:// to another machine"),
        ("[bounce]\nwebhook = 'example'\n", "bounce.webhook: not an address that starts with https://"),
        ("[bounce]\nwebhook_secret = 'planted'\n", "bounce.webhook_secret: not a webhook secret"),
        ("[alert]\nwebhook_secret = 'whsec_AAAA'\n", "alert.webhook_secret: not a webhook secret"),
        ("[breaker]\nwait = '10m'\n", "breaker.wait: is longer than 'breaker.maximum'"),
        ("[breaker]\nshare = 0\n", "breaker.share: must be more than 0"),
        (
            "[[smtp.listener]]\naddress = ':1'\nname = 'a'\n[[smtp.listener]]\naddress = ':2'\nname = 'a'\n",
            "smtp.listener.name: the name 'a' is there twice",
        ),
    ],
)
def test_mistakes_in_the_delivery_side_are_told(folder: Folder, text: str, problem: str) -> None:
    found = folder.problems(text + TWO)

    assert len(found) == 1
    assert problem in found[0]
    assert "planted" not in found[0]


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("warmup", "'50/h'", "provider.warmup: is per day"),
        ("rate", "'fast'", "provider.rate: not a rate"),
        ("max_per_day", "-1", "provider.max_per_day"),
        ("call_rate", "'10'", "provider.call_rate: not a rate"),
    ],
)
def test_a_limit_that_is_none_is_told(folder: Folder, key: str, value: str, problem: str) -> None:
    found = folder.problems(f"[[provider]]\nkind = 'capture'\n{key} = {value}\n")

    assert any(problem in one for one in found)


HASH = "sha256$" + "0" * 64


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        ("address = '127.0.0.1:8025'", []),
        ("address = 'unix:/run/http.sock'", []),
        ("address = '[::1]:8025'", []),
        ("address = ':8025'", ["can be reached from other machines: give an [[http.key]], or listen on 127.0.0.1"]),
        ("address = 'systemd:http'", ["can be reached from other machines: give an [[http.key]], or listen on 127.0.0.1"]),
        (f"address = ':8025'\n[[http.key]]\nname = 'a'\nkey_hash = '{HASH}'", []),
        ("[[http.key]]\nname = 'a'", ["is missing; make a key and its hash with: smtp-bridge new-key"]),
        ("[[http.key]]\nname = 'a'\nkey_hash = '$argon2id$x'", ["is not the hash of a key; make both with: smtp-bridge new-key"]),
        (f"[[http.key]]\nname = 'a'\nscopes = []\nkey_hash = '{HASH}'", ["is empty: the key could do nothing"]),
        (f"[[http.key]]\nname = 'a'\nscopes = 'root'\nkey_hash = '{HASH}'", ["must be \"send\", \"read\" or \"manage\""]),
    ],
)  # fmt: skip
def test_who_may_use_the_http_side(folder: Folder, text: str, problems: list[str]) -> None:
    found = folder.problems(f"[http]\n{text}\n" + CAPTURE)

    assert len(found) == len(problems)
    assert all(found_one.endswith(problem) for found_one, problem in zip(found, problems, strict=True)), found
