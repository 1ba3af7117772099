"""Runs a job folder on the machine that has its target: what `moetune run-job` and the folder's run.py call.

Every variant is verified and raced in a process of its own with a time limit; what a process has said is in
results.jsonl before the next one starts. After the trials come the finals: for each token count the best
few and the default, in two fresh processes. It is safe to end it at any moment, and to start it again.
Finalists read one packed form of the weights, because a layer keeps one.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tuner.host import json_text
from tuner.host.terminal import one_line
from tuner.intervals import median
from tuner.measure.worker import THREADS
from tuner.offline import bench, place
from tuner.offline import job as jobs
from tuner.offline.bench import Kind
from tuner.offline.job import Job, JobError, JobVariant
from tuner.tune.shortlist import FINALISTS, best_by_pack, fastest, settled_pack

FINAL_RUNS = 2

Say = Callable[[str], None]


def run(folder: Path, time_s: float, say: Say) -> None:
    """Runs what has no result yet, for at most ``time_s`` seconds; ``say`` gets a line of progress at a time.

    Raises JobError where the folder is no job, its device cannot be used, or it was begun on another one.
    """
    job = jobs.read(folder)
    kind = bench.kind_of(job)
    end = time.monotonic() + time_s
    for damaged in jobs.results(folder, job).damaged:
        say(damaged)
    cores = kind.cores(job)
    with place.folder(job.layer, kind.COPIES) as data:
        _prepare(folder, job, data, say)
        with _on(cores):
            _device(folder, job, data, kind, say)
            _trials(folder, job, data, kind.TRIAL_S, end, say)
            _finals(folder, job, data, kind.TRIAL_S, end, say)
            _device(folder, job, data, kind, say)


@contextlib.contextmanager
def _on(cores: frozenset[int]) -> Iterator[None]:
    """Inside, this process and those that it starts stay on these cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _prepare(folder: Path, job: Job, data: Path, say: Say) -> None:
    from tuner.offline import data as job_data  # it brings the reference, which takes a moment

    start = time.monotonic()
    job_data.make(job, folder, data)
    say(f"weights and right answers: {time.monotonic() - start:.1f} s")


def _device(folder: Path, job: Job, data: Path, kind: Kind, say: Say) -> None:
    lines, failure = _child(folder, job, data, ["device"], kind.TRIAL_S)
    if failure:
        raise JobError(f"device: {failure[1]}; {kind.WHERE}")
    line = lines[0]
    for earlier in jobs.results(folder, job).lines:
        if earlier["kind"] == "device" and identity(earlier) != identity(line):
            raise JobError(
                f"{folder}: was begun on {earlier['name']}, this is {line['name']} or has other cores; "
                "go on there, or delete results.jsonl"
            )
    jobs.append(folder, line)
    say(f"{line['name']}: {', '.join(_rates(line))}")


def identity(line: Mapping[str, Any]) -> tuple[str, str]:
    """Who measured, by a line of kind device."""
    return line["name"], repr(sorted(line.get("target", {}).items()))


def _rates(line: dict[str, Any]) -> Iterator[str]:
    """Ceilings as they are said: ``read 80 GB/s``."""
    for end, unit in (("_gb_s", "GB/s"), ("_gflop_s", "GFLOP/s")):
        for name, value in sorted(line.items()):
            if name.endswith(end) and value:
                yield f"{name.removesuffix(end)} {value:.0f} {unit}"


def _trials(folder: Path, job: Job, data: Path, trial_s: float, end: float, say: Say) -> None:
    done = {
        (r["variant"], r["tokens"]) for r in jobs.results(folder, job).lines if r["kind"] == "trial"
    }
    defaults = {job.default(t) for t in job.tokens}
    for variant in sorted(job.variants, key=lambda v: v.name not in defaults):
        open_counts = [t for t in variant.tokens if (variant.name, t) not in done]
        while open_counts and time.monotonic() < end:
            counts = ",".join(map(str, open_counts))
            limit = min(trial_s, max(end - time.monotonic(), 1.0))
            lines, failure = _child(folder, job, data, ["trial", variant.name, counts], limit)
            for line in lines:
                _record(folder, variant, line, say)
            said = [line["tokens"] for line in lines]
            open_counts = [t for t in open_counts if t not in said]
            if failure and open_counts:
                # The count that was at work has failed; those after it are tried in another process.
                status, message = failure
                line = {"kind": "trial", "variant": variant.name, "tokens": open_counts[0]}
                _record(folder, variant, {**line, "status": status, "message": message}, say)
                open_counts = open_counts[1:]


def _record(folder: Path, variant: JobVariant, line: dict[str, Any], say: Say) -> None:
    jobs.append(folder, line)
    told = line.get("message", "")
    if line["status"] == "ok":
        own, base = median(line["samples"]).value, median(line["default_samples"]).value
        told = f"{own / 1e3:.1f} us, default {base / 1e3:.1f} us"
    say(f"T={line['tokens']} {variant.name}: {line['status']} {told}")


