"""`/api/v1`: what the page and programs ask of the queue. JSON; times are seconds since the epoch, sizes octets.

To look needs the scope read, to change manage. Errors are `{"error": {"code", "message", "field"}}`.

A message, as in a list: `queue_id`, `created_at`, `expires_at`, `resolved_at`, `size`, `kind`, `subject`, `message_id`, `client`,
`helo`, `user`, `listener`, `protocol`, `sender`, `smtputf8`, `status` (one word for all recipients), `has_body`, `recipients`:
each with `address`, `status`, `attempts`, `next_attempt_at`, `expires_at`, `code`, `enhanced`, `text` (the last reply), `fault`,
`provider`, `provider_message_id`, `lane`, and a few more. There may be more recipients than are given: `recipients_total`,
`recipients_by_status`, and `trouble`, the first of all of whom no good news was told, or null.
"""

from __future__ import annotations

import binascii
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from typing import Any, cast

import orjson
from starlette.concurrency import iterate_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from bridge.budget import Hold
from bridge.spool.base import Action, Search, SpoolError, SpoolFull, StoredBody
from bridge.web import memory, numbers, operations
from bridge.web.asked import json_of, number_of, search_of
from bridge.web.context import Web
from bridge.web.errors import Json, Problem, shown
from bridge.web.guard import allowed, csrf_in_header
from bridge.web.memory import Streamed

PREFIX = "/api/v1"
LIMIT, MAX_LIMIT = 50, 500
RECIPIENTS = 20  # of each message in the list
PART, MAX_PART = 100, 1000  # recipients of one message
MAX_PAGE = 1_000_000
ROW_COST = 2048  # octets of a message or a recipient that is read, and as JSON
MAX_ADDRESS = 320
_PAGING = frozenset({"limit", "before", "after"})
_EXPORT_PAGE = 50


# By the names of their handlers.
OPERATIONS = {
    ("GET", "/messages"): "messages",
    ("GET", "/messages/{queue_id}"): "message",
    ("GET", "/messages/{queue_id}/raw"): "raw",
    ("POST", "/messages/{action}"): "act",
    ("GET", "/export"): "export",
    ("GET", "/providers"): "providers",
    ("GET", "/suppressions"): "suppressions",
    ("POST", "/suppressions"): "suppress",
    ("DELETE", "/suppressions/{address:path}"): "unsuppress",
    ("GET", "/status"): "status",
}


def routes(web: Web) -> list[BaseRoute]:
    api = Api(web)
    return [
        Route(f"{PREFIX}{path}", _safely(getattr(api, name)), methods=[method])
        for (method, path), name in OPERATIONS.items()
    ]


def _safely(work: Any) -> Any:
    """What the spool cannot do is no defect."""

    async def handle(request: Request) -> Response:
        try:
            return cast(Response, await work(request))
        except SpoolFull:
            raise Problem(503, "The spool is full", code="spool_full") from None
        except SpoolError as error:
            raise Problem(503, f"The spool cannot be used: {error}", code="spool_error") from None

    return handle


