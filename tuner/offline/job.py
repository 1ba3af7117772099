"""A job folder: variants compiled here, to be measured on a machine that has the target and no compiler.

    job.json        what is asked: problem, target, workloads, variants, seed
    programs/       a program for each variant: PTX, or a shared library that needs libc alone; and those that
                    measure the target's ceilings
    code/tuner/     the modules of this package that the runner needs
    run.py          `python run.py`: the same as `moetune run-job FOLDER`
    results.jsonl   what came of it, a line as each thing ends

The runner needs Python and NumPy, and ml_dtypes for bfloat16. A folder can be run again: what has a line is
not repeated.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from tuner.errors import MoetuneError, ProblemError, TargetError
from tuner.host import json_text
from tuner.host.files import append_line, write_whole
from tuner.measure.race import FINAL_EFFORT, TRIAL_EFFORT
from tuner.offline.lines import Line, check
from tuner.problem import Problem
from tuner.problem.workload import Workload
from tuner.store.fields import target_of
from tuner.store.records import STATUSES

FORMAT = 2
RESULTS = "results.jsonl"


class JobError(MoetuneError):
    """A job folder is not there, damaged or of another version."""


@dataclass(frozen=True)
class JobVariant:
    """One variant of a job.

    Attributes:
        tokens: the token counts that it is tried on.
        file: its program, inside the folder.
        pack: the packed form of the weights that it reads.
        ragged: rows of its tiles, for verification; 0 in the jobs of a moetune that did not say so.
        template_digest: of its template; in such a job that of all stands in the job's environment.
    """

    name: str
    config: Mapping[str, int]
    tokens: tuple[int, ...]
    file: str
    source_digest: str
    binary_key: str
    compile_ms: float
    pack: str = ""
    ragged: int = 0
    template_digest: str = ""


@dataclass(frozen=True)
class Job:
    """What a job folder asks for.

    Attributes:
        defaults: the template's default for each token count.
        environment: goes into every row: the compiling machine's versions.
        probe: what measures the target's ceilings, inside the folder: a CPU's library, or the program by which
            a GPU reads.
        dense: a GPU's program of one large dense product, inside the folder.
        temperature: of a CPU's weights: cold, warm, or auto (cold up to 16 tokens).
        trial_race_s, final_race_s: the most that one race of a CPU takes, unless it is taken again because
            other processes were at work.
    """

    problem: Mapping[str, Any]
    problem_name: str
    target: Mapping[str, Any]
    target_name: str
    template: str
    tokens: tuple[int, ...]
    load: str
    seed: int
    session: str
    defaults: Mapping[str, str]
    variants: tuple[JobVariant, ...]
    failed: tuple[Mapping[str, Any], ...] = ()
    environment: Mapping[str, Any] = field(default_factory=dict)
    probe: str = ""
    dense: str = ""
    temperature: str = "auto"
    trial_race_s: float = TRIAL_EFFORT.budget_s
    final_race_s: float = FINAL_EFFORT.budget_s
    format: int = FORMAT

    @property
    def kind(self) -> str:
        """``cpu`` or ``gpu``."""
        return str(self.target["kind"])

    @property
    def layer(self) -> Problem:
        return Problem.from_key(self.problem, name=self.problem_name)

    def default(self, tokens: int) -> str:
        return self.defaults[str(tokens)]

    def variant(self, name: str) -> JobVariant:
        return next(v for v in self.variants if v.name == name)

    def ragged(self, name: str) -> int:
        """Rows of a variant's tile. Raises JobError where the job was made by an older version."""
        rows = self.variant(name).ragged
        if not rows:
            raise JobError(f"{name}: the job says no rows of a tile; run it by its own run.py")
        return rows


def write(folder: Path, job: Job) -> None:
    """Writes job.json, whole or not at all."""
    text = json.dumps(asdict(job), indent=1, sort_keys=True) + "\n"
    write_whole(folder / "job.json", text.encode())


