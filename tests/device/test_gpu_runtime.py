"""Layers on a real GPU; the checks are those of benchmarks/gpu_runtime.py, which makes the bundles, too."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Any

import pytest

from tuner.problem import Problem

ROOT = Path(__file__).parents[2]
FOLDER = Path(os.environ.get("MOETUNE_GPU_BUNDLES", ROOT / "build" / "gpu"))


def _driver() -> bool:
    try:
        return bool(ctypes.CDLL("libcuda.so.1"))
    except OSError:
        return False


pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not _driver(), reason="no NVIDIA driver is here"),
    pytest.mark.skipif(not FOLDER.is_dir(), reason="benchmarks/gpu_runtime.py --build makes bundles"),
]  # fmt: skip


@pytest.fixture(scope="module")
def runtime() -> Any:
    pytest.importorskip("torch")
    import gpu_runtime

    return gpu_runtime


@pytest.fixture(scope="module", params=range(3), ids=["granite", "qwen3", "mixtral-reduced"])
def ready(runtime: Any, request: pytest.FixtureRequest) -> Any:
    problem: Problem = runtime.PROBLEMS[request.param]
    return runtime.Ready(FOLDER, problem, on_device=request.param == 0)


@pytest.mark.parametrize(
    "check", "values extremes zero_copy streams threads graphs dlpack refusals overhead".split()
)
def test_a_layer(runtime: Any, ready: Any, check: str) -> None:
    assert list(getattr(runtime, check)(ready))


def test_a_bundle_s_self_test(runtime: Any) -> None:
    assert runtime.ONE in list(runtime.installed(FOLDER))[-1]
