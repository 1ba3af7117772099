"""No test reads or writes the user's database and cache."""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.commands import Run, Said
from tests.hosts import HOSTS, on
from tests.kernels import TINY
from tests.shipped import record
from tuner.bundle.build import build
from tuner.cli import main
from tuner.process import find_linker, find_mojo
from tuner.target import detect


@pytest.fixture(autouse=True, scope="session")
def session_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One compile cache for all tests: what one has compiled, the others find. Fixtures of a wider
    scope than a test find no database, either."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # its base is a folder of its own in the run's
        base = base.parent
    folder = base / "compiled"
    folder.mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOETUNE_CACHE", str(folder))
        patch.setenv("MOETUNE_DB", str(folder / "none.sqlite3"))
        yield folder


@pytest.fixture(scope="session")
def tiny_db(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database where the default won the tiny problem at every number of tokens."""
    path = tmp_path_factory.mktemp("tuned") / "tuning.sqlite3"
    record(path)
    return path


@pytest.fixture(scope="session")
def tiny_bundle(session_cache: Path, tiny_db: Path) -> bytes:
    """An unsigned bundle of it for this machine, as `moetune bundle build` makes it. Needs the compiler."""
    return build([TINY], [detect()], tiny_db)


@pytest.fixture(autouse=True)
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """MOETUNE_DB names a file that is not there yet, MOETUNE_TRUST a folder."""
    path = tmp_path / "tuning.sqlite3"
    monkeypatch.setenv("MOETUNE_DB", str(path))
    monkeypatch.setenv("MOETUNE_TRUST", str(tmp_path / "trusted"))
    return path


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty compile cache of the test's own."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("MOETUNE_CACHE", str(folder))
    return folder


@pytest.fixture
def moetune(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command line in this process."""

    def run(line: str) -> Said:
        code = main(shlex.split(line))
        return Said(code, *capsys.readouterr())

    return run


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--host", choices=list(HOSTS), help="run the tests that need no compiler as on this machine"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Before any module of tests is imported: some ask for the host then."""
    if name := config.getoption("--host"):
        there = contextlib.ExitStack()
        there.enter_context(on(HOSTS[name]))
        config.add_cleanup(there.close)


def pytest_report_header(config: pytest.Config) -> str | None:
    return "as on this machine: " + detect().describe() if config.getoption("--host") else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--host"):  # what is compiled or timed runs on the true one
        true = [
            i for i in items if i.get_closest_marker("compiler") or i.get_closest_marker("timed")
        ]
        items[:] = [item for item in items if item not in true]
        config.hook.pytest_deselected(items=true)
        return
    if find_mojo() and find_linker():
        return
    for item in items:
        if item.get_closest_marker("compiler"):
            item.add_marker(pytest.mark.skip(reason="needs mojo and a C linker"))
