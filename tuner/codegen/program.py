"""Modules: several Mojo sources as one program, so that one compiler run serves them all.

Each source becomes a module whose functions are exported by the program under names of its own:
`kernel0_moe_call` calls `moe_call` of module `kernel0`. Mojo exports from the main file alone, hence
the program is nothing but such calls.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

EXPORT = "@export\n"
_EXPORTED = re.compile(
    r'^@export\ndef (?P<name>\w+)\((?P<arguments>[^)]*)\) abi\("C"\)(?: -> (?P<result>\w+))?:$',
    re.M,
)
_DEFINED = re.compile(r"^(?:comptime|struct) (\w+)", re.M)
_ARGUMENT = re.compile(r"(\w+):")


@dataclass(frozen=True)
class BatchProgram:
    """The main file, and the text of each module by its name."""

    main: str
    modules: dict[str, str]


def module_name(number: int) -> str:
    """The module of the source with this number; no name is the start of another."""
    return f"kernel{number}"


def prefix(number: int) -> str:
    """What the exported names of this source start with."""
    return f"{module_name(number)}_"


def program(texts: Sequence[str]) -> BatchProgram | None:
    """One program of all sources; None where one exports something in a form that isn't read here."""
    calls = [_calls(number, text) for number, text in enumerate(texts)]
    if not all(calls):
        return None
    imports = "".join(f"import {module_name(number)}\n" for number in range(len(texts)))
    modules = {module_name(i): text.replace(EXPORT, "") for i, text in enumerate(texts)}
    return BatchProgram("\n\n".join([imports, *(call or "" for call in calls)]), modules)


def _calls(number: int, text: str) -> str | None:
    """The exported functions of one source, each a call into its module."""
    found = list(_EXPORTED.finditer(text))
    if not found or len(found) != text.count("@export"):
        return None
    own = set(_DEFINED.findall(text))
    return "\n\n".join(_call(number, match, own) for match in found)


def _call(number: int, match: re.Match[str], own: set[str]) -> str:
    """`own` are the names of types that the module defines."""
    name, module = match["name"], module_name(number)

    def typed(text: str) -> str:
        return re.sub(r"\w+", lambda w: f"{module}.{w[0]}" if w[0] in own else w[0], text)

    arguments = " ".join(match["arguments"].split())
    passed = ", ".join(_ARGUMENT.findall(arguments))
    result = f" -> {typed(match['result'])}" if match["result"] else ""
    return (
        f'{EXPORT}def {prefix(number)}{name}({typed(arguments)}) abi("C"){result}:\n'
        f"    {'return ' if result else ''}{module}.{name}({passed})\n"
    )
