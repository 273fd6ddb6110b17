"""A browser without a script: it keeps cookies, follows forms and reads what a page says."""

from __future__ import annotations

import asyncio
import smtplib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from email.message import EmailMessage
from html.parser import HTMLParser
from typing import Any

import httpx

from tests.web.conftest import KEYS, keys

CAPTURE = '[[provider]]\nkind = "capture"\nname = "main"\n'
SIGNED = CAPTURE + keys("send", "read", "manage")
# Takes mail for the queue, and nobody listens: everything waits.
AWAY = "".join(
    f'[[provider]]\nkind = "rest"\nname = "{name}"\nurl = "http://127.0.0.1:9/{name}?token=sesame-open"\n'
    f'auth = "bearer"\ntoken = "very-secret-{name}"\n'
    for name in ("main", "spare")
)
QUEUED = '[relay]\nmode = "queue"\n'


@dataclass
class Form:
    action: str = ""
    method: str = "get"
    fields: list[tuple[str, str]] = field(default_factory=list)
    buttons: list[tuple[str, str]] = field(default_factory=list)


class Page(HTMLParser):
    """`tags`: every start tag with its attributes; `text`: what is read, without styles and scripts."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self.forms: list[Form] = []
        self.html = html
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.tags.append((tag, values))
        if tag == "form":
            self.forms.append(Form(values.get("action", ""), values.get("method", "get")))
        elif tag == "input" and self.forms and values.get("name") and "form" not in values:
            if values.get("type") not in ("checkbox", "radio"):
                self.forms[-1].fields.append((values["name"], values.get("value", "")))
        elif tag == "button" and self.forms and values.get("name"):
            self.forms[-1].buttons.append((values["name"], values.get("value", "")))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, tag: str, **wanted: str) -> list[dict[str, str]]:
        return [
            attrs
            for name, attrs in self.tags
            if name == tag and all(attrs.get(key.rstrip("_")) == value for key, value in wanted.items())
        ]

    @property
    def ids(self) -> list[str]:
        """The messages of the list, in their order."""
        return [attrs["data-id"] for attrs in self.all("li") if "data-id" in attrs]

    def form(self, action: str) -> Form:
        return next(form for form in self.forms if form.action == action)


class Browser:
    def __init__(self, client: httpx.AsyncClient) -> None:
        self.client = client

    async def get(self, path: str, status: int = 200) -> Page:
        answer = await self.client.get(path)
        assert answer.status_code == status, answer.text
        return Page(answer.text)

    async def post(self, path: str, values: Sequence[tuple[str, str]], **more: Any) -> httpx.Response:
        from urllib.parse import urlencode

        headers = {"Content-Type": "application/x-www-form-urlencoded", **more.pop("headers", {})}
        return await self.client.post(path, content=urlencode(values), headers=headers, **more)

    async def sign_in(self, scope: str) -> Browser:
        page = await self.get("/sign-in")
        answer = await self.post("/sign-in", [*page.form("/sign-in").fields, ("key", KEYS[scope][0])])
        assert answer.status_code == 303, answer.text
        return self

    async def csrf(self) -> str:
        page = await self.get("/help")
        return dict(page.form("/sign-out").fields)["csrf"]

    async def act(self, page: Page, action: str, *ids: str, **more: str) -> Page:
        """The page that says what would happen."""
        values = [*page.form("/act").fields, ("action", action), *(("id", one) for one in ids), *more.items()]
        answer = await self.post("/act", values)
        assert answer.status_code == 200, answer.text
        return Page(answer.text)

    async def confirm(self, asked: Page, **more: str) -> Page:
        answer = await self.post("/act", [*asked.form("/act").fields, *more.items()])
        assert answer.status_code == 303, answer.text
        return await self.get(answer.headers["location"])


def mail(
    subject: str = "Hello", *, to: str = "ann@example.com", sender: str = "shop@example.org", text: str = "It works\n"
) -> EmailMessage:
    made = EmailMessage()
    made["From"], made["To"], made["Subject"] = f"Shop <{sender}>", to, subject
    made.set_content(text)
    return made


async def send(daemon: Any, *mails: EmailMessage | bytes, sender: str = "shop@example.org", to: str = "") -> list[str]:
    """Over SMTP; the queue ids, in order."""

    def over_smtp() -> Iterator[str]:
        with smtplib.SMTP("127.0.0.1", daemon.listeners[0].port) as client:
            client.ehlo()
            for one in mails:
                raw = one if isinstance(one, bytes) else one.as_bytes()
                address = to or (one["To"] if isinstance(one, EmailMessage) else "ann@example.com")
                client.mail(sender)
                client.rcpt(address)
                code, words = client.data(raw)
                assert code == 250, words
                yield words.decode()

    said = await asyncio.to_thread(lambda: list(over_smtp()))
    found = await daemon.spool.list_messages(limit=len(said))
    return [str(row["queue_id"]) for row in reversed(found)]