class Api:
    def __init__(self, web: Web) -> None:
        self._web = web

    # --- messages

    async def messages(self, request: Request) -> Response:
        """`q` words, `address`, `subject`, `id`, `status`, `provider`, `since`, `until`, all of what is given;
        `limit` (50, at most 500); `before` and `after` a queue id ->
        `{"messages": [...], "more": bool, "before": queue id}`, newest first.

        A search looks for a short time: with `more` there may be further ones, and `before` says where to go on, also when
        nothing was found yet. `after` the newest that is shown: what is new; with `before`, those in between. Of each message the
        first 20 of its `recipients_total` recipients are given, with `recipients_by_status` of all and `trouble`."""
        allowed(self._web, request, "read")
        wanted, given = _search(request), request.query_params
        limit = number_of(request, "limit", LIMIT, MAX_LIMIT)
        async with _held(self._web, limit if limit > LIMIT else 0) as hold:
            page = await self._web.spool.search(
                wanted,
                limit=limit,
                before=given.get("before", ""),
                after=given.get("after", ""),
                recipients=RECIPIENTS,
            )
            answer = Json({"messages": page.rows, "more": page.more, "before": page.before})
            return _sized(answer, hold, sum(1 + len(row["recipients"]) for row in page.rows))

    async def message(self, request: Request) -> Response:
        """`limit` recipients (100, at most 1000), `page` of them (1) ->
        the message: of its `recipients_total` recipients those of this page, in their order, with `recipients_by_status` of all;
        the `events` that concern these or the whole message, oldest first (`at`, `event`, `address`, `provider`, `code`,
        `enhanced`, `text`; `detail`: the provider's own words), and `timelines`: by address its events, with the number of the
        `attempt` that they end."""
        allowed(self._web, request, "read")
        limit, skip = part_of(request)
        async with _held(self._web, limit if limit > PART else 0) as hold:
            row = await self._found(request, limit, skip)
            return _sized(Json(row), hold, len(row["recipients"]) + 2 * len(row["events"]))

    async def raw(self, request: Request) -> Response:
        """The message itself, as it is stored (message/rfc822); 404 `no_body` when its body is not kept any more."""
        allowed(self._web, request, "read")
        row = await self._found(request)
        found = await memory.stored(self._web, row["queue_id"])
        if found is None:
            raise Problem(404, "The body of this message is not kept any more", code="no_body")
        body, close = found
        headers = {
            "content-disposition": f'attachment; filename="{row["queue_id"]}.eml"',
            "content-length": str(body.size),
        }
        return Streamed(body.pieces(), close=close, headers=headers, media_type="message/rfc822")

    async def _found(self, request: Request, limit: int = 0, skip: int = 0) -> Any:
        row = await self._web.spool.show_part(request.path_params["queue_id"], limit=limit, skip=skip)
        if row is None:
            raise Problem(404, "There is no such message (any more)")
        return row

    async def export(self, request: Request) -> Response:
        """All messages of a search between `after` and `before`, newest first, one JSON object in a line (application/x-ndjson):
        as in the list, with all recipients and `raw`, its body in base64, or null."""
        allowed(self._web, request, "read")
        wanted, given = _search(request), request.query_params
        if "limit" in given:
            raise Problem(422, "An export is of everything", field="limit")
        export = _Export(self._web, wanted, before=given.get("before", ""), after=given.get("after", ""))
        return Streamed(export.lines(), close=export.close, media_type="application/x-ndjson")

    async def act(self, request: Request) -> Response:
        """retry, hold, release, drop: `{"ids": [...]}` or `{"filter": {"q", "address", "status", ...}, "before"}`; with `dry_run`
        only what it would do; for retry `provider`: through this one, and `force`: even if another may have sent it ->
        `{"action", "dry_run", "changed": recipients, "forecast": {"messages", "before", "changed", "left", "unknown", "text"},
        "more", "before"}`. At most 10 000 messages at once: with `more`, ask again from `before` on."""
        caller = allowed(self._web, request, "manage")
        csrf_in_header(caller, request)
        action = request.path_params["action"]
        if action not in operations.ACTIONS:
            raise Problem(404, f"There is no action {shown(action)}; there are {', '.join(operations.ACTIONS)}")
        known = {"ids": list, "filter": dict, "before": str, "dry_run": bool, "provider": str, "force": bool}
        asked = await json_of(self._web, request, known)
        chosen = await self._chosen(asked)
        options = {"provider": asked.get("provider", ""), "force": asked.get("force", False)}
        dry_run = asked.get("dry_run", False)
        said = await operations.forecast(self._web, cast(Action, action), chosen.ids, **options)
        changed = 0 if dry_run else await operations.act(self._web, cast(Action, action), chosen.ids, **options)
        return Json(
            {
                "action": action,
                "dry_run": dry_run,
                "changed": changed,
                "forecast": operations.as_json(said),
                "more": chosen.more,
                "before": chosen.before,
            }
        )

    async def _chosen(self, asked: dict[str, Any]) -> operations.Chosen:
        if ("ids" in asked) == ("filter" in asked):
            raise Problem(422, "Either ids or a filter is needed", field="ids")
        if "filter" in asked:
            wanted = search_of(asked["filter"], prefix="filter.")
            if wanted == Search():
                raise Problem(422, 'The filter is empty; {"status": "active"} is all that waits', field="filter")
            return await operations.choose(self._web, wanted, before=asked.get("before", ""))
        ids = asked["ids"]
        if not ids or len(ids) > operations.MAX_IDS:
            raise Problem(422, f"ids is a list of 1 to {operations.MAX_IDS} queue ids", field="ids")
        for n, one in enumerate(ids):
            if not isinstance(one, str):
                raise Problem(422, "A queue id is a text", field=f"ids[{n}]")
        return operations.Chosen(ids=list(dict.fromkeys(ids)))

    # --- providers, status

    async def providers(self, request: Request) -> Response:
        """All of them -> `{"providers": [...]}`, each:"""
        allowed(self._web, request, "read")
        return Json({"providers": await numbers.providers(self._web)})

    async def status(self, request: Request) -> Response:
        """Of this daemon -> an object:"""
        allowed(self._web, request, "read")
        return Json(await numbers.status(self._web))

    # --- addresses that are not mailed

    async def suppressions(self, request: Request) -> Response:
        """`limit`, `after` an address -> `{"suppressions": [{"address", "reason", "provider", "created_at"}], "after"}`, by
        address; `after`: where to go on, "" at the end."""
        allowed(self._web, request, "read")
        limit = number_of(request, "limit", MAX_LIMIT, MAX_LIMIT)
        rows = await self._web.spool.list_suppressions(limit=limit, after=request.query_params.get("after", ""))
        return Json({"suppressions": rows, "after": rows[-1]["address"] if len(rows) == limit else ""})

    async def suppress(self, request: Request) -> Response:
        """`{"address", "reason"}` -> 201 `{"address", "added": true}`, or 200 when it was there already."""
        caller = allowed(self._web, request, "manage")
        csrf_in_header(caller, request)
        asked = await json_of(self._web, request, {"address": str, "reason": str})
        address = _address(asked.get("address", ""))
        reason = " ".join(asked.get("reason", "").split())[:500] or "by hand"
        added = await self._web.spool.suppress(address, reason, now=self._web.clock.now())
        await self._web.suppressions.load()
        return Json({"address": address, "added": added}, status_code=201 if added else 200)

    async def unsuppress(self, request: Request) -> Response:
        """204, or 404 when it was not suppressed."""
        caller = allowed(self._web, request, "manage")
        csrf_in_header(caller, request)
        if not await self._web.spool.unsuppress(_address(request.path_params["address"])):
            raise Problem(404, "This address is not suppressed", field="address")
        await self._web.suppressions.load()
        return Response(status_code=204)


