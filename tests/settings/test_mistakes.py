"""Every mistake is one clear line: where it is, which key, what is wrong, what was meant."""

from __future__ import annotations

import pytest

from bridge.config.providers import KINDS
from tests.settings.conftest import CAPTURE, REST, Folder

ALL = ", ".join(KINDS)
UNKNOWN_KEYS = [
    (REST + "tokn = 'x'\n", "config.toml line 4: unknown key 'provider.tokn'; did you mean 'provider.token'?"),
    (
        CAPTURE + "[smtp]\n\nhostnam = 'x'\n",
        "config.toml line 5: unknown key 'smtp.hostnam'; did you mean 'smtp.hostname'?",
    ),
    (CAPTURE + "[spol]\nurl = ''\n", "config.toml line 3: unknown key 'spol'; did you mean 'spool'?"),
    ("hostname = 'x'\n" + CAPTURE, "config.toml line 1: unknown key 'hostname'; did you mean 'smtp.hostname'?"),
    (
        CAPTURE + "[[smtp.listener]]\n[[smtp.listener]]\naddress = ':1'\nprtocol = 'lmtp'\n",
        "config.toml line 6: unknown key 'smtp.listener.prtocol'; did you mean 'smtp.listener.protocol'?",
    ),
    (
        REST + "[[provider.outcome]]\nstatus = 422\nreply = '550 5.1.1 x'\nfault = 'recipient'\nequal = 'x'\n",
        "config.toml line 8: unknown key 'provider.outcome.equal'; did you mean 'provider.outcome.equals'?",
    ),
    (CAPTURE + "zzzz = 1\n", "config.toml line 3: unknown key 'provider.zzzz'"),
    (CAPTURE + "url = 'x'\n", "config.toml line 3: kind capture has no 'url'"),
    (REST + "api_key = 'x'\n", "config.toml line 4: kind rest has no 'api_key'; its own keys are url, method, "),
    (
        CAPTURE + "[relay]\nmode_file = 'x'\n",
        "config.toml line 4: unknown key 'relay.mode_file'; did you mean 'relay.mode'?",
    ),
]


@pytest.mark.parametrize(("text", "line"), UNKNOWN_KEYS)
def test_an_unknown_key_is_named_with_its_line_and_the_nearest_one(folder: Folder, text: str, line: str) -> None:
    problems = folder.problems(text)

    assert len(problems) == 1
    assert problems[0].startswith(line)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("SMTP__HOSTNAM", "SMTP__HOSTNAME"),
        ("SMTP_HOSTNAME", "SMTP__HOSTNAME"),
        ("SMTP__LISTENER__ADRESS", "SMTP__LISTENER__ADDRESS"),
        ("PROVIDER__TOKEN_FILES", "PROVIDER__TOKEN_FILE"),
        ("PROVIDER__HEADERS__X", "PROVIDER__HEADERS"),
        ("provider__kind", "PROVIDER__KIND"),
        ("XQZWY", ""),
        ("", ""),
        ("__X", ""),
    ],
)
def test_an_unknown_variable_is_named_with_the_nearest_one(folder: Folder, name: str, meant: str) -> None:
    hint = f"; did you mean 'SMTP_BRIDGE_{meant}'?" if meant else ""

    assert folder.problems(REST, **{name: "a value"}) == [f"unknown variable 'SMTP_BRIDGE_{name}'{hint}"]


GRAPH = {"PROVIDER__KIND": "graph", "PROVIDER__TENANT": "t", "PROVIDER__CLIENT_ID": "c", "PROVIDER__CLIENT_SECRET": "s"}


@pytest.mark.parametrize("key", ["api_key", "api_key_file", "api_kye"])
def test_a_variable_of_another_kind_is_not_what_was_meant(folder: Folder, key: str) -> None:
    (problem,) = folder.problems(**GRAPH, **{f"PROVIDER__{key.upper()}": "x"})

    assert problem.startswith(
        f"SMTP_BRIDGE_PROVIDER__{key.upper()}: kind graph has no '{key}'; its own keys are tenant, client_id, "
    )


def test_a_variable_is_rather_one_of_its_own_kind(folder: Folder) -> None:
    (problem,) = folder.problems(**GRAPH, PROVIDER__CLIENT_SCRET="x")

    assert problem == (
        "unknown variable 'SMTP_BRIDGE_PROVIDER__CLIENT_SCRET'; did you mean 'SMTP_BRIDGE_PROVIDER__CLIENT_SECRET'?"
    )


