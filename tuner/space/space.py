"""Space: the tunables of a template: values, default, restrictions.

A Space is resolved for one Problem, Target and number of tokens: expressions become numbers,
and parameters that don't matter there are pinned to their default. Those that matter in some of its
configurations alone are held at their default in the others, so that no two points are one kernel.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tuner.errors import SpaceError, TemplateError
from tuner.problem import Problem
from tuner.space.expression import evaluate, names_in
from tuner.space.file import (
    FACTS,
    WORKLOAD_FACTS,
    Interface,
    Monotone,
    Parameter,
    Restriction,
    SpaceFile,
)
from tuner.space.parse import is_current, load
from tuner.space.toml_lines import Place
from tuner.target import Target, simd_bytes
from tuner.target.roofline import multiplies_pairs

__all__ = [
    "FACTS",
    "Config",
    "Idle",
    "Interface",
    "Monotone",
    "Parameter",
    "Restriction",
    "Space",
    "SpaceFile",
    "facts",
    "idle",
    "is_current",
    "load",
    "resolve",
]

Config = dict[str, int]

UNKNOWN_CACHE_BYTES = 1 << 20


@dataclass(frozen=True)
class Idle:
    """Where some parameters have these values (`when`), others have no effect and are held at `values`."""

    when: Mapping[str, int]
    values: Mapping[str, int]


@dataclass(frozen=True)
class Space:
    """The points that may be tried: ordered values per parameter, default, restrictions.

    `starts` are changes to the default that won somewhere; `monotone` says which failures rule
    out larger points. The rows of `idle` are of the same parameters, and each of other values.
    """

    template: str
    values: Mapping[str, tuple[int, ...]]
    default: Config
    restrictions: tuple[Restriction, ...]
    facts: Mapping[str, int]
    starts: tuple[Mapping[str, int], ...] = ()
    monotone: tuple[Monotone, ...] = ()
    idle: tuple[Idle, ...] = ()

    def canonical(self, config: Mapping[str, int]) -> Config:
        """The configuration of the same kernel that is a point: what is idle has its default."""
        return {**config, **self._held(config)}

    def holds(self, config: Mapping[str, int]) -> bool:
        """Whether a configuration is of this space's parameters and values, restrictions not looked at."""
        same = self.canonical(config)
        held = self._held(same)
        return same.keys() >= self.values.keys() and all(
            name in held or same[name] in options for name, options in self.values.items()
        )

    def _held(self, config: Mapping[str, int]) -> Mapping[str, int]:
        """What is idle in a configuration, with the values that it has there."""
        rows = (row.values for row in self.idle if row.when.items() <= config.items())
        return next(rows, {})

    def branches(self) -> Iterator[Space]:
        """The space in parts in which nothing is idle but what is pinned; they have no point in common."""
        switches = tuple(self.idle[0].when) if self.idle else ()
        seen = set()
        for chosen in itertools.product(*(self.values[name] for name in switches)):
            held = self.canonical(dict(zip(switches, chosen, strict=True)))
            key = tuple(held[name] for name in switches)
            if key not in seen:
                seen.add(key)
                values = {n: (held[n],) if n in held else v for n, v in self.values.items()}
                yield dataclasses.replace(self, values=values, idle=())

    def broken(self, config: Mapping[str, int]) -> Restriction | None:
        """The first restriction that a configuration breaks."""
        names = {**self.facts, **self.canonical(config)}
        for restriction in self.restrictions:
            if not evaluate(restriction.rule, names):
                return restriction
        return None

    def check(self, config: Mapping[str, int], restricted: bool = True) -> None:
        """Raises SpaceError when a configuration lies outside the space, with the reason.

        What is idle may have any value. `restricted=False` looks at names and values alone.
        """
        held = self._held(config)
        for name, value in config.items():
            if name not in self.values:
                raise SpaceError(
                    f"{name}: no parameter of {self.template}; it has {', '.join(self.values)}"
                )
            if value not in self.values[name] and name not in held:
                raise SpaceError(f"{name}={value}: must be one of {list(self.values[name])}")
        missing = sorted(set(self.values) - set(config))
        if missing:
            raise SpaceError(
                f"{', '.join(missing)}: missing in the configuration of {self.template}"
            )
        restriction = self.broken(config) if restricted else None
        if restriction:
            raise SpaceError(f"{restriction.rule}: does not hold: {restriction.why}")

    def points(self) -> Iterator[Config]:
        """All valid configurations, branch by branch in the order of the file."""
        for branch in self.branches():
            for values in itertools.product(*branch.values.values()):
                config = dict(zip(branch.values, values, strict=True))
                if branch.broken(config) is None:
                    yield config

    def size(self) -> int:
        """Points before restrictions."""
        return sum(math.prod(map(len, branch.values.values())) for branch in self.branches())

    def pin(self, config: Mapping[str, int]) -> Space:
        """The same space with some parameters held at one value."""
        values = {n: (config[n],) if n in config else v for n, v in self.values.items()}
        default = self.canonical({**self.default, **config})
        return dataclasses.replace(self, values=values, default=default)

    def narrow(self, values: Mapping[str, Sequence[int]]) -> Space:
        """The space in which these parameters alone vary, over these values; others keep the default.

        Raises SpaceError for a parameter or value that the space lacks, and where the default is
        not among the values.
        """
        for name, wanted in values.items():
            for value in (*wanted, self.default.get(name, 0)):
                self.check({**self.default, name: value}, restricted=False)
            if self.default[name] not in wanted:
                raise SpaceError(
                    f"{name}={self.default[name]}: is the default and has to be among the values"
                )
        narrowed = {
            name: tuple(v for v in options if v in values.get(name, (self.default[name],)))
            for name, options in self.values.items()
        }
        return dataclasses.replace(self, values=narrowed)

    def to_json(self) -> dict[str, Any]:
        """Every field as JSON can hold it; ``from_json`` is the way back."""
        return json.loads(json.dumps(dataclasses.asdict(self)))  # type: ignore[no-any-return]

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Space:
        """The inverse of ``to_json``; grids of before may lack `idle`.

        Raises SpaceError where fields are lacking or not known.
        """
        try:
            rules = tuple(Restriction(**row) for row in data["restrictions"])
            monotone = tuple(
                Monotone(**{**row, "parameters": tuple(row["parameters"])})
                for row in data["monotone"]
            )
            values = {name: tuple(options) for name, options in data["values"].items()}
            idle = tuple(Idle(**row) for row in data.get("idle", ()))
            fixed = {
                "restrictions": rules,
                "monotone": monotone,
                "values": values,
                "idle": idle,
            }
            return cls(**{**data, **fixed, "starts": tuple(data["starts"])})
        except (KeyError, TypeError, AttributeError) as error:
            raise SpaceError(f"space: {error!s}; record the grid again") from error


