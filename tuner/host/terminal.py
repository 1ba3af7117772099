"""Text for terminals and logs: what came from outside may hold characters that a terminal obeys."""

from __future__ import annotations

import re

# C0 and C1 controls, marks that turn the direction of writing or are not seen, line separators, halves of
# surrogate pairs, tags. A new line and a tab do no harm.
_OBEYED = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f"
    "\ud800-\udfff\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]"
)


def printable(text: str) -> str:
    r"""A text in which such characters are spelled as Python spells them: ``\x1b``, ``\u202e``."""
    return text if text.isprintable() else _OBEYED.sub(_spelled, text)


def one_line(text: str) -> str:
    r"""The same without line ends, which would look like another message: ``\n``."""
    return printable(text).replace("\n", "\\n")


def _spelled(found: re.Match[str]) -> str:
    return ascii(found[0])[1:-1]
