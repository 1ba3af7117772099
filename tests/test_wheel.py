"""The wheel works away from the repository: its data travel in it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import numpy as np
import pytest

import tuner
from tests.kernels import TINY, kernel, tokens
from tuner.bundle.reader import read_bundle
from tuner.target import can_run, detect

ROOT = Path(__file__).parents[1]

PROGRAM = """\
import json, importlib.metadata, importlib.resources, tuner

def files(folder):
    for entry in folder.iterdir():
        yield from files(entry) if entry.is_dir() else [entry]

package = importlib.resources.files("tuner")
print(json.dumps({
    "place": tuner.__file__,
    "version": importlib.metadata.version("moetune"),
    "templates": {str(f): f.read_text() for f in files(package / "templates")},
    "pages": {f.name: f.read_text() for f in files(package / "report" / "pages")},
    "best": (package / "db" / "best.jsonl").read_text(),
}))
"""


PRINT_PLACE = "import sysconfig; print(sysconfig.get_path('purelib'))"

# A bundle in an environment that has NumPy alone, and what a program does with a layer.
BUNDLE = """\
import json, sys
from pathlib import Path
import numpy as np, tuner

folder = Path(sys.argv[1])
arrays = dict(np.load(folder / "arrays.npz"))
x = arrays.pop("x")
layer = tuner.load(folder / "tiny.moe", tuner.Weights(**arrays), trust="unsigned")
with tuner.trace(folder / "trace.jsonl"):
    answers = {str(count): layer(x[:count]) for count in (1, 13, 200)}
np.savez(folder / "answers.npz", again=layer(x[:1]), **answers)
layer.stats().to_json()
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""

# A layer in bfloat16 on a catalogue of one binary, in the same environment: arrays are bits.
BITS = """\
import json, sys
from pathlib import Path
import numpy as np, tuner
from tuner.target.target import detect

folder, library = map(Path, sys.argv[1:])

class OneBinary:
    problem = tuner.Problem.from_key(json.loads((folder / "problem.json").read_text()))

    def select(self, tokens, load, pack):
        return tuner.Selection(
            template="moe_cpu", variant="one", config={}, pack="p", match="default", reason="",
            distance=0.0, evidence={}, tokens=tokens, load=load, target=detect(),
        )

    def binary(self, selection):
        return library

arrays = dict(np.load(folder / "arrays.npz"))
x = arrays.pop("x")
layer = tuner.Layer(OneBinary(), tuner.Weights(**arrays))
np.savez(folder / "answers.npz", first=layer(x), again=layer(x))
try:
    layer(x.astype(np.float32))
except tuner.MoetuneError as error:
    print(error)
arrays["up"][0, 0, 0] = 0x7FC0  # a NaN
try:
    tuner.Layer(OneBinary(), tuner.Weights(**arrays))
except tuner.MoetuneError as error:
    print(error)
"""
HEAVY = set("click jinja2 max ml_dtypes mojo optuna platformdirs rich sqlite3 sqlite_utils".split())


