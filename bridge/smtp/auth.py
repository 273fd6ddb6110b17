"""Who a client is: passwords checked off the loop, good results remembered for some minutes under a keyed hash.

argon2 takes about 20 ms and 19 MiB on purpose; a client that logs in for each message pays it once per `cache_s`. At most two
verifications run at once, so that a flood of logins costs neither the memory nor the cores.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError, VerifyMismatchError

from bridge.model import matches

MAX_CACHED = 1000
MAX_PASSWORD_OCTETS = 1024
_HASHER = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)
_BASE64 = re.compile(rb"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?")


def hash_password(password: str) -> str:
    """An argon2id hash with m = 19 MiB, t = 2, p = 1 (OWASP Password Storage Cheat Sheet)."""
    return _HASHER.hash(password)


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """`password_hash` is an argon2 hash; `password` is the plain one, which CRAM-MD5 needs; at most one of the two.
    `certificate`: the name that a client certificate of this user carries.

    `senders`: patterns of addresses this user may send as, `*` for any run of characters.
    """

    name: str
    password_hash: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    certificate: str = ""
    senders: tuple[str, ...] = ("*",)

    def may_send_as(self, address: str) -> bool:
        """The null reverse path is everybody's (bounces and receipts of the client's own, RFC 5321 4.5.5)."""
        return not address or any(matches(pattern, address) for pattern in self.senders)


class AuthUnavailable(Exception):
    """The check itself failed: 454 4.7.0, never 535."""


class Authenticator:
    """Checks names and passwords. A wrong name takes as long as a wrong password."""

    def __init__(self, users: Iterable[User], *, cache_s: float) -> None:
        self._take(users)
        self._cache_s = cache_s
        self._key = secrets.token_bytes(32)
        self._good: dict[bytes, float] = {}
        self._threads = ThreadPoolExecutor(max_workers=2, thread_name_prefix="argon2")
        # Who has no hash of its own is checked against somebody's, so that a wrong name costs what a wrong password does.
        self._decoy = next((user.password_hash for user in self._users.values() if user.password_hash), "")

    def replace(self, users: Iterable[User]) -> None:
        """From now on these may log in; whoever is logged in stays so."""
        self._take(users)
        self._good.clear()

    def _take(self, users: Iterable[User]) -> None:
        self._users = {user.name: user for user in users}
        self._certified = {u.certificate.lower(): u for u in self._users.values() if u.certificate}
        self._with_password = any(user.password_hash or user.password for user in self._users.values())

    def __bool__(self) -> bool:
        """Whether anybody could log in with a password."""
        return self._with_password

    def user_of_certificate(self, names: Sequence[str], *, anybody: bool) -> User | None:
        """Who has a certificate that carries these names, and that TLS has verified.

        `anybody`: every one counts, as a user of its first name; but never as one that there is, who has a password instead.
        """
        for name in names:
            if user := self._certified.get(name.lower()):
                return user
        if not anybody or not names or names[0].lower() in {name.lower() for name in self._users}:
            return None
        return User(name=names[0])

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def check_password(self, name: str, password: bytes) -> User | None:
        """The user, or None for a wrong name or password. Raises AuthUnavailable."""
        # Nobody's password is empty, even if a hash says so.
        user = self._users.get(name) if password else None
        if len(password) > MAX_PASSWORD_OCTETS:
            return None
        if known := self.recall(name, password):
            return known
        good = await self._verify(user.password_hash if user else "", password)
        if not (user and good):
            return None
        self._remember(self._digest(user, password))
        return user

    def recall(self, name: str, password: bytes) -> User | None:
        """The user, if that needs no work: the password is a plain one, or was right some minutes ago. None says nothing."""
        user = self._users.get(name)
        if not user or len(password) > MAX_PASSWORD_OCTETS:
            return None
        if user.password:
            return user if hmac.compare_digest(user.password.encode(), password) else None
        return user if self._good.get(self._digest(user, password), 0.0) > time.monotonic() else None

    def _digest(self, user: User, password: bytes) -> bytes:
        return hashlib.blake2b(
            b"\0".join((user.name.encode(), user.password_hash.encode(), password)), key=self._key
        ).digest()

    def check_cram_md5(self, name: str, challenge: bytes, digest: str) -> User | None:
        """RFC 2195. Users without a plain password cannot log in this way."""
        user = self._users.get(name)
        secret = user.password.encode() if user and user.password else self._key  # a wrong name takes as long
        wanted = hmac.new(secret, challenge, "md5").hexdigest()
        good = hmac.compare_digest(wanted.encode(), digest.lower().encode("utf-8", "replace"))
        return user if user and user.password and good else None

    async def _verify(self, password_hash: str, password: bytes) -> bool:
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._threads, self._verify_here, password_hash, password)
        except (InvalidHashError, VerificationError, MemoryError, RuntimeError, OSError) as error:
            raise AuthUnavailable(type(error).__name__) from error

    def _verify_here(self, password_hash: str, password: bytes) -> bool:
        self._decoy = self._decoy or hash_password(secrets.token_hex(16))
        try:
            return _HASHER.verify(password_hash or self._decoy, password) and bool(password_hash)
        except VerifyMismatchError:
            return False

    def _remember(self, key: bytes) -> None:
        if len(self._good) >= MAX_CACHED:
            now = time.monotonic()
            self._good = {k: until for k, until in self._good.items() if until > now}
        if len(self._good) >= MAX_CACHED:
            self._good.clear()
        self._good[key] = time.monotonic() + self._cache_s


def decode_base64(line: bytes) -> bytes | None:
    """Strict RFC 4648 base64, "=" standing for the empty string (RFC 4954 4); None when it is none."""
    if line == b"=":
        return b""
    if not _BASE64.fullmatch(line):
        return None
    try:
        return base64.b64decode(line, validate=True)
    except binascii.Error:
        return None


def parse_plain(message: bytes) -> tuple[str, bytes] | None:
    """RFC 4616: authzid NUL authcid NUL password -> (name, password); an authzid must be empty or the name itself."""
    parts = message.split(b"\0")
    if len(parts) != 3 or not parts[1]:
        return None
    try:
        authorize, name = parts[0].decode(), parts[1].decode()
    except UnicodeDecodeError:
        return None
    return None if authorize and authorize != name else (name, parts[2])


def parse_cram_md5(message: bytes) -> tuple[str, str] | None:
    """RFC 2195: `name digest` -> (name, 32 hexadecimal digits)."""
    try:
        name, blank, digest = message.decode().rpartition(" ")
    except UnicodeDecodeError:
        return None
    return (name, digest) if blank and name and re.fullmatch(r"[0-9a-fA-F]{32}", digest) else None


def cram_md5_challenge(hostname: str) -> bytes:
    """Unique and unguessable (RFC 2195 2)."""
    return f"<{secrets.token_hex(12)}.{int(time.time())}@{hostname}>".encode("ascii", "replace")
