"""Doctor: every check says what is there or what is wrong and what mends it."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

import pytest

from tests.rows import add_winner
from tuner import doctor
from tuner.cli import main
from tuner.codegen.compile import Binary
from tuner.store.database import Database
from tuner.target import detect


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which nothing is installed."""
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CC", raising=False)
    for place in ("tuner.host.toolchain", "tuner.doctor", "tuner.target.target"):
        monkeypatch.setattr(f"{place}.find_mojo", lambda: None)


def findings(database: Path) -> dict[str, doctor.CheckResult]:
    return {finding.name: finding for finding in doctor.diagnose(database)}


def built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    """The build is there, and calling what it made runs a Python program instead."""
    monkeypatch.setattr(doctor, "find_mojo", lambda: tmp_path)
    monkeypatch.setattr(doctor, "find_linker", lambda: tmp_path)
    binary = Binary(tmp_path / "kernel.so", "key", 1.5, False)
    monkeypatch.setattr(doctor, "compile_source", lambda *_, **__: binary)
    monkeypatch.setattr(doctor, "_CALL", program)


@pytest.mark.usefixtures("no_compiler")
def test_no_mojo_and_no_linker(database: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 1
    lines = capsys.readouterr().out.splitlines()
    states = {line.split()[1]: (line.split()[0], line.split(maxsplit=2)[2]) for line in lines}
    assert states["mojo"] == (
        "problem",
        "mojo: not found beside this Python nor on PATH; pip install moetune installs it",
    )
    assert states["linker"] == (
        "problem",
        "no C linker: none of $CC, cc, gcc, clang is there; apt-get install gcc",
    )
    assert states["build"][0] == "problem"
    assert states["machine"][0] == states["templates"][0] == "ok"
    assert not database.exists()


@pytest.mark.usefixtures("no_compiler")
def test_json_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json", "--ceilings"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["ok"] is False
    assert "ceilings" not in told
    names = [check["name"] for check in told["checks"]]
    assert names[:4] == ["machine", "python", "mojo", "linker"]


@pytest.mark.usefixtures("no_compiler")
def test_the_database(database: Path) -> None:
    assert "not there yet; `moetune tune` or `moetune import` makes it" in (
        findings(database)["database"].text
    )
    with Database(database) as db:
        add_winner(db, 16)
        add_winner(db, 16, target=detect())
    found = findings(database)["database"]
    assert (found.status, found.text) == ("ok", f"{database}: 2 winners, 1 of this machine")
    database.write_text("nonsense" * 200)
    for path in database.parent.glob(f"{database.name}-*"):
        path.unlink()
    found = findings(database)["database"]
    assert found.status == "problem"
    assert "is not a database; move it away" in found.text


@pytest.mark.usefixtures("no_compiler")
def test_a_cache_folder_that_cannot_be_used(
    database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MOETUNE_CACHE", str(tmp_path / "file" / "cache"))
    found = findings(database)["cache"]
    assert found.status == "problem"
    assert "cannot be written; mend its permissions, or name another cache folder" in found.text
    monkeypatch.setenv("MOETUNE_CACHE", str(tmp_path / "not" / "there"))
    assert findings(database)["cache"].text.endswith("GiB free")
    monkeypatch.setattr(doctor, "_LEAST_FREE_BYTES", 1 << 80)
    assert "MiB free; make room" in findings(database)["cache"].text


@pytest.mark.usefixtures("no_compiler")
def test_a_database_that_can_only_be_read_is_a_warning(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    found = findings(database)["recording"]
    assert found.status == "warning"
    assert "make it writable, or name another database with --db" in found.text


@pytest.mark.usefixtures("no_compiler")
def test_another_python(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 10, 1))
    found = findings(database)["python"]
    assert found.status == "problem"
    assert found.text.endswith("must be 3.11 to 3.13; use one")


@pytest.mark.parametrize(
    ("program", "status", "text"),
    [
        ("print(42)", "ok", "compiled, loaded and called a library in 1.5 s"),
        ("import os; os.kill(os.getpid(), 4)", "problem", "(status -4); name an older --target"),
        ("raise OSError('no such symbol')", "problem", "(OSError: no such symbol)"),
    ],
)
def test_a_library_that_does_not_run(
    program: str,
    status: str,
    text: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    database: Path,
) -> None:
    built(tmp_path, monkeypatch, program)
    found = findings(database)["build"]
    assert found.status == status
    assert text in found.text


@pytest.mark.compiler
@pytest.mark.timed
def test_a_machine_that_works(
    database: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", "--ceilings"]) == 0
    out = capsys.readouterr().out
    assert "compiled, loaded and called a library" in out
    assert re.search(r"^limit +fma +[0-9.]+ GFLOP/s$", out, re.MULTILINE)
    assert list(cache.glob(".doctor-*")) == []
    with Database(database, read_only=True) as db:
        limits = db.ceilings(detect().digest)
    units = {name: row.unit for name, row in limits.items() if "dot" not in name}
    assert units["fma"] == units["fma 1 core"] == "GFLOP/s"
    assert units["read"] == units["read L1d"] == units["read L2 1 core"] == "GB/s"
    assert units["handoff phase"] == units["handoff wake"] == "us"
    assert all(row.value > 0 for row in limits.values())
