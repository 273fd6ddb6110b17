"""Address lists (RFC 5322 3.4) as real mail has them, in one pass over tokens: no recursion, linear whatever stands there.

Understood: display names with commas, quotes, escapes, encoded words and raw 8-bit; comments; groups; `;` between
addresses as Outlook does; routes (`<@a,@b:ann@c>`); quoted local parts; missing brackets, commas and closing brackets.
An address is never made out of an encoded word.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from bridge.mime.headers import clean, decode_words, header_text
from bridge.model import Mailbox

# `Ann Lee <ann@example.com>`, `"Lee, Ann" <ann@example.com>`, `ann@example.com`, up to the comma: nearly all mail.
_ADDRESS = r'([^\s<>"(),;:@\[\]\\]++@[^\s<>"(),;:@\\]++)'
_SIMPLE = re.compile(
    r"""\s*+(?:(?:"([^"\\]*+)"\s*+|([\w !#$%&*+/=?^`{|}~.'-]*+))<ADDRESS>|ADDRESS)\s*+(?:,|\Z)""".replace(
        "ADDRESS", _ADDRESS
    ),
    re.ASCII,
)
_TOKEN = re.compile(
    r'(?P<quoted>"(?:[^"\\]|\\.)*+")'
    r'|(?P<angle><(?:[^<>"]|"(?:[^"\\]|\\.)*+")*+>)'
    r"|(?P<encoded>=\?[^?\s]{1,80}\?[bBqQ]\?[^?\s]*+\?=)"
    r"|(?P<special>[(),;:<>])"
    r"|(?P<blank>\s++)"
    r'|(?P<word>"?[^\s"(),;:<>\[](?:[^\s(),;:<>\[]|\[[^\s\[\]]*+\]?)*+|["\[])',
    re.DOTALL,
)
# Display only: who is mailed stands in the envelope. A list of 5000 addresses with comments has 50 000 pieces.
MAX_PIECES = 100_000
MAX_COMMENT_DEPTH = 100
_COMMENT_MARK = re.compile(r"\\.|[()]", re.DOTALL)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_INNER_COMMENT = re.compile(r"\([^()]*+\)")
_UNTIL_SEPARATOR = re.compile(r"[^<>,;\s]*+")
_BARE_WORD = re.compile(r"[\w.+-]+", re.ASCII)


@dataclass(slots=True)
class _Pending:
    """What stands before the next separator."""

    words: list[str] = field(default_factory=list)  # with the blanks between them
    address: str = ""
    comment: str = ""

    def flush(self, out: list[Mailbox]) -> None:
        if self.address:
            _append(out, self.address, _display_name(self.words) or decode_words(self.comment))
        elif self.words:
            _without_brackets(self.words, self.comment, out)
        self.words, self.address, self.comment = [], "", ""


def parse_mailboxes(value: bytes | str, charset: str = "") -> tuple[Mailbox, ...]:
    """The addresses of a From, To, Cc or Reply-To value, in order; what has no address is left out."""
    text = header_text(value, charset) if isinstance(value, bytes) else value
    text = text.strip()
    return tuple(_simple(text) or _scan(text))


def _simple(text: str) -> list[Mailbox]:
    """The list, when all of it is plain; empty when it has to be looked at closely."""
    out: list[Mailbox] = []
    position = 0
    while position < len(text):
        match = _SIMPLE.match(text, position)
        if match is None:
            return []
        quoted, name, bracketed, bare = match.groups()
        address = bracketed or bare
        if not address.isprintable():
            return []
        out.append(Mailbox(address, decode_words(quoted or name or "")))
        position = match.end()
    return out


