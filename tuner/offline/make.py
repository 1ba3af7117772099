"""An offline round: which variants another machine should try, compiled and put into a job folder.

The search asks for a batch for each token count, knowing all that the database knows; `moetune tell` reads the
results back into it, and the next round starts from there.
"""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuner.bundle.elf import without_search_path
from tuner.codegen import probes
from tuner.errors import UsageError
from tuner.host.files import write_whole
from tuner.host.process import pool
from tuner.host.toolchain import toolchain_version
from tuner.measure.own_bench import dense_program
from tuner.measure.trial import Build, build
from tuner.offline import batch, code
from tuner.offline import job as jobs
from tuner.offline.batch import Round
from tuner.offline.job import Job, JobVariant
from tuner.problem import Problem
from tuner.space import templates
from tuner.space.variant import Variant, parse
from tuner.store.database import Database
from tuner.target import Target
from tuner.version import __version__

_BUILDS_AT_ONCE = 2

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Made:
    """A job folder: for which target, how many programs it holds, how many did not compile, and its size."""

    target: Target
    programs: int
    failed: int
    left_out: int
    size_bytes: int


def make_job(
    problem: Problem, target: Target, db: Database, asked: Round, folder: Path, progress: Progress
) -> Made:
    """Asks, compiles and writes a job folder.

    Raises:
        UsageError: the load is a trace, the folder is a job already, or a default or ceiling did not compile.
        TemplateError, SpaceError: no template serves the problem.
    """
    if asked.load.startswith("trace:"):
        raise UsageError(
            f"--load {asked.load}: a trace lies on this machine, and a job folder takes none; "
            "use uniform, onehot or zipf:S"
        )
    if (folder / "job.json").exists():
        raise UsageError(
            f"{folder}: holds a job already; `moetune tell` it, and name another folder"
        )
    if target.kind == "cpu":
        target = machine(problem, target, db, asked.cores)
    variants = batch.variants(problem, target, db, asked)
    builds = _build(problem, target, list(variants), progress)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "programs").mkdir(exist_ok=True)
    code.write(folder, target.kind)
    probes = _probes(folder, problem, target)
    kept, failed, left_out = [], [], 0
    for variant, built in builds.items():
        if built.binary is None and built.passing:
            continue  # a row would be a verdict; the next round tries it again
        if built.binary is None:
            failed.append(
                {"variant": variant.name, "status": built.status, "message": built.message}
            )
        elif folder_bytes(folder) + built.binary.path.stat().st_size > asked.most_bytes:
            left_out += 1
        else:
            kept.append(_put(folder, variant, built, variants[variant]))
    defaults = batch.defaults(problem, target, asked)
    job = Job(
        problem=problem.key,
        problem_name=problem.name,
        target=target.key,
        target_name=target.name,
        template=parse(defaults[str(asked.tokens[0])]).template,
        tokens=asked.tokens,
        load=asked.load,
        seed=asked.seed,
        session=uuid.uuid4().hex[:12],
        defaults=defaults,
        variants=tuple(kept),
        failed=tuple(failed),
        environment={
            "toolchain": toolchain_version(),
            "moetune": __version__,
        },
        probe=probes["probe"],
        dense=probes.get("dense", ""),
        temperature=asked.temperature,
    )
    _check_defaults(job, asked)
    jobs.write(folder, job)
    return Made(target, len(kept), len(failed), left_out, folder_bytes(folder))


def machine(problem: Problem, target: Target, db: Database, cores: int | None) -> Target:
    """The machine of this architecture that measured the problem last, with its caches and features.

    Where the database knows none (with so many cores), it is thought to have the caches of the one here.
    """
    wanted = dataclasses.replace(target, cores=cores or target.cores)
    known: dict[Target, int] = {}
    for row in db.workloads():
        there = Target.from_key({**row["target"], "name": row["target_name"]})
        same = (there.kind, there.arch) == (target.kind, target.arch)
        if row["problem_id"] == problem.digest and same and cores in (None, there.cores):
            trials = db.trials(problem.digest, there.digest, row["tokens"], row["load"])
            known[there] = max(known.get(there, 0), trials[-1].id or 0)
    return wanted if wanted in known else max(known, key=lambda t: known[t], default=wanted)


def _build(
    problem: Problem, target: Target, variants: Sequence[Variant], progress: Progress
) -> dict[Variant, Build]:
    """All variants built, some at once."""
    builds: dict[Variant, Build] = {}
    with pool(_BUILDS_AT_ONCE) as builders:
        for variant, built in zip(
            variants, builders.map(lambda v: build(problem, target, v), variants), strict=True
        ):
            builds[variant] = built
            progress(
                f"{len(builds)}/{len(variants)} {variant.name}: {built.status} {built.message}".rstrip()
            )
    return builds


def _put(folder: Path, variant: Variant, built: Build, tokens: tuple[int, ...]) -> JobVariant:
    assert built.binary is not None
    file = f"programs/{variant.name}{built.binary.path.suffix}"
    _install(built.binary.path, folder / file)
    return JobVariant(
        variant.name,
        variant.config,
        tokens,
        file,
        built.source.digest,
        built.binary.key,
        built.compile_ms,
        variant.pack,
        variant.ragged,
        templates.digest(variant.template),
    )


def _install(program: Path, to: Path) -> None:
    """Copies a program; a library without the search path that its linker left, a folder of this machine."""
    content = program.read_bytes()
    write_whole(to, without_search_path(content) if program.suffix == ".so" else content)


def _probes(folder: Path, problem: Problem, target: Target) -> dict[str, str]:
    """Writes the programs that measure the target's ceilings; their places, by the job's names for them."""
    if target.kind == "cpu":
        made = {"probe": probes.of_cpu(target)}
    else:
        made = {
            "probe": probes.of_gpu(target),
            "dense": dense_program(target, problem.dtype),
        }
    places = {name: f"programs/{name}{path.suffix}" for name, path in made.items()}
    for name, path in made.items():
        _install(path, folder / places[name])
    return places


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


def described(made: Made, folder: Path) -> dict[str, Any]:
    """What was made, for programs."""
    return {
        "folder": str(folder),
        "target": made.target.key,
        "programs": made.programs,
        "failed": made.failed,
        "left_out": made.left_out,
        "size_bytes": made.size_bytes,
    }
