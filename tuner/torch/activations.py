"""Activations: which of moetune's forms a module computes, told by its answers.

Libraries name the same function in many ways, and a module may be another's than the config names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from torch.nn import functional

from tuner.errors import ProblemError

_FORMS: Mapping[str, Callable[[torch.Tensor], torch.Tensor]] = MappingProxyType(
    {
        "swiglu": functional.silu,
        "geglu": functional.gelu,
        "geglu_tanh": partial(functional.gelu, approximate="tanh"),
    }
)
# The two forms of gelu differ by 4.7e-4 near 2.7; one form computed in two ways by some 1e-7.
_BOUND = 1e-5


def activation_of(function: Any, place: str) -> str:
    """The form that a module or function computes.

    Raises ProblemError where it is none of moetune's.
    """
    probe = torch.linspace(-8, 8, 257, dtype=torch.float32, device="cpu")
    with torch.no_grad():
        answer = function(probe.clone())
    for name, form in _FORMS.items():
        if torch.allclose(answer, form(probe), rtol=0, atol=_BOUND):
            return name
    kind = getattr(function, "__name__", type(function).__name__)
    raise ProblemError(
        f"{place}: is {kind}, which no kernel computes; there are {', '.join(_FORMS)}"
    )
