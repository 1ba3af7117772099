"""Peer: what a comparison has to know of another library, and what the library's layer has to do."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tuner.problem import Problem
from tuner.problem.weights import Weights

Floats: TypeAlias = NDArray[np.float32]
Routing: TypeAlias = tuple[NDArray[Any], Floats]
# x [T, D], and the routing where it is imposed, to y [T, D]; y lasts until the next call.
Form: TypeAlias = Callable[[Floats, Routing | None], Floats]


class PeerLayer(Protocol):
    """One layer's weights, and the ways of running them."""

    def forms(self) -> dict[str, Form]:
        """By name; the fastest one races."""


def _runs_all(problem: Problem) -> str:
    return ""


@dataclass(frozen=True, kw_only=True)
class Peer:
    """Another library. Each has a file `*_peer.py` in this room with one of these, named `PEER`.

    The file must not import the library before ``make`` is called: it may not be there.

    Attributes:
        name: on the command line and in rows.
        title: to people; the name unless given.
        make: what gets ready to run, of a problem, its weights and a number of threads.
        modules: those that have to be installed.
        copies: of the weights that its process holds at most.
        refusal: why it cannot run a problem, in words that follow its name; empty where it can.
        rank: its place in lists, the lowest first.
    """

    name: str
    make: Callable[[Problem, Weights, int], PeerLayer]
    modules: tuple[str, ...]
    copies: float
    refusal: Callable[[Problem], str] = _runs_all
    title: str = ""
    rank: int = 100

    def lacking(self) -> list[str]:
        """The modules that it needs and that are not installed."""
        return [name for name in self.modules if importlib.util.find_spec(name) is None]

    def version(self) -> str:
        """The version of its first module's package; empty where none of that name is installed."""
        try:
            return importlib.metadata.version(self.modules[0])
        except importlib.metadata.PackageNotFoundError:
            return ""
