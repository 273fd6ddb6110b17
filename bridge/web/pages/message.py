"""One message: what became of it for each recipient, what it says, its files, its source, and what is sent of it."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from bridge.budget import Hold
from bridge.content import cost, footprint
from bridge.delivery.lanes import Lane
from bridge.mime.headers import decode_words
from bridge.mime.parse import Costly, parse
from bridge.mime.pieces import LARGE, decoded, pieces_of
from bridge.mime.structure import parse_structure
from bridge.model import UNRESOLVED, Content, Email
from bridge.spool.base import SpoolError, StoredBody
from bridge.web.context import Web
from bridge.web.errors import Problem
from bridge.web.memory import PASSING, Streamed, stored, streamed, take
from bridge.web.pages import letter
from bridge.web.pages.actions import said
from bridge.web.pages.as_sent import Shown, requests_of
from bridge.web.pages.layout import render, route, viewer

VIEWS: Final = {
    "delivery": "Delivery", "html": "HTML", "text": "Text", "headers": "Headers", "files": "Attachments",
    "source": "Source", "request": "As sent",
}  # fmt: skip
MAX_SHOWN: Final = 256 * 1024  # characters of a text or the source
PAGE_COST: Final = 24  # octets for each of them: cut out, with entities in it, in the page, and encoded
PEOPLE: Final = 50  # recipients on a page
RECIPIENT_COST: Final = 2048  # octets of one that is read
MAX_PARSED: Final = 64 * 1024 * 1024  # octets of a message
MAX_COST: Final = 128 * 1024 * 1024  # and of what it and its text hold
GONE: Final = "The content of this message is not kept any more"
TOO_LARGE: Final = "This message is too large to be shown; its source can be downloaded"
_AT_ONCE = 2  # long ones that are read and parsed for the page
_THREAD = 64 * 1024  # octets; a longer message is parsed in a thread
_ID = re.compile(r"[0-9A-Za-z_-]{1,64}")
_TYPE = re.compile(r"[a-z0-9][a-z0-9!#$&^_.+-]{0,126}/[a-z0-9][a-z0-9!#$&^_.+-]{0,126}")
_FILE_POLICY = "default-src 'none'; sandbox"

T = TypeVar("T")
Row = Mapping[str, Any]


@dataclass(slots=True, kw_only=True)
class Opened:
    """The content of a message that is looked at. `head`: its first octets, MAX_SHOWN at most. `email` None: it is not kept, or,
    `large`, not parsed for a page. `hold`: of all of it, and of `more` octets that are made of it."""

    hold: Hold
    more: int
    head: bytes = b""
    email: Email | None = None
    large: bool = False

    def charge(self, octets: int) -> None:
        """So much more is there."""
        self.hold.resize(self.hold.octets + octets)


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """One recipient with what happened, oldest first."""

    row: Row
    events: tuple[Row, ...]


def routes(web: Web) -> list[BaseRoute]:
    pages = Pages(web)
    return [
        route("/mail/{id}", web, pages.show),
        route("/mail/{id}/delivery", web, pages.delivery),
        route("/mail/{id}/html", web, pages.html),
        route("/mail/{id}/raw", web, pages.raw),
        route("/mail/{id}/files/{number:int}", web, pages.file),
    ]


class Pages:
    def __init__(self, web: Web) -> None:
        self._web = web
        self._busy = asyncio.Semaphore(_AT_ONCE)

    async def show(self, request: Request) -> Response:
        viewer(self._web, request)
        row, page = await self._part(request)
        async with self._opened(row, views=True) as opened:
            email = opened.email
            view = self._view(request, opened)
            values: dict[str, Any] = {
                **_delivery(row, page),
                "said": said(request),
                "opened": opened,
                "email": email,
                "view": view,
                "views": _views(opened),
                "providers": [one.provider.name for one in self._web.dispatchers.all],
                "sandbox": letter.SANDBOX,
            }
            values |= await self._values_of(view, row, opened, request)
            return streamed(render(self._web, request, "message.html", here="mail", **values), opened.hold.share())

    async def _values_of(self, view: str, row: Row, opened: Opened, request: Request) -> dict[str, Any]:
        """What only this view needs."""
        email, head = opened.email, opened.head
        if view == "headers":
            whole = email.raw if email else head
            return {"fields": await self._work(len(whole), lambda: header_fields(whole)), "cut": opened.large}
        if view == "source":
            return {"source": head.decode("utf-8", "replace"), "cut": row["size"] > len(head)}
        if email is None:
            return {}
        if view == "html":
            return {
                "remote": request.query_params.get("remote") == "1",
                "has_remote": letter.has_remote(email.html),
                "cut": len(email.html) > letter.MAX_HTML,
            }
        if view == "text":
            return {"text": email.text[:MAX_SHOWN], "cut": len(email.text) > MAX_SHOWN}
        if view == "request":
            (whole_row,) = await self._whole(row)
            opened.charge(len(whole_row["recipients"]) * RECIPIENT_COST)
            made = await self._work(len(email.raw), lambda: self._requests(whole_row, email))
            opened.charge(sum(len(one.body) for _, shown in made for one in shown) * PAGE_COST)
            return {"calls": made}
        return {}

    def _view(self, request: Request, opened: Opened) -> str:
        """What is asked for; else a development inbox shows the mail, and a relay what became of it."""
        view, email = request.query_params.get("view", ""), opened.email
        if view in _views(opened):
            return view
        if not self._web.rules.capture or email is None:
            return "delivery"
        return "html" if email.html else "text"

    async def delivery(self, request: Request) -> Response:
        """What became of it, as a fragment for the script."""
        viewer(self._web, request)
        return render(self._web, request, "message_delivery.html", **_delivery(*await self._part(request)))

    async def html(self, request: Request) -> Response:
        """The document inside the frame."""
        viewer(self._web, request)
        row = await self._row(request)
        remote = request.query_params.get("remote") == "1"
        async with self._opened(row) as opened:
            email = _parsed(opened)
            parts = await self._work(len(email.raw), lambda: letter.letter(email.html, email.attachments))
            opened.charge(2 * sum(len(part) for part in parts if isinstance(part, bytes)))
            return Streamed(
                _pieces(parts),
                close=opened.hold.share().release,
                headers=letter.headers(remote=remote),
                media_type="text/html",
            )

    async def raw(self, request: Request) -> Response:
        viewer(self._web, request)
        row = await self._row(request)
        found = await self._stored(row)
        if found is None:
            raise Problem(404, GONE)
        body, close = found
        return download(body.pieces(), close, f"{row['queue_id']}.eml", "message/rfc822", body.size)

    async def file(self, request: Request) -> Response:
        viewer(self._web, request)
        row = await self._row(request)
        number = int(request.path_params["number"])
        async with self._opened(row) as opened:
            files = _parsed(opened).attachments
            if not 0 < number <= len(files):
                raise Problem(404, "There is no such attachment")
            one = files[number - 1]
            content = pieces_of(decoded(one.encoded, one.size))
            opened.charge(min(one.size, LARGE))
            name = one.filename or f"part-{number}"
            return download(content, opened.hold.share().release, name, one.content_type, one.size)

    # what it works with

    async def _part(self, request: Request) -> tuple[Row, int]:
        """The message with the recipients of the page that is asked for, and its number. Raises Problem 404 and 503."""
        asked = request.query_params.get("people", "")
        page = int(asked) if asked.isascii() and asked.isdigit() and 0 < len(asked) < 8 else 1
        return await self._row(request, limit=PEOPLE, skip=PEOPLE * (max(page, 1) - 1)), max(page, 1)

    async def _row(self, request: Request, *, limit: int = 0, skip: int = 0) -> Row:
        """With so many recipients. Raises Problem 404 and 503."""
        queue_id = request.path_params["id"]
        known = _ID.fullmatch(queue_id)
        try:
            row = await self._web.spool.show_part(queue_id, limit=limit, skip=skip) if known else None
        except SpoolError as error:
            raise Problem(503, f"The spool cannot be read: {error}") from None
        if row is None:
            raise Problem(404, "There is no such message, or its history is over")
        return row

    async def _whole(self, row: Row) -> Sequence[Row]:
        """With all its recipients. Raises Problem 404 and 503."""
        try:
            found = await self._web.spool.messages([row["queue_id"]])
        except SpoolError as error:
            raise Problem(503, f"The spool cannot be read: {error}") from None
        if not found:
            raise Problem(404, "There is no such message, or its history is over")
        return found

    async def _stored(self, row: Row) -> tuple[StoredBody, Callable[[], None]] | None:
        """Raises Problem 503."""
        try:
            return await stored(self._web, row["queue_id"]) if row["has_body"] else None
        except SpoolError as error:
            raise Problem(503, f"The spool cannot be read: {error}") from None

    @contextlib.asynccontextmanager
    async def _opened(self, row: Row, *, views: bool = False) -> AsyncIterator[Opened]:
        """Its content, in memory that is held as long as it is looked at, and longer where it is shared. `views`: and for what is
        made of it for a page. Raises Problem 503."""
        size = row["size"] if row["has_body"] else 0
        parsed = size <= MAX_PARSED
        more = PASSING + (PAGE_COST * min(size, MAX_SHOWN) if views else 0)
        async with self._busy if size > _THREAD else contextlib.nullcontext():
            opened = Opened(hold=await take(self._web, more + (cost(size) if parsed else 0)), more=more)
            try:
                if not size:
                    pass
                elif parsed:
                    await self._parse(opened, row)
                else:
                    await self._begin(opened, row)
                yield opened
            finally:
                opened.email = None
                opened.hold.release()

    async def _begin(self, opened: Opened, row: Row) -> None:
        """What it begins with; that is all that is read of a large one."""
        if found := await self._stored(row):
            body, close = found
            try:
                opened.head = await asyncio.to_thread(lambda: b"".join(body.pieces(MAX_SHOWN)))
            finally:
                close()
            opened.large = True

    async def _parse(self, opened: Opened, row: Row) -> None:
        """With room for as much text as most have, else for all that it has. Raises Problem 503."""
        needed = cost(row["size"])
        if more := await self._try(opened, row, needed):
            opened.hold.resize(0)  # who waits holds nothing
            if more > MAX_COST:
                opened.hold = await take(self._web, opened.more)
                await self._begin(opened, row)
            else:
                opened.hold = await take(self._web, opened.more + more)
                await self._try(opened, row, more)

    async def _try(self, opened: Opened, row: Row, room: int) -> int:
        """The room that it needs where this is not enough."""
        try:
            raw = await self._web.spool.body(row["queue_id"])
        except SpoolError as error:
            raise Problem(503, f"The spool cannot be read: {error}") from None
        if raw is None:
            return 0
        try:
            email = await self._work(len(raw), lambda: parse(raw, room=room))
        except Costly as costly:
            return costly.octets
        opened.email, opened.head = email, raw[:MAX_SHOWN]
        opened.hold.resize(opened.more + footprint(email))
        return 0

    async def _work(self, size: int, make: Callable[[], T]) -> T:
        """Large ones in a thread."""
        return make() if size <= _THREAD else await asyncio.to_thread(make)

    def _requests(self, row: Row, email: Email) -> list[tuple[str, Sequence[Shown]]]:
        """By provider: whoever was last tried, or is first to be tried."""
        groups: dict[str, list[str]] = {}
        for one in row["recipients"]:
            lane = Lane.parse(one["lane"])
            name = one["provider"] or (lane.names[0] if lane else "") or self._web.dispatchers.first.provider.name
            groups.setdefault(name, []).append(one["address"])
        found: list[tuple[str, Sequence[Shown]]] = []
        for name, addresses in groups.items():
            dispatcher = self._web.dispatchers.named(name)
            recipients = tuple(addresses)
            if dispatcher is None:
                found.append((name, [Shown(recipients=recipients, note="This provider is not configured any more")]))
                continue
            made = requests_of(
                dispatcher.provider,
                email,
                reverse_path=row["sender"],
                recipients=recipients,
                queue_id=row["queue_id"],
            )
            found.append((name, made))
        return found


def _delivery(row: Row, page: int) -> dict[str, Any]:
    """`page`: of its recipients, from 1 on."""
    return {
        "row": row,
        "page": page,
        "pages": max(1, -(-row["recipients_total"] // PEOPLE)),
        "people": people(row),
        "general": [event for event in row["events"] if not event["address"]],
        "waits": row["status"] in UNRESOLVED,
    }


def people(row: Row) -> list[Person]:
    events: dict[str, list[Row]] = {}
    for event in row["events"]:
        events.setdefault(event["address"], []).append(event)
    return [Person(row=one, events=tuple(events.get(one["address"], ()))) for one in row["recipients"]]


def header_fields(raw: bytes) -> list[tuple[str, str]]:
    """All of them in their order, decoded."""
    return [(name.decode("latin-1"), decode_words(value)) for name, value in parse_structure(raw).fields]


def _parsed(opened: Opened) -> Email:
    """Raises Problem 404, and 413 where it is not parsed for a page."""
    if opened.email is None:
        raise Problem(413, TOO_LARGE) if opened.large else Problem(404, GONE)
    return opened.email


def _pieces(parts: Iterable[Content]) -> Iterator[bytes]:
    for part in parts:
        yield from pieces_of(part)


def _views(opened: Opened) -> dict[str, str]:
    email = opened.email
    if email is None:
        return {name: VIEWS[name] for name in (("delivery", "headers", "source") if opened.large else ("delivery",))}
    absent = {name for name, there in (("html", email.html), ("files", email.attachments)) if not there}
    if not email.text and email.html:
        absent.add("text")
    return {
        name: f"{text} ({len(email.attachments)})" if name == "files" else text
        for name, text in VIEWS.items()
        if name not in absent
    }


def download(content: Iterable[bytes], close: Callable[[], None], name: str, kind: str, size: int) -> Response:
    """As a file, never shown by the browser (RFC 6266)."""
    plain = re.sub(r"[^A-Za-z0-9._ -]", "_", name)[:100] or "file"
    full = quote(name.encode("utf-8", "replace")[:500], safe="")
    kind = kind.lower() if _TYPE.fullmatch(kind.lower()) else "application/octet-stream"
    return Streamed(
        content,
        close=close,
        headers={
            "Content-Type": kind,
            "Content-Length": str(size),
            "Content-Disposition": f"attachment; filename=\"{plain}\"; filename*=UTF-8''{full}",
            "X-Content-Type-Options": "nosniff",
            "Content-Security-Policy": _FILE_POLICY,
        },
    )
