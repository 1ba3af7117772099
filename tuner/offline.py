"""An offline round: which variants a GPU on another machine should try, compiled and put into a job folder.

The search asks for a batch for each token count, knowing all that the database knows; `moetune tell` reads the
results back into it, and the next round starts from there.
"""

from __future__ import annotations

import ast
import shutil
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuner import failure, space, template
from tuner import job as jobs
from tuner.compile import toolchain_version
from tuner.database import Database
from tuner.errors import UsageError
from tuner.job import Job, JobVariant
from tuner.problem import Problem
from tuner.search import Search
from tuner.target import Target
from tuner.trial import Build, build
from tuner.variant import TEMPLATES, Variant, default_variant, make
from tuner.version import __version__
from tuner.workload import Workload

_BUILDS_AT_ONCE = 2
_ENTRY = "tuner.job_run"
_CHILD = "tuner.job_trial"
_RUN = '''"""Runs this job on the machine with the GPU: python run.py [SECONDS]."""

import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER / "code"))

from tuner.job_run import main  # noqa: E402

sys.exit(main([str(FOLDER), *sys.argv[1:]]))
'''

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Round:
    """What is asked of a round: ``trials`` variants for each token count, in at most ``most_bytes``."""

    tokens: tuple[int, ...]
    load: str
    trials: int
    seed: int
    sampler: str
    most_bytes: int


@dataclass(frozen=True)
class Made:
    """A job folder: how many programs it holds, which variants failed to compile, and its size."""

    programs: int
    failed: int
    left_out: int
    size_bytes: int


def make_job(
    problem: Problem, target: Target, db: Database, asked: Round, folder: Path, progress: Progress
) -> Made:
    """Asks, compiles and writes a job folder.

    Raises:
        UsageError: the target is measured here, or the folder is a job already.
        TemplateError, SpaceError: no template serves the problem.
    """
    if target.kind != "gpu":
        raise UsageError(
            f"--offline: target {target.arch} is a CPU; only GPU targets have offline rounds, leave it out"
        )
    if asked.load.startswith("trace:"):
        raise UsageError(
            f"--load {asked.load}: a trace lies on this machine, and a job folder takes none; "
            "use uniform, onehot or zipf:S"
        )
    if (folder / "job.json").exists():
        raise UsageError(
            f"{folder}: holds a job already; `moetune tell` it, and name another folder"
        )
    variants = _ask(problem, target, db, asked)
    builds = _build(problem, target, list(variants), progress)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "programs").mkdir(exist_ok=True)
    _copy_code(folder / "code" / "tuner")
    (folder / "run.py").write_text(_RUN)
    kept, failed, left_out = [], [], 0
    for variant, built in builds.items():
        if built.binary is None:
            failed.append(
                {"variant": variant.name, "status": built.status, "message": built.message}
            )
        elif folder_bytes(folder) + built.binary.path.stat().st_size > asked.most_bytes:
            left_out += 1
        else:
            kept.append(_put(folder, variant, built, variants[variant]))
    job = Job(
        problem=problem.key,
        problem_name=problem.name,
        target=target.key,
        target_name=target.name,
        template=TEMPLATES[target.kind],
        tokens=asked.tokens,
        load=asked.load,
        seed=asked.seed,
        session=uuid.uuid4().hex[:12],
        defaults={str(t): default_variant(problem, target, None, t).name for t in asked.tokens},
        variants=tuple(kept),
        failed=tuple(failed),
        environment={
            "toolchain": toolchain_version(),
            "moetune": __version__,
            "template": template.digest(TEMPLATES[target.kind]),
        },
    )
    _check_defaults(job, asked)
    jobs.write(folder, job)
    return Made(len(kept), len(failed), left_out, folder_bytes(folder))