def run(*command: str | Path, cwd: Path, **more: str) -> str:
    """Output of a command that finds nothing but what is installed."""
    hidden = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    environment |= more
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def built(source: Path, folder: Path) -> Path:
    """The wheel of a folder with sources."""
    folder.mkdir(exist_ok=True)
    options = ("--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check")
    run(sys.executable, "-m", "pip", "wheel", *options, "-w", folder, source, cwd=folder)
    (made,) = folder.glob("moetune-*.whl")
    return made


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(ROOT, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel; the dependencies come from the one that runs the tests."""
    home = tmp_path_factory.mktemp("installed")
    run(sys.executable, "-m", "venv", "--without-pip", home / "venv", cwd=home)
    python = home / "venv" / "bin" / "python"
    options = ("--no-deps", "--no-index", "--disable-pip-version-check")
    run(sys.executable, "-m", "pip", "--python", python, "install", *options, wheel, cwd=home)
    site = Path(run(python, "-c", PRINT_PLACE, cwd=home).strip())
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


@pytest.fixture(scope="module")
def bare_python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel and NumPy, and nothing else."""
    home = tmp_path_factory.mktemp("bare")
    run(sys.executable, "-m", "venv", "--without-pip", home / "venv", cwd=home)
    python = home / "venv" / "bin" / "python"
    options = ("--no-deps", "--no-index", "--disable-pip-version-check")
    run(sys.executable, "-m", "pip", "--python", python, "install", *options, wheel, cwd=home)
    site = Path(run(python, "-c", PRINT_PLACE, cwd=home).strip())
    for name in ("numpy", "numpy.libs"):
        if (there := Path(np.__file__).parents[1] / name).exists():
            (site / name).symlink_to(there)
    return python


def test_the_data_travel_in_the_wheel(python: Path) -> None:
    home = python.parents[2]
    installed = json.loads(run(python, "-c", PROGRAM, cwd=home))
    assert installed["place"].startswith(str(home))
    here = {path for path in (ROOT / "templates").rglob("*") if path.is_file()}
    base = Path(installed["place"]).with_name("templates")
    travelled = {
        str(Path(name).relative_to(base)): text for name, text in installed["templates"].items()
    }
    assert travelled == {
        str(path.relative_to(ROOT / "templates")): path.read_text() for path in here
    }
    assert "moe_cpu.mojo.j2" in travelled
    pages = ROOT / "tuner" / "report" / "pages"
    assert installed["pages"] == {path.name: path.read_text() for path in pages.iterdir()}
    assert installed["best"] == (ROOT / "db" / "best.jsonl").read_text()
    assert installed["version"] == "0.1.0"


def test_only_linux_wants_the_compiler(wheel: Path) -> None:
    """There is none for Windows, and on macOS moetune reads results alone."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        wanted = archive.read(name).decode().splitlines()
    for package in ("max", "mojo"):
        (line,) = (line for line in wanted if line.startswith(f"Requires-Dist: {package}=="))
        assert line.endswith("; sys_platform == 'linux'")


def test_the_image_builds_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    """Of what examples/deploy/Dockerfile copies, and of nothing else."""
    text = (ROOT / "examples" / "deploy" / "Dockerfile").read_text()
    first = text[: text.index("RUN pip wheel")]
    source = tmp_path / "source"
    for line in re.findall(r"^COPY (.+)$", first, re.MULTILINE):
        *names, _ = line.split()
        for name in names:
            place = source / name
            place.parent.mkdir(parents=True, exist_ok=True)
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            copy(ROOT / name, place)
    made = built(source, tmp_path / "wheels")
    contents = [zipfile.ZipFile(path).namelist() for path in (wheel, made)]
    kept = [{name for name in names if "__pycache__" not in name} for names in contents]
    assert kept[0] == kept[1]


def test_the_program_of_the_image_runs_a_bundle(bare_python: Path, tmp_path: Path) -> None:
    """What examples/deploy/Dockerfile starts, with what it installs."""
    program, bundle = ROOT / "examples" / "run_bundle.py", ROOT / "tests" / "former" / "bundle.moe"
    (part,) = read_bundle(bundle, "unsigned").manifest.sections[0].parts
    if not can_run(detect(), part.target.features):
        pytest.skip("this processor does not run code for x86-64-v3")
    cache = {"MOETUNE_CACHE": str(tmp_path / "cache"), "PATH": ""}
    said = run(bare_python, program, bundle, "unsigned", cwd=tmp_path, **cache)
    assert said.splitlines()[0] == "<Layer tiny: D=48 F=40 E=4 k=2, swiglu, softmax, float32"
    assert said.splitlines()[-1].startswith("x [16, 48] -> y [16, 48], by moe_cpu_")


def test_the_command_line_starts(python: Path) -> None:
    said = run(python.with_name("moetune"), "--help", cwd=python.parents[2])
    assert all(command in said for command in ("doctor", "tune", "best", "generate"))


def test_the_header_travels_in_the_wheel(bare_python: Path) -> None:
    program = "import tuner, pathlib; print(pathlib.Path(tuner.__file__).with_name('moetune.h').read_text())"
    said = run(bare_python, "-c", program, cwd=bare_python.parents[2])
    assert said.strip() == (ROOT / "tuner" / "moetune.h").read_text().strip()


@pytest.mark.compiler
def test_numpy_alone_runs_a_bundle(
    bare_python: Path, tmp_path: Path, tiny_bundle: bytes, tiny_db: Path
) -> None:
    """Bit-identical to the tuned session's kernels; the cache is empty, and there is no compiler."""
    weights = tuner.Weights.random(TINY, 3)
    x = tokens(TINY, 200)
    given = {name: array for name, array in vars(weights).items() if array is not None}
    np.savez(tmp_path / "arrays.npz", x=x, **given)
    (tmp_path / "tiny.moe").write_bytes(tiny_bundle)
    cache = {"MOETUNE_CACHE": str(tmp_path / "cache"), "PATH": ""}
    imported = set(json.loads(run(bare_python, "-c", BUNDLE, tmp_path, cwd=tmp_path, **cache)))
    assert imported & HEAVY == set()
    tuned = tuner.load(TINY, weights, tiny_db)
    answers = np.load(tmp_path / "answers.npz")
    for count in (1, 13, 200):
        np.testing.assert_array_equal(answers[str(count)], tuned(x[:count]))
    np.testing.assert_array_equal(answers["again"], answers["1"])


@pytest.mark.compiler
def test_numpy_alone_runs_bfloat16_as_bits(bare_python: Path, tmp_path: Path) -> None:
    problem = TINY.replace(dtype="bfloat16", weight_dtype="bfloat16")
    weights = tuner.Weights.random(problem, 4)
    x = tokens(problem, 3).astype(weights.up.dtype)
    given = {name: array for name, array in vars(weights).items() if array is not None}
    bits = {name: array.view(np.uint16) for name, array in (given | {"x": x}).items()}
    np.savez(tmp_path / "arrays.npz", **bits)
    (tmp_path / "problem.json").write_text(json.dumps(problem.key))
    said = run(bare_python, "-c", BITS, tmp_path, kernel(problem).path, cwd=tmp_path)
    assert said.splitlines() == [
        "x: has shape [3, 48] float32, must be [T, 48] uint16 (the bits of bfloat16; others need "
        "ml_dtypes); reshape or cast it",
        "up: expert 0 holds 1 NaN or Inf, must be finite; load the checkpoint again",
    ]
    answers = np.load(tmp_path / "answers.npz")
    y = tuner.load(problem, weights)(x).view(np.uint16)
    np.testing.assert_array_equal(answers["first"], y)
    np.testing.assert_array_equal(answers["again"], y)


def test_what_is_lacking_is_named(bare_python: Path) -> None:
    program = (
        "import tuner\n"
        "problem = tuner.Problem(hidden=8, expert_dim=8, num_experts=2, top_k=1, dtype='bfloat16')\n"
        "try: tuner.Weights.random(problem, 0)\n"
        "except tuner.MoetuneError as error: print(error)"
    )
    said = run(bare_python, "-c", program, cwd=bare_python.parents[2])
    assert said == "bfloat16: NumPy has none of its own; pip install ml_dtypes\n"
