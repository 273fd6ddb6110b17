"""The kinds of values settings are made of: how each is read, checked, shown again and described in the schema.

Nothing here repeats a value in an error, since any of them may turn out to be a secret in the wrong place.
"""

from __future__ import annotations

import base64
import ipaddress
import json
import math
import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, PlainValidator, SecretStr, WithJsonSchema

from bridge import units
from bridge.reply import Reply, parse_reply

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
MASK = "********"
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 5.6.2
_LABEL = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
_MAX_UNIX_PATH = 107  # sockaddr_un.sun_path on Linux, without its NUL


class FileMarker:
    """Marks a key that names a file which must be readable; the loader makes it absolute."""


class SecretMarker:
    """Marks a key `x` that may also be given as `x_file`."""


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("must be text in quotes")
    return value


def _read_duration(value: Any) -> float:
    number = isinstance(value, (int, float))
    if number and (value != 0 or isinstance(value, bool)):
        raise ValueError('a duration needs its unit, in quotes: "20s", "5m", "2h" or "7d"')
    return 0.0 if number else units.parse_duration(_text(value))


def _read_size(value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    return units.parse_size(_text(value))


def _read_rate(value: Any) -> units.Rate | None:
    return units.parse_rate(value) if _text(value) else None


def _no_switch(value: Any) -> Any:
    # Python takes true for 1, so `max_connections = true` would pass.
    if isinstance(value, bool):
        raise ValueError("must be a number")
    return value


def _plain_number(value: Any) -> Any:
    # nan compares with nothing, so no bound would hold it.
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("must be a number")
    return _no_switch(value)


def _positive(value: float) -> float:
    if value <= 0:
        raise ValueError("must be more than 0")
    return value


Count = Annotated[int, BeforeValidator(_no_switch), Field(ge=1, le=1_000_000_000)]
Factor = Annotated[float, BeforeValidator(_plain_number)]

_DURATION_SCHEMA = {
    "type": "string",
    "pattern": f"^(0|{units.DURATION_PATTERN})$",
    "examples": ["20s", "5m", "2h", "7d"],
}
_SIZE_SCHEMA = {"type": ["string", "integer"], "pattern": f"^{units.SIZE_PATTERN}$", "examples": ["25MiB", "10GiB"]}

Duration = Annotated[
    float,
    PlainValidator(_read_duration),
    PlainSerializer(units.format_duration, return_type=str),
    WithJsonSchema(_DURATION_SCHEMA),
]
PositiveDuration = Annotated[Duration, AfterValidator(_positive)]
Size = Annotated[
    int,
    PlainValidator(_read_size),
    PlainSerializer(units.format_size, return_type=str),
    WithJsonSchema(_SIZE_SCHEMA),
]
PositiveSize = Annotated[Size, AfterValidator(_positive)]
MaybeRate = Annotated[
    units.Rate | None,
    PlainValidator(_read_rate),
    PlainSerializer(lambda rate: str(rate or ""), return_type=str),
    WithJsonSchema({"type": "string", "pattern": f"^({units.RATE_PATTERN})?$", "examples": ["10/s", "100/h"]}),
]


# Secrets. -------------------------------------------------------------------------------------------------------------


def _printable_secret(secret: SecretStr) -> SecretStr:
    # A credential ends up in a header or an SMTP exchange: a line break in it would start a line of its own.
    if re.search(r"[\x00-\x1f\x7f]", secret.get_secret_value()):
        raise ValueError("holds a control character or more than one line")
    if re.search(
        r"[\ud800-\udfff]", secret.get_secret_value()
    ):  # from a variable; it could be neither sent nor compared
        raise ValueError("is not UTF-8 text")
    return secret


def _mask(secret: SecretStr) -> str:
    return MASK if secret.get_secret_value() else ""


def mask_url(url: str) -> str:
    """Without credentials and query: some APIs take their key there."""
    parts = urlsplit(url)
    credentials, _, host = parts.netloc.rpartition("@")
    start = f"{parts.scheme}://" if parts.scheme else ""  # geturl() loses two of the slashes of sqlite:////
    return f"{start}{MASK + '@' if credentials else ''}{host}{parts.path}{'?' + MASK if parts.query else ''}"


def _mask_path(secret: SecretStr) -> str:
    """Scheme and host alone: the webhooks of chats have their key in the path."""
    parts = urlsplit(secret.get_secret_value())
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}/{MASK}" if parts.netloc else ""


