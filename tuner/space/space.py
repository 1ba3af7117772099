"""Space: the tunables of a template: values, default, restrictions.

A Space is resolved for one Problem, Target and number of tokens: expressions become numbers,
and parameters that don't matter there are pinned to their default.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tuner.errors import SpaceError, TemplateError
from tuner.problem import Problem
from tuner.space.expression import evaluate
from tuner.space.file import FACTS, Monotone, Parameter, Restriction, SpaceFile, load
from tuner.space.toml_lines import Place
from tuner.target import Target, simd_bytes
from tuner.target.roofline import multiplies_pairs

__all__ = [
    "FACTS",
    "Config",
    "Monotone",
    "Parameter",
    "Restriction",
    "Space",
    "SpaceFile",
    "facts",
    "idle",
    "load",
    "resolve",
]

Config = dict[str, int]

UNKNOWN_CACHE_BYTES = 1 << 20


@dataclass(frozen=True)
class Space:
    """The points that may be tried: ordered values per parameter, default, restrictions.

    `starts` are changes to the default that won somewhere; `monotone` says which failures rule
    out larger points.
    """

    template: str
    values: Mapping[str, tuple[int, ...]]
    default: Config
    restrictions: tuple[Restriction, ...]
    facts: Mapping[str, int]
    starts: tuple[Mapping[str, int], ...] = ()
    monotone: tuple[Monotone, ...] = ()

    def broken(self, config: Mapping[str, int]) -> Restriction | None:
        """The first restriction that a configuration breaks."""
        names = {**self.facts, **config}
        for restriction in self.restrictions:
            if not evaluate(restriction.rule, names):
                return restriction
        return None

    def check(self, config: Mapping[str, int], restricted: bool = True) -> None:
        """Raises SpaceError when a configuration lies outside the space, with the reason.

        `restricted=False` looks at names and values alone.
        """
        for name, value in config.items():
            if name not in self.values:
                raise SpaceError(
                    f"{name}: no parameter of {self.template}; it has {', '.join(self.values)}"
                )
            if value not in self.values[name]:
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
        """All valid configurations, in the order of the file."""
        for values in itertools.product(*self.values.values()):
            config = dict(zip(self.values, values, strict=True))
            if self.broken(config) is None:
                yield config

    def size(self) -> int:
        """Points before restrictions."""
        count = 1
        for values in self.values.values():
            count *= len(values)
        return count

    def pin(self, config: Mapping[str, int]) -> Space:
        """The same space with some parameters held at one value."""
        values = {n: (config[n],) if n in config else v for n, v in self.values.items()}
        return dataclasses.replace(self, values=values, default={**self.default, **config})

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
        """The inverse of ``to_json``. Raises SpaceError where fields are lacking or not known."""
        try:
            rules = tuple(Restriction(**row) for row in data["restrictions"])
            monotone = tuple(
                Monotone(**{**row, "parameters": tuple(row["parameters"])})
                for row in data["monotone"]
            )
            values = {name: tuple(options) for name, options in data["values"].items()}
            fixed = {"restrictions": rules, "monotone": monotone, "values": values}
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
    _check_support(file, problem, target)
    names = facts(problem, target, tokens)
    values: dict[str, tuple[int, ...]] = {}
    default: Config = {}
    for p in file.parameters:
        number = _number(p.default, {**names, **default})
        options = p.options or tuple(dict.fromkeys(_number(v, names) for v in p.values))
        if number not in options:
            place = Place(f"parameters.{p.name}", "default")
            raise file.wrong(place, f"default {number} is not in {list(options)}")
        matters = not p.when or evaluate(p.when, names)
        values[p.name] = options if matters else (number,)
        default[p.name] = number
    space = Space(
        file.template, values, default, file.restrictions, names, file.starts, file.monotone
    )
    broken = space.broken(default)
    if broken:
        place = Place("restrictions", "rule", file.restrictions.index(broken))
        raise file.wrong(place, f"the default breaks {broken.rule!r}: {broken.why}")
    return space


def idle(file: SpaceFile, names: Mapping[str, int]) -> frozenset[str]:
    """The parameters that have no effect on a workload, by its facts."""
    return frozenset(p.name for p in file.parameters if p.when and not evaluate(p.when, names))


def _number(value: int | str, names: Mapping[str, int]) -> int:
    return evaluate(value, names) if isinstance(value, str) else int(value)


def _check_support(file: SpaceFile, problem: Problem, target: Target) -> None:
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
