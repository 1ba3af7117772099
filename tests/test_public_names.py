"""`import tuner`: what it imports, what it names, and what type checkers know of it."""

from __future__ import annotations

import importlib
import inspect
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

import tuner

ROOT = Path(__file__).parents[1]
NAMES = [
    "Client", "Database", "GpuLayer", "Layer", "MoetuneError", "Problem", "Selection", "Stats",
    "Target", "TuningLayer", "Weights", "Workload", "__version__", "best_config", "bundle", "errors", "load",
    "max", "target", "torch", "trace",
]  # fmt: skip
# Of packages that a type checker need not look into to know what `tuner` has.
CHECKED = """\
[mypy]
strict = true
[mypy-torch.*,numpy.*,optuna.*,sqlite_utils.*,ml_dtypes.*,cryptography.*,jinja2.*,rich.*]
follow_imports = skip
[mypy-max.*]
ignore_missing_imports = true
"""
SNIPPET = """\
import tuner
reveal_type(tuner.load)
reveal_type(tuner.torch.replace)
reveal_type(tuner.Problem.preset)
reveal_type(tuner.bundle.open_bundle)
reveal_type(tuner.target.named)
tuner.foo
"""


def python(program: str) -> str:
    """What a fresh interpreter prints."""
    command = [sys.executable, "-c", textwrap.dedent(program)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_dir_lists_the_public_names() -> None:
    assert dir(tuner) == NAMES
    assert python("import tuner; print(*dir(tuner))").split() == NAMES
    assert set(tuner.__all__) == set(NAMES) - {"bundle", "errors", "max", "target", "torch"}


def test_every_public_name_is_there() -> None:
    pytest.importorskip("torch")
    pytest.importorskip("max.graph")
    for name in NAMES:
        assert getattr(tuner, name) is not None, name
    assert tuner.torch is importlib.import_module("tuner.torch")
    assert callable(tuner.torch.replace)
    assert callable(tuner.max.moe)


def test_another_name_is_not_there() -> None:
    with pytest.raises(AttributeError, match="module 'tuner' has no attribute 'foo'"):
        tuner.foo  # noqa: B018
    assert not hasattr(tuner, "engine")


def test_importing_imports_nothing_but_the_names() -> None:
    """Not even NumPy: it takes half of the 0.15 s that `import tuner` may."""
    program = """
        import sys
        import tuner
        print(*sorted({n.partition(".")[0] for n in sys.modules} - set(sys.stdlib_module_names)))
        print(*sorted(n for n in sys.modules if n.startswith("tuner")))
    """
    packages, modules = python(program).splitlines()
    installed = "numpy torch max optuna jinja2 sqlite_utils rich click cryptography ml_dtypes"
    assert not set(installed.split()) & set(packages.split())
    assert modules.split() == ["tuner", "tuner.version"]


@pytest.mark.timed
def test_importing_is_quick() -> None:
    """A hundredth of a second in truth; what a heavy package would cost is far above the bound."""
    assert min(seconds("import tuner") for _ in range(5)) < 0.15


def seconds(program: str) -> float:
    """What a fresh interpreter takes, its own start with it."""
    start = time.perf_counter()
    python(program)
    return time.perf_counter() - start


def test_a_package_that_is_lacking_is_named() -> None:
    program = """
        import sys
        sys.modules["torch"] = None
        import inspect, tuner
        assert not hasattr(tuner, "torch")
        assert "torch" not in dict(inspect.getmembers(tuner))
        try:
            tuner.torch
        except AttributeError as error:
            print(error)
    """
    said = "tuner.torch: needs the package torch, which is not installed\n"
    assert python(program) == said


def test_members_can_be_listed() -> None:
    assert {"load", "Problem"} <= dict(inspect.getmembers(tuner)).keys()


def test_type_checkers_know_what_is_there(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    (tmp_path / "mypy.ini").write_text(CHECKED)
    (tmp_path / "snippet.py").write_text(SNIPPET)
    command = [sys.executable, "-m", "mypy", "--config-file", "mypy.ini", "snippet.py"]
    here = os.environ | {"MYPYPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=here, capture_output=True, text=True)
    said = [line for line in done.stdout.splitlines() if line.startswith("snippet.py")]
    kinds = [line.split(": ", 2)[1:] for line in said]
    texts = [text for _, text in kinds]
    assert "Problem" in texts[0]
    assert "-> tuner.runtime.layer.Layer" in texts[0]
    assert "-> list[str]" in texts[1]
    assert texts[2].endswith('(name: str) -> tuner.problem.problem.Problem"')
    assert "-> tuner.bundle.catalogue.BundleCatalogue" in texts[3]
    assert texts[4].endswith('(arch: str) -> tuner.target.target.Target"')
    assert kinds[5] == ["error", 'Module has no attribute "foo"  [attr-defined]']
    assert len(said) == 6
