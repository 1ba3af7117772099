"""Recorded: the load ``trace:DIGEST``, per-expert counts of real calls, kept so that it can be drawn again.

The digest is that of the counts, so the database's key is the same wherever the trace's file lies. The
counts are kept beside the user's database, where the measuring process and later audits find them.
"""

from __future__ import annotations

import functools
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tuner.errors import ProblemError, UsageError
from tuner.host import json_text
from tuner.host.files import write_whole
from tuner.host.paths import traces_dir
from tuner.problem.problem import Problem
from tuner.problem.trace_file import TraceRow, Traffic

# Token counts of a trace that are tuned, unless the user names them.
MOST_COUNTS = 4


@dataclass(frozen=True)
class Recorded:
    """Calls of one layer form: (tokens, pairs by expert [E]) of each, sorted."""

    num_experts: int
    top_k: int
    calls: tuple[tuple[int, tuple[int, ...]], ...]

    @functools.cached_property
    def text(self) -> str:
        """All of it as canonical JSON."""
        return json.dumps([self.num_experts, self.top_k, self.calls], separators=(",", ":"))

    @property
    def digest(self) -> str:
        """First 8 hex digits of the SHA-256 of the text."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:8]

    @property
    def load(self) -> str:
        """The name of the load."""
        return f"trace:{self.digest}"

    def draw(self, tokens: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Experts of each token, int64 [T, k], distinct in a row: a recorded call's counts, scaled.

        The call is drawn from those whose token count is nearest, in octaves. With its own token count
        the counts are just the recorded ones. With another, each expert gets its share rounded up or
        down at random, without a bias (systematic sampling: Madow, Ann. Math. Stat. 20, 1949).
        Which token an expert gets is random; who shares a token with whom is not recorded.
        """
        if tokens == 0:
            return np.zeros((0, self.top_k), np.int64)
        near = min(abs(np.log2(count / tokens)) for count, _ in self.calls)
        nearest = [call for call in self.calls if abs(np.log2(call[0] / tokens)) <= near]
        count, pairs = nearest[rng.integers(len(nearest))]
        order = rng.permutation(self.num_experts)
        bounds = np.cumsum(np.array(pairs)[order] * tokens)
        # Slots are `count` apart on a line of tokens * k * count, of which each expert has its length.
        slots = rng.integers(count) + count * np.arange(tokens * self.top_k)
        drawn = order[np.searchsorted(bounds, slots, side="right")]
        # An expert's slots follow each other and are no more than the tokens, so no row has it twice.
        return rng.permutation(drawn.reshape(self.top_k, tokens).T)


def recorded(traffic: Traffic, problem: Problem) -> Recorded:
    """The counts that were recorded for a problem, or for another layer with as many experts and k.

    Raises UsageError when the trace has none.
    """
    calls = sorted((row.tokens, c) for row in rows(traffic, problem) for c in row.counts)
    if not calls:
        have = ", ".join(p.describe() for p in traffic.problems.values()) or "no calls at all"
        raise UsageError(
            f"trace: has no counts of {problem.num_experts} experts, {problem.top_k} a token; "
            f"it has {have}; record one of this model"
        )
    return Recorded(problem.num_experts, problem.top_k, tuple(calls))


def rows(traffic: Traffic, problem: Problem) -> list[TraceRow]:
    """The rows of a problem; where there are none, those of problems with as many experts and k."""
    exact = [row for row in traffic.rows if row.problem == problem.digest]
    sizes = problem.num_experts, problem.top_k
    alike = {d for d, p in traffic.problems.items() if (p.num_experts, p.top_k) == sizes}
    return exact or [row for row in traffic.rows if row.problem in alike]


def heaviest(found: list[TraceRow], most: int = MOST_COUNTS) -> tuple[dict[int, float], float]:
    """The token counts that took most time, by their share of it, and the share of them all.

    Counts of one octave are one, told by the count in the middle of its time.
    """
    octaves: dict[int, list[TraceRow]] = {}
    for row in sorted(found, key=lambda row: row.tokens):
        octaves.setdefault(row.tokens.bit_length(), []).append(row)
    times = {octave: sum(row.ms for row in members) for octave, members in octaves.items()}
    total = sum(times.values())
    if not total:
        raise UsageError("trace: has no timed calls; record one of this model")
    best = sorted(sorted(times, key=times.__getitem__, reverse=True)[:most])
    shares = {_middle(octaves[o], times[o]): times[o] / total for o in best if times[o]}
    return {count: float(f"{share:.2g}") for count, share in shares.items()}, sum(shares.values())


def _middle(members: list[TraceRow], total: float) -> int:
    passed = 0.0
    for row in members:
        passed += row.ms
        if passed >= total / 2:
            break
    return row.tokens


def keep(recorded: Recorded) -> Path:
    """Keeps the counts under their digest. Raises UsageError when they can't be written."""
    path = _path(recorded.digest)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, recorded.text.encode())
    except OSError as error:
        raise UsageError(f"{path}: cannot be written ({error.strerror}); free its disk") from error
    return path


def find(digest: str) -> Recorded:
    """The counts that were kept under a digest. Raises ProblemError when they aren't here."""
    return _read(_path(digest), digest)


@functools.lru_cache(maxsize=16)
def _read(path: Path, digest: str) -> Recorded:
    try:
        num_experts, top_k, calls = json_text.parse(path.read_bytes())
        found = Recorded(num_experts, top_k, tuple((t, tuple(counts)) for t, counts in calls))
    except (OSError, ValueError, TypeError) as error:
        raise ProblemError(
            f"load=trace:{digest}: its counts are not kept in {path.parent}; "
            "give the trace's file once: --load trace:FILE"
        ) from error
    if found.digest != digest:
        raise ProblemError(f"{path}: is damaged; delete it and give the trace's file again")
    return found


def _path(digest: str) -> Path:
    return traces_dir() / f"{digest}.json"