def facts(problem: Problem, target: Target, tokens: int) -> dict[str, int]:
    """The numbers that a space file may use."""
    width = simd_bytes(target)
    experts = min(problem.num_experts, max(1, tokens * problem.top_k))
    pairs = multiplies_pairs(problem, target)
    last_cache = max(target.l3_bytes // target.cores, target.l2_bytes)
    return {
        "bf16_dot": int(pairs),
        "cores": target.cores,
        "simd_bytes": width,
        "registers": 32 if width == 64 or target.arch.startswith(("neoverse", "generic")) else 16,
        "l1d_bytes": target.l1d_bytes,
        "l2_bytes": target.l2_bytes,
        "l3_bytes": target.l3_bytes,
        "core_cache_bytes": last_cache or UNKNOWN_CACHE_BYTES,
        "hidden": problem.hidden,
        "expert_dim": problem.expert_dim,
        "num_experts": problem.num_experts,
        "top_k": problem.top_k,
        "gated": int(problem.gated),
        "shared_dim": problem.shared_dim,
        "mixed_types": int(problem.dtype != problem.weight_dtype),
        "row_bytes": max(problem.hidden, problem.expert_dim) * (2 if pairs else 4),
        "tokens": tokens,
        "expert_rows": tokens * problem.top_k // experts,
    }


def resolve(file: SpaceFile, problem: Problem, target: Target, tokens: int) -> Space:
    """The space of one workload; a default may depend on those of parameters that are listed before it.

    Raises TemplateError when the template can't serve the problem.
    """
    check_support(file, problem, target)
    names = facts(problem, target, tokens)
    default, _ = _defaults(file, names, {})
    branches = _branches(file, names)
    values = {p.name: _options(p, names) for p in file.parameters}
    for branch in (default, *(config for _, config, _ in branches)):
        _check_values(file, branch, values)
    for name in _idle_in_all(branches):  # one value for all branches, as a rule: then it is pinned
        values[name] = tuple(sorted({config[name] for _, config, _ in branches}))
    space = Space(
        template=file.template,
        values=values,
        default=default,
        restrictions=file.restrictions,
        facts=names,
        starts=file.starts,
        monotone=file.monotone,
        idle=_idle_rows(values, branches),
    )
    broken = space.broken(default)
    if broken:
        place = Place("restrictions", "rule", file.restrictions.index(broken))
        raise file.wrong(place, f"the default breaks {broken.rule!r}: {broken.why}")
    return space


# The values of the switches, the defaults that follow from them, and what is idle there.
_Branch = tuple[Config, Config, frozenset[str]]


def _branches(file: SpaceFile, names: Mapping[str, int]) -> list[_Branch]:
    """One for each combination of the parameters that decide whether others matter."""
    options = [_options(p, names) for p in file.parameters if p.name in file.switches]
    found = []
    for chosen in itertools.product(*options):
        held = dict(zip(file.switches, chosen, strict=True))
        found.append((held, *_defaults(file, names, held)))
    return found


def _defaults(
    file: SpaceFile, names: Mapping[str, int], held: Mapping[str, int]
) -> tuple[Config, frozenset[str]]:
    """The defaults, those in `held` at these values where they matter; and the parameters that are idle."""
    found: Config = {}
    idle_names = set()
    for p in file.parameters:
        known = {**names, **found}
        if p.when and not evaluate(p.when, known):
            idle_names.add(p.name)
        if p.name in held and p.name not in idle_names:
            found[p.name] = held[p.name]
        else:
            rows = (row for row in p.defaults if not row.when or evaluate(row.when, known))
            found[p.name] = _number(next(rows).value, known)
    return found, frozenset(idle_names)


def _idle_rows(
    values: Mapping[str, tuple[int, ...]], branches: Sequence[_Branch]
) -> tuple[Idle, ...]:
    """What is held in which branch; what is pinned is left out, and branches in which nothing else is idle."""
    rows = {}
    for held, config, idle_names in branches:
        when = {name: value for name, value in held.items() if len(values[name]) > 1}
        fixed = {n: config[n] for n in values if n in idle_names and len(values[n]) > 1}
        if when and fixed:
            rows[tuple(when.values())] = Idle(when, fixed)
    return tuple(rows.values())


def idle(file: SpaceFile, names: Mapping[str, int]) -> frozenset[str]:
    """The parameters that have no effect on a workload, by its facts, in no configuration."""
    return _idle_in_all(_branches(file, names))


def _idle_in_all(branches: Sequence[_Branch]) -> frozenset[str]:
    return frozenset.intersection(*(idle_names for _, _, idle_names in branches))


def _options(parameter: Parameter, names: Mapping[str, int]) -> tuple[int, ...]:
    return parameter.options or tuple(
        dict.fromkeys(_number(value, names) for value in parameter.values)
    )


def _check_values(
    file: SpaceFile, config: Mapping[str, int], values: Mapping[str, tuple[int, ...]]
) -> None:
    for name, number in config.items():
        if number not in values[name]:
            place = Place(f"parameters.{name}", "default")
            raise file.wrong(place, f"default {number} is not in {list(values[name])}")


def _number(value: int | str, names: Mapping[str, int]) -> int:
    return evaluate(value, names) if isinstance(value, str) else int(value)


def check_support(file: SpaceFile, problem: Problem, target: Target) -> None:
    """Raises TemplateError for a data type or target that a template is not for, with one that it is for."""
    have = {
        "kind": target.kind,
        "arch": target.arch,
        "dtype": problem.dtype,
        "weight_dtype": problem.weight_dtype,
    }
    for name, allowed in file.supports:
        if have[name] not in allowed:
            raise TemplateError(
                f"{name}={have[name]}: template {file.template} makes {', '.join(allowed)} kernels; "
                f"use {name}={allowed[0]!r}"
            )


def check_facts(file: SpaceFile, problem: Problem, target: Target) -> None:
    """Raises TemplateError where a restriction that reads no parameter rules a problem out on a target."""
    names = facts(problem, target, tokens=1)
    for restriction in file.restrictions:
        read = names_in(restriction.rule)
        if read <= FACTS - WORKLOAD_FACTS and not evaluate(restriction.rule, names):
            raise TemplateError(
                f"template {file.template}: {restriction.rule}: does not hold: {restriction.why}"
            )
