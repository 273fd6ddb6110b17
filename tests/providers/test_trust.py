"""Which proxy stands between, whose certificates count, and which address of a host is tried when."""

from __future__ import annotations

import socket
import ssl
import subprocess
import sys
from typing import Any

import pytest

from bridge.providers import trust
from bridge.providers.dialing import interleave
from bridge.providers.trust import client_context, make_context, proxy_for_pool, proxy_url

BOTH = {"https": "http://secure.proxy:3128", "http": "http://plain.proxy:3128"}


@pytest.mark.parametrize(
    ("setting", "scheme", "host", "environment", "proxy"),
    [
        ("", "https", "api.example.com", {}, ""),
        ("", "https", "api.example.com", BOTH, "http://secure.proxy:3128"),
        ("", "http", "api.example.com", BOTH, "http://plain.proxy:3128"),
        ("", "https", "api.example.com", {"all": "http://any.proxy"}, "http://any.proxy"),
        ("", "https", "api.example.com", {"https": "bare.proxy:3128"}, "http://bare.proxy:3128"),
        ("", "https", "api.example.com", {**BOTH, "no": "example.com"}, ""),
        ("", "https", "api.example.com", {**BOTH, "no": "*"}, ""),
        ("", "https", "api.example.com", {**BOTH, "no": "other.com"}, "http://secure.proxy:3128"),
        ("", "http", "localhost", BOTH, ""),
        ("", "http", "127.0.0.1", BOTH, ""),
        ("http://mine:1", "https", "api.example.com", {**BOTH, "no": "*"}, "http://mine:1"),
        ("http://mine:1", "http", "localhost", {}, "http://mine:1"),
    ],
)
def test_the_setting_comes_before_the_environment(
    setting: str, scheme: str, host: str, environment: dict[str, str], proxy: str
) -> None:
    assert proxy_url(setting, scheme, host, environment) == proxy


def test_the_usual_variables_are_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "no_proxy", "REQUEST_METHOD"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    monkeypatch.setenv("NO_PROXY", "internal.example")

    assert proxy_url("", "https", "api.example.com") == "http://proxy.example:3128"
    assert proxy_url("", "https", "mail.internal.example") == ""
    assert proxy_url("", "http", "api.example.com") == ""


@pytest.mark.parametrize(
    ("url", "address", "auth"),
    [
        ("http://proxy:3128", (b"http", b"proxy", 3128), None),
        ("http://u:p%40ss@proxy:3128", (b"http", b"proxy", 3128), b"Basic dTpwQHNz"),
        ("https://u@proxy", (b"https", b"proxy", None), b"Basic dTo="),
        ("http://[::1]:3128", (b"http", b"::1", 3128), None),
    ],
)
def test_a_proxys_credentials_leave_its_address(
    url: str, address: tuple[bytes, bytes, int], auth: bytes | None
) -> None:
    proxy = proxy_for_pool(url)

    assert proxy is not None
    assert (proxy.url.scheme, proxy.url.host, proxy.url.port) == address
    assert dict(proxy.headers).get(b"Proxy-Authorization") == auth


def test_no_proxy_is_none() -> None:
    assert proxy_for_pool("") is None


def test_certificates_are_verified_with_names_and_modern_tls(certificates: tuple[ssl.SSLContext, str]) -> None:
    context = client_context(certificates[1])

    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2
    assert client_context(certificates[1]) is context
    assert any("Throwaway" in str(ca["subject"]) for ca in context.get_ca_certs())


def test_a_python_that_knows_no_store_finds_the_distributions_bundle(
    monkeypatch: pytest.MonkeyPatch, certificates: tuple[ssl.SSLContext, str]
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/nonexistent")
    monkeypatch.setenv("SSL_CERT_DIR", "/nonexistent")
    monkeypatch.setattr(trust, "_BUNDLES", ("/nonexistent", certificates[1]))

    context = make_context("")

    assert [ca["subject"] for ca in context.get_ca_certs()] == [((("commonName", "Throwaway CA"),),)]


def test_a_bad_ca_file_is_an_os_error(tmp_path: Any) -> None:
    (tmp_path / "bad.pem").write_text("nothing")

    for path in (tmp_path / "bad.pem", tmp_path / "missing.pem"):
        with pytest.raises(OSError):
            client_context(str(path))


V4, V6 = socket.AF_INET, socket.AF_INET6


@pytest.mark.parametrize(
    ("found", "order"),
    [
        ([], []),
        ([(V4, "a")], [(V4, "a")]),
        ([(V6, "1"), (V6, "2"), (V4, "a"), (V4, "b")], [(V6, "1"), (V4, "a"), (V6, "2"), (V4, "b")]),
        ([(V4, "a"), (V4, "b"), (V6, "1")], [(V4, "a"), (V6, "1"), (V4, "b")]),
        ([(V4, "a"), (V4, "a")], [(V4, "a")]),
    ],
)
def test_families_are_tried_in_turn(found: Any, order: Any) -> None:
    assert interleave(found) == order


def test_httpx_is_not_needed_to_check_settings() -> None:
    code = "import sys, bridge.providers.template, bridge.providers.capture; print('httpx' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert shown.stdout.strip() == "False"
