"""Loading: `tuner.load` makes a layer of a database or of a bundle, on CPU cores or on a GPU.

What only one of these ways needs is imported when that way is taken: a bundle needs no compiler, a database
no signatures, and a CPU no CUDA driver.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, overload

from tuner.errors import UsageError
from tuner.host.arguments import require, require_path
from tuner.problem import Problem
from tuner.problem.weights import Weights
from tuner.problem.workload import Workload
from tuner.runtime.catalogue import Catalogue
from tuner.runtime.layer import Layer
from tuner.target import Target, detect, require_cpu

if TYPE_CHECKING:
    from tuner.runtime.gpu_layer import GpuLayer
    from tuner.runtime.tuning_layer import TuningLayer
    from tuner.select.selection import Selection
    from tuner.store.database import Database


@overload
def load(
    source: Problem | str | os.PathLike[str],
    weights: Weights,
    db: Database | str | os.PathLike[str] | None = None,
    target: Target | None = None,
    load: str = "uniform",
    *,
    trust: str = "signed",
    problem: Problem | None = None,
    device: None = None,
    tune: None = None,
    tune_s: float = 60.0,
) -> Layer: ...


@overload
def load(
    source: Problem | str | os.PathLike[str],
    weights: Weights,
    db: Database | str | os.PathLike[str] | None = None,
    target: Target | None = None,
    load: str = "uniform",
    *,
    trust: str = "signed",
    problem: Problem | None = None,
    device: None = None,
    tune: str,
    tune_s: float = 60.0,
) -> TuningLayer: ...


@overload
def load(
    source: Problem | str | os.PathLike[str],
    weights: Weights,
    db: Database | str | os.PathLike[str] | None = None,
    target: Target | None = None,
    load: str = "uniform",
    *,
    trust: str = "signed",
    problem: Problem | None = None,
    device: object,
    tune: None = None,
    tune_s: float = 60.0,
) -> Layer | GpuLayer: ...


def load(
    source: Problem | str | os.PathLike[str],
    weights: Weights,
    db: Database | str | os.PathLike[str] | None = None,
    target: Target | None = None,
    load: str = "uniform",
    *,
    trust: str = "signed",
    problem: Problem | None = None,
    device: object = None,
    tune: str | None = None,
    tune_s: float = 60.0,
) -> Layer | GpuLayer | TuningLayer:
    """A layer that runs on this machine: `source` is a Problem, or the path of a bundle.

    Checks and packs the weights once (a second copy of them in memory; the given arrays may be
    dropped afterwards, all but the router). `load` is the expected load of the experts, one key of the
    selection; `target` is what the code has to run on, this machine unless given. `device` names a GPU
    as torch does (`cuda:0`): then weights may lie there, and it is a GpuLayer.

    With a Problem, `db` is the database or its path; an empty one works too: a winner that moetune
    brings or the template's default is compiled on first use. One that is named has to be there; the user's
    own may not be yet. With a bundle, `trust` says what is needed of its signature ("unsigned"
    takes any), and `problem` which one is meant where it holds several.

    With `tune` it is a TuningLayer, which tunes for the token counts of its calls where nothing near was
    tuned on this machine: "first-use" before the first call with as many tokens is answered, "background"
    meanwhile. Each session takes some `tune_s` seconds and records its winners in `db`.

    Raises WeightsError when an array does not fit, DeviceError when there is no such GPU, CompileError when
    nothing is cached and the toolchain is missing, DatabaseError when the database is damaged or not there,
    UsageError when an argument is of another class or belongs to the other kind of source, and what
    `tuner.bundle` says of a bundle that it refuses.
    """
    _check(source, weights, db, target, load, trust, problem)
    name = "cpu" if device is None else str(device)
    if name == "cpu":
        if target is not None:
            require_cpu(target, "tuner.load without device=")
        if tune is not None:
            return _tuning(source, weights, db, target, load, tune, tune_s)
        return Layer(_catalogue(source, db, target, trust, problem), weights, load)
    if tune is not None:
        raise UsageError("tune: tunes for a CPU; `moetune tune --target` tunes for a GPU")
    from tuner.gpu.device import opened, target_of
    from tuner.runtime.gpu_layer import GpuLayer

    if target is not None:
        raise UsageError(f"target: device={name!r} says what the code has to run on; leave it out")
    gpu = opened(name)
    return GpuLayer(_catalogue(source, db, target_of(gpu), trust, problem), weights, gpu, load)


def _tuning(
    source: Problem | str | os.PathLike[str],
    weights: Weights,
    db: Database | str | os.PathLike[str] | None,
    target: Target | None,
    load: str,
    tune: str,
    tune_s: float,
) -> TuningLayer:
    """A layer that tunes itself; each layer that it makes asks the database anew."""
    from tuner.runtime import tuning_layer
    from tuner.runtime.from_database import Tuned
    from tuner.store.database import path_to_read

    tuning_layer.check(tune, tune_s)
    if not isinstance(source, Problem):
        raise UsageError("tune: a bundle brings its own winners; give a Problem, or leave it out")
    path = path_to_read(db)
    asked = tuning_layer.Asked(source, target or detect(), path, Workload(1, load).load, tune_s)
    found = Tuned(source, None if db is None else path, target)

    def make() -> Layer:
        return Layer(found, weights, load)

    def select(tokens: int) -> Selection:
        return found.select(tokens, asked.load, None)

    return tuning_layer.TuningLayer(make, select, asked, tune)


def _check(
    source: object,
    weights: object,
    db: object,
    target: object,
    load: object,
    trust: object,
    problem: object,
) -> None:
    """Raises UsageError where an argument is of a class that it cannot be of."""
    require("source", source, Problem, str, os.PathLike, mend="give a Problem or a bundle's path")
    require("weights", weights, Weights, mend="tuner.Weights takes the arrays by name")
    require("target", target, Target, type(None), mend="tuner.target.named makes one")
    require("load", load, str)
    require("trust", trust, str)
    require("problem", problem, Problem, type(None))
    if not isinstance(source, Problem):
        require_path("source", source)


def _catalogue(
    source: Problem | str | os.PathLike[str],
    db: Database | str | os.PathLike[str] | None,
    target: Target | None,
    trust: str,
    problem: Problem | None,
) -> Catalogue:
    """Imports one of the two ways: a bundle needs no compiler, a database no signatures."""
    if isinstance(source, Problem):
        if problem is not None:
            raise UsageError("problem: is for a bundle that holds several; give one Problem")
        from tuner.runtime.from_database import Tuned

        return Tuned(source, db, target)
    if db is not None:
        raise UsageError(f"db: a bundle ({os.fspath(source)}) brings its own winners; leave it out")
    from tuner.bundle import open_bundle

    return open_bundle(Path(source), trust=trust, problem=problem, target=target)
