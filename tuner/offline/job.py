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
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tuner.errors import MoetuneError
from tuner.host.files import append_line, write_whole
from tuner.measure.race import FINAL_EFFORT, TRIAL_EFFORT
from tuner.problem import Problem

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
        data = json.loads(path.read_text())
        if data.get("format") != FORMAT:
            raise JobError(f"{path}: format {data.get('format')}, not {FORMAT}; make the job again")
        variants = tuple(
            JobVariant(**{**v, "tokens": tuple(v["tokens"])}) for v in data["variants"]
        )
        return Job(
            **{
                **data,
                "variants": variants,
                "tokens": tuple(data["tokens"]),
                "failed": tuple(data["failed"]),
            }
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise JobError(f"{path}: no job ({error}); `moetune tune --offline` makes one") from error


def results(folder: Path) -> Iterator[dict[str, Any]]:
    """The lines of results.jsonl; a last line that was cut off by the end of the job is left out."""
    with contextlib.suppress(FileNotFoundError):
        for line in (folder / "results.jsonl").read_text().splitlines():
            with contextlib.suppress(ValueError):
                yield json.loads(line)


def append(folder: Path, line: Mapping[str, Any]) -> None:
    """Adds one result, with the time; it is on the disk when this returns.

    Raises JobError where it cannot be written.
    """
    path, now = folder / RESULTS, datetime.now(UTC).isoformat(timespec="seconds")
    try:
        append_line(path, json.dumps({"created": now, **line}, sort_keys=True))
    except OSError as error:
        raise JobError(
            f"{path}: cannot be written ({error.strerror}); mend that and run the job again"
        ) from error