def read(folder: Path) -> Job:
    """Raises JobError where the folder holds no job of this version."""
    path = folder / "job.json"
    try:
        data = json_text.parse(path.read_bytes())
        if data.get("format") != FORMAT:
            raise JobError(f"{path}: format {data.get('format')}, not {FORMAT}; make the job again")
        return _sound(_job(data))
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        ProblemError,
        TargetError,
    ) as error:
        raise JobError(f"{path}: no job ({error}); `moetune tune --offline` makes one") from error


def _job(data: Mapping[str, Any]) -> Job:
    variants = tuple(
        _typed(JobVariant(**{**v, "tokens": tuple(v["tokens"])})) for v in data["variants"]
    )
    lists = {name: tuple(data[name]) for name in ("tokens", "failed")}
    return _typed(Job(**{**data, **lists, "variants": variants}))


# What a field of these is in Python, by its annotation.
_KINDS: Mapping[str, tuple[type, ...]] = {
    "str": (str,), "int": (int,), "float": (int, float), "Mapping": (dict,), "tuple": (tuple,),
}  # fmt: skip
_Part = TypeVar("_Part", Job, JobVariant)


def _typed(part: _Part) -> _Part:
    """It, if each field is of its type. Raises TypeError."""
    for told in fields(part):
        kinds, value = _KINDS[str(told.type).partition("[")[0]], getattr(part, told.name)
        if type(value) not in kinds:
            raise TypeError(f"{told.name} is a {type(value).__name__}")
    return part


def _sound(job: Job) -> Job:
    """It, if its parts are of each other. Raises ValueError, ProblemError or TargetError."""
    target_of(job.target, "target", job.target_name)
    names = {variant.name for variant in job.variants} | {f["variant"] for f in job.failed}
    for tokens in (*job.tokens, *(t for v in job.variants for t in v.tokens)):
        if type(tokens) is not int or str(tokens) not in job.defaults:
            raise ValueError(f"tokens {tokens!r} have no default")
        Workload(tokens, job.load)
    for name in job.defaults.values():
        if name not in names:
            raise ValueError(f"default {name!r} is none of its variants")
    for failed in job.failed:
        said = (failed["variant"], failed["status"], failed["message"])
        if not all(isinstance(text, str) for text in said) or failed["status"] not in STATUSES:
            raise ValueError(f"failed holds {failed!r}")
    if not job.tokens or not job.layer:
        raise ValueError("asks for nothing")
    return job


@dataclass(frozen=True)
class Results:
    """The sound lines of results.jsonl; of each other line its number and why it is left out."""

    lines: tuple[Line, ...]
    damaged: tuple[str, ...]


def results(folder: Path, job: Job) -> Results:
    """What the job's runs said so far. Raises JobError where the file cannot be read."""
    path = folder / RESULTS
    data = b""
    try:
        with contextlib.suppress(FileNotFoundError):
            data = path.read_bytes()
    except OSError as error:
        raise JobError(f"{path}: cannot be read ({error.strerror}); make it readable") from error
    return lines_of(data, job, str(path))


def lines_of(data: bytes, job: Job, where: str) -> Results:
    """The lines in a text; ``where`` names it."""
    sound, damaged = [], []
    for number, text in enumerate(data.split(b"\n"), start=1):
        try:
            if text.strip():
                sound.append(check(json_text.parse(text), job))
        except ValueError as error:
            damaged.append(f"{where}: line {number} is left out: {error}")
    return Results(tuple(sound), tuple(damaged))


def append(folder: Path, line: Mapping[str, Any]) -> None:
    """Adds one result, with the time; it is on the disk when this returns.

    Raises JobError where it cannot be written.
    """
    path, now = folder / RESULTS, datetime.now(UTC).isoformat(timespec="seconds")
    try:
        text = json.dumps({"created": now, **line}, sort_keys=True, ensure_ascii=False)
        append_line(path, json_text.mended(text))
    except OSError as error:
        raise JobError(
            f"{path}: cannot be written ({error.strerror}); mend that and run the job again"
        ) from error
