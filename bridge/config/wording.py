"""What the validation library finds, in the words of the settings file. Never with the value: it may be a secret."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_TEXTS = {
    "missing": "is missing",
    "string_type": "must be text in quotes",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_parsing_size": "must be a smaller number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a number",
    "greater_than": "must be more than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
    "literal_error": "must be {expected}",
    "enum": "must be {expected}",
    "dict_type": "must be a table",
    "model_type": "must be a table",
    "model_attributes_type": "must be a table",
    "invalid-json-value": "must be text, a number, true, false, a list or a table",
}


def describe(error: Mapping[str, Any], *, tables: bool) -> str:
    """One error of the library's; `tables`: the key is an array of tables, not a list of values."""
    kind, facts = error["type"], error.get("ctx", {})
    if kind == "value_error":
        return str(facts["error"])
    if kind in ("tuple_type", "list_type"):
        return "must be a table, or several" if tables else "must be a list"
    return _TEXTS.get(kind, "is not a value that may stand here").format_map(_quoted(facts))


def _quoted(facts: Mapping[str, Any]) -> dict[str, str]:
    # Texts stand in double quotes in the examples; the library writes 'auto', 'queue' or 'direct'.
    return {name: str(fact).replace("'", '"') for name, fact in facts.items()}
