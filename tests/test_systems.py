"""Other systems than Linux: what works there works, and the rest says at once that it doesn't."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.rows import add_winner
from tuner.store.database import Database

ROOT = Path(__file__).parents[1]
SAID = "this machine runs macOS on arm64: kernels are tuned, compiled and run on Linux on x86-64; use a"


def python(program: str, *words: str | Path) -> subprocess.CompletedProcess[str]:
    """A program on what seems to be macOS."""
    text = f"from tests.systems import pretend\npretend()\n{program}"
    here = os.environ | {"PYTHONPATH": str(ROOT), "PATH": ""}
    return subprocess.run(
        [sys.executable, "-c", text, *words], env=here, capture_output=True, text=True
    )


def moetune(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return python("import sys; from tuner.cli import main; sys.exit(main(sys.argv[1:]))", *words)


def test_macos_reads_results(database: Path) -> None:
    with Database(database) as db:
        add_winner(db, 16)
    program = """
import sys
from pathlib import Path
import tuner
assert tuner.Client and tuner.Problem.preset("granite-3.0-1b-a400m")
with tuner.Database(sys.argv[1], read_only=True) as db:
    print(len(db.best()))
print(tuner.bundle.open_bundle.__name__)
"""
    done = python(program, database)
    assert (done.stdout, done.stderr) == ("1\nopen_bundle\n", "")
    bundle = ROOT / "tests" / "former" / "bundle.moe"
    verified = moetune("bundle", "verify", bundle, "--trust", "unsigned")
    assert verified.stdout.startswith(f"{bundle}: whole, ")
    assert moetune("--help").returncode == 0


def test_macos_runs_no_kernel() -> None:
    program = """
import tuner
problem = tuner.Problem(hidden=48, expert_dim=40, num_experts=4, top_k=2)
for ask in (tuner.target.detect, lambda: tuner.load(problem, tuner.Weights.random(problem, 0))):
    try:
        ask()
    except tuner.errors.TargetError as error:
        print(error)
"""
    done = python(program)
    assert [line.startswith(SAID) for line in done.stdout.splitlines()] == [True, True], done
    for words in (["tune", "granite-3.0-1b-a400m", "--time", "1m"], ["bench", "olmoe-1b-7b"]):
        done = moetune(*words)
        assert done.returncode == 2
        assert done.stderr.startswith(f"moetune: {SAID}"), done


def test_the_doctor_says_so_at_once() -> None:
    done = moetune("doctor", "--json")
    told = json.loads(done.stdout)
    assert (done.returncode, told["ok"]) == (1, False)
    states = {check["name"]: check["status"] for check in told["checks"]}
    assert states == {"machine": "problem", "python": "ok", "shipped": "ok"}
    assert told["checks"][0]["text"].startswith(SAID)


@pytest.mark.parametrize("name", ["tuner", "tuner.client", "tuner.cli"])
def test_windows_is_told_by_the_import(name: str) -> None:
    program = f"import sys; sys.platform = 'win32'; import {name}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.endswith(
        "ImportError: moetune runs on Linux on x86-64, and reads results on macOS; on Windows use WSL, "
        "the Windows Subsystem for Linux\n"
    )
