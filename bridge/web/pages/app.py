"""The routes of every page; the parts of the page stand here, one line each."""

from __future__ import annotations

from starlette.routing import BaseRoute

from bridge.web.context import Web
from bridge.web.pages import layout, mails, message, sign_in, status


def routes(web: Web) -> list[BaseRoute]:
    return [
        *layout.static_routes(),
        *sign_in.routes(web),
        *mails.routes(web),
        *message.routes(web),
        *status.routes(web),
    ]
