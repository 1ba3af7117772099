"""The pages of the documentation: their blocks of code and their links."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Of a page: an HTML comment before a block says why no test runs it.
NOT_RUN = re.compile(r"<!-- not run: (.+?) -->\s*$")
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INDENTED = re.compile(r"(?:^(?: {4}.*)?\n)+", re.MULTILINE)
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A block of code: its language ("" where a block is only indented), its text, and why it is not run."""

    page: str
    line: int
    language: str
    text: str
    not_run: str = ""

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def pages() -> list[Path]:
    """The pages at the root, and everything below docs/."""
    own = ("README.md", "CONTRIBUTING.md", "examples/README.md")
    return [*(ROOT / file for file in own), *sorted((ROOT / "docs").rglob("*.md"))]


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path, language: str) -> list[Block]:
    """The fenced blocks of a page in one language."""
    text = page.read_text()
    return [
        Block(name(page), _line(text, found.start()), language, found[2], _reason(text, found))
        for found in _FENCE.finditer(text)
        if found[1] == language
    ]


def _reason(text: str, found: re.Match[str]) -> str:
    before = NOT_RUN.search(text[: found.start()])
    return before[1] if before else ""


def _line(text: str, at: int) -> int:
    return text.count("\n", 0, at) + 1


def commands(page: Path) -> Iterator[tuple[str, list[str]]]:
    """Every command line of a page's shell blocks, as words, with its place."""
    for block in blocks(page, "sh") + _indented(page):
        for line in block.text.replace("\\\n", " ").splitlines():
            words = _words(line.strip())
            if words:
                yield f"{block}: {line.strip()}", words


def _indented(page: Path) -> list[Block]:
    """Blocks that are indented by four spaces after an empty line, outside of fences and lists."""
    text = _FENCE.sub(lambda found: re.sub(r"[^\n]", "", found[0]), page.read_text())
    return [
        Block(name(page), _line(text, found.start()), "", found[0].replace("\n    ", "\n"))
        for found in _INDENTED.finditer(text)
        if found[0].strip() and found[0].startswith("\n")
    ]


def _words(line: str) -> list[str]:
    """A command without its comment and the variables set before it; nothing where it is none."""
    if line.count("'") % 2 or line.count('"') % 2 or not re.match(r"[A-Za-z_]", line):
        return []
    words = shlex.split(line, comments=True)
    while words and re.match(r"[A-Z_]+=", words[0]):
        del words[0]
    return words


def links(page: Path) -> list[str]:
    """Targets of a page's links and pictures, those to the web left out."""
    text = _FENCE.sub("", page.read_text())
    return [link for link in _LINK.findall(text) if not re.match(r"\w+:", link)]


def anchors(page: Path) -> set[str]:
    """What `#` may name in a page: its headings, as GitHub and mkdocs spell them."""
    return {_slug(heading) for heading in _HEADING.findall(_FENCE.sub("", page.read_text()))}


def _slug(heading: str) -> str:
    plain = re.sub(r"[^\w\s-]", "", heading).strip().lower()
    return re.sub(r"\s+", "-", plain)
