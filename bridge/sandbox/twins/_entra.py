"""Tokens of Microsoft Entra for the twins of its APIs (client credentials):
https://learn.microsoft.com/entra/identity-platform/v2-oauth2-client-creds-grant-flow"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

from bridge.clock import Clock
from bridge.sandbox.exchange import Answer, Response, json_response
from bridge.sandbox.twins.base import Call, Route

LIFETIME_S = 3599


def _error(status: int, error: str, description: str, code: int) -> Answer:
    return Answer(status=status, body={"error": error, "error_description": description, "error_codes": [code]})


ERRORS: Mapping[str, Answer] = {
    "invalid_client": _error(401, "invalid_client", "AADSTS7000215: Invalid client secret provided.", 7000215),
    "unauthorized_client": _error(400, "unauthorized_client", "AADSTS700016: Application was not found.", 700016),
    "invalid_scope": _error(400, "invalid_scope", "AADSTS70011: The provided scope is not valid.", 70011),
}


class Tokens:
    """The token endpoint; the sandbox's key is the client's secret. `revoke` makes all tokens worthless."""

    def __init__(self, *, key: str, scope: str, clock: Clock) -> None:
        self._key = key
        self._scope = scope
        self._clock = clock
        self._until: dict[str, float] = {}
        self.given = 0

    def route(self) -> Route:
        return Route("POST", "/{tenant}/oauth2/v2.0/token", self._give, target="token", open=True)

    def revoke(self) -> None:
        self._until.clear()

    def has_token(self, call: Call) -> bool:
        scheme, _, token = call.header("authorization").partition(" ")
        return scheme == "Bearer" and self._until.get(token, 0.0) > self._clock.now()

    def _give(self, call: Call) -> Response:
        form = call.form()
        given: dict[str, Any] = {name: form.values(name)[0] for name in form.names()}
        if given.get("grant_type") != "client_credentials" or not given.get("client_id"):
            return _error(
                400, "invalid_request", "AADSTS900144: The request body must contain the parameter.", 900144
            ).response()
        if not secrets.compare_digest(given.get("client_secret", "").encode(), self._key.encode()):
            return ERRORS["invalid_client"].response()
        if given.get("scope") != self._scope:
            return ERRORS["invalid_scope"].response()
        token = secrets.token_urlsafe(24)
        self._until[token] = self._clock.now() + LIFETIME_S
        self.given += 1
        return json_response({"token_type": "Bearer", "expires_in": LIFETIME_S, "access_token": token})
