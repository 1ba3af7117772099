"""Variant: one point of a space, with a name that is its file name and database key.

Grammar: TEMPLATE then `_` LETTER NUMBER for each parameter in the order of the space file, e.g.
`moe_cpu_v16_r12_c2_p1_...`; the letters are the `short` names. It is a valid identifier.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tuner.errors import SpaceError, TemplateError
from tuner.problem import Problem
from tuner.space import templates
from tuner.space.expression import evaluate
from tuner.space.file import Parameter
from tuner.space.space import (
    Config,
    SpaceFile,
    check_facts,
    check_support,
    facts,
    load,
    resolve,
)
from tuner.target import Target

Changes = dict[str, tuple[int, int]]


@dataclass(frozen=True)
class Variant:
    """A template with a number for each of its parameters.

    Attributes:
        pack: the packed form of the weights that it reads: variants that share it can serve one layer from one
            copy, be they of one template or of two.
    """

    template: str
    name: str
    values: tuple[tuple[str, int], ...]
    pack: str

    @property
    def config(self) -> Config:
        return dict(self.values)

    @property
    def ragged(self) -> int:
        """Rows of a tile: verification tries token counts around its multiples."""
        name = load(self.template).interface.ragged
        return self.config[name] if name else 1

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
    parts = [f"{short}{config[name]}" for name, short in _pack_shorts(file).items()]
    return "_".join([file.family, *parts] if file.family else parts)


def _pack_shorts(file: SpaceFile) -> dict[str, str]:
    """The parameters of a template's packed form, with their letters, in the order of the form."""
    shorts = {p.name: p.short for p in file.parameters}
    return {name: shorts[name] for name in file.pack}


def parse(name: str) -> Variant:
    """The Variant of a name, of the installed template with which it begins.

    Raises SpaceError when there is none, or the name is not of its grammar.
    """
    known = [t for t in templates.names() if name == t or name.startswith(f"{t}_")]
    if not known:
        raise SpaceError(
            f"{name}: no variant name; it must begin with a template that is installed: "
            f"{', '.join(templates.names())} (MOETUNE_TEMPLATES names further folders)"
        )
    file = load(max(known, key=len))
    pattern = re.escape(file.template) + "".join(rf"_{p.short}(\d+)" for p in file.parameters)
    match = re.fullmatch(pattern, name)
    if match is None:
        form = "_".join([file.template, *(f"{p.short}N" for p in file.parameters)])
        raise SpaceError(f"{name}: no variant name; it must be of the form {form}")
    numbers = (int(text) for text in match.groups())
    return make(file.template, dict(zip((p.name for p in file.parameters), numbers, strict=True)))


@functools.lru_cache(maxsize=1024)
def serving(problem: Problem, target: Target) -> tuple[SpaceFile, ...]:
    """The templates that can serve a problem on a target, the one with the highest priority first.

    Raises TemplateError where none can, with the reason of each that is for this kind of target.
    """
    found: list[SpaceFile] = []
    refused: dict[str, str] = {}
    for file in map(load, templates.names()):
        try:
            check_support(file, problem, target)
            check_facts(file, problem, target)
            found.append(file)
        except TemplateError as error:
            refused[file.template] = str(error)
    if not found:
        raise TemplateError(_why_none(refused, target))
    return tuple(sorted(found, key=lambda f: (-f.interface.priority, f.template)))


def _why_none(refused: Mapping[str, str], target: Target) -> str:
    """The reasons of the templates of this kind of target; of one alone, its own words."""
    alike = [m for name, m in refused.items() if target.kind in dict(load(name).supports)["kind"]]
    return "; ".join(alike or refused.values()) or "no template is installed; install moetune again"


def default_variant(
    problem: Problem, target: Target, pack: str | None = None, tokens: int = 1
) -> Variant:
    """The default for a target, of the first template of ``serving``.

    With `pack` it is of the first that has that packed form, and reads it. Raises TemplateError where no
    template serves the problem, SpaceError where none of those has the form or it cannot be had here.
    """
    files = serving(problem, target)
    file = files[0] if pack is None else _with_form(files, pack)
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
    config = space.canonical({**space.default, **pack_config(pack)})
    space.check(config)
    return make(file.template, config)


def pack_config(pack: str) -> Config:
    """The parameters that a packed form fixes, from its name. Raises SpaceError where it is none."""
    return _form(load(pack_templates(pack)[0]), pack) or {}


def pack_templates(pack: str) -> tuple[str, ...]:
    """The installed templates whose kernels read a packed form, the one with the highest priority first.

    Raises SpaceError where there is none.
    """
    files = [load(name) for name in templates.names()]
    found = [file for file in files if _form(file, pack) is not None]
    if not found:
        raise _no_form(files, pack)
    if len({file.pack for file in found}) > 1:
        names = " and ".join(file.template for file in found)
        raise SpaceError(
            f"pack {pack!r}: is a form of {names}, of other parameters; give one a [pack] family of its own"
        )
    found.sort(key=lambda file: (-file.interface.priority, file.template))
    return tuple(file.template for file in found)


def _with_form(files: Sequence[SpaceFile], pack: str) -> SpaceFile:
    found = next((file for file in files if _form(file, pack) is not None), None)
    if found is None:
        raise _no_form(files, pack)
    return found


def _no_form(files: Sequence[SpaceFile], pack: str) -> SpaceError:
    ways = [
        "_".join([*filter(None, [f.family]), *(f"{short}N" for short in _pack_shorts(f).values())])
        for f in files
    ]
    names, forms = " or ".join(f.template for f in files), " or ".join(way or "''" for way in ways)
    return SpaceError(f"pack {pack!r}: no packed form of {names}; it must be of the form {forms}")


def _form(file: SpaceFile, pack: str) -> Config | None:
    """The parameters of a packed form of a template; None where it is none."""
    shorts = _pack_shorts(file)
    parts = [
        *filter(None, [re.escape(file.family)]),
        *(f"{s}([0-9]{{1,9}})" for s in shorts.values()),
    ]
    match = re.fullmatch("_".join(parts), pack)
    return dict(zip(shorts, map(int, match.groups()), strict=True)) if match else None


def changes(before: Mapping[str, int], after: Mapping[str, int]) -> Changes:
    """The parameters in which two configurations differ: name -> (before, after)."""
    return {
        name: (before[name], after[name])
        for name in after
        if name in before and before[name] != after[name]
    }
