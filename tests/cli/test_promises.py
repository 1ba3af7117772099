"""Promises of the command line: commands that read make nothing, a dry run does nothing, each end is told."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import tuner
from tests.commands import Run
from tests.host.test_process import begun, gone, until
from tests.kernels import TINY
from tests.rows import add_winner
from tuner.cli import endings, forecast
from tuner.errors import DatabaseError
from tuner.store.database import Database
from tuner.target import detect
from tuner.tune.estimate import Estimate

ROOT = Path(__file__).parents[2]
SMALL = "--hidden 64 --expert-dim 32 --experts 4 --top-k 2"
# Commands that only read a database, and what each says of a default one that is not there yet: its exit code,
# and a part of its words; None where it needs a compiler for more.
READING = {
    f"best {SMALL} --tokens 1": (0, "match     default: the template's default: no winner"),
    f"explain {SMALL} --tokens 1": (1, "no trial at 1 tokens, load uniform, on "),
    "export {out}": (1, "is not there or out of reach; tune or import first"),
    f"report {SMALL}": (1, "is not there or out of reach; tune or import first"),
    "audit": (0, "no database yet, hence 0 winners; `moetune tune` makes it"),
    "token list": (0, "scopes"),
    f"bundle build {SMALL} -o {{out}}": None,
    f"bench {SMALL} --tokens 1 --against numpy": None,
    "validate": None,
}


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands ask for the toolchain before they look elsewhere."""
    monkeypatch.setattr("tuner.doctor.require_toolchain", lambda: None)
    monkeypatch.setattr("tuner.target.target.find_mojo", lambda: None)


@pytest.mark.usefixtures("no_compiler")
@pytest.mark.parametrize("command", READING)
def test_a_database_that_is_named_has_to_be_there(
    command: str, moetune: Run, tmp_path: Path
) -> None:
    line = command.format(out=tmp_path / "out")
    before = sorted(tmp_path.rglob("*"))
    said = moetune(f"{line} --db {tmp_path / 'typo.sqlite3'}")
    assert (said.code, said.out) == (1, "")
    assert f"moetune: {tmp_path / 'typo.sqlite3'}: is not there or out of reach" in said.err
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.usefixtures("no_compiler")
@pytest.mark.parametrize(("command", "told"), [(c, t) for c, t in READING.items() if t])
def test_the_default_database_may_not_be_there_yet(
    command: str, told: tuple[int, str], moetune: Run, tmp_path: Path
) -> None:
    before = sorted(tmp_path.rglob("*"))
    said = moetune(command.format(out=tmp_path / "out"))
    code, words = told
    assert said.code == code
    assert words in said.out + said.err
    assert sorted(tmp_path.rglob("*")) == before


def test_a_token_is_for_a_database_that_is_there(moetune: Run, tmp_path: Path) -> None:
    for name in ("typo.sqlite3", ""):
        said = moetune(f"token create x --db '{tmp_path / name}'")
        assert (said.code, said.out) == (1, "")
    assert list(tmp_path.iterdir()) == []


def test_python_holds_to_the_same(tmp_path: Path) -> None:
    weights = tuner.Weights.random(TINY, seed=0)
    typo = tmp_path / "typo.sqlite3"
    with pytest.raises(DatabaseError, match=r"typo\.sqlite3: is not there or out of reach"):
        tuner.best_config(TINY, 1, db=typo)
    with pytest.raises(DatabaseError, match=r"typo\.sqlite3: is not there or out of reach"):
        tuner.load(TINY, weights, db=typo)
    with pytest.raises(DatabaseError, match="is a folder, not a file"):
        tuner.best_config(TINY, 1, db=tmp_path)
    assert tuner.best_config(TINY, 1).match == "default"
    assert not typo.exists()


def test_a_layer_answers_when_its_database_is_gone(tmp_path: Path) -> None:
    """It is asked for at the start; a call is no time for an error."""
    from tuner.runtime.from_database import Tuned

    path = tmp_path / "tuned.sqlite3"
    with Database(path) as db:
        add_winner(db, 16, problem=TINY, target=detect(), compiler="")
    tuned = Tuned(TINY, path)
    path.unlink()
    assert tuned.select(16, "uniform", None).match == "default"


