"""What every table of the settings has in common: frozen, strict about keys, and saying all that is wrong with it at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, Self, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator, model_validator
from pydantic.fields import FieldInfo

from bridge.config.pending import not_available

# (key, what is wrong); "" for the table as a whole, "user.1.name" for a key of the second user.
Problem = tuple[str, str]


class SectionProblems(ValueError):
    """The rules between keys that a table breaks."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("; ".join(text for _, text in problems))
        self.problems = problems


class Section(BaseModel):
    """One table. `table` is its name in the file."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)
    table: ClassVar[str] = ""

    def problems(self) -> Iterator[Problem]:
        """What is wrong between keys that are each right."""
        yield from ()

    @field_validator("*", mode="after")
    @classmethod
    def _is_available(cls, value: Any, info: ValidationInfo) -> Any:
        field = cls.model_fields[info.field_name or ""]
        key = field.alias or info.field_name
        text = not_available(f"{cls.table}.{key}".lstrip("."), value)
        if text:
            raise ValueError(text)
        return value

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        # As it is shown everywhere: with the secrets masked, also those in addresses and bodies.
        yield from self.model_dump(mode="json").items()

    @model_validator(mode="after")
    def _has_no_problems(self) -> Self:
        problems = list(self.problems())
        if problems:
            raise SectionProblems(problems)
        return self


def fields(section: type[Section]) -> dict[str, FieldInfo]:
    """The keys of a table as they stand in the file (`from` is a word of Python's, so it has an alias)."""
    return {field.alias or name: field for name, field in section.model_fields.items()}


def repeated(names: Iterable[str]) -> Iterator[tuple[int, str]]:
    """Where a name stands once more, and the name; "" is none."""
    seen: set[str] = set()
    for index, name in enumerate(names):
        if name and name in seen:
            yield index, name
        seen.add(name)


def has_marker(field: FieldInfo, marker: type) -> bool:
    return any(isinstance(item, marker) for item in field.metadata)


def sections_in(field: FieldInfo) -> tuple[tuple[type[Section], ...], bool]:
    """The tables a key can hold (providers: one class per kind), and whether it holds an array of them."""
    many = get_origin(field.annotation) is tuple
    return tuple(_section_classes(field.annotation)), many


def _section_classes(annotation: Any) -> Iterator[type[Section]]:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation
    for part in get_args(annotation):
        yield from _section_classes(part)
