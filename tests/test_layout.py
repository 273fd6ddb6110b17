"""The direction of imports: words, rules, ports, stages, what joins them. A stage never imports another stage."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
WORDS = {
    "bridge",
    "bridge.model",
    "bridge.reply",
    "bridge.block",
    "bridge.budget",
    "bridge.clock",
    "bridge.content",
    "bridge.files",
    "bridge.log",
    "bridge.metrics",
    "bridge.notify",
    "bridge.tracing",
    "bridge.sockets",
    "bridge.units",
    "bridge.window",
}
RULES = {"bridge.mime"}
PORTS = {"bridge.spool.base", "bridge.providers.base"}
STAGES = ("smtp", "spool", "delivery", "providers", "sandbox")
MODULES = sorted(p for p in (ROOT / "bridge").rglob("*.py"))


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert not node.level, f"{path}: relative import"
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {name for name in found if name == "bridge" or name.startswith("bridge.")}


def is_module(name: str) -> bool:
    path = ROOT / Path(*name.split("."))
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


def within(name: str, places: set[str]) -> bool:
    return any(name == place or name.startswith(place + ".") for place in places - {"bridge"}) or name == "bridge"


def allowed(module: str) -> set[str]:
    """The modules and packages that `module` may import."""
    first = module.split(".")[1] if "." in module else ""
    if module in ("bridge.model", "bridge.reply"):
        return {"bridge", "bridge.reply"}
    if first == "mime":
        return WORDS | RULES
    if first == "web":
        return WORDS | RULES | PORTS | {"bridge.web", "bridge.providers", "bridge.delivery", "bridge.submission"}
    if first in STAGES:
        return WORDS | RULES | PORTS | {f"bridge.{first}"}
    if first.startswith("config"):
        # The template of a body is words and rules: the settings say what is wrong with one.
        return WORDS | {"bridge.config", "bridge.providers.template"}
    if first == "submission":
        return WORDS | RULES | PORTS | {"bridge.delivery"}
    return {"bridge", *(f"bridge.{p.stem}" for p in (ROOT / "bridge").iterdir())}


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_imports_go_down_only(path: Path) -> None:
    module = module_name(path)
    modules = {name for name in imports_of(path) if is_module(name)}

    assert {name for name in modules if not within(name, allowed(module))} == set()


def test_only_the_daemon_and_the_cli_read_the_settings() -> None:
    readers = {
        module_name(path) for path in MODULES if any(name.startswith("bridge.config") for name in imports_of(path))
    }

    outside = {
        name
        for name in readers
        if not name.startswith(("bridge.cli", "bridge.config", "bridge.daemon", "bridge.wiring"))
    }
    assert outside == set()


def test_only_the_smtp_stage_knows_aiosmtpd() -> None:
    users = {module_name(p) for p in MODULES if "aiosmtpd" in p.read_text() and not p.match("*/cli/*")}

    assert {name.split(".")[1] for name in users} <= {"smtp", "log"}
