"""What a compiled GPU program prints: the PTX of its kernels, and all that a host has to know to run them.

A GPU template is a program of the compiling machine. Run there, it prints lines that begin with ``////`` and,
between two of them, the PTX of each kernel, which the GPU's driver compiles when it loads it:

    //// layer abi 2 hidden 2048 ...                     facts: names and numbers
    //// pack product1 bfloat16 64 32 ... = take up ...  a packed array of weights: see tuner.gpu.pack
    //// scratch logits = tokens * 256                   a scratch buffer and its bytes
    //// launch moe_logits = (tokens + 15) // 16 | 4     a launch: the kernel, and its blocks along x and y
    //// dense moe_product_1                             the kernel, if any, that is product 1 and nothing else
    //// kernel moe_logits_0a1b2c3d 256 4096 x tokens    entry, threads of a block, shared bytes, parameters
    ...
    //// end

Launches stand in the order in which they go to the stream. Bytes and blocks are expressions (those of
``tuner.space.expression``) over ``tokens`` and ``multiprocessors``. A parameter is the address of a packed
array, of a scratch buffer, or of one of the layer's own arrays (x, y, indices, weights), by its name; or it is
an int32, ``tokens`` or ``routed`` (1: indices and weights are given). A probe's line of facts begins with
``//// probe``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from tuner.errors import CompileError, SpaceError
from tuner.gpu.pack import Packing
from tuner.space.expression import evaluate, names_in

FORMER_ABI, ABI = 1, 2
SIZES = frozenset({"tokens", "multiprocessors"})  # what an expression may read
_FACTS = re.compile(r"^//// (?:layer|probe) (.+)$", re.MULTILINE)
_LINE = re.compile(r"^//// (pack|scratch|launch|dense) (.+)$", re.MULTILINE)
_NAMED = re.compile(r"(\w+) = (.+)")
# Numbers, names and what stands between them; a program is read before anybody trusts it.
_EXPRESSION = re.compile(r"[\w +\-*/%(),<>=!]{1,400}")
_KERNEL = re.compile(
    r"^//// kernel (\S+) (\d+) (\d+) ([^\n]+)\n(.*?)^//// end$", re.MULTILINE | re.DOTALL
)


@dataclass(frozen=True)
class PtxKernel:
    """One kernel.

    Attributes:
        name: the template's, such as ``moe_choose``; ``entry`` is the name in the PTX.
        threads: of one block.
        shared_bytes: dynamic shared memory of one block.
        params: what each argument is, in order.
    """

    name: str
    entry: str
    threads: int
    shared_bytes: int
    params: tuple[str, ...]
    ptx: str


@dataclass(frozen=True)
class Grid:
    """A launch: the kernel's name, and its blocks along x and y as expressions."""

    kernel: str
    x: str
    y: str


@dataclass(frozen=True)
class Program:
    """What a layer's or a probe's program says.

    Attributes:
        facts: its numbers by name.
        kernels: by name.
        launches: in their order.
        scratch: bytes of each scratch buffer, as expressions.
        dense: name of the kernel that is product 1 and nothing else; empty for none.
    """

    facts: Mapping[str, int]
    kernels: Mapping[str, PtxKernel]
    launches: tuple[Grid, ...] = ()
    scratch: Mapping[str, str] = field(default_factory=dict)
    packing: Packing = field(default_factory=lambda: Packing(()))
    dense: str = ""

    def scratch_sizes(self, tokens: int, multiprocessors: int) -> dict[str, int]:
        """Bytes of each buffer that a call needs beside inputs and outputs."""
        sizes = {"tokens": tokens, "multiprocessors": multiprocessors}
        return {name: evaluate(text, sizes) for name, text in self.scratch.items()}

    def grids(self, tokens: int, multiprocessors: int) -> list[tuple[str, tuple[int, int]]]:
        """Kernel and blocks (x, y) of each launch of a call, in their order; none without tokens."""
        if tokens == 0:
            return []
        sizes = {"tokens": tokens, "multiprocessors": multiprocessors}
        return [
            (grid.kernel, (evaluate(grid.x, sizes), evaluate(grid.y, sizes)))
            for grid in self.launches
        ]


def parse(text: str) -> Program:
    """Reads what a program printed.

    Raises CompileError where that is no program of an ABI that is known, or a line cannot be read.
    """
    line = _FACTS.search(text)
    words = line[1].split() if line else []
    facts = dict(zip(words[::2], map(int, words[1::2]), strict=True))
    if facts.get("abi") not in (FORMER_ABI, ABI):
        raise CompileError(
            f"GPU program: abi {facts.get('abi')}, not {FORMER_ABI} or {ABI}; build the job again"
        )
    said: dict[str, list[str]] = {"pack": [], "scratch": [], "launch": [], "dense": []}
    for what, rest in _LINE.findall(text):
        said[what].append(rest.strip())
    return Program(
        facts,
        _kernels(text),
        launches=tuple(Grid(name, *_blocks(grid)) for name, grid in map(_named, said["launch"])),
        scratch={name: checked(size) for name, size in map(_named, said["scratch"])},
        packing=Packing(said["pack"]),
        dense=" ".join(said["dense"]),
    )


def _kernels(text: str) -> dict[str, PtxKernel]:
    kernels = {}
    for entry, threads, shared, params, ptx in _KERNEL.findall(text):
        name = re.sub(r"_[0-9a-f]{8}$", "", entry)  # the compiler adds a digest
        kernels[name] = PtxKernel(
            name, entry, int(threads), int(shared), tuple(params.split()), ptx
        )
    return kernels


def _named(line: str) -> tuple[str, str]:
    match = _NAMED.fullmatch(line)
    if match is None:
        raise CompileError(f"GPU program: {line!r}: must be a name = what it is")
    return match[1], match[2]


def _blocks(text: str) -> tuple[str, str]:
    x, _, y = text.partition("|")
    return checked(x), checked(y)


def checked(text: str) -> str:
    """An expression over ``SIZES``, made ready here for the calls that evaluate it.

    Raises CompileError where it is none.
    """
    expression = text.strip()
    if not _EXPRESSION.fullmatch(expression):
        raise CompileError(f"GPU program: {expression[:80]!r}: is no expression")
    try:
        unknown = names_in(expression) - SIZES
    except SpaceError as error:
        raise CompileError(f"GPU program: {error}") from error
    if unknown:
        raise CompileError(f"GPU program: {expression!r}: reads {', '.join(sorted(unknown))}")
    return expression
