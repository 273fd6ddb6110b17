"""Strict stand-ins for the APIs of providers: a module of this folder is a twin, and its name is the provider's kind."""

from __future__ import annotations

import pkgutil
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bridge.sandbox.failures import Failure
    from bridge.sandbox.twins.base import Twin

_SHARED = frozenset({"base", "mimemail", "schema"})


@cache
def kinds() -> tuple[str, ...]:
    """In alphabetical order, found without importing them. A name with a leading underscore is no twin."""
    names = (module.name for module in pkgutil.iter_modules(__path__))
    return tuple(sorted(name for name in names if name not in _SHARED and not name.startswith("_")))


@cache
def twin_class(kind: str) -> type[Twin]:
    """Raises ValueError for a kind that is not known."""
    from bridge.sandbox.twins.base import Twin

    if kind not in kinds():
        raise ValueError(f"unknown provider {kind!r}; known: {', '.join(kinds())}")
    module = import_module(f"{__name__}.{kind}")
    (found,) = (
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Twin) and value.__module__ == module.__name__
    )
    if found.kind != kind:
        raise TypeError(f"{module.__name__} is a twin of kind {found.kind!r}")
    return found


def check_failure(failure: Failure) -> None:
    """Raises ValueError when its provider does not know what it asks for."""
    if not failure.provider:
        return
    twin = twin_class(failure.provider)
    if failure.target and failure.target not in twin.targets:
        raise ValueError(f"unknown target {failure.target!r}; {twin.kind} has: {', '.join(twin.targets)}")
    if failure.error and failure.error not in twin.errors:
        raise ValueError(f"unknown mode or error {failure.error!r}; {twin.kind} has: {', '.join(twin.errors)}")
