"""Code: the identity of a kernel's text, which comments, blank lines and the order of its parts do not change.

The digest of a text is that of its top-level units (a definition with its decorators, a struct, a constant,
an import, a Jinja macro), sorted. Mojo resolves the names of a module in any order, so a definition that moves
to another place, or to another file of a template, makes the same program. A unit inside a Jinja condition at
the top level carries the condition. Where a text is not understood that well, it stays together as one unit:
then more changes count, never fewer. Text alone is looked at: neither the template engine nor a compiler is
needed.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from itertools import chain, islice

# What may hold a `#` or a quote that begins nothing: strings first, then the comments of Jinja and of Mojo.
_TOKEN = re.compile(
    r'"""(?:\\.|[^\\])*?"""'
    r"|'''(?:\\.|[^\\])*?'''"
    r'|"(?:\\.|[^"\\\n])*"'
    r"|'(?:\\.|[^'\\\n])*'"
    r"|\{#.*?#\}"
    r"|#[^\n]*",
    re.DOTALL,
)
# A line that is one Jinja statement and nothing else, with its first word.
_STATEMENT = re.compile(r"\s*\{%[-+]?\s*(\w+)(?:(?!%\}).)*%\}\s*")
_BLOCKS = frozenset(("if", "for", "macro", "call", "filter", "raw", "block", "with"))
_BRANCHES = frozenset(("elif", "else"))
# A line at the margin that goes on with what came before.
_GOES_ON = (")", "]", "}")


def digest(text: str) -> str:
    """The identity of a text: 16 hex digits over its code."""
    units = sorted(set(_units(stripped(text).splitlines())))
    return hashlib.sha256("\0".join(units).encode()).hexdigest()[:16]


def stripped(text: str) -> str:
    """A text without comments, docstrings, blank lines and spaces at the ends of lines.

    A string in triple quotes is a docstring where it is a statement of its own that comes first in the text
    or after a line that ends with a colon.
    """
    parts: list[str] = []
    at = 0
    for token in _TOKEN.finditer(text):
        parts.append(text[at : token.start()])
        at = token.end()
        if not token[0].startswith(("#", "{#")) and not _is_docstring(parts, token):
            parts.append(token[0])
    lines = "".join([*parts, text[at:]]).splitlines()
    return "\n".join(line.rstrip() for line in lines if line.strip())


def _is_docstring(before: list[str], token: re.Match[str]) -> bool:
    if not token[0].startswith(('"""', "'''")):
        return False
    end = token.string.find("\n", token.end())
    rest = token.string[token.end() : end if end >= 0 else None]
    head = "".join(before)
    line = head.rpartition("\n")[2]
    code = head.rstrip()
    alone = not line.strip() and (not rest.strip() or rest.lstrip().startswith("#"))
    return alone and (not code or code.endswith(":"))


def _units(lines: Iterable[str], condition: str = "") -> Iterator[str]:
    """The top-level units of stripped lines, each after the conditions that it is under."""
    unit: list[str] = []
    parts = list(_parts(lines))
    for number, part in enumerate(parts):
        branches = _branches(part)
        if branches:  # definitions under a condition are units of their own
            yield from _joined(condition, unit)
            unit = []
            for tag, body in branches:
                yield from _units(body, condition + tag)
        elif _begins(part, unit, islice(parts, number + 1, None)):
            yield from _joined(condition, unit)
            unit = list(part)
        else:
            unit += part
    yield from _joined(condition, unit)


def _joined(condition: str, unit: list[str]) -> Iterator[str]:
    if unit:
        yield "\n".join([condition, *unit])


def _parts(lines: Iterable[str]) -> Iterator[list[str]]:
    """Lines one by one, but a Jinja block whole."""
    block: list[str] = []
    depth = 0
    for line in lines:
        word = _word(line)
        depth += (word in _BLOCKS) - word.startswith("end")
        block.append(line)
        if depth <= 0:
            yield block
            block, depth = [], 0
    if block:
        yield block


def _word(line: str) -> str:
    """The first word of a line that is a Jinja statement; empty for others."""
    found = _STATEMENT.fullmatch(line) if "{%" in line else None
    return found[1] if found else ""


def _begins(part: list[str], unit: list[str], after: Iterable[list[str]]) -> bool:
    """Whether a part begins a unit: it lies at the margin, and no decorator waits for it."""
    first, word = part[0], _word(part[0])
    if not _is_at_margin(first) or (unit and unit[-1].startswith("@")):
        return False
    if word and word != "macro":  # between definitions, or in the midst of one
        return word not in _BLOCKS and _is_at_margin(_code_line(chain.from_iterable(after)))
    return True


def _is_at_margin(line: str) -> bool:
    return not line[:1].isspace() and line[:1] not in _GOES_ON


def _code_line(lines: Iterable[str]) -> str:
    """The first line that is no Jinja statement; empty where there is none."""
    return next((line for line in lines if not _word(line)), "")


def _branches(part: list[str]) -> list[tuple[str, list[str]]]:
    """The branches of a condition that holds whole definitions, each after its condition; else none."""
    if _word(part[0]) != "if" or len(part) < 3:
        return []
    found: list[tuple[str, list[str]]] = []
    tags, depth = part[0].strip(), 0
    body: list[str] = []
    for line in part[1:-1]:
        word = _word(line)
        if not depth and word in _BRANCHES:
            found.append((tags, body))
            tags, body = tags + line.strip(), []
            continue
        depth += (word in _BLOCKS) - word.startswith("end")
        body.append(line)
    found.append((tags, body))
    firsts = [_code_line(body) for _, body in found]
    return found if any(firsts) and all(map(_is_at_margin, firsts)) else []
