"""Sizes at run time: a rendered kernel whose layer's sizes the compiler can't see.

In a kernel HIDDEN, EXPERT_DIM, EXPERTS, TOP_K, SHARED_DIM and what follows from them (panels, strides, offsets,
loop bounds) are comptime constants. Here each use of them in a function becomes `unseen(NAME)`: the number
goes through an empty piece of assembly, behind which the compiler knows nothing about it, as if it had been
loaded once per call and kept in a register. What was comptime only because of them becomes a variable, a
plain loop or a plain branch.
"""

from __future__ import annotations

import re

from ablation.edits import EditError

SIZES = ("HIDDEN", "EXPERT_DIM", "EXPERTS", "TOP_K", "SHARED_DIM")
# What runs once in the life of a layer, or tells the host about the kernel, stays as it is.
COLD = frozenset("check_constants panel_offset pack_vector moe_pack moe_info".split())

_IMPORT = "from std.sys.intrinsics import inlined_assembly\n"
_UNSEEN = '''

@always_inline
def unseen(value: Int) -> Int:
    """The same number, about which the compiler knows nothing."""
    return inlined_assembly["", Int, constraints="=r,0", has_side_effect=False](value)
'''
# A function or struct at the left margin, to the next line that starts there.
_BLOCK = re.compile(r"^(?:def|struct) (?P<name>\w+).*\n(?:(?:[ )\]].*)?\n)*", re.MULTILINE)
_ALIAS = "comptime I64 = Pointer[Int64, MutUntrackedOrigin]\n"


def derived(text: str) -> tuple[str, ...]:
    """The sizes and every module-level constant of a kernel that follows from them, in its order."""
    found = list(SIZES)
    for name, value in re.findall(r"^comptime (\w+) = (.*)$", text, re.MULTILINE):
        if name not in found and _names(found).search(_code(value)):
            found.append(name)
    return tuple(found)


def hide_sizes(text: str) -> str:
    """The kernel with sizes at run time. Raises EditError when it is no kernel of this form."""
    if text.count(_ALIAS) != 1 or not all(f"\ncomptime {name} = " in text for name in SIZES):
        raise EditError("run_time.py: the kernel's sizes are not where they were; fit it to them")
    sizes = derived(text)
    hidden = _BLOCK.sub(lambda found: _hidden_block(found, sizes), text)
    hidden = re.sub(r"^(?=from std)", _IMPORT, hidden, count=1, flags=re.MULTILINE)
    return hidden.replace(_ALIAS, _ALIAS + _UNSEEN)


def _hidden_block(found: re.Match[str], sizes: tuple[str, ...]) -> str:
    """A function or struct with its sizes hidden, unless it is cold."""
    if found["name"] in COLD:
        return found.group()
    parts = found.group().split('"""')  # code and documentation take turns
    local = set[str]()
    for i in range(0, len(parts), 2):
        parts[i] = "\n".join(_hidden_line(line, sizes, local) for line in parts[i].split("\n"))
    return '"""'.join(parts)


def _hidden_line(line: str, sizes: tuple[str, ...], local: set[str]) -> str:
    """One line; names that are variables from here on are added to `local`."""
    code = _code(line)
    if not _names((*sizes, *local)).search(code):
        return line
    if constant := re.match(r"( +)comptime (\w+) = ", code):
        local.add(constant.group(2))
        code = f"{constant.group(1)}var {code[constant.end(1) + len('comptime ') :]}"
    code = re.sub(r"^( +)comptime (if|for) ", r"\1\2 ", code)
    return _names(sizes).sub(r"unseen(\g<0>)", code) + line[len(_code(line)) :]


def _names(names: list[str] | tuple[str, ...]) -> re.Pattern[str]:
    return re.compile(rf"\b(?:{'|'.join(names)})\b")


def _code(line: str) -> str:
    """A line without its comment."""
    return line.partition("  #")[0]
