"""Shown: a layer in one or two lines, and as a table in a notebook. Waits for no call that is running."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from tuner.host import notebook
from tuner.host.terminal import one_line
from tuner.problem import Problem
from tuner.runtime.dispatch import Bucket

_HEAD = ("tokens", "match", "kernel")


def line(kind: str, problem: Problem, place: str, buckets: Sequence[Bucket]) -> str:
    """What `repr` says of a layer: the problem, where it runs, and how its kernels were chosen."""
    kernels = len({bucket.selection.variant for bucket in buckets})
    matches = ", ".join(dict.fromkeys(bucket.selection.match for bucket in buckets))
    several = "kernel" if kernels == 1 else "kernels"
    about = f"{kernels} {several} on {place}, match {matches}"
    return f"<{kind} {one_line(problem.describe())}\n {about}>"


def table(kind: str, problem: Problem, place: str, buckets: Sequence[Bucket]) -> str:
    """Which kernel serves which token counts, as HTML."""
    return notebook.table(f"{kind} {problem.describe()}, on {place}", _rows(buckets), _HEAD)


def _rows(buckets: Sequence[Bucket]) -> Iterator[tuple[str, str, str]]:
    for bucket, following in itertools.zip_longest(buckets, buckets[1:]):
        last = f" to {following.first - 1}" if following else " and more"
        yield f"{bucket.first}{last}", bucket.selection.match, bucket.selection.variant
