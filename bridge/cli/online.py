"""`smtp-bridge check --online`: whether each provider accepts its credentials, by calls that send no mail."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence

import orjson

from bridge.cli.common import fail
from bridge.cli.exits import EX_CONFIG, EX_NOPERM
from bridge.config.settings import Settings
from bridge.providers.base import Provider, Verified
from bridge.wiring import ProviderError, build_providers

_WORDS = {True: "ok", False: "refused", None: "not known"}


def check_online(settings: Settings, *, as_json: bool) -> int:
    """The exit status: 77 when a provider refused, or could not be asked."""
    try:
        found = asyncio.run(ask_all(settings))
    except ProviderError as error:
        fail(str(error), EX_CONFIG)
    if as_json:
        rows = [{"provider": p.name, "kind": p.kind, "ok": v.ok, "text": v.text} for p, v in found]
        sys.stdout.write(orjson.dumps(rows, option=orjson.OPT_INDENT_2).decode() + "\n")
    else:
        for provider, verified in found:
            print(f"{provider.name} ({provider.kind}): {_WORDS[verified.ok]}: {verified.text}")
    return EX_NOPERM if any(verified.ok is False for _, verified in found) else 0


async def ask_all(settings: Settings) -> Sequence[tuple[Provider, Verified]]:
    providers = build_providers(settings)
    try:
        answers = await asyncio.gather(*(provider.verify() for provider in providers))
    finally:
        for provider in providers:
            await provider.aclose()
    return list(zip(providers, answers, strict=True))
