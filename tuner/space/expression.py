"""Small expressions in a space file: arithmetic, comparisons and conditions over named numbers."""

from __future__ import annotations

import ast
import functools
from collections.abc import Mapping
from types import CodeType

from tuner.errors import SpaceError

_ALLOWED = (
    ast.Expression, ast.Constant, ast.Name, ast.Load, ast.BoolOp, ast.And, ast.Or,
    ast.UnaryOp, ast.Not, ast.USub, ast.BinOp, ast.Add, ast.Sub, ast.Mult, ast.FloorDiv,
    ast.Mod, ast.Compare, ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.IfExp,
    ast.Call,
)  # fmt: skip


def _power_of_two(number: int) -> int:
    """The largest power of two that is not above a number; 0 for 0."""
    return 1 << (number.bit_length() - 1) if number > 0 else 0


_FUNCTIONS = {"min": min, "max": max, "power_of_two": _power_of_two}
_GLOBALS = {"__builtins__": _FUNCTIONS}


@functools.lru_cache(maxsize=1024)
def _compiled(text: str) -> tuple[CodeType, frozenset[str]]:
    try:
        tree = ast.parse(text, mode="eval")
    except SyntaxError as error:
        raise SpaceError(f"{text!r}: {error.msg}") from error
    used = set()
    for node in ast.walk(tree):
        if not isinstance(node, _ALLOWED):
            raise SpaceError(f"{text!r}: {type(node).__name__} is not allowed here")
        if isinstance(node, ast.Name):
            used.add(node.id)
    return compile(tree, "<space>", "eval"), frozenset(used - set(_FUNCTIONS))


def names_in(text: str) -> frozenset[str]:
    """The names that an expression reads. Raises SpaceError when it is not one."""
    return _compiled(text)[1]


def evaluate(text: str, names: Mapping[str, int]) -> int:
    """The value of an expression. Raises SpaceError for a name that is not known."""
    code, used = _compiled(text)
    if not used <= names.keys():
        unknown = ", ".join(sorted(used - names.keys()))
        raise SpaceError(f"{text!r}: {unknown} is not known; known: {', '.join(sorted(names))}")
    return int(eval(code, _GLOBALS, names))
