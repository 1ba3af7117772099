"""Next steps: what to type for a layer and a machine: to run it, ship it, compare it and tune it on."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tuner.problem import PRESETS, Problem
from tuner.target import Target

# What the command line may change of a preset -> its option.
_CHANGES = {"num_experts": "--experts", "dtype": "--dtype", "weight_dtype": "--weight-dtype"}
# What describes a layer without a preset.
_SIZES = {
    "hidden": "--hidden", "expert_dim": "--expert-dim", "num_experts": "--experts",
    "top_k": "--top-k", "activation": "--activation", "dtype": "--dtype",
    "weight_dtype": "--weight-dtype",
}  # fmt: skip
_USUAL_TOKENS = (1, 16, 128)
_CONFIG = "path/to/config.json"


@dataclass(frozen=True)
class Step:
    """Lines to type, and what they are for. ``language`` is ``python`` or ``sh``."""

    purpose: str
    language: str
    text: str


@dataclass(frozen=True)
class Spelling:
    """A layer as the command line and as Python name it."""

    words: str
    python: str


def spelling(problem: Problem) -> Spelling:
    """By a preset and what differs from it, else by its sizes, else by the file that it came from."""
    found = [made for preset in PRESETS if (made := _changed(preset, problem)) is not None]
    if found:
        preset, changes = min(found, key=lambda made: len(made[1]))
        python = f'tuner.Problem.preset("{preset}")'
        return Spelling(
            " ".join([preset, *_options(changes, _CHANGES)]),
            f"{python}.replace({_values(changes)})" if changes else python,
        )
    sizes = {name: getattr(problem, name) for name in _SIZES}
    plain = Problem(**sizes)
    if plain == problem:
        given = {name: value for name, value in sizes.items() if name in _needed(plain)}
        return Spelling(" ".join(_options(given, _SIZES)), f"tuner.Problem({_values(given)})")
    dtype = "" if problem.dtype == "float32" else f', dtype="{problem.dtype}"'
    options = _options({} if not dtype else {"dtype": problem.dtype}, _CHANGES)
    return Spelling(
        " ".join([_CONFIG, *options]), f'tuner.Problem.from_hf_config("{_CONFIG}"{dtype})'
    )


def steps(problem: Problem, target: Target, tokens: Sequence[int]) -> tuple[Step, ...]:
    """What can be done with the winners of these numbers of tokens; where there are none, less."""
    named, gpu = spelling(problem), target.kind == "gpu"
    # A label of another machine may hold anything, and this will be pasted into a shell.
    hardware = shlex.quote(target.accelerator if gpu else target.arch)
    counts = ",".join(map(str, sorted(set(tokens) or _USUAL_TOKENS)))
    tune = f"moetune tune {named.words} --tokens {counts} --time 10m"
    tune += f" --target {hardware}" if gpu else ""
    found = [Step("Run it", "python", _run(named.python, gpu)), Step("Tune on", "sh", tune)]
    if tokens:
        line = f"moetune bundle build {named.words} --target {hardware} -o {_file(problem)}.moe"
        found.insert(1, Step("Ship it as one signed file", "sh", f"{line} --key KEY"))
    if not gpu:
        line = f"moetune bench {named.words} --tokens {counts}"
        found.append(Step("Compare it with other libraries", "sh", line))
    if tokens and not gpu:
        found.append(Step("See whether it still wins", "sh", f"moetune audit {named.words}"))
    return tuple(found)


def _run(problem: str, gpu: bool) -> str:
    device = ', device="cuda:0"' if gpu else ""
    return (
        f"import tuner\n\nproblem = {problem}\nlayer = tuner.load(problem, weights{device})\n"
        "y = layer(x)"
    )


def _changed(preset: str, problem: Problem) -> tuple[str, dict[str, Any]] | None:
    """A preset with the changes that make the problem of it; None where no change does."""
    base = PRESETS[preset]
    changes = {
        name: getattr(problem, name)
        for name in _CHANGES
        if getattr(problem, name) != getattr(base, name)
    }
    if problem.weight_dtype == problem.dtype:  # it follows by itself
        changes.pop("weight_dtype", None)
    elif "dtype" in changes:
        changes["weight_dtype"] = problem.weight_dtype
    same = _without(base.key, _CHANGES) == _without(problem.key, _CHANGES)
    return (preset, changes) if same and base.replace(**changes) == problem else None


def _without(key: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    return {name: value for name, value in key.items() if name not in names}


def _needed(problem: Problem) -> set[str]:
    """The sizes, and those of the rest that are not what they are by themselves."""
    needed = {"hidden", "expert_dim", "num_experts", "top_k"}
    needed |= {"activation"} if problem.activation != "swiglu" else set()
    needed |= {"dtype"} if problem.dtype != "float32" else set()
    return needed | ({"weight_dtype"} if problem.weight_dtype != problem.dtype else set())


def _options(values: Mapping[str, Any], options: Mapping[str, str]) -> list[str]:
    return [f"{options[name]} {value}" for name, value in values.items()]


def _values(values: Mapping[str, Any]) -> str:
    return ", ".join(
        f'{name}="{value}"' if isinstance(value, str) else f"{name}={value}"
        for name, value in values.items()
    )


def _file(problem: Problem) -> str:
    """A file's name of a label, which may hold anything."""
    kept = "".join(c if c.isalnum() or c in "-._" else "-" for c in problem.name)
    return kept.strip("-.") or "layer"