def _ask(
    problem: Problem, target: Target, db: Database, asked: Round
) -> dict[Variant, tuple[int, ...]]:
    """Variants -> the token counts on which they are tried: all where their space has them. Defaults first."""
    file = space.load(TEMPLATES[target.kind])
    spaces = {t: space.resolve(file, problem, target, t) for t in asked.tokens}
    batches = {t: _batch(spaces[t], problem, target, db, asked, t) for t in asked.tokens}
    order = [batch[i] for i in range(asked.trials) for batch in batches.values() if i < len(batch)]
    variants = dict.fromkeys(make(file.template, config) for config in order)
    return {
        v: tuple(t for t, s in spaces.items() if s.broken(v.config) is None and _has(s, v.config))
        for v in variants
    }


def _has(points: space.Space, config: Mapping[str, int]) -> bool:
    return all(config[name] in values for name, values in points.values.items())


def _batch(
    points: space.Space, problem: Problem, target: Target, db: Database, asked: Round, tokens: int
) -> list[dict[str, int]]:
    """The default, then what the search wants to try next on this token count."""
    search = Search(points, asked.seed, asked.sampler, asked.trials)
    workload = Workload(tokens, asked.load)
    current = template.digest(points.template)
    for trial in db.trials(problem.digest, target.digest, workload.tokens, workload.load):
        if trial.template == points.template and trial.environment.get("template") == current:
            ratio = trial.measurement.ratio if trial.measurement else None
            search.remember(trial.config, ratio, failure.kind(trial.status, trial.message))
    batch = [dict(points.default)]
    while len(batch) < asked.trials and (suggestion := search.ask()) is not None:
        if suggestion.config != points.default:
            batch.append(dict(suggestion.config))
    return batch


def _build(
    problem: Problem, target: Target, variants: Sequence[Variant], progress: Progress
) -> dict[Variant, Build]:
    """All variants built, some at once."""
    builds: dict[Variant, Build] = {}
    with ThreadPoolExecutor(_BUILDS_AT_ONCE) as pool:
        for variant, built in zip(
            variants, pool.map(lambda v: build(problem, target, v), variants), strict=True
        ):
            builds[variant] = built
            progress(
                f"{len(builds)}/{len(variants)} {variant.name}: {built.status} {built.message}".rstrip()
            )
    return builds


def _put(folder: Path, variant: Variant, built: Build, tokens: tuple[int, ...]) -> JobVariant:
    assert built.binary is not None
    file = f"programs/{variant.name}.ptx"
    shutil.copyfile(built.binary.path, folder / file)
    return JobVariant(
        variant.name,
        variant.config,
        tokens,
        file,
        built.source.digest,
        built.binary.key,
        built.compile_ms,
    )


def _check_defaults(job: Job, asked: Round) -> None:
    there = {variant.name for variant in job.variants}
    for tokens in asked.tokens:
        if job.default(tokens) not in there:
            raise UsageError(
                f"the default of {tokens} tokens has no program: nothing could be compared with it; "
                "raise --most-mib, or see why it did not compile"
            )


def folder_bytes(folder: Path) -> int:
    """Size of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _copy_code(to: Path) -> None:
    """The modules that the runner imports, and an empty package around them."""
    to.mkdir(parents=True, exist_ok=True)
    (to / "__init__.py").write_text("")
    package = Path(__file__).resolve().parent
    for name in sorted(_needed(package, {_ENTRY, _CHILD})):
        shutil.copyfile(package / f"{name}.py", to / f"{name}.py")


def _needed(package: Path, entries: set[str]) -> set[str]:
    """Names of this package's modules that the entries import, directly or not."""
    found: set[str] = set()
    left = {entry.removeprefix("tuner.") for entry in entries}
    while left:
        name = left.pop()
        found.add(name)
        left |= _imports(package / f"{name}.py") - found
    return found


def _imports(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "tuner":
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tuner."):
            names.add(str(node.module).removeprefix("tuner."))
    return names


def described(made: Made, folder: Path) -> dict[str, Any]:
    """What was made, for programs."""
    return {
        "folder": str(folder),
        "programs": made.programs,
        "failed": made.failed,
        "left_out": made.left_out,
        "size_bytes": made.size_bytes,
    }
