"""No test reads or writes the user's database and cache."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.commands import Run, Said
from tests.kernels import TINY
from tests.shipped import record
from tuner.bundle.build import build
from tuner.cli import main
from tuner.host.toolchain import find_linker, find_mojo
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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if find_mojo() and find_linker():
        return
    for item in items:
        if item.get_closest_marker("compiler"):
            item.add_marker(pytest.mark.skip(reason="needs mojo and a C linker"))
