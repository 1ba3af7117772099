"""Space file: what a template's .toml says. ``tuner.space.parse`` reads and checks it.

Expressions are still text: ``tuner.space.space`` makes numbers of them.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tuner.errors import SpaceError
from tuner.space.expression import names_in
from tuner.space.toml_lines import Place, line_of

FACTS = frozenset(
    "bf16_dot cores simd_bytes registers l1d_bytes l2_bytes l3_bytes core_cache_bytes hidden expert_dim "
    "num_experts top_k gated shared_dim row_bytes mixed_types tokens expert_rows".split()
)
WORKLOAD_FACTS = frozenset(("tokens", "expert_rows"))
# What a template's program is once it is compiled.
# What the host of a CPU kernel says at each call: at most how many threads share it; 0: all that may be used.
WORKERS = "workers"
# What [supports] may name.
SUPPORTS = ("kind", "arch", "dtype", "weight_dtype")
# The kind of binary of each kind of target.
KINDS = {"cpu": "cpu-library", "gpu": "gpu-program"}


@dataclass(frozen=True)
class Interface:
    """What the harness has to know of a template's kernels.

    Attributes:
        kind: what is compiled, one of KINDS.
        ragged: the parameter whose value is the number of rows of a tile; verification tries token counts
            around its multiples. Empty: there are no tiles.
        priority: the template with the highest one gives the default where several support a problem.
    """

    kind: str
    ragged: str
    priority: int


@dataclass(frozen=True)
class Default:
    """A row of a default: its value where `when` holds, or anywhere if that is empty, and why."""

    value: int | str
    when: str = ""
    why: str = ""


@dataclass(frozen=True)
class Parameter:
    """One tunable as its file has it; expressions are still text.

    Attributes:
        defaults: the first row that holds gives the default; the last one always holds.
        when: where the parameter matters; it may read parameters that are listed before it. Elsewhere it is
            idle: it keeps its default and is not searched over.
        at_run_time: the host says it at each call, so it is no part of the source, and variants that differ in
            it alone share a binary.
    """

    name: str
    short: str
    values: tuple[int | str, ...]
    defaults: tuple[Default, ...]
    when: str
    help: str
    at_run_time: bool = False

    @functools.cached_property
    def options(self) -> tuple[int, ...] | None:
        """The values in their order; None where they depend on the facts."""
        numbers = [int(value) for value in self.values if not isinstance(value, str)]
        return tuple(dict.fromkeys(numbers)) if len(numbers) == len(self.values) else None

    @property
    def texts(self) -> Iterator[tuple[Place, str]]:
        """Its expressions, each with its place."""
        table = f"parameters.{self.name}"
        given = [(Place(table, "values"), value) for value in self.values]
        for number, row in enumerate(self.defaults):
            for key, text in (("value", row.value), ("when", row.when)):
                in_row = Place(f"{table}.default", key, number)
                given.append((in_row if row.why else Place(table, "default"), text))
        given.append((Place(table, "when"), self.when))
        return ((place, text) for place, text in given if isinstance(text, str) and text)


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
    """A template's space file, checked: every name known, no value list empty.

    Attributes:
        pack: the parameters that decide the packed form of the weights.
        family: what the name of a packed form begins with; templates that share it share their packed forms.
        former: digests that the template had before, with which it made the same kernels.
    """

    template: str
    interface: Interface
    parameters: tuple[Parameter, ...]
    restrictions: tuple[Restriction, ...]
    pack: tuple[str, ...]
    family: str
    starts: tuple[Mapping[str, int], ...]
    supports: tuple[tuple[str, tuple[str, ...]], ...]
    monotone: tuple[Monotone, ...] = ()
    former: frozenset[str] = frozenset()
    path: Path = field(default=Path(), compare=False)

    @functools.cached_property
    def switches(self) -> tuple[str, ...]:
        """The parameters that decide whether others matter, in the order of the file."""
        read = frozenset().union(*(names_in(p.when) for p in self.parameters if p.when))
        return tuple(p.name for p in self.parameters if p.name in read)

    @functools.cached_property
    def of_workload(self) -> tuple[str, ...] | None:
        """The expressions that depend on the workload; None where one of them reads parameters, too.

        Two workloads for which they have the same values have the same default and the same space.
        """
        told = {text for p in self.parameters for _, text in p.texts}
        told |= {restriction.rule for restriction in self.restrictions}
        found = sorted(text for text in told if names_in(text) & WORKLOAD_FACTS)
        own = {p.name for p in self.parameters}
        return None if any(names_in(text) & own for text in found) else tuple(found)

    def wrong(self, place: Place, message: str) -> SpaceError:
        """An error in this file, with its line."""
        return error(self.path, self.path.read_text(), place, message)


def error(path: Path, text: str, place: Place, message: str) -> SpaceError:
    """An error at a place of a space file, with its line."""
    name = f"{place.table}.{place.key}".strip(".")
    return SpaceError(f"{path}:{line_of(text, place) or 1}: {name}: {message}")