def _mask_credentials(secret: SecretStr) -> str:
    return mask_url(secret.get_secret_value())


Secret = Annotated[
    SecretStr, AfterValidator(_printable_secret), PlainSerializer(_mask, return_type=str), SecretMarker()
]
# An address that may hold a password; the rest of it may be seen.
SecretUrl = Annotated[
    SecretStr, AfterValidator(_printable_secret), PlainSerializer(_mask_credentials, return_type=str), SecretMarker()
]


# Lists. ---------------------------------------------------------------------------------------------------------------


def split_list(value: Any) -> Any:
    """A list as it stands; text as JSON when it starts with a bracket, else separated by commas."""
    if isinstance(value, int) and not isinstance(value, bool):
        return [value]
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        return decode_json(value)
    return [item.strip() for item in value.split(",") if item.strip()]


def decode_json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass  # raised anew without its context: json's own exception keeps the whole text
    raise ValueError("is not valid JSON")


List = BeforeValidator(split_list)
TextList = Annotated[tuple[str, ...], List]


# Names. ---------------------------------------------------------------------------------------------------------------


def _read_network(value: Any) -> Network:
    """One of addresses that stand for IPv4 ones (RFC 4291 2.5.5.2) is the IPv4 network it holds: so its clients are seen."""
    try:
        network = ipaddress.ip_network(_text(value).strip())
        if isinstance(network, ipaddress.IPv6Network) and network.prefixlen >= 96:
            inner = network.network_address.ipv4_mapped
            return ipaddress.IPv4Network((inner, network.prefixlen - 96)) if inner else network
        return network
    except ValueError:
        pass
    raise ValueError(
        'not a network; write for example "192.0.2.0/24" or "2001:db8::/32", without bits set in the host part'
    )


AnyNetwork = Annotated[
    Network,
    PlainValidator(_read_network),
    PlainSerializer(str, return_type=str),
    WithJsonSchema({"type": "string", "examples": ["192.0.2.0/24", "::1/128"]}),
]


def is_domain(name: str) -> bool:
    return len(name) <= 253 and all(_LABEL.fullmatch(label) for label in name.split("."))


def _check_hostname(name: str) -> str:
    # RFC 5321 2.3.5 and 4.1.3: a domain, or an address literal where the machine has no name.
    if name and not is_domain(name) and not re.fullmatch(r"\[[0-9A-Fa-f.:Pv]{2,60}\]", name):
        raise ValueError("not a host name")
    return name


def _check_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", name):
        raise ValueError("a name is letters, digits, '.', '_' and '-', at most 63 of them")
    return name


def check_header_name(name: str) -> str:
    if name and not _TOKEN.fullmatch(name):
        raise ValueError("not a header name")
    return name


def check_pointer(pointer: str) -> str:
    """RFC 6901: "" or "/"-separated, with "~" only as "~0" and "~1"."""
    if pointer and not pointer.startswith("/"):
        raise ValueError("not a JSON pointer; it starts with '/', as in \"/error/code\"")
    if re.search(r"~(?![01])", pointer):
        raise ValueError("not a JSON pointer; '~' is written \"~0\" and '/' in a name \"~1\" (RFC 6901)")
    return pointer


def _check_address(address: str) -> str:
    if address and not re.fullmatch(r"[^\s@<>\"(),;:]+@[^\s@<>\"(),;:]+", address):
        raise ValueError("not an email address")
    return address