def _finals(folder: Path, job: Job, data: Path, trial_s: float, end: float, say: Say) -> None:
    for tokens in job.tokens:
        results = jobs.results(folder, job).lines
        names = finalists(job, tokens, results)
        ran = len(finals_of(results, tokens, names))
        for _ in range(ran, FINAL_RUNS if len(names) > 1 else 0):
            if time.monotonic() > end:
                return
            words = ["final", str(tokens), ",".join(names)]
            lines, failure = _child(folder, job, data, words, trial_s)
            for line in lines:
                jobs.append(folder, line)
                shown = (f"{median(s).value / 1e3:.1f}" for s in line["samples"])
                say(f"T={tokens} final, default first: {', '.join(shown)} us")
            if failure:
                say(f"T={tokens} final: {failure[1]}")


def finals_of(
    results: Sequence[Mapping[str, Any]], tokens: int, names: Sequence[str]
) -> list[Mapping[str, Any]]:
    """The finals of these variants on a token count."""
    return [
        r
        for r in results
        if r["kind"] == "final" and r["tokens"] == tokens and r["variants"] == names
    ]


def finalists(job: Job, tokens: int, results: Sequence[dict[str, Any]]) -> list[str]:
    """The default of a token count, and the fastest few against it in their trials, of the job's one form."""
    default, ratios = job.default(tokens), _ratios(tokens, results)
    if default not in ratios:
        return []
    packs = {variant.name: variant.pack for variant in job.variants}
    others = {name: ratio for name, ratio in ratios.items() if name != default}
    return [default, *fastest(others, packs, form(job, results))[:FINALISTS]]


def form(job: Job, results: Sequence[dict[str, Any]]) -> str:
    """The packed form that is fastest over all token counts, by the trials; the default's unless it gains."""
    packs = {variant.name: variant.pack for variant in job.variants}
    counts = [ratios for t in job.tokens if (ratios := _ratios(t, results))]
    best = [best_by_pack(ratios, packs) for ratios in counts]
    # Each count tries all variants that its space has: where a form has no ratio, it failed.
    return settled_pack(best, [1.0] * len(best), packs[job.default(job.tokens[0])], math.inf)


def _ratios(tokens: int, results: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Time over the default's of all variants that were right on a token count."""
    return {
        r["variant"]: median(r["samples"]).value / median(r["default_samples"]).value
        for r in results
        if r["kind"] == "trial" and r["tokens"] == tokens and r["status"] == "ok"
    }


def _child(
    folder: Path, job: Job, data: Path, words: Sequence[str], limit_s: float
) -> tuple[list[dict[str, Any]], tuple[str, str] | None]:
    """What a trial's process said, and (status, message) where it ended badly."""
    # -P: not the `tuner` of the folder that somebody happens to be in.
    command = [sys.executable, "-P", "-m", "tuner.offline.trial", str(folder), str(data), *words]
    code = str(Path(__file__).resolve().parents[2])
    paths = [code, *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, **THREADS, "PYTHONPATH": os.pathsep.join(paths)}
    child = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    )
    try:
        out, err = child.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        child.kill()
        out, err = child.communicate()
        lines = list(jobs.lines_of(out, job, "").lines)  # of what was cut off nothing is told
        return lines, ("timeout", f"not done within {limit_s:.0f} s")
    said, error = jobs.lines_of(out, job, "its process"), _error(out)
    lines = list(said.lines)
    if error:
        return lines, ("crash", error)
    if child.returncode < 0:
        return lines, (
            "crash",
            f"its process was ended by {signal.Signals(-child.returncode).name}",
        )
    if child.returncode != 0:
        told = err.decode(errors="replace").strip().splitlines()
        return lines, ("crash", (told or [f"ended with {child.returncode}"])[-1])
    if not lines:
        return [], ("crash", said.damaged[-1] if said.damaged else "its process said nothing")
    return lines, None


def _error(out: bytes) -> str:
    """Why it refused, if it said so, on its last line."""
    with contextlib.suppress(ValueError, KeyError, TypeError):
        last = json_text.parse(out.strip().rpartition(b"\n")[2])
        return str(last["message"]) if last["kind"] == "error" else ""
    return ""


def main(arguments: Sequence[str]) -> int:
    """`run.py [SECONDS]` in a job folder."""
    folder = Path(arguments[0])
    try:
        run(
            folder,
            float(arguments[1]) if len(arguments) > 1 else 3600.0,
            lambda line: print(one_line(line), flush=True),
        )
    except JobError as error:
        print(one_line(str(error)), file=sys.stderr)
        return 1
    return 0