def _scan(text: str) -> list[Mailbox]:
    out: list[Mailbox] = []
    pending = _Pending()
    end_of_comments = False  # a "(" that never closes is a plain character, and so are all after it
    position = 0
    for _ in range(MAX_PIECES):
        if position >= len(text):
            break
        match = _TOKEN.match(text, position)
        if match is None:  # a quote or bracket that does not close
            pending.words.append(text[position])
            position += 1
            continue
        position = match.end()
        kind, piece = match.lastgroup, match[0]
        if piece == "(" and not end_of_comments:
            closing = _comment_end(text, position)
            end_of_comments = closing < 0
            if not end_of_comments:
                pending.comment = pending.comment or text[position : closing - 1]
                position = closing
        elif piece == "<":
            position = _open_bracket(text, position, pending, out)
        elif kind == "angle":
            _angle(piece[1:-1], pending, out)
        elif kind == "special":
            _separator(piece, pending, out)
        else:
            _word(piece, pending, out)
    pending.flush(out)
    return out


def _word(piece: str, pending: _Pending, out: list[Mailbox]) -> None:
    if pending.address and not piece.isspace():  # text after `<ann@x>`: the next one's name, its comma is missing
        pending.flush(out)
    pending.words.append(piece)


def _separator(piece: str, pending: _Pending, out: list[Mailbox]) -> None:
    if piece == ":" and not pending.address:  # the group's name goes, its members stay
        pending.words.clear()
    elif piece in ",;":
        pending.flush(out)


def _open_bracket(text: str, position: int, pending: _Pending, out: list[Mailbox]) -> int:
    """`Ann <ann@x, Bob ...`: without its closing bracket an address ends at the next separator."""
    match = _UNTIL_SEPARATOR.match(text, position)
    end = match.end() if match else position
    if text[position:end]:
        _angle(text[position:end], pending, out)
    return end


def _angle(content: str, pending: _Pending, out: list[Mailbox]) -> None:
    if pending.address:
        pending.flush(out)
    if "(" in content and '"' not in content:
        content = _INNER_COMMENT.sub("", content)
    content = content.strip()
    if content.startswith("@"):  # a source route (RFC 5322 4.4): only its end counts
        content = content.rpartition(":")[2]
    pending.address = content.strip()


def _comment_end(text: str, position: int) -> int:
    """After the parenthesis that closes the one before `position`, -1 if none does (or too many are open)."""
    depth = 1
    for match in _COMMENT_MARK.finditer(text, position):
        depth += {"(": 1, ")": -1}.get(match[0], 0)
        if depth == 0:
            return match.end()
        if depth > MAX_COMMENT_DEPTH:
            break
    return -1


def _display_name(words: list[str]) -> str:
    return decode_words("".join(_unquote(word) for word in words))


def _unquote(word: str) -> str:
    if len(word) >= 2 and word[0] == word[-1] == '"':
        return _ESCAPE.sub(r"\1", word[1:-1])
    return word


def _without_brackets(words: list[str], comment: str, out: list[Mailbox]) -> None:
    """`ann@x (Ann)`, `Ann ann@x`, `ann @ x`, `"a b"@x`, two addresses with a blank between, or just `root`."""
    tokens = _glue(words)
    addresses = [piece for piece in tokens if "@" in piece.strip("@") and not piece.startswith("=?")]
    if addresses:
        name = _display_name([f"{piece} " for piece in tokens if piece not in addresses]) if len(addresses) == 1 else ""
        for address in addresses:
            _append(out, address, name or decode_words(comment))
    elif len(tokens) == 1 and _BARE_WORD.fullmatch(tokens[0]):
        _append(out, tokens[0], decode_words(comment))


def _glue(words: list[str]) -> list[str]:
    """The words between blanks; a lone "@" takes both neighbours, a leading or trailing one the neighbour at its side."""
    groups: list[list[str]] = []
    glue = False
    for word in words:
        if word.isspace():
            glue = bool(groups) and groups[-1][-1].endswith("@")
        elif groups and (glue or word.startswith("@")):
            groups[-1].append(word)
            glue = True
        else:
            groups.append([word])
            glue = True
    return ["".join(group) for group in groups]


def _append(out: list[Mailbox], address: str, name: str) -> None:
    address = clean(address)
    if not address.startswith('"'):
        address = "".join(address.split())
    if address:
        out.append(Mailbox(address, name))
