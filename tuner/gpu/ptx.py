"""What a compiled GPU program prints: the PTX of its kernels and how to launch them.

A GPU template is a program of the compiling machine: run there, it prints a line of facts and, for each
kernel, a header line, PTX and an end line. The GPU's driver compiles PTX when it loads it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from tuner.errors import CompileError, KernelError
from tuner.problem import Problem

ABI = 1
# What a layer launches, in this order: many tokens, or few.
FORMS = (
    ("moe_logits", "moe_choose", "moe_product_1", "moe_product_2", "moe_combine"),
    ("moe_route", "moe_stream_1", "moe_stream_2"),
)
_FACTS = re.compile(r"^//// (?:layer|probe) (.+)$", re.MULTILINE)
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
class Program:
    """The kernels of one layer or probe, by name, in the order of their launches, and its numbers."""

    facts: Mapping[str, int]
    kernels: Mapping[str, PtxKernel]


def parse(text: str) -> Program:
    """Reads what a program printed. Raises CompileError where that is no program of this ABI."""
    line = _FACTS.search(text)
    words = line[1].split() if line else []
    facts = dict(zip(words[::2], map(int, words[1::2]), strict=True))
    if facts.get("abi") != ABI:
        raise CompileError(f"GPU program: abi {facts.get('abi')}, not {ABI}; build the job again")
    kernels = {}
    for entry, threads, shared, params, ptx in _KERNEL.findall(text):
        name = re.sub(r"_[0-9a-f]{8}$", "", entry)  # the compiler adds a digest
        kernels[name] = PtxKernel(
            name, entry, int(threads), int(shared), tuple(params.split()), ptx
        )
    return Program(facts, kernels)


def check(problem: Problem, program: Program, variant: str) -> None:
    """Raises KernelError where a program is another problem's, or its kernels are not those of a layer."""
    must = {
        "hidden": problem.hidden,
        "expert_dim": problem.expert_dim,
        "experts": problem.num_experts,
        "top_k": problem.top_k,
        "shared": problem.shared_dim // problem.expert_dim,
    }
    have = {name: program.facts.get(name) for name in must}
    if have != must:
        raise KernelError(f"{variant}: was built for {have}, must be {must}; build it again")
    odd = [k.name for k in program.kernels.values() if f".entry {k.entry}(" not in k.ptx]
    if odd or tuple(program.kernels) not in FORMS:
        named = ", ".join(odd or program.kernels) or "(none)"
        raise KernelError(
            f"{variant}: kernels {named} are not what a layer launches; build it again"
        )
