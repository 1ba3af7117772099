"""Runs a job folder on the machine that has the GPU: what `moetune run-job` and the folder's run.py call.

Every variant is verified and raced in a process of its own with a time limit; what a process has said is in
results.jsonl before the next one starts. After the trials come the finals: for each token count the best
few and the default, in two fresh processes. It is safe to end it at any moment, and to start it again.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tuner import job as jobs
from tuner.job import Job, JobError, JobVariant
from tuner.statistics import median

TRIAL_S = 60.0
FINALISTS = 3
FINAL_RUNS = 2
_MEMORY_FOLDER = Path("/dev/shm")

Say = Callable[[str], None]


def run(folder: Path, time_s: float, say: Say) -> None:
    """Runs what has no result yet, for at most ``time_s`` seconds; ``say`` gets a line of progress at a time.

    Raises JobError where the folder is no job, or its device cannot be used.
    """
    job = jobs.read(folder)
    end = time.monotonic() + time_s
    place = _MEMORY_FOLDER if _MEMORY_FOLDER.is_dir() else None
    with tempfile.TemporaryDirectory(prefix="moetune-job-", dir=place) as name:
        data = Path(name)
        _prepare(folder, job, data, say)
        _device(folder, data, say)
        _trials(folder, job, data, end, say)
        _finals(folder, job, data, end, say)
        _device(folder, data, say)


def _prepare(folder: Path, job: Job, data: Path, say: Say) -> None:
    from tuner import job_data  # NumPy takes a moment, and a wrong folder should not wait for it

    start = time.monotonic()
    tiles = sorted({variant.config["tile_n"] for variant in job.variants})
    job_data.make(job, data, tuple(tiles))
    say(f"weights and right answers: {time.monotonic() - start:.1f} s")


def _device(folder: Path, data: Path, say: Say) -> None:
    lines, failure = _child(folder, data, ["device"], TRIAL_S)
    if failure:
        raise JobError(f"device: {failure[1]}; run this where an NVIDIA GPU of the job's target is")
    jobs.append(folder, lines[0] | {"clocks": _clocks()})
    say(f"{lines[0]['name']}: copy {lines[0]['copy_gb_s']:.0f} GB/s")


def _trials(folder: Path, job: Job, data: Path, end: float, say: Say) -> None:
    done = {(r["variant"], r["tokens"]) for r in jobs.results(folder) if r["kind"] == "trial"}
    defaults = {job.default(t) for t in job.tokens}
    for variant in sorted(job.variants, key=lambda v: v.name not in defaults):
        open_counts = [t for t in variant.tokens if (variant.name, t) not in done]
        while open_counts and time.monotonic() < end:
            counts = ",".join(map(str, open_counts))
            limit = min(TRIAL_S, max(end - time.monotonic(), 1.0))
            lines, failure = _child(folder, data, ["trial", variant.name, counts], limit)
            for line in lines:
                _record(folder, variant, line, say)
            open_counts = open_counts[len(lines) :]
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


def _finals(folder: Path, job: Job, data: Path, end: float, say: Say) -> None:
    for tokens in job.tokens:
        names = finalists(job, tokens, list(jobs.results(folder)))
        ran = sum(r["kind"] == "final" and r["tokens"] == tokens for r in jobs.results(folder))
        for _ in range(ran, FINAL_RUNS if len(names) > 1 else 0):
            if time.monotonic() > end:
                return
            lines, failure = _child(folder, data, ["final", str(tokens), ",".join(names)], TRIAL_S)
            for line in lines:
                jobs.append(folder, line)
                shown = (f"{median(s).value / 1e3:.1f}" for s in line["samples"])
                say(f"T={tokens} final, default first: {', '.join(shown)} us")
            if failure:
                say(f"T={tokens} final: {failure[1]}")


def finalists(job: Job, tokens: int, results: Sequence[dict[str, Any]]) -> list[str]:
    """The default of a token count, and the fastest few against it in their trials."""
    default = job.default(tokens)
    ratios = {
        r["variant"]: median(r["samples"]).value / median(r["default_samples"]).value
        for r in results
        if r["kind"] == "trial" and r["tokens"] == tokens and r["status"] == "ok"
    }
    if default not in ratios:
        return []
    others = sorted((n for n in ratios if n != default), key=lambda n: ratios[n])
    return [default, *others[:FINALISTS]]


def _child(
    folder: Path, data: Path, words: Sequence[str], limit_s: float
) -> tuple[list[dict[str, Any]], tuple[str, str] | None]:
    """What a trial's process said, and (status, message) where it ended badly."""
    command = [sys.executable, "-m", "tuner.job_trial", str(folder), str(data), *words]
    code = str(Path(__file__).resolve().parents[1])
    paths = [code, *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    child = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    try:
        out, err = child.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        child.kill()
        out, err = child.communicate()
        return list(_lines(out)), ("timeout", f"not done within {limit_s:.0f} s")
    lines = list(_lines(out))
    said = [line for line in lines if line["kind"] == "error"]
    lines = [line for line in lines if line["kind"] != "error"]
    if said:
        return lines, ("crash", said[0]["message"])
    if child.returncode != 0:
        last = (err.strip().splitlines() or [f"ended with {child.returncode}"])[-1]
        return lines, ("crash", last)
    return lines, None


def _lines(out: str) -> Iterator[dict[str, Any]]:
    for line in out.splitlines():
        try:
            yield json.loads(line)
        except ValueError:  # cut off by the end of the process
            return


def _clocks() -> str:
    """Clocks now, as the driver's tool tells them; they are read, never set. Empty where it is not there."""
    query = [
        "nvidia-smi",
        "--query-gpu=clocks.sm,clocks.mem,temperature.gpu",
        "--format=csv,noheader",
    ]
    try:
        return subprocess.run(query, capture_output=True, text=True, timeout=10).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""


def main(arguments: Sequence[str]) -> int:
    """`run.py [SECONDS]` in a job folder."""
    folder = Path(arguments[0])
    try:
        run(
            folder,
            float(arguments[1]) if len(arguments) > 1 else 3600.0,
            lambda line: print(line, flush=True),
        )
    except JobError as error:
        print(error, file=sys.stderr)
        return 1
    return 0