def check_patterns(patterns: tuple[str, ...]) -> tuple[str, ...]:
    if not all(patterns) or any(re.search(r"[\s<>]", pattern) for pattern in patterns):
        raise ValueError('a sender is an address or a pattern of one, as in "*@example.com"')
    return patterns


def _check_pattern(pattern: str) -> str:
    if re.search(r"[\s<>]", pattern):
        raise ValueError('not an address or a pattern of one, as in "*@example.com"')
    return pattern


def _check_mailbox(text: str) -> str:
    """`noreply@example.com` or `Servers <noreply@example.com>`."""
    match = re.fullmatch(r'(?:(?:"[^"\\]*"|[^"<>,;:()@\\]*?)\s*<([^<>]+)>|([^<>\s]+))', text)
    if text and (not match or re.search(r"[\x00-\x1f\x7f]", text) or "." not in _domain_of(match[1] or match[2])):
        raise ValueError('not a mailbox with a full domain, as in "Servers <noreply@example.com>"')
    return text


def _domain_of(address: str) -> str:
    return _check_address(address).rpartition("@")[2]


def _required(text: str) -> str:
    if not text:
        raise ValueError("is empty")
    return text


def _check_bounce_from(text: str) -> str:
    if text == "off":
        return text
    try:
        return _check_mailbox(text)
    except ValueError as error:
        raise ValueError(f'{error}; or write "off"') from None


def _check_webhook(secret: SecretStr) -> SecretStr:
    url = secret.get_secret_value()
    if url:
        parts = split_url(url)
        if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
            raise ValueError("is http:// to another machine; use https://")
        if parts.username is not None or parts.fragment:
            raise ValueError("holds a login or a #fragment, which are never sent")
    return secret


def _check_webhook_secret(secret: SecretStr) -> SecretStr:
    if secret.get_secret_value():
        webhook_key(secret.get_secret_value())
    return secret


def webhook_key(secret: str) -> bytes:
    """`whsec_` and base64 -> the key (Standard Webhooks, "Signature scheme"). Raises ValueError."""
    try:
        key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except ValueError:
        key = b""
    if not 24 <= len(key) <= 64:
        raise ValueError('not a webhook secret: "whsec_" and 24 to 64 octets in base64')
    return key


Hostname = Annotated[str, AfterValidator(_check_hostname)]
Name = Annotated[str, AfterValidator(_check_name)]
MaybeName = Annotated[str, AfterValidator(lambda name: _check_name(name) if name else "")]
Pattern = Annotated[str, AfterValidator(_check_pattern)]
RequiredPattern = Annotated[str, AfterValidator(_check_pattern), AfterValidator(_required)]
SenderMailbox = Annotated[str, AfterValidator(_check_mailbox)]
RequiredMailbox = Annotated[str, AfterValidator(_check_mailbox), AfterValidator(_required)]
BounceFrom = Annotated[str, AfterValidator(_check_bounce_from)]
WebhookUrl = Annotated[
    SecretStr,
    AfterValidator(_printable_secret),
    AfterValidator(_check_webhook),
    PlainSerializer(_mask_path, return_type=str),
    SecretMarker(),
]
WebhookSecret = Annotated[Secret, AfterValidator(_check_webhook_secret)]
HeaderName = Annotated[str, AfterValidator(check_header_name)]
JsonPointer = Annotated[str, AfterValidator(check_pointer)]
EmailAddress = Annotated[str, AfterValidator(_check_address)]
ExistingFile = Annotated[str, FileMarker()]


def split_url(url: str) -> SplitResult:
    """The parts of an http(s) address with a host and a possible port. Raises ValueError."""
    try:
        parts = urlsplit(url)
        usable = bool(parts.hostname) and parts.port != 0 and not re.search(r"[\x00-\x20\x7f]", url)
    except ValueError:
        usable = False
    if not usable or parts.scheme not in ("http", "https"):
        raise ValueError("not an address that starts with https:// (or http://) and a host")
    return parts


