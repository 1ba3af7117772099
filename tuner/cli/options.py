"""What several commands take: MODEL and its options, lists of tokens, durations, files."""

from __future__ import annotations

import functools
import math
import os
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from tuner.cli.traces import spelled
from tuner.errors import UsageError
from tuner.host.arguments import shown
from tuner.problem import PRESETS, Problem
from tuner.problem.dtypes import DTYPES
from tuner.problem.forms import ACTIVATIONS
from tuner.problem.workload import parse_load

Command = Callable[..., int | None]

_SECONDS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}
# Option -> field of Problem, what the label of a changed model gets before the value, help.
_CHANGES: dict[str, tuple[str, str, type, str]] = {
    "--hidden": ("hidden", "d", int, "Width of a token, D."),
    "--expert-dim": ("expert_dim", "f", int, "Inner width of one expert, F."),
    "--experts": ("num_experts", "e", int, "Experts, E; fewer than MODEL has save memory."),
    "--top-k": ("top_k", "k", int, "Experts per token, k."),
    "--activation": ("activation", "", str, f"One of {', '.join(ACTIVATIONS)}."),
    "--dtype": ("dtype", "", str, f"Of activations and weights: {', '.join(DTYPES)}."),
    "--weight-dtype": ("weight_dtype", "w", str, "Of the weights alone."),
}
FROM_TRACE = "from-trace"
# More than anybody waits for.
MOST_S = 1000 * 86400.0
# Fields in which a layer may differ from a preset and still be called by its name.
_OF_PRESET = ("num_experts", "dtype", "weight_dtype")
_NEEDED = ("--hidden", "--expert-dim", "--experts", "--top-k")


@dataclass(frozen=True)
class Model:
    """A MODEL as it was given.

    Attributes:
        problem: the layer.
        words: name it again on the command line.
        python: name it again in Python, where ``tuner`` is imported.
    """

    problem: Problem
    words: tuple[str, ...]
    python: str


def model_options(command: Command) -> Command:
    """Give a command MODEL and the options that change or replace it, as its argument ``model``."""
    return _with_model(command, needed=True)


def optional_model_options(command: Command) -> Command:
    """The same, but ``model`` is None where neither MODEL nor any of its options is given."""
    return _with_model(command, needed=False)


def models_options(command: Command) -> Command:
    """Give a command MODEL... and the options that change each of them, as its argument ``models``."""

    @functools.wraps(command)
    def wrapped(*, models: tuple[str, ...], **options: Any) -> int | None:
        given = _given(options)
        named = [read_model(name, given) for name in models or (None,)]
        return command(models=named, **options)

    given = click.argument("models", metavar="MODEL...", nargs=-1, shell_complete=_presets)
    return given(_with_changes(wrapped))


def _with_model(command: Command, needed: bool) -> Command:
    @functools.wraps(command)
    def wrapped(*, model: str | None, **options: Any) -> int | None:
        given = _given(options)
        named = needed or model is not None or given
        return command(model=read_model(model, given) if named else None, **options)

    given = click.argument("model", required=False, shell_complete=_presets)
    return given(_with_changes(wrapped))


def _presets(_: click.Context, __: click.Parameter, start: str) -> list[str]:
    """The presets whose names begin so, for the shell."""
    return [name for name in PRESETS if name.startswith(start)]


def _given(options: dict[str, Any]) -> dict[str, Any]:
    """Take the options that change a model out of `options`: those that were given."""
    changes = {field: options.pop(field) for field, *_ in _CHANGES.values()}
    return {field: value for field, value in changes.items() if value is not None}


def _with_changes(command: Command) -> Command:
    for option, (field, _, kind, text) in reversed(_CHANGES.items()):
        command = click.option(option, field, type=kind, help=text)(command)
    return command


def read_model(name: str | None, changes: Mapping[str, Any]) -> Model:
    """The Model of a name (or None) and of the fields that were given as options.

    Raises:
        UsageError: neither a name nor all sizes are given.
        ProblemError: the preset or the file is not known or wrong, or a value out of range.
    """
    words = [word for option, value in _spelled(changes) for word in (option, str(value))]
    values = ", ".join(f"{field}={_literal(value)}" for field, value in changes.items())
    if name is None:
        _check_complete(changes)
        return Model(Problem(**changes), tuple(words), f"tuner.Problem({values})")
    problem, python = _named(name)
    if changes:
        label = problem.name + "".join(_suffixes(problem, changes))
        problem = problem.replace(**changes, name=label)
        python += f".replace({values})"
    return Model(problem, (name, *words), python)


def _spelled(changes: Mapping[str, Any]) -> list[tuple[str, Any]]:
    pairs = ((option, field) for option, (field, *_) in _CHANGES.items())
    return [(option, changes[field]) for option, field in pairs if field in changes]


def called(problem: Problem) -> tuple[str, str]:
    """What makes a layer on the command line: a preset, or none, and options; both empty where nothing does."""
    for name, preset in PRESETS.items():
        changed = [field for field, value in problem.key.items() if value != preset.key[field]]
        if set(changed) <= set(_OF_PRESET):
            return name, _options(problem, changed)
    sizes = [_CHANGES[option][0] for option in _NEEDED]
    fields = [*sizes, "activation", "dtype", "weight_dtype"]
    made = Problem(**{field: getattr(problem, field) for field in fields})
    return "", _options(problem, fields) if made == problem else ""


