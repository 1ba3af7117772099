"""Where weights and right answers lie while a job runs: in memory, if there is room, and gone when it ends."""

from __future__ import annotations

import contextlib
import fcntl
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tuner.offline.job import JobError
from tuner.problem import Problem, footprint

_MEMORY = Path("/dev/shm")
_PREFIX = "moetune-job-"
_LOCK = "owner"
# What a folder holds beside the weights: right answers, a library.
_ANSWERS_BYTES = 64 << 20


@contextlib.contextmanager
def folder(problem: Problem, copies: int) -> Iterator[Path]:
    """A folder for the weights of a layer, of which so many copies will be in memory.

    What jobs left there that were killed is removed.

    Raises JobError where the copies do not fit.
    """
    need, have = footprint.weights_bytes(problem), footprint.available_bytes()
    place = _MEMORY if _MEMORY.is_dir() else Path(tempfile.gettempdir())
    _sweep(place)
    if copies * need > have:
        raise JobError(
            f"{copies} copies of the weights take {copies * need / 2**30:.1f} GiB, "
            f"{have / 2**30:.1f} GiB are free; make the job with fewer --experts"
        )
    if shutil.disk_usage(place).free < need + _ANSWERS_BYTES:
        place = Path(tempfile.gettempdir())
    with (
        tempfile.TemporaryDirectory(prefix=_PREFIX, dir=place) as name,
        (Path(name) / _LOCK).open("w") as lock,
    ):
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield Path(name)


def _sweep(place: Path) -> None:
    """Removes the folders whose owner is gone: the system drops a lock with the process that holds it."""
    for path in place.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError), (path / _LOCK).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path)
