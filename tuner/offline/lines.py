"""What a line of results.jsonl must say to be one. Others are damaged: they are told, and left out.

Whoever reads a line that passed may use its fields without a look: names are of the job, samples are times.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tuner.errors import DatabaseError, TargetError
from tuner.store.fields import target_of
from tuner.store.records import STATUSES
from tuner.store.sound import check_time
from tuner.target.roofline import Ceilings, GpuCeilings

if TYPE_CHECKING:
    from tuner.offline.job import Job

Line = dict[str, Any]
# What no clock and no machine goes beyond: a race's time of one call in ns (11 days), and any other number.
_LEAST_NS, _MOST_NS = 1e-3, 1e15
_MOST, _LEAST_RATE = 1e20, 1e-3
_MOST_SHOWN = 80


def check(line: object, job: Job) -> Line:
    """The line, if it is one of this job. Raises ValueError, which says why it is none."""
    if not isinstance(line, dict):
        raise ValueError("is no object")
    kind = line.get("kind")
    if not isinstance(kind, str) or kind not in _CHECKS:
        raise ValueError(f"kind is {_shown(kind)}, must be one of {', '.join(_CHECKS)}")
    try:
        if "created" in line:
            check_time("created", _text(line, "created"))
        _CHECKS[kind](line, job)
    except (DatabaseError, TargetError) as error:
        raise ValueError(str(error)) from error
    return line


def _check_device(line: Line, job: Job) -> None:
    _text(line, "name")
    rates = GpuCeilings if job.kind == "gpu" else Ceilings
    for field in dataclasses.fields(rates):
        there = field.default is dataclasses.MISSING  # a rate that not every machine has may be 0
        _number(line, field.name, least=_LEAST_RATE if there else 0.0)
    if job.kind == "gpu":
        for name, kind in {"clocks": str, "driver": int, "memory_bytes": int}.items():
            if name in line:
                _of(line, name, kind)
                if kind is int:
                    _number(line, name)
        return
    for name in ("python", "kernel"):
        _text(line, name)
    _number(line, "load_1m")
    key = dict(_of(line, "target", dict))
    target_of({n: v for n, v in key.items() if n != "name"}, "target", _text(key, "name"))


def _check_trial(line: Line, job: Job) -> None:
    _known(job, _text(line, "variant"))
    _tokens(line, job)
    if _text(line, "status") not in STATUSES:
        raise ValueError(
            f"status is {_shown(line['status'])}, must be one of {', '.join(STATUSES)}"
        )
    for name in {"verify_ms", "benchmark_ms"} & line.keys():
        _number(line, name)
    if "message" in line:
        _text(line, "message")
    if line["status"] == "ok":
        _check_race([line.get("default_samples"), line.get("samples")], line)


def _check_final(line: Line, job: Job) -> None:
    tokens, names = _tokens(line, job), _of(line, "variants", list)
    for name in names:
        _known(job, name)
    if len(set(names)) < max(2, len(names)) or names[0] != job.default(tokens):
        raise ValueError("variants must be the default and others, each once")
    samples = _of(line, "samples", list)
    if len(samples) != len(names):
        raise ValueError(f"has samples of {len(samples)} variants, must be of {len(names)}")
    _check_race([*samples, *([line["twin"]] if "twin" in line else [])], line)


def _check_race(samples: Sequence[object], line: Line) -> None:
    """Samples of all variants are times, paired; what is told beside them makes sense."""
    counts = {len(_times(row)) for row in samples}
    if len(counts) > 1:
        raise ValueError("samples of its variants are not as many")
    if "timing" not in line:
        return
    timing = _of(line, "timing", dict)
    for name in ("flops", "read_bytes", "foreign", "redone"):
        _number(timing, name)
    for name in ("probe_gb_s", "probe_gflop_s"):
        if not all(_is_number(rate, 0.0, _MOST) for rate in _of(timing, name, list)):
            raise ValueError(f"{name} must be rates")
    if _text(timing, "temperature") not in ("cold", "warm"):
        raise ValueError(f"temperature is {_shown(timing['temperature'])}, must be cold or warm")


_CHECKS: Mapping[str, Callable[[Line, Any], None]] = {
    "device": _check_device,
    "trial": _check_trial,
    "final": _check_final,
}


def _known(job: Job, name: object) -> None:
    if not any(variant.name == name for variant in job.variants):
        raise ValueError(f"variant {_shown(name)} is none of the job's")


def _tokens(line: Line, job: Job) -> int:
    tokens = int(_of(line, "tokens", int))
    if tokens not in job.tokens:
        counts = ", ".join(map(str, job.tokens))
        raise ValueError(f"tokens is {tokens}, must be one of the job's: {counts}")
    return tokens


def _times(row: object) -> list[Any]:
    if not isinstance(row, list) or not row:
        raise ValueError("has no samples of a variant")
    for time in row:
        if not _is_number(time, _LEAST_NS, _MOST_NS):
            raise ValueError(f"a sample is {_shown(time)}, must be a time in ns")
    return row


def _text(line: Line, name: str) -> str:
    return str(_of(line, name, str))


def _number(line: Line, name: str, least: float = 0.0) -> None:
    if not _is_number(_of(line, name, int, float), least, _MOST):
        raise ValueError(f"{name} is {_shown(line[name])}, which cannot be")


def _is_number(value: object, least: float, most: float) -> bool:
    return type(value) in (int, float) and least <= value <= most  # type: ignore[operator]


def _of(line: Line, name: str, *kinds: type) -> Any:
    """A field. Not isinstance: true is no number."""
    if name not in line:
        raise ValueError(f"lacks {name}")
    if type(line[name]) not in kinds:
        wanted = " or ".join(kind.__name__ for kind in kinds)
        raise ValueError(f"{name} is {_shown(line[name])}, must be {wanted}")
    return line[name]


def _shown(value: object) -> str:
    return ascii(value)[:_MOST_SHOWN]
