"""Assembly: one program's assembly text cut into one text for each of its modules.

The text is a list of pieces: functions, and the constants and jump tables that belong to them. A module
gets its exported functions and all pieces that they lead to, in the order of the text. Names then
lose their module's number, so that a module's text does not depend on what was compiled beside it, nor
on where it stood; labels that begin with `.L` keep theirs, as no binary shows them.

Read is what LLVM writes for ELF; what is not understood ends in a text that refers to something that
it doesn't define, which the linker refuses.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tuner.codegen.program import module_name, prefix

_LABEL = re.compile(r'^(\.?[\w.$]+|"[^"\n]+"):', re.M)
_NAME = re.compile(r'"[^"\n]+"|[\w.$]+')
_SECTION = re.compile(r"\t\.(?:text|section|data|bss)\b")
# Newer than GNU's assembler: the alignment that a function would like.
_PREFALIGN = re.compile(r"^\t\.prefalign\t(\d+),.*$", re.M)
_ENDS = ("\t.size\t", "\t.cfi_endproc")
_FILE = re.compile(r'^\t\.file\t".*"$', re.M)


@dataclass(frozen=True)
class _Piece:
    """A function or a constant; `place` is the directives of its section and alignment."""

    place: str
    text: str

    @property
    def labels(self) -> list[str]:
        return _LABEL.findall(self.text)


@dataclass(frozen=True)
class AssemblyText:
    """What stands before the pieces, the pieces, and what stands behind them."""

    head: str
    pieces: Sequence[_Piece]
    tail: str


def split(text: str, count: int) -> list[str | None]:
    """The assembly text of each of `count` modules; None for one that exports nothing."""
    program = read(text)
    places = {label: i for i, piece in enumerate(program.pieces) for label in piece.labels}
    leads = [
        {places[name] for name in _NAME.findall(piece.text) if name in places}
        for piece in program.pieces
    ]
    return [_module(program, places, leads, number) for number in range(count)]


def _module(
    program: AssemblyText, places: dict[str, int], leads: Sequence[set[int]], number: int
) -> str | None:
    """`places`: the piece of each label; `leads`: the pieces that each piece refers to."""
    reached = {place for label, place in places.items() if label.startswith(prefix(number))}
    if not reached:
        return None
    new = set(reached)
    while new:
        new = set().union(*(leads[place] for place in new)) - reached
        reached |= new
    pieces = [program.pieces[place] for place in sorted(reached)]
    body = "".join(piece.place + piece.text for piece in pieces)
    return _unnumbered(program.head + body + program.tail)


def _unnumbered(text: str) -> str:
    """The text as if its module had been alone."""
    alone = re.sub(
        rf"\b{module_name(0)[:-1]}\d+(?:(::)|_)", lambda m: "kernel::" if m[1] else "", text
    )
    alone = _PREFALIGN.sub(r"\t.p2align\t\1", alone)
    return _FILE.sub('\t.file\t"kernel.mojo"', alone)


def read(text: str) -> AssemblyText:
    """Cuts a text behind the ends of its functions and constants."""
    lines = text.splitlines(keepends=True)
    first = next((i for i, line in enumerate(lines) if _SECTION.match(line)), len(lines))
    *pieces, tail = _pieces(lines[first:])
    return AssemblyText("".join(lines[:first]), pieces, tail.place + tail.text)


def _pieces(lines: Sequence[str]) -> Iterator[_Piece]:
    """Constants of one section follow each other with one alignment, so it goes with each of them. The last
    piece is what stands behind the last size."""
    section, align, held = "", "", list[str]()
    labelled = sized = False
    for line in lines:
        size = line.startswith(_ENDS)
        if sized and not size:
            yield _Piece(section + align, "".join(held))
            held, labelled = [], False
        sized, labelled = size, labelled or line[0] not in "\t\n"
        if _SECTION.match(line):
            section, align = line, ""
        elif line.startswith("\t.p2align\t") and not labelled:
            align = line
        else:
            held.append(line)
    yield _Piece(section + align, "".join(held))