class _Export:
    """One body at a time is open, and never all of it in memory."""

    def __init__(self, web: Web, wanted: Search, *, before: str, after: str) -> None:
        self._web, self._wanted, self._before, self._after = web, wanted, before, after
        self._close: Callable[[], None] | None = None

    async def lines(self) -> AsyncIterator[bytes]:
        spool, more, before = self._web.spool, True, self._before
        while more and not self._web.stopping:
            page = await spool.search(self._wanted, limit=_EXPORT_PAGE, before=before, after=self._after, recipients=0)
            for one in page.rows:
                for row in await spool.messages([one["queue_id"]]):
                    async for piece in self._line(row):
                        yield piece
            more, before = page.more, page.before

    async def _line(self, row: Mapping[str, Any]) -> AsyncIterator[bytes]:
        found = await self._open(row) if row["has_body"] else None
        if found is None:
            yield orjson.dumps({**row, "raw": None}) + b"\n"
            return
        body, self._close = found
        yield orjson.dumps({**row, "raw": ""})[:-2]
        async for piece in iterate_in_threadpool(_base64(body.pieces())):
            yield piece
        yield b'"}\n'
        self.close()

    async def _open(self, row: Mapping[str, Any]) -> tuple[StoredBody, Callable[[], None]] | None:
        """It is answered already, so it waits for memory as long as it takes."""
        while True:
            try:
                return await memory.stored(self._web, row["queue_id"])
            except Problem:
                if self._web.stopping:
                    raise

    def close(self) -> None:
        close, self._close = self._close, None
        if close:
            close()


def _base64(pieces: Iterable[bytes]) -> Iterator[bytes]:
    rest = b""
    for piece in pieces:
        data = rest + piece if rest else piece
        whole = len(data) // 3 * 3
        yield binascii.b2a_base64(data[:whole], newline=False)
        rest = data[whole:]
    yield binascii.b2a_base64(rest, newline=False)


def _search(request: Request) -> Search:
    given = request.query_params
    return search_of({name: value for name, value in given.items() if name not in _PAGING})


@contextlib.asynccontextmanager
async def _held(web: Web, rows: int) -> AsyncIterator[Hold | None]:
    """For so many rows that are read; None for few. Raises Problem 503."""
    hold = await memory.take(web, ROW_COST * rows) if rows else None
    try:
        yield hold
    finally:
        if hold:
            hold.release()


def _sized(answer: Response, hold: Hold | None, rows: int) -> Response:
    """Held, as large as it is, until it is sent."""
    if hold is None:
        return answer
    hold.resize(ROW_COST * rows)
    return memory.streamed(answer, hold.share())


def part_of(request: Request) -> tuple[int, int]:
    """How many recipients, and after how many, by `limit` and `page`. Raises Problem 422."""
    limit = number_of(request, "limit", PART, MAX_PART)
    return limit, limit * (number_of(request, "page", 1, MAX_PAGE) - 1)


def _address(text: str) -> str:
    address = text.strip()
    local, at, domain = address.rpartition("@")
    if not (local and at and domain) or len(address) > MAX_ADDRESS or not address.isprintable() or " " in domain:
        raise Problem(422, "address is an address like ann@example.com", field="address")
    return address
