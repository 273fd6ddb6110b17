"""The fenced blocks of the pages, and the commands in them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
SHELL = ("sh", "bash", "shell", "console")
_FENCE = re.compile(r"^( *)(`{3,})([^\n`]*)\n(.*?)^\1\2 *$", re.MULTILINE | re.DOTALL)
_HEREDOC = re.compile(r"<<-?\s*'?\"?(\w+)")


@dataclass(frozen=True, slots=True)
class Block:
    page: str  # its path below the root
    line: int  # of the fence, from 1
    language: str  # the first word after the fence, "" for none
    text: str  # without the indentation of the fence

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"


def pages() -> list[Path]:
    """Every Markdown file that people read: those beside README.md, and all of docs/."""
    return sorted((*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")))


def blocks(path: Path) -> Iterator[Block]:
    text = path.read_text()
    for found in _FENCE.finditer(text):
        indent, language = found[1], found[3].split()
        content = re.sub(rf"(?m)^{indent}", "", found[4]) if indent else found[4]
        line = text.count("\n", 0, found.start()) + 1
        yield Block(str(path.relative_to(ROOT)), line, language[0] if language else "", content)


def all_blocks(*languages: str) -> list[Block]:
    return [block for path in pages() for block in blocks(path) if block.language in languages]


def commands(block: Block) -> list[str]:
    """One text for each command, with its continued lines and here-documents; comments are no commands.

    In a block with prompts (`$ `) the lines without one are output.
    """
    lines = block.text.splitlines()
    if block.language == "console" or any(line.startswith("$ ") for line in lines):
        return list(_joined(_prompted(lines)))
    return list(_joined(lines)) if block.language in SHELL else []


def _prompted(lines: list[str]) -> list[str]:
    found: list[str] = []
    continued = False
    for line in lines:
        begins = line.startswith("$ ")
        if begins or continued:
            found.append(line[2:] if begins else line)
        continued = (begins or continued) and line.endswith("\\")
    return found


def _joined(lines: list[str]) -> Iterator[str]:
    whole, until = "", ""
    for line in lines:
        whole = f"{whole}\n{line}" if whole else line
        if until:
            until = "" if line.strip() == until else until
        elif found := _HEREDOC.search(line):
            until = found[1]
        if until or line.endswith("\\") or _open_quote(whole):
            continue
        if whole.strip() and not whole.lstrip().startswith("#"):
            yield whole.strip()
        whole = ""
    if whole.strip():
        yield whole.strip()


def _open_quote(text: str) -> bool:
    """Whether a quote that was begun has not ended; one in a comment begins nothing."""
    quote, position, previous = "", 0, " "
    while position < len(text):
        character = text[position]
        if character == "\\" and quote != "'":
            position += 1
        elif quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        elif character == "#" and previous.isspace():
            end = text.find("\n", position)
            position = end if end >= 0 else len(text)
        previous = character
        position += 1
    return bool(quote)
