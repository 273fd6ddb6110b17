"""`/openapi.json`, and `/docs`: the same as a page, made here, with nothing fetched from elsewhere."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import jinja2
import orjson
from markupsafe import Markup, escape
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import BaseRoute, Route

from bridge.web.context import Web
from bridge.web.errors import Json
from bridge.web.openapi import document

STYLE = """
:root { color-scheme: light dark; }
body { font: 1rem/1.5 system-ui, sans-serif; margin: 0; background: Canvas; color: CanvasText; }
main { max-width: 56rem; margin: 0 auto; padding: 1rem; }
h2 { margin-top: 3rem; border-bottom: 1px solid currentColor; }
pre { background: color-mix(in srgb, currentColor 8%, transparent); padding: .75rem; overflow-x: auto; }
code, pre { font-family: ui-monospace, monospace; font-size: .9rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .3rem .6rem .3rem 0; }
tbody tr { border-top: 1px solid color-mix(in srgb, currentColor 20%, transparent); }
th { font-weight: normal; }
thead th { font-weight: bold; }
"""


def routes(web: Web) -> list[BaseRoute]:
    described = document()
    page = functools.cache(lambda: render(described))  # not before somebody looks: it would be a tenth of a start

    async def openapi(request: Request) -> Response:
        return Json(described)

    async def docs(request: Request) -> Response:
        return HTMLResponse(page())

    async def style(request: Request) -> Response:
        return Response(STYLE, media_type="text/css")

    return [Route("/openapi.json", openapi), Route("/docs", docs), Route("/docs.css", style)]


def render(described: dict[str, Any]) -> str:
    environment = jinja2.Environment(loader=jinja2.PackageLoader("bridge.web"), autoescape=True, trim_blocks=False)
    environment.filters["ticks"] = _ticks
    schemas = described["components"]["schemas"]
    return environment.get_template("docs.html").render(
        info=described["info"],
        operations=list(_operations(described)),
        schemas={name: list(_fields(schema)) for name, schema in schemas.items()},
    )


def _ticks(text: str) -> Markup:
    """What stands between backticks is code."""
    parts = text.split("`")
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if number % 2 else escape(part) for number, part in enumerate(parts)
    )


def _operations(described: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for path, methods in described["paths"].items():
        for method, one in methods.items():
            yield {
                "id": one["operationId"],
                "method": method.upper(),
                "path": path,
                "summary": one["summary"],
                "description": one["description"],
                "parameters": one.get("parameters", []),
                "requests": [
                    {"title": example["summary"], "text": _json(example["value"])}
                    for example in _content(one.get("requestBody", {})).get("examples", {}).values()
                ],
                "answers": [
                    {"status": status, "description": answer["description"], "examples": list(_examples(answer))}
                    for status, answer in one["responses"].items()
                ],
            }


def _content(of: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = of.get("content", {}).get("application/json", {})
    return found


def _examples(answer: dict[str, Any]) -> Iterator[str]:
    content = _content(answer)
    if "example" in content:
        yield _json(content["example"])
    yield from (_json(example["value"]) for example in content.get("examples", {}).values())


def _json(value: Any) -> str:
    return orjson.dumps(value, option=orjson.OPT_INDENT_2).decode()


def _fields(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for name, one in schema.get("properties", {}).items():
        yield {
            "name": name,
            "required": name in schema.get("required", ()),
            "type": _type(one),
            "description": one.get("description", ""),
        }


def _type(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if "oneOf" in schema:
        return " or ".join(_type(one) for one in schema["oneOf"])
    if "enum" in schema:
        return ", ".join(schema["enum"])
    kind = schema.get("type", "")
    if kind == "array":
        return f"list of {_type(schema['items'])}"
    return " or ".join(kind) if isinstance(kind, list) else str(kind)
