"""Whose certificates we believe, and which proxy stands between: the system's store and settings, plus the operator's own.

truststore would read the store anew for every connection (25 ms on the loop, measured with 144 certificates); on Linux it
comes down to OpenSSL's default locations with a few well-known files to fall back on, which is what stands here, done once.
"""

from __future__ import annotations

import functools
import ssl
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote_to_bytes, urlsplit

import httpcore2

from bridge.files import Stamp, stamp

# Where distributions keep the bundle, for a Python whose OpenSSL was built with other paths.
_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/ssl/cert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/pki/tls/cert.pem",
    "/etc/ssl/ca-bundle.pem",
)


def client_context(ca_file: str = "") -> ssl.SSLContext:
    """A verifying context (27 ms, 2 MB), made when first needed or `ca_file` has changed, and shared. Raises OSError for a bad
    `ca_file`."""
    return _made(ca_file, stamp(Path(ca_file)) if ca_file else ())


@functools.lru_cache(maxsize=16)
def _made(ca_file: str, looks: Stamp) -> ssl.SSLContext:
    return make_context(ca_file)


def make_context(ca_file: str = "") -> ssl.SSLContext:
    """As `client_context`, always anew."""
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    paths = ssl.get_default_verify_paths()
    if not paths.cafile and not context.cert_store_stats()["x509_ca"]:
        for bundle in filter(Path.is_file, map(Path, _BUNDLES)):
            context.load_verify_locations(bundle)
            break
    if ca_file:
        context.load_verify_locations(ca_file)
    return context


def proxy_url(setting: str, scheme: str, host: str, environment: Mapping[str, str] | None = None) -> str:
    """The proxy for a provider's address: the setting, else HTTPS_PROXY, HTTP_PROXY, ALL_PROXY unless NO_PROXY names the
    host; "" for none. Loopback never goes through the environment's."""
    if setting:
        return setting
    if host in {"localhost", "127.0.0.1", "::1"}:
        return ""
    proxies = dict(environment) if environment is not None else urllib.request.getproxies_environment()
    if urllib.request.proxy_bypass(host, proxies):
        return ""
    found = proxies.get(scheme) or proxies.get("all") or ""
    return found if "://" in found or not found else f"http://{found}"


def proxy_for_pool(url: str) -> httpcore2.Proxy | None:
    """httpcore2's value, the credentials taken out of the address so that they never stand in an error text."""
    if not url:
        return None
    parts = urlsplit(url)
    auth = (unquote_to_bytes(parts.username), unquote_to_bytes(parts.password or "")) if parts.username else None
    host = f"[{parts.hostname}]" if parts.hostname and ":" in parts.hostname else parts.hostname or ""
    port = f":{parts.port}" if parts.port else ""
    return httpcore2.Proxy(f"{parts.scheme}://{host}{port}", auth=auth)
