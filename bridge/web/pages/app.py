"""The routes of every page; the parts of the page stand here, one line each."""

from __future__ import annotations

from starlette.routing import BaseRoute

from bridge.web.context import Web
from bridge.web.pages import actions, layout, mails, message, send_test, sign_in, status, suppressions


def routes(web: Web) -> list[BaseRoute]:
    return [
        *layout.static_routes(),
        *sign_in.routes(web),
        *mails.routes(web),
        *message.routes(web),
        *actions.routes(web),
        *status.routes(web),
        *suppressions.routes(web),
        *send_test.routes(web),
    ]
