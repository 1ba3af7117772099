"""The program of a layer: what it printed, completed where it is of the former ABI, and checked."""

from __future__ import annotations

from collections.abc import Iterator

from tuner.errors import KernelError
from tuner.gpu import former
from tuner.gpu.ptx import FORMER_ABI, Program, parse
from tuner.problem import Problem

NUMBERS = ("tokens", "routed")  # parameters that are int32
ARRAYS = ("x", "y", "indices", "weights")  # the layer's own; the other parameters are the program's
_MULTIPROCESSORS = 64  # of a card of which sizes are worked out where there is none


def layer_program(problem: Problem, text: str, variant: str) -> Program:
    """What a program printed that runs a problem's layer; ``variant`` is what errors call it.

    Raises:
        CompileError: the text is no program of an ABI that is known.
        KernelError: the program is another problem's, or does not say all that its kernels need.
    """
    program = parse(text)
    _check_problem(problem, program, variant)
    odd = [k.name for k in program.kernels.values() if f".entry {k.entry}(" not in k.ptx]
    if program.facts["abi"] == FORMER_ABI:
        if odd or tuple(program.kernels) not in former.FORMS:
            raise _not_launched(variant, odd or list(program.kernels))
        program = former.completed(problem, program)
    if odd or not program.launches:
        raise _not_launched(variant, odd or list(program.kernels))
    if lacks := next(_lacking(program), ""):
        raise KernelError(f"{variant}: {lacks}; build it again")
    _check_sizes(program, variant)
    return program


def _check_problem(problem: Problem, program: Program, variant: str) -> None:
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


def _not_launched(variant: str, kernels: list[str]) -> KernelError:
    named = ", ".join(kernels) or "(none)"
    return KernelError(f"{variant}: kernels {named} are not what a layer launches; build it again")


def _check_sizes(program: Program, variant: str) -> None:
    """Whether the expressions have values: a call must not be the first to find out."""
    try:
        blocks = [grid for _, grid in program.grids(1, _MULTIPROCESSORS)]
        sizes = program.scratch_sizes(1, _MULTIPROCESSORS).values()
        least = min(1, *sizes, *(min(grid) for grid in blocks))
    except (TypeError, ZeroDivisionError) as error:
        raise KernelError(
            f"{variant}: its grids cannot be worked out ({error}); build it again"
        ) from error
    if least < 1:
        raise KernelError(f"{variant}: has a grid or a buffer of size {least}; build it again")


def _lacking(program: Program) -> Iterator[str]:
    """What the program names and does not have."""
    for kernel in (*(grid.kernel for grid in program.launches), program.dense):
        if kernel and kernel not in program.kernels:
            yield f"launches {kernel}, which it lacks"
    own = [*program.packing.arrays, *program.scratch]
    for name in own:
        if own.count(name) > 1 or name in (*NUMBERS, *ARRAYS):
            yield f"{name} is the name of two things"
    for kernel_of in program.kernels.values():
        for param in kernel_of.params:
            if param not in (*own, *NUMBERS, *ARRAYS):
                yield f"{kernel_of.name} asks for {param}, which nobody gives"
