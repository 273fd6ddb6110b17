"""What is done to messages, one or many: said first (`dry_run`), then done. For the API and the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

from bridge.spool.base import Action, Forecast, Search
from bridge.web.context import Web
from bridge.web.errors import Problem, shown

ACTIONS: tuple[Action, ...] = get_args(Action)
MAX_IDS = 10_000  # messages in one request
_PAGE = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """Queue ids. `more`: there may be further messages like these; `before`: where to go on."""

    ids: Sequence[str]
    more: bool = False
    before: str = ""


async def choose(web: Web, wanted: Search, *, before: str = "", limit: int = MAX_IDS) -> Chosen:
    """The newest messages that are like this, at most `limit`."""
    ids: list[str] = []
    while len(ids) < limit:
        page = await web.spool.search(wanted, limit=min(_PAGE, limit - len(ids)), before=before, recipients=0)
        ids += [row["queue_id"] for row in page.rows]
        before = page.before
        if not page.more:
            return Chosen(ids=ids)
    return Chosen(ids=ids, more=True, before=before)


async def forecast(
    web: Web, action: Action, ids: Sequence[str], *, provider: str = "", force: bool = False
) -> Forecast:
    """What `act` would do now. Raises Problem 422."""
    _check(web, action, provider)
    return await web.spool.forecast(action, ids, now=web.clock.now(), provider=provider, force=force)


async def act(web: Web, action: Action, ids: Sequence[str], *, provider: str = "", force: bool = False) -> int:
    """How many recipients were changed. `provider`: retry through this one; what another one may have sent already is left
    alone unless `force`. Raises Problem 422."""
    _check(web, action, provider)
    now = web.clock.now()
    if provider:
        lane = web.dispatchers.lane_of(provider)
        return await web.spool.reroute(ids, provider=provider, lane=lane, force=force, now=now)
    work = {"retry": web.spool.retry, "hold": web.spool.hold, "release": web.spool.release, "drop": web.spool.drop}
    return await work[action](ids, now=now)


def _check(web: Web, action: Action, provider: str) -> None:
    if provider and action != "retry":
        raise Problem(422, "Only a retry goes through a provider that is named", field="provider")
    if provider and web.dispatchers.named(provider) is None:
        names = ", ".join(one.provider.name for one in web.dispatchers.all)
        raise Problem(422, f"There is no provider {shown(provider)}; there are {names}", field="provider")


def as_json(found: Forecast) -> dict[str, Any]:
    """`messages`; `before`, `changed` and `left` as in Forecast; `unknown`: queue ids that are not there; `text`: all of
    that in a sentence."""
    changed, left = sum(found.changed.values()), sum(found.left.values())
    parts = [f"{_count(changed, 'recipient')} of {_count(found.messages, 'message')} will be changed"]
    if found.changed:
        parts[0] += f" ({', '.join(f'{number} {status}' for status, number in found.changed.items())})"
    if left:
        reasons = "; ".join(f"{number}: {reason}" for reason, number in found.left.items())
        parts.append(f"{left} will be left as they are ({reasons})")
    if found.unknown:
        parts.append(f"{_count(found.unknown, 'message')} of these are not here")
    return {
        "messages": found.messages,
        "before": dict(found.before),
        "changed": dict(found.changed),
        "left": dict(found.left),
        "unknown": found.unknown,
        "text": ", ".join(parts),
    }


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
