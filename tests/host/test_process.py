from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from tuner.host import process
from tuner.host.process import Children, NoLongerWanted, run
from tuner.host.toolchain import find_linker, find_mojo

ROOT = Path(__file__).parents[2]


def executable(path: Path, text: str = "#!/bin/sh\n") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def gone(pid: int) -> bool:
    """Whether the process ended; one that nobody has reaped yet counts as ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def until(holds: Callable[[], bool], most_s: float = 20.0) -> None:
    """Waits until something holds."""
    end = time.monotonic() + most_s
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_run_returns_output_and_code() -> None:
    done = run(["sh", "-c", "echo out; echo err >&2; exit 3"], timeout_s=10)
    assert (done.returncode, done.stdout, done.stderr) == (3, "out\n", "err\n")
    assert not done.timed_out
    assert 0 < done.seconds < 10


def test_run_adds_to_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEPT", "1")
    assert run(["sh", "-c", "echo $KEPT$ADDED"], 10, env={"ADDED": "2"}).stdout == "12\n"


def test_run_gives_no_input() -> None:
    assert run(["cat"], timeout_s=10).stdout == ""


def test_run_survives_output_that_is_no_text() -> None:
    assert run(["printf", r"a\377b"], timeout_s=10).stdout == "a\ufffdb"


def test_run_reports_the_signal() -> None:
    assert run(["sh", "-c", "kill -9 $$"], timeout_s=10).returncode == -9


def test_the_limit_kills_the_whole_group() -> None:
    done = run(["sh", "-c", "sleep 60 & echo $!; wait"], timeout_s=0.3)
    assert done.timed_out
    assert done.seconds < 10
    child = int(done.stdout)
    deadline = time.monotonic() + 5
    while not gone(child) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert gone(child)


def test_a_process_that_left_the_group_does_not_hold_run_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(process, "_DRAIN_S", 0.2)
    done = run(["sh", "-c", "echo before; setsid sleep 3 & wait"], timeout_s=0.3)
    assert done.timed_out
    assert done.stdout == "before\n"
    assert done.seconds < 2.5


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_what_runs_ends_with_this_process_whatever_ends_it(
    number: signal.Signals, tmp_path: Path
) -> None:
    note = tmp_path / "note"
    command = ["sh", "-c", f"sleep 600 & echo $$ $! > {note}; wait"]
    program = f"from tuner.host.process import run; run({command!r}, 600)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    parent = subprocess.Popen([sys.executable, "-c", program], env=environment)
    until(lambda: note.exists() and note.read_text().endswith("\n"))
    parent.send_signal(number)
    assert parent.wait() == -number
    left = [int(word) for word in note.read_text().split()]
    until(lambda: all(map(gone, left)))


def test_the_watchdog_is_nobody_s_child() -> None:
    """Else who waits for all of his children would wait for it, too."""
    program = (
        "import os\nfrom tuner.host.process import run\nrun(['true'], 60)\n"
        "try: os.wait()\nexcept ChildProcessError: print('none')"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, timeout=30, text=True
    )
    assert (done.stdout, done.stderr) == ("none\n", "")


def test_a_fork_has_a_watchdog_of_its_own(tmp_path: Path) -> None:
    """The parent's must not wait for the child, nor the child's for the parent."""
    note = tmp_path / "note"
    command = ["sh", "-c", f"echo $$ > {note}; sleep 600"]
    program = (
        "import os\nfrom tuner.host.process import run\nrun(['true'], 60)\n"
        f"if os.fork() == 0: run({command!r}, 600)\nelse: os.wait()"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    parent = subprocess.Popen([sys.executable, "-c", program], env=environment)
    until(lambda: note.exists() and note.read_text().endswith("\n"))
    (child,) = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
    os.kill(int(child), signal.SIGKILL)
    parent.wait()
    until(lambda: gone(int(note.read_text())))


def test_children_are_ended_together() -> None:
    children = Children()
    with ThreadPoolExecutor(2, initializer=children.adopt) as pool:
        jobs = [pool.submit(run, ["sleep", "600"], 600) for _ in range(3)]
        until(lambda: len(children._running) == 2)
        children.end()
        for job in jobs:
            with pytest.raises(NoLongerWanted, match="ended, since the work that needed it"):
                job.result(timeout=10)
    assert run(["true"], 10).returncode == 0  # of this thread, which has not joined them


def test_an_exception_ends_what_a_pool_runs() -> None:
    begun = time.monotonic()
    jobs: list[Future[process.Completed]] = []
    with contextlib.suppress(KeyboardInterrupt), process.pool(2) as threads:
        jobs += [threads.submit(run, ["sleep", "600"], 600) for _ in range(4)]
        until(lambda: jobs[0].running() and jobs[1].running())
        raise KeyboardInterrupt
    assert time.monotonic() - begun < 20
    assert [job.cancelled() for job in jobs] == [False, False, True, True]


def test_run_of_an_absent_program() -> None:
    with pytest.raises(FileNotFoundError, match="no-such-program"):
        run(["no-such-program"], timeout_s=1)


def test_mojo_beside_python_comes_before_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_path = executable(tmp_path / "path" / "mojo")
    monkeypatch.setenv("PATH", str(on_path.parent))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "venv" / "python"))
    assert find_mojo() == on_path
    beside = executable(tmp_path / "venv" / "mojo")
    assert find_mojo() == beside


def test_no_mojo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    assert find_mojo() is None


def test_linker_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CC", "my-cc")
    found = [find_linker()]
    for name in ("clang", "gcc", "cc", "my-cc"):
        executable(tmp_path / name)
        found.append(find_linker())
    assert [path and path.name for path in found] == [None, "clang", "gcc", "cc", "my-cc"]
