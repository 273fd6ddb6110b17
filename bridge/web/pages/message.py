"""One message: what became of it for each recipient, what it says, its files, its source, and what is sent of it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import BaseRoute

from bridge.delivery.lanes import Lane
from bridge.mime.headers import decode_words
from bridge.mime.parse import parse
from bridge.mime.structure import parse_structure
from bridge.model import UNRESOLVED, Email
from bridge.spool.base import SpoolError
from bridge.web.context import Web
from bridge.web.errors import Problem
from bridge.web.pages import letter
from bridge.web.pages.actions import said
from bridge.web.pages.as_sent import Shown, requests_of
from bridge.web.pages.layout import render, route, viewer

VIEWS: Final = {
    "delivery": "Delivery", "html": "HTML", "text": "Text", "headers": "Headers", "files": "Attachments",
    "source": "Source", "request": "As sent",
}  # fmt: skip
MAX_SHOWN: Final = 512 * 1024  # characters of a text or the source
_AT_ONCE = 2  # bodies that are read and parsed for the page
_THREAD = 64 * 1024  # octets; a longer message is parsed in a thread
_ID = re.compile(r"[0-9A-Za-z_-]{1,64}")
_TYPE = re.compile(r"[a-z0-9][a-z0-9!#$&^_.+-]{0,126}/[a-z0-9][a-z0-9!#$&^_.+-]{0,126}")
_FILE_POLICY = "default-src 'none'; sandbox"

T = TypeVar("T")
Row = Mapping[str, Any]


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
        row = await self._row(request)
        raw = await self._body(row)
        email = await self._work(raw, lambda: parse(raw)) if raw is not None else None
        view = self._view(request, email)
        values: dict[str, Any] = {
            **_delivery(row),
            "said": said(request),
            "email": email,
            "view": view,
            "views": _views(email),
            "providers": [one.provider.name for one in self._web.dispatchers.all],
            "sandbox": letter.SANDBOX,
        }
        values |= await self._values_of(view, row, raw, email, request)
        return render(self._web, request, "message.html", here="mail", **values)

    async def _values_of(
        self, view: str, row: Row, raw: bytes | None, email: Email | None, request: Request
    ) -> dict[str, Any]:
        """What only this view needs."""
        if email is None or raw is None:
            return {}
        if view == "html":
            return {"remote": request.query_params.get("remote") == "1", "has_remote": letter.has_remote(email.html)}
        if view == "text":
            return {"text": email.text[:MAX_SHOWN], "cut": len(email.text) > MAX_SHOWN}
        if view == "headers":
            return {"fields": await self._work(raw, lambda: header_fields(raw))}
        if view == "source":
            return {"source": raw[:MAX_SHOWN].decode("utf-8", "replace"), "cut": len(raw) > MAX_SHOWN}
        if view == "request":
            return {"calls": await self._work(raw, lambda: self._requests(row, email))}
        return {}

    def _view(self, request: Request, email: Email | None) -> str:
        """What is asked for; else a development inbox shows the mail, and a relay what became of it."""
        view = request.query_params.get("view", "")
        if view in _views(email):
            return view
        if not self._web.rules.capture or email is None:
            return "delivery"
        return "html" if email.html else "text"

    async def delivery(self, request: Request) -> Response:
        """What became of it, as a fragment for the script."""
        viewer(self._web, request)
        return render(self._web, request, "message_delivery.html", **_delivery(await self._row(request)))

    async def html(self, request: Request) -> Response:
        """The document inside the frame."""
        viewer(self._web, request)
        row = await self._row(request)
        raw = await self._needed(row)
        remote = request.query_params.get("remote") == "1"

        def made() -> bytes:
            email = parse(raw)
            return letter.letter(email.html, email.attachments).encode("utf-8", "replace")

        return HTMLResponse(await self._work(raw, made), headers=letter.headers(remote=remote))

    async def raw(self, request: Request) -> Response:
        viewer(self._web, request)
        row = await self._row(request)
        return download(await self._needed(row), f"{row['queue_id']}.eml", "message/rfc822")

    async def file(self, request: Request) -> Response:
        viewer(self._web, request)
        row = await self._row(request)
        raw = await self._needed(row)
        number = int(request.path_params["number"])

        def made() -> tuple[bytes, str, str] | None:
            files = parse(raw).attachments
            if not 0 < number <= len(files):
                return None
            one = files[number - 1]
            return one.content, one.filename or f"part-{number}", one.content_type

        found = await self._work(raw, made)
        if found is None:
            raise Problem(404, "There is no such attachment")
        return download(*found)

    # what it works with

    async def _row(self, request: Request) -> Row:
        """Raises Problem 404 and 503."""
        queue_id = request.path_params["id"]
        try:
            row = await self._web.spool.show(queue_id) if _ID.fullmatch(queue_id) else None
        except SpoolError as error:
            raise Problem(503, f"The spool cannot be read: {error}") from None
        if row is None:
            raise Problem(404, "There is no such message, or its history is over")
        return row

    async def _body(self, row: Row) -> bytes | None:
        return await self._web.spool.body(row["queue_id"]) if row["has_body"] else None

    async def _needed(self, row: Row) -> bytes:
        raw = await self._body(row)
        if raw is None:
            raise Problem(404, "The content of this message is not kept any more")
        return raw

    async def _work(self, raw: bytes, make: Callable[[], T]) -> T:
        """Large ones in a thread, and few at once."""
        if len(raw) <= _THREAD:
            return make()
        async with self._busy:
            return await asyncio.to_thread(make)

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


def _delivery(row: Row) -> dict[str, Any]:
    return {
        "row": row,
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


def _views(email: Email | None) -> dict[str, str]:
    if email is None:
        return {"delivery": VIEWS["delivery"]}
    absent = {name for name, there in (("html", email.html), ("files", email.attachments)) if not there}
    if not email.text and email.html:
        absent.add("text")
    return {
        name: f"{text} ({len(email.attachments)})" if name == "files" else text
        for name, text in VIEWS.items()
        if name not in absent
    }


def download(content: bytes, name: str, kind: str) -> Response:
    """As a file, never shown by the browser (RFC 6266)."""
    plain = re.sub(r"[^A-Za-z0-9._ -]", "_", name)[:100] or "file"
    full = quote(name.encode("utf-8", "replace")[:500], safe="")
    kind = kind.lower() if _TYPE.fullmatch(kind.lower()) else "application/octet-stream"
    return Response(
        content,
        headers={
            "Content-Type": kind,
            "Content-Disposition": f"attachment; filename=\"{plain}\"; filename*=UTF-8''{full}",
            "X-Content-Type-Options": "nosniff",
            "Content-Security-Policy": _FILE_POLICY,
        },
    )