def _options(problem: Problem, fields: Collection[str]) -> str:
    """The options that give a layer these fields, but for those that are so without them."""
    usual = {"dtype": "float32", "activation": "swiglu", "weight_dtype": problem.dtype}
    values = {field: getattr(problem, field) for field in fields}
    told = {field: value for field, value in values.items() if usual.get(field) != value}
    return " ".join(f"{option} {value}" for option, value in _spelled(told))


def _suffixes(problem: Problem, changes: Mapping[str, Any]) -> list[str]:
    return [
        f"-{letter}{changes[field]}"
        for field, letter, *_ in _CHANGES.values()
        if field in changes and changes[field] != getattr(problem, field)
    ]


def _check_complete(changes: Mapping[str, Any]) -> None:
    lacking = [option for option in _NEEDED if _CHANGES[option][0] not in changes]
    if len(lacking) == len(_NEEDED):
        raise UsageError(
            "MODEL: missing; give a preset, the path of a config.json, or "
            f"{' '.join(_NEEDED)}; presets: {', '.join(PRESETS)}"
        )
    if lacking:
        raise UsageError(f"{', '.join(lacking)}: missing; without MODEL every size must be given")


def _named(name: str) -> tuple[Problem, str]:
    """The problem of a preset or file, and the Python that makes it."""
    is_path = os.sep in name or name.endswith(".json") or Path(name).exists()
    if name in PRESETS or not is_path:
        return Problem.preset(name), f'tuner.Problem.preset("{name}")'
    return Problem.from_hf_config(name), f"tuner.Problem.from_hf_config({quoted(name)})"


def _literal(value: int | str) -> str:
    return quoted(value) if isinstance(value, str) else str(value)


def quoted(text: str) -> str:
    """A Python string in double quotes, which a shell's single quotes take as it is."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def token_list(text: str) -> tuple[int, ...]:
    """``1,16,128`` -> (1, 16, 128): whole numbers of at least 1, each once."""
    parts = [part.strip() for part in text.split(",")]
    if not all(re.fullmatch(r"[0-9]{1,9}", part) and int(part) > 0 for part in parts):
        raise click.BadParameter(
            f"{text!r} must be whole numbers of at least 1 with commas between them, like 1,16,128."
        )
    return tuple(dict.fromkeys(int(part) for part in parts))


def weighted(text: str) -> dict[str, float]:
    """``1=4,128`` -> {"1": 4.0, "128": 1.0}: what stands before an equals sign weighs what follows."""
    found: dict[str, float] = {}
    for part in text.split(","):
        name, equals, weight = part.strip().partition("=")
        try:
            value = float(weight) if equals else 1.0
        except ValueError:
            value = math.nan
        if not 0 < value < math.inf:
            raise click.BadParameter(f"{text!r} must have weights above 0, like 1=4,128.")
        found[name.strip()] = value
    return found


def weighted_tokens(text: str) -> dict[int, float]:
    """``1=4,16,128`` -> {1: 4.0, 16: 1.0, 128: 1.0}; ``from-trace`` -> {}, which the trace fills."""
    if text == FROM_TRACE:
        return {}
    weights = weighted(text)
    return dict(zip(token_list(",".join(weights)), weights.values(), strict=True))


def weighted_loads(text: str) -> dict[str, float]:
    """``uniform,zipf:1.20=2`` -> {"uniform": 1.0, "zipf:1.2": 2.0}; ``trace:FILE`` stays as it is."""
    return {spelled(name): weight for name, weight in weighted(text).items()}


def held_out(text: str) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """``8,64,onehot`` -> ((8, 64), ("onehot",)): token counts and loads."""
    parts = [part.strip() for part in text.split(",")]
    counts = [part for part in parts if part.isdigit()]
    loads = tuple(str(parse_load(part)) for part in parts if not part.isdigit())
    return token_list(",".join(counts)) if counts else (), loads


def share(text: str) -> float:
    """``2%`` or ``0.02`` -> 0.02."""
    found = re.fullmatch(r"(\d*\.?\d+)(%?)", text.strip(), re.ASCII)
    value = float(found[1]) / (100 if found[2] else 1) if found else 0.0
    if not 0 < value < 1:
        raise click.BadParameter(f"{text!r} must be a share above 0 and below 1, like 2% or 0.02.")
    return value


def seconds(text: str) -> float:
    """``90s``, ``10m``, ``1.5h`` or ``90`` -> seconds."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text.strip(), re.ASCII)
    value = float(found[1]) * _SECONDS[found[2]] if found else 0.0
    if value <= 0:
        raise click.BadParameter(f"{text!r} must be a time above 0, like 90s, 10m or 1h.")
    if value > MOST_S:
        raise click.BadParameter(
            f"{shown(text)} is more than 1000 days; give a time like 10m or 1h."
        )
    return value


tokens_option = click.option(
    "--tokens", type=token_list, metavar="N,N,...", default="1,16,128,1024", show_default=True,
    help="Token counts, with commas between them.",
)  # fmt: skip
db_option = click.option(
    "--db", type=click.Path(path_type=Path),
    help="The tuning database; MOETUNE_DB or the user's own unless given.",
)  # fmt: skip
target_option = click.option(
    "--target", default="host", show_default=True,
    help="Architecture to compile for, as the compiler names it.",
)  # fmt: skip
load_option = click.option(
    "--load", default="uniform", show_default=True,
    help="Load over the experts: uniform, zipf:S, onehot or trace:FILE.",
)  # fmt: skip
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
