"""Space: the tunables of a template, read from its .toml: values, default, restrictions.

A Space is resolved for one Problem, Target and number of tokens: expressions become numbers,
and parameters that don't matter there are pinned to their default.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuner import template
from tuner.errors import SpaceError, TemplateError
from tuner.expression import evaluate, names_in
from tuner.failure import FAILURES
from tuner.problem import Problem
from tuner.target import Target, simd_bytes

Config = dict[str, int]

UNKNOWN_CACHE_BYTES = 1 << 20

FACTS = frozenset(
    "bf16_dot cores simd_bytes registers l1d_bytes l2_bytes l3_bytes core_cache_bytes hidden expert_dim "
    "num_experts top_k gated shared_dim row_bytes mixed_types tokens expert_rows".split()
)


@dataclass(frozen=True)
class Parameter:
    """One tunable as its file has it; expressions are still text."""

    name: str
    short: str
    values: tuple[int | str, ...]
    default: int | str
    when: str
    help: str


@dataclass(frozen=True)
class Restriction:
    """A rule over parameters and facts, and why it is there."""

    rule: str
    why: str


@dataclass(frozen=True)
class Monotone:
    """Parameters that alone decide a kind of failure: where it came once, it comes for all larger values."""

    failure: str
    parameters: tuple[str, ...]
    why: str

    def rules_out(self, failed: Mapping[str, int], config: Mapping[str, int]) -> bool:
        """Whether a configuration must fail, too, where `failed` did."""
        return all(config[name] >= failed[name] for name in self.parameters)


@dataclass(frozen=True)
class SpaceFile:
    """A template's space file, checked: every name known, no value list empty."""

    template: str
    parameters: tuple[Parameter, ...]
    restrictions: tuple[Restriction, ...]
    pack: tuple[str, ...]
    starts: tuple[Mapping[str, int], ...]
    supports: tuple[tuple[str, tuple[str, ...]], ...]
    monotone: tuple[Monotone, ...] = ()


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
        narrowed = {n: tuple(sorted(values.get(n, (self.default[n],)))) for n in self.values}
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


@functools.cache
def load(name: str, path: Path | None = None) -> SpaceFile:
    """Reads and checks a template's space file. Errors name the file and what is wrong in it."""
    path = path or template.space_path(name)
    try:
        data = tomllib.loads(path.read_text())
        file = _parse(name, data)
        _check(file)
    except (tomllib.TOMLDecodeError, KeyError, TypeError) as error:
        raise SpaceError(f"{path}: {error!s}; see templates/moe_cpu.toml for the form") from error
    except SpaceError as error:
        raise SpaceError(f"{path}: {error}") from error
    return file


def _parse(name: str, data: Mapping[str, Any]) -> SpaceFile:
    parameters = tuple(
        Parameter(
            key,
            row["short"],
            tuple(row["values"]),
            row["default"],
            row.get("when", ""),
            row["help"],
        )
        for key, row in data["parameters"].items()
    )
    restrictions = tuple(Restriction(r["rule"], r["why"]) for r in data.get("restrictions", []))
    supports = tuple((key, tuple(values)) for key, values in data["supports"].items())
    starts = tuple(data.get("starts", []))
    pack = tuple(data["pack"]["parameters"])
    monotone = tuple(
        Monotone(r["failure"], tuple(r["parameters"]), r["why"]) for r in data.get("monotone", [])
    )
    return SpaceFile(name, parameters, restrictions, pack, starts, supports, monotone)


def _check(file: SpaceFile) -> None:
    names = {p.name for p in file.parameters}
    for parameter in file.parameters:
        if not parameter.values:
            raise SpaceError(f"parameters.{parameter.name}: values is empty")
        for text in (*parameter.values, parameter.default, parameter.when):
            if isinstance(text, str) and text:
                _check_names(f"parameters.{parameter.name}", text, FACTS)
    for restriction in file.restrictions:
        _check_names("restrictions", restriction.rule, FACTS | names)
    for name in file.pack:
        if name not in names:
            raise SpaceError(f"pack: {name} is no parameter")
    for start in file.starts:
        for name in start:
            if name not in names:
                raise SpaceError(f"starts: {name} is no parameter")
    for rule in file.monotone:
        if rule.failure not in FAILURES:
            raise SpaceError(f"monotone: failure {rule.failure!r} must be one of {list(FAILURES)}")
        if not rule.parameters:
            raise SpaceError(f"monotone: failure {rule.failure!r} names no parameter")
        for name in rule.parameters:
            if name not in names:
                raise SpaceError(f"monotone: {name} is no parameter")
    shorts = [p.short for p in file.parameters]
    if len(set(shorts)) != len(shorts):
        raise SpaceError(f"parameters: two share one short name ({' '.join(shorts)})")


def _check_names(place: str, text: str, known: frozenset[str]) -> None:
    unknown = sorted(names_in(text) - known)
    if unknown:
        raise SpaceError(f"{place}: {text!r} reads {', '.join(unknown)}, which is not known")


def multiplies_pairs(problem: Problem, target: Target) -> bool:
    """Whether the target has bfloat16 dot products and the problem can use them."""
    types = {problem.dtype, problem.weight_dtype}
    return types == {"bfloat16"} and "avx512bf16" in target.features


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
    """The space of one workload. Raises TemplateError when the template can't serve the problem."""
    _check_support(file, problem, target)
    names = facts(problem, target, tokens)
    values: dict[str, tuple[int, ...]] = {}
    default: Config = {}
    for p in file.parameters:
        number = _number(p.default, names)
        options = sorted({_number(v, names) for v in p.values})
        if number not in options:
            raise SpaceError(
                f"{file.template}.toml: {p.name}: default {number} is not in {options}"
            )
        matters = not p.when or evaluate(p.when, names)
        values[p.name] = tuple(options) if matters else (number,)
        default[p.name] = number
    space = Space(
        file.template, values, default, file.restrictions, names, file.starts, file.monotone
    )
    broken = space.broken(default)
    if broken:
        raise SpaceError(f"{file.template}.toml: the default breaks {broken.rule!r}: {broken.why}")
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