def test_all_mistakes_are_told_at_once(folder: Folder) -> None:
    text = "[smtp]\nhostnam = 'x'\nmax_hops = 0\n[retry]\nfirst = 1\n[provider]\nkind = 'rest'\n"
    problems = folder.problems(text, LOG__LEVEL="loud", WHAT="x")

    assert [line.split(": ")[0] for line in problems] == [
        "unknown variable 'SMTP_BRIDGE_WHAT'",
        "config.toml line 2",
        "config.toml line 3",
        "config.toml line 6",
        "config.toml line 5",
        "SMTP_BRIDGE_LOG__LEVEL",
    ]
    assert len(set(problems)) == len(problems)


DURATION = 'a duration needs its unit, in quotes: "20s", "5m", "2h" or "7d"'
WRONG_VALUES = [
    ("[smtp]\nhostname = 5\n", "smtp.hostname: must be text in quotes"),
    ("[smtp]\nhostname = 'a b'\n", "smtp.hostname: not a host name"),
    ("[smtp]\nmax_errors = 0\n", "smtp.max_errors: must be at least 1"),
    ("[smtp]\nmax_errors = 99999999999999999999\n", "smtp.max_errors: must be at most 1000000000"),
    ("[smtp]\nmax_errors = 'ten'\n", "smtp.max_errors: must be a whole number"),
    ("[smtp]\nmax_errors = 1.5\n", "smtp.max_errors: must be a whole number"),
    ("[smtp]\nmax_errors = true\n", "smtp.max_errors: must be a number"),
    ("[smtp]\ntimeout = 5\n", f"smtp.timeout: {DURATION}"),
    ("[smtp]\ntimeout = true\n", f"smtp.timeout: {DURATION}"),
    ("[smtp]\ntimeout = '0s'\n", "smtp.timeout: must be more than 0"),
    (
        "[smtp]\nmax_message_size = '25 MegaBytes'\n",
        'smtp.max_message_size: not a size; write a number and its unit: "256KiB", "25MiB", "500MB" or "10GiB"',
    ),
    ("[smtp]\nmax_message_size = 0\n", "smtp.max_message_size: must be more than 0"),
    ("[smtp]\nlistener = 5\n", "smtp.listener: must be a table, or several"),
    ("[smtp]\nlistener = [5]\n", "smtp.listener: must be a table"),
    ("[smtp.listener]\nallowed_networks = 5.5\n", "smtp.listener.allowed_networks: must be a list"),
    (
        "[smtp.listener]\nallowed_networks = ['10.0.0.1/8']\n",
        'smtp.listener.allowed_networks: not a network; write for example "192.0.2.0/24" or "2001:db8::/32", without bits '
        "set in the host part",
    ),
    (
        "[smtp.listener]\nauth_mechanisms = ['XOAUTH2']\n",
        'smtp.listener.auth_mechanisms: must be "PLAIN", "LOGIN" or "CRAM-MD5"',
    ),
    ("[smtp.listener]\ntls_minimum = 1.2\n", 'smtp.listener.tls_minimum: must be "1.0", "1.1", "1.2" or "1.3"'),
    ("[relay]\nmode = 'now'\n", 'relay.mode: must be "auto", "queue" or "direct"'),
    ("[relay]\ndegrade = 'perhaps'\n", "relay.degrade: must be true or false"),
    ("[retry]\nfactor = 'twice'\n", "retry.factor: must be a number"),
    ("[retry]\nfactor = nan\n", "retry.factor: must be a number"),
    ("[retry]\njitter = 2\n", "retry.jitter: must be at most 1.0"),
    (
        "[spool]\nurl = 'mysql://h/d'\n",
        'spool.url: not a spool; write for example "sqlite:////var/lib/smtp-bridge/spool.db", an absolute path',
    ),
    (
        "[user]\nname = ''\npassword = 'x'\n",
        "user.name: a user's name is 1 to 255 characters without control characters",
    ),
    (
        "[user]\nname = 'a'\npassword_hash = 'x'\n",
        "user.password_hash: not an argon2 hash; 'smtp-bridge hash-password' makes one",
    ),
    ("[user]\nname = 'a'\npassword = 'x'\nsenders = ''\nrate = 5\n", "user.rate: must be text in quotes"),
    (
        "[user]\nname = 'a'\npassword = 'x'\nsenders = ['a b']\n",
        'user.senders: a sender is an address or a pattern of one, as in "*@example.com"',
    ),
]
WRONG_IN_REST = [
    ("name = 'a b'", "name: a name is letters, digits, '.', '_' and '-', at most 63 of them"),
    ("method = 'GET'", 'method: must be "POST", "PUT" or "PATCH"'),
    ("id = 'id'", "id: not a JSON pointer; it starts with '/', as in \"/error/code\""),
    ("id = '/a~b'", "id: not a JSON pointer; '~' is written \"~0\" and '/' in a name \"~1\" (RFC 6901)"),
    ("headers = 5", "headers: must be a table"),
    ("headers = {X = 5}", "headers.X: must be text in quotes"),
    ("headers = {'A B' = 'x'}", "headers: not a header name"),
    ("headers = {Host = 'x'}", "headers: the header 'Host' cannot be set here"),
    ("headers = {X-A = 'x', x-a = 'y'}", "headers: the same header stands here twice"),
    ('headers = {X-A = "x\\ny"}', "headers.X-A: holds a control character or more than one line"),
    ("body = 5", "body: must be a table"),
    (
        "body = {to = '{to}', text = '{text}', at = 2024-01-01}",
        "body.at: must be text, a number, true, false, a list or a table",
    ),
    ("body = {to = '{to}', text = '{text}', n = inf}", "body: holds a number that JSON does not have"),
    ("body = {to = '{to}', text = '{text}', n = [99999999999999999999]}", "body: holds a number of more than 64 bits"),
    ("proxy = 'socks5://p'", "proxy: not an address that starts with https:// (or http://) and a host"),
    ("ca_file = 'missing.pem'", "ca_file: missing.pem cannot be read: No such file or directory"),
    ('ca_file = "a\\u0000b"', "ca_file: not the name of a file"),
    ("token = 5", "token: must be text in quotes"),
    ("max_size = true", "max_size: must be text in quotes"),
]