@pytest.mark.usefixtures("no_compiler")
def test_an_offline_round_has_no_dry_run_and_makes_nothing(moetune: Run, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    said = moetune(f"tune {SMALL} --tokens 1 --offline {tmp_path / 'job'} --dry-run")
    assert (said.code, said.out) == (2, "")
    assert "--dry-run: is for sessions on this machine" in said.err
    assert sorted(tmp_path.rglob("*")) == before


def test_an_offline_round_makes_no_database(
    moetune: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it knows it reads; `tell` makes the database."""
    monkeypatch.setattr("tuner.doctor.require_toolchain", lambda: None)
    monkeypatch.setattr("tuner.cli.commands.job.make_job", lambda *_: pytest.fail("asked"))
    with pytest.raises(pytest.fail.Exception):
        moetune(f"tune {SMALL} --tokens 1 --offline {tmp_path / 'job'} --db {tmp_path / 'new'}")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def estimated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Estimates that ask no compiler."""
    monkeypatch.setattr("tuner.doctor.require_toolchain", lambda: None)
    monkeypatch.setattr("tuner.target.target.find_mojo", lambda: None)
    monkeypatch.setattr("tuner.tune.estimate.toolchain_version", lambda: "Mojo 1")
    monkeypatch.setattr("tuner.tune.estimate.is_cached", lambda text, target: False)


@pytest.mark.usefixtures("estimated")
def test_a_dry_run_needs_no_memory_and_says_what_a_session_would(
    moetune: Run, monkeypatch: pytest.MonkeyPatch, database: Path
) -> None:
    monkeypatch.setattr("tuner.problem.footprint.available_bytes", lambda: 1 << 20)
    said = moetune("tune mixtral-8x7b --tokens 1 --trials 4 --dry-run --json")
    assert said.code == 0
    assert json.loads(said.out)["cells"][0]["trials"] == 4
    assert "a session would be refused here: mixtral-8x7b: 3 copies of its weights" in said.err
    refused = moetune("tune mixtral-8x7b --tokens 1 --trials 4")
    assert (refused.code, refused.out) == (2, "")
    assert not database.exists()


@pytest.mark.usefixtures("estimated")
def test_a_time_that_is_too_short_is_told_before(moetune: Run) -> None:
    short = moetune(f"tune {SMALL} --tokens 1,16 --time 5s --dry-run")
    assert "--time 5s: is too short; " in short.out
    assert "stops after" not in short.out
    long = moetune(f"tune {SMALL} --tokens 1 --time 30m --dry-run")
    assert "too short" not in long.out
    assert "; stops after 30:00" in long.out


def test_shortage_is_that_of_the_estimate() -> None:
    assert forecast.shortage(Estimate((), 30.0, 0.0, None)) == ""
    assert forecast.shortage(Estimate((), 30.0, 0.0, 30.0)) == ""
    assert forecast.shortage(Estimate((), 30.0, 10.0, 25.0)) == (
        "--time 25s: is too short; weights and right answers, the default, and the finals take about 0:40 "
        "here, with 0 new trials"
    )


def start(*arguments: str, **more: object) -> subprocess.Popen[str]:
    """A command line in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.Popen(
        [sys.executable, *arguments],
        stderr=subprocess.PIPE, text=True, env=environment, cwd=ROOT, **more,  # type: ignore[call-overload]
    )  # fmt: skip


BEST = ("-m", "tuner", "best", *SMALL.split(), "--tokens", "1", "--json")


def test_a_stdout_that_takes_nothing_is_told_once() -> None:
    with Path("/dev/full").open("w") as full:
        done = start(*BEST, stdout=full)
        _, said = done.communicate()
    assert (done.returncode, said) == (
        1,
        "moetune: output: No space left on device; mend it, or name another\n",
    )


def test_who_reads_no_further_hears_nothing_of_it() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = start(*BEST, stdout=writing)
    os.close(writing)
    _, said = done.communicate()
    assert (done.returncode, said) == (1, "")


def test_no_stdout_at_all() -> None:
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" >&-', "sh", sys.executable, *BEST],
        stderr=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


SYSTEM = {
    OSError(28, "No space left on device", "/x/y"): "/x/y: No space left on device; mend it",
    OSError("odd"): "output: odd; mend it",
    MemoryError(): "out of memory; ask for a smaller layer or fewer tokens",
    MemoryError("Unable to allocate 1 TiB"): "out of memory (Unable to allocate 1 TiB); ask",
    RecursionError(): "the input is nested too deeply; give a file that a tool wrote",
    UnicodeEncodeError("ascii", "a\u2192", 1, 2, "no"): (
        "output: its encoding ascii has no '\\u2192'; set PYTHONIOENCODING=utf-8"
    ),
}


@pytest.mark.parametrize("error", SYSTEM, ids=lambda error: type(error).__name__)
def test_errors_of_the_system_are_a_line_each(
    error: BaseException, moetune: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("tuner.cli.commands.best.best_config", fail)
    said = moetune(f"best {SMALL} --tokens 1")
    assert (said.code, said.out, said.err.count("\n")) == (1, "", 1)
    assert said.err.startswith(f"moetune: {SYSTEM[error]}")


@pytest.fixture
def heard() -> Iterator[None]:
    """Signals as in a terminal; who starts a command in the background may have it ignore Ctrl-C."""
    usual = {
        signal.SIGINT: signal.default_int_handler,
        signal.SIGTERM: signal.SIG_DFL,
        signal.SIGHUP: signal.SIG_DFL,
    }
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)]
)
@pytest.mark.usefixtures("estimated", "heard")
def test_a_signal_ends_a_session_as_ctrl_c_does(
    number: signal.Signals, code: int, moetune: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tuner.tune.run.tune", lambda *_: signal.raise_signal(number))
    said = moetune(f"tune {SMALL} --tokens 1 --trials 1")
    assert said.code == code
    assert said.err.endswith(
        "moetune: stopped; everything measured is kept, and the same command goes on from there\n"
    )
    monkeypatch.setattr(
        "tuner.cli.commands.best.best_config", lambda *_: signal.raise_signal(number)
    )
    said = moetune(f"best {SMALL} --tokens 1")
    assert (said.code, said.err.strip()) == (code, "moetune: stopped")
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_signal_that_is_ignored_stays_so() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with endings.ended_by_signals():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)


STOPPED = [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130), (signal.SIGKILL, -9)]


@pytest.mark.usefixtures("heard")
@pytest.mark.parametrize(("number", "code"), STOPPED)
def test_a_stopped_session_leaves_no_compiler(
    number: signal.Signals, code: int, tmp_path: Path
) -> None:
    """The compiler is a script that does not end."""
    mojo = tmp_path / "mojo"
    mojo.write_text(
        f"""#!/bin/sh
case "$*" in
  *--version*) echo "Mojo 9.9";;
  *) echo $$ >> {tmp_path}/builds; sleep 600; exit 1;;
esac
"""
    )
    mojo.chmod(0o755)
    program = (
        "import sys\nfrom pathlib import Path\n"
        "import tuner.host.toolchain as t, tuner.target.target as g\n"
        f"t.find_mojo = lambda: Path({str(mojo)!r}); g.find_mojo = lambda: None\n"
        "from tuner.measure.worker import Worker\nfrom tuner.target.roofline import Ceilings\n"
        "Worker.ceilings = lambda self: Ceilings(50.0, 10.0)\n"  # measuring them takes some seconds
        "from tuner.cli import main\n"
        f"sys.exit(main('tune {SMALL} --tokens 1 --trials 4'.split()))"
    )
    session = start("-c", program, stdout=subprocess.DEVNULL)
    compilers = begun(tmp_path / "builds")
    session.send_signal(number)
    sent = time.monotonic()
    session.communicate()
    assert session.returncode == code
    assert time.monotonic() - sent < 10
    until(lambda: all(map(gone, compilers)))
