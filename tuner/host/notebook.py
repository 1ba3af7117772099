"""Notebooks: small tables of HTML, with whatever they hold escaped."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence


def table(title: str, rows: Iterable[Sequence[object]], head: Sequence[str] = ()) -> str:
    """A table with a title above it; the first cell of each row names what the others say."""
    top = f"<tr>{''.join(_cell('th', name) for name in head)}</tr>" if head else ""
    body = "".join(
        f"<tr>{_cell('th', first)}{''.join(_cell('td', cell) for cell in rest)}</tr>"
        for first, *rest in rows
    )
    caption = f'<caption style="text-align: left">{html.escape(title)}</caption>'
    return f"<table>{caption}{top}{body}</table>"


def _cell(tag: str, content: object) -> str:
    return f'<{tag} style="text-align: left">{html.escape(str(content))}</{tag}>'