def is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _read_reply(value: Any) -> Reply:
    try:
        reply = parse_reply(_text(value))
    except ValueError:
        pass
    else:
        if reply.code < 400:
            raise ValueError("an outcome's reply is a 4xx (try again) or a 5xx (refused)")
        return reply
    raise ValueError('not a reply; write for example "550 5.1.1 No such recipient", with two codes that agree')


ReplyText = Annotated[
    Reply,
    PlainValidator(_read_reply),
    PlainSerializer(str, return_type=str),
    WithJsonSchema({"type": "string", "examples": ["550 5.1.1 No such recipient"]}),
]


# Where a listener listens. --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """tcp: `host` ("" for every interface) and `port` (0: the system chooses); unix: `host` is the path; systemd: the name."""

    kind: Literal["tcp", "unix", "systemd"]
    host: str
    port: int = 0

    def __str__(self) -> str:
        if self.kind != "tcp":
            return f"{self.kind}:{self.host}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_listen_address(text: str) -> ListenAddress:
    """`"host:port"`, `"[::1]:2525"`, `":2525"`, `"unix:/path"` or `"systemd:NAME"`. Raises ValueError."""
    if text.startswith("unix:"):
        return _unix_address(text.removeprefix("unix:"))
    if text.startswith("systemd:"):
        return _systemd_address(text.removeprefix("systemd:"))
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\s:\[\]/]*)):([0-9]{1,6})", text)
    if not match:
        raise ValueError('not an address; write "127.0.0.1:2525", "[::1]:2525", ":2525" (every interface), "unix:/path" or '
                         '"systemd:NAME"')  # fmt: skip
    port = int(match[3])
    if port > 65535:
        raise ValueError("a port is at most 65535")
    return ListenAddress("tcp", _ipv6(match[1]) if match[1] else _host(match[2]), port)


def _unix_address(path: str) -> ListenAddress:
    if not path.startswith("/") or "\0" in path:
        raise ValueError('the path of a socket is absolute: "unix:/run/smtp-bridge/lmtp.sock"')
    if len(path.encode("utf-8", "surrogateescape")) > _MAX_UNIX_PATH:
        raise ValueError(f"the path of a socket is longer than {_MAX_UNIX_PATH} octets")
    return ListenAddress("unix", path)


def _systemd_address(name: str) -> ListenAddress:
    # sd_listen_fds_with_names(3): at most 255 printable ASCII characters without a colon.
    if not re.fullmatch(r"[\x21-\x39\x3b-\x7e]{1,255}", name):
        raise ValueError("the name of a systemd socket is its FileDescriptorName=, without blanks and colons")
    return ListenAddress("systemd", name)


def _ipv6(host: str) -> str:
    try:
        return str(ipaddress.IPv6Address(host))
    except ValueError:
        pass
    raise ValueError("not an IPv6 address between the brackets")


def _host(host: str) -> str:
    host = "" if host == "*" else host.lower()
    numeric = bool(re.fullmatch(r"[0-9.]+", host))
    try:
        usable = not host or (str(ipaddress.IPv4Address(host)) == host if numeric else is_domain(host))
    except ValueError:
        usable = False
    if not usable:
        raise ValueError("the host of the address is neither a name nor an IP address")
    return host


Address = Annotated[
    ListenAddress,
    PlainValidator(lambda value: parse_listen_address(_text(value).strip())),
    PlainSerializer(str, return_type=str),
    WithJsonSchema(
        {"type": "string", "examples": ["127.0.0.1:2525", "unix:/run/smtp-bridge/lmtp.sock", "systemd:smtp"]}
    ),
]
MaybeAddress = Annotated[
    ListenAddress | None,
    PlainValidator(lambda value: parse_listen_address(_text(value).strip()) if value else None),
    PlainSerializer(lambda address: str(address or ""), return_type=str),
    WithJsonSchema({"type": "string", "examples": ["127.0.0.1:8025", ""]}),
]


def is_local(address: ListenAddress) -> bool:
    """Only this machine can connect there. What systemd passes is not known."""
    return address.kind == "unix" or (address.kind == "tcp" and is_loopback(address.host))
