"""Variant: one point of a space, with a name that is its file name and database key.

Grammar: TEMPLATE then `_` LETTER NUMBER for each parameter in the order of the space file, e.g.
`moe_cpu_v16_r12_c2_p1_...`; the letters are the `short` names. It is a valid identifier.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from tuner.errors import SpaceError
from tuner.problem import Problem
from tuner.space.expression import evaluate
from tuner.space.file import Parameter
from tuner.space.space import Config, SpaceFile, facts, load, resolve
from tuner.target import Target

CPU_TEMPLATE = "moe_cpu"
# The template of a layer, by the kind of target.
TEMPLATES = {"cpu": CPU_TEMPLATE, "gpu": "moe_gpu"}

Changes = dict[str, tuple[int, int]]


@dataclass(frozen=True)
class Variant:
    """A template with a number for each of its parameters.

    `pack` names the packed form of the weights that it reads: variants that share it can serve
    one layer from one copy.
    """

    template: str
    name: str
    values: tuple[tuple[str, int], ...]
    pack: str

    @property
    def config(self) -> Config:
        return dict(self.values)

    @property
    def id(self) -> str:
        """First 16 hex digits of the SHA-256 of template and configuration."""
        text = json.dumps([self.template, self.name, sorted(self.values)])
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def make(template: str, config: Mapping[str, int]) -> Variant:
    """The Variant of a configuration that names every parameter of the template."""
    file = load(template)
    parameters = [p.name for p in file.parameters]
    if set(parameters) != set(config):
        odd = sorted(set(parameters) ^ set(config))
        raise SpaceError(f"{', '.join(odd)}: missing or unknown in a configuration of {template}")
    return _made(template, tuple((name, int(config[name])) for name in parameters))


@functools.lru_cache(maxsize=1024)
def _made(template: str, values: tuple[tuple[str, int], ...]) -> Variant:
    file, config = load(template), dict(values)
    return Variant(template, _name(file, config), values, _pack(file, config))


def _name(file: SpaceFile, config: Mapping[str, int]) -> str:
    return "_".join([file.template, *(f"{p.short}{config[p.name]}" for p in file.parameters)])


def source_config(variant: Variant) -> Config:
    """The parameters that the source depends on: not those that are said at run time."""
    return {p.name: variant.config[p.name] for p in _compiled(load(variant.template))}


def source_name(variant: Variant) -> str:
    """The variant's name without what is said at run time: the same for all that share a source."""
    parts = (f"{p.short}{variant.config[p.name]}" for p in _compiled(load(variant.template)))
    return "_".join([variant.template, *parts])


def _compiled(file: SpaceFile) -> list[Parameter]:
    return [p for p in file.parameters if not p.at_run_time]


def _pack(file: SpaceFile, config: Mapping[str, int]) -> str:
    shorts = {p.name: p.short for p in file.parameters}
    return "_".join(f"{shorts[name]}{config[name]}" for name in file.pack)


def parse(name: str, template: str = CPU_TEMPLATE) -> Variant:
    """The Variant of a name. Raises SpaceError when the name is not of this template's grammar."""
    file = load(template)
    pattern = re.escape(template) + "".join(rf"_{p.short}(\d+)" for p in file.parameters)
    match = re.fullmatch(pattern, name)
    if match is None:
        form = "_".join([template, *(f"{p.short}N" for p in file.parameters)])
        raise SpaceError(f"{name}: no variant name; it must be of the form {form}")
    numbers = (int(text) for text in match.groups())
    return make(template, dict(zip((p.name for p in file.parameters), numbers, strict=True)))


def default_variant(
    problem: Problem, target: Target, pack: str | None = None, tokens: int = 1
) -> Variant:
    """The template's default for a target; with `pack`, the default that reads that packed form."""
    file = load(TEMPLATES[target.kind])
    if file.of_workload is None:
        return _default(file, problem, target, pack, tokens)
    # Layers and services ask for one default after the other, and only few token counts make another one.
    names = facts(problem, target, tokens)
    key = (problem, target, pack, *(evaluate(text, names) for text in file.of_workload))
    if key not in _defaults:
        if len(_defaults) >= _MOST_DEFAULTS:
            _defaults.clear()
        _defaults[key] = _default(file, problem, target, pack, tokens)
    return _defaults[key]


_MOST_DEFAULTS = 4096
_defaults: dict[tuple[object, ...], Variant] = {}


def _default(
    file: SpaceFile, problem: Problem, target: Target, pack: str | None, tokens: int
) -> Variant:
    space = resolve(file, problem, target, tokens)
    if not pack:  # a space has a default that it holds
        return make(file.template, space.default)
    config = {**space.default, **pack_config(pack, file.template)}
    space.check(config)
    return make(file.template, config)


def pack_config(pack: str, template: str = CPU_TEMPLATE) -> Config:
    """The parameters that a packed form fixes, from its name. Raises SpaceError where it is none."""
    file = load(template)
    shorts = {p.short: p.name for p in file.parameters if p.name in file.pack}
    parts = [re.fullmatch("([a-z])([0-9]{1,9})", part) for part in pack.split("_")]
    found = {shorts.get(part[1], ""): int(part[2]) for part in parts if part}
    if set(found) != set(file.pack) or len(parts) != len(found):
        named = {name: short for short, name in shorts.items()}
        form = "_".join(f"{named[name]}N" for name in file.pack)
        raise SpaceError(
            f"pack {pack!r}: no packed form of {template}; it must be of the form {form}"
        )
    return found


def changes(before: Mapping[str, int], after: Mapping[str, int]) -> Changes:
    """The parameters in which two configurations differ: name -> (before, after)."""
    return {
        name: (before[name], after[name])
        for name in after
        if name in before and before[name] != after[name]
    }
