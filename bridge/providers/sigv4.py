"""AWS Signature Version 4 by botocore, with the credentials that all AWS programs find: given, of the environment, of a
file, of the container, of the instance. https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv.html

botocore is imported when the first request is signed: it costs memory that no other provider needs.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import httpx

from bridge.providers.body import sha256_of, size_of
from bridge.providers.http import OFF_LOOP_SIZE, Fetch
from bridge.providers.outcomes import Failed, Meaning, outcome_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """Static credentials; empty: those that botocore finds. `session_token` only with temporary ones."""

    access_key_id: str = ""
    secret_access_key: str = field(default="", repr=False)
    session_token: str = field(default="", repr=False)


class SigV4:
    """Signs each request anew: a signature holds for minutes. Roles are asked again by botocore before theirs run out."""

    def __init__(self, *, service: str, region: str, keys: Keys) -> None:
        self._service = service
        self._region = region
        self._keys = keys
        self._found: Any = None  # botocore's credentials, which renew themselves
        self._finding = asyncio.Lock()

    async def sign(self, request: httpx.Request, fetch: Fetch) -> None:
        """Raises Failed when there are no credentials."""
        if self._keys.access_key_id:
            credentials = self._static()
        else:
            async with self._finding:  # one at a time asks the metadata service, which is slow at its first time
                credentials = await asyncio.to_thread(self._frozen)
        if size_of(request) > OFF_LOOP_SIZE:
            await asyncio.to_thread(self._add, request, credentials)
        else:
            self._add(request, credentials)

    def renew(self, request: httpx.Request) -> bool:
        return False

    def _static(self) -> Any:
        from botocore.credentials import ReadOnlyCredentials

        keys = self._keys
        return ReadOnlyCredentials(keys.access_key_id, keys.secret_access_key, keys.session_token or None)

    def _frozen(self) -> Any:
        from botocore.exceptions import BotoCoreError
        from botocore.session import Session

        try:
            if self._found is None:
                self._found = Session().get_credentials()
            if self._found is not None:
                return self._found.get_frozen_credentials()
        except BotoCoreError as error:
            raise Failed(outcome_of(Meaning.ACCOUNT, f"no AWS credentials: {type(error).__name__}")) from error
        raise Failed(outcome_of(Meaning.ACCOUNT, "no AWS credentials were found"))

    def _add(self, request: httpx.Request, credentials: Any) -> None:
        from botocore.auth import SigV4Auth
        from botocore.awsrequest import AWSRequest

        kept = {"Content-Type": request.headers["content-type"]} if "content-type" in request.headers else {}
        signed = AWSRequest(method=request.method, url=str(request.url), headers=kept)
        signer = SigV4Auth(credentials, self._service, self._region)
        signer.payload = lambda _: sha256_of(request).hex()  # its own wants the whole body
        signer.add_auth(signed)
        for name in ("Authorization", "X-Amz-Date", "X-Amz-Security-Token"):
            if name in signed.headers:
                request.headers[name] = signed.headers[name]