@pytest.mark.parametrize(
    ("text", "line"),
    [(text + CAPTURE, line) for text, line in WRONG_VALUES]
    + [(f"{REST}{keys}\n", f"provider.{line}") for keys, line in WRONG_IN_REST],
)
def test_a_wrong_value_is_told_in_the_words_of_the_file(folder: Folder, text: str, line: str) -> None:
    (problem,) = folder.problems(text)

    place, _, rest = problem.partition(": ")
    assert rest == line
    assert place.startswith("config.toml line ")


@pytest.mark.parametrize(
    "url", ["ftp://a.example/", "a.example/send", "https://", "https://a b/", "https://a:99999/", "https://[::1/", ""]
)
def test_an_address_must_be_one(folder: Folder, url: str) -> None:
    assert folder.problems(f"[provider]\nkind = 'rest'\nurl = '{url}'\n") == [
        "config.toml line 3: provider.url: not an address that starts with https:// (or http://) and a host"
    ]


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        ("kind = 'rset'", "unknown provider kind; did you mean 'rest'?"),
        ("kind = 'Rest'", "unknown provider kind; did you mean 'rest'?"),
        ("kind = 'xyzzy'", f"unknown provider kind; one of {ALL}"),
        ("kind = 5", f"must be text in quotes; one of {ALL}"),
        ("kind = ['rest']", f"must be text in quotes; one of {ALL}"),
        ("url = 'https://a.example'", f"is missing; one of {ALL}"),
    ],
)
def test_a_kind_that_is_none_is_one_line_and_its_other_keys_none(folder: Folder, kind: str, line: str) -> None:
    (problem,) = folder.problems(f"[[provider]]\n{kind}\n")

    assert problem.partition(": ")[2] == f"provider.kind: {line}"


@pytest.mark.parametrize("text", ["provider = 5\n", "provider = [5]\n", "provider = 'rest'\n"])
def test_a_provider_that_is_no_table_is_told(folder: Folder, text: str) -> None:
    (problem,) = folder.problems(text)

    assert problem.startswith("config.toml line 1: provider: must be a table")


def test_a_line_separator_in_a_comment_does_not_shift_the_lines(folder: Folder) -> None:
    assert folder.problems("# a\u2028b\x85c\n" + CAPTURE + "[log]\nlevel = 'x'\n")[0].startswith("config.toml line 5:")


def test_a_key_in_dots_and_an_inline_table_have_their_lines(folder: Folder) -> None:
    text = "smtp.max_hops = 0\nretry = {first = 1}\n" + CAPTURE

    assert [line.split(":")[0] for line in folder.problems(text)] == ["config.toml line 1", "config.toml line 2"]
