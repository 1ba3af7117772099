"""Where files lie for a user with a home folder, and for one without."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.commands import Run
from tuner.errors import UsageError
from tuner.host.paths import cache_dir, data_dir, traces_dir, trust_dir

VARIABLES = (
    "MOETUNE_CACHE MOETUNE_DB MOETUNE_TRUST XDG_CACHE_HOME XDG_DATA_HOME XDG_CONFIG_HOME HOME"
)


@pytest.fixture
def nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user without HOME and without an entry in passwd; the folder of temporary files is given."""

    def fail(*_: object) -> None:
        raise RuntimeError("Could not determine home directory.")

    for name in VARIABLES.split():
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", fail)
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def test_a_cache_without_a_home_folder_is_this_user_s_alone(nobody: Path) -> None:
    folder = nobody / f"moetune-cache-{os.getuid()}"
    assert cache_dir() == cache_dir() == folder
    assert folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    "make",
    [
        lambda folder: folder.mkdir(mode=0o777) or folder.chmod(0o777),
        lambda folder: folder.symlink_to(folder.parent),
    ],
)
def test_a_cache_that_others_could_fill_is_none(nobody: Path, make: Callable[[Path], None]) -> None:
    make(nobody / f"moetune-cache-{os.getuid()}")
    with pytest.raises(UsageError, match="others can write there; set HOME, or MOETUNE_CACHE to"):
        cache_dir()


def test_no_place_for_a_cache(nobody: Path) -> None:
    (nobody / f"moetune-cache-{os.getuid()}").write_text("")
    with pytest.raises(UsageError, match=r"no folder for the cache can be made \(.*\); set HOME"):
        cache_dir()


@pytest.mark.parametrize(
    ("folder", "variable"),
    [(data_dir, "MOETUNE_DB"), (traces_dir, "MOETUNE_DB"), (trust_dir, "MOETUNE_TRUST")],
)
def test_what_is_the_user_s_own_needs_a_place(
    nobody: Path, folder: Callable[[], Path], variable: str
) -> None:
    told = f"user {os.getuid()}: has no home folder .*; set HOME, or {variable} to a "
    with pytest.raises(UsageError, match=told):
        folder()


def test_the_specification_s_variables_come_before_a_home_folder(
    nobody: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/c")
    monkeypatch.setenv("XDG_DATA_HOME", "relative")
    monkeypatch.setenv("HOME", "/h")
    monkeypatch.setattr(Path, "home", lambda: Path("/h"))
    assert (cache_dir(), data_dir()) == (Path("/c/moetune"), Path("/h/.local/share/moetune"))


@pytest.mark.usefixtures("nobody")
def test_a_command_says_what_to_name(moetune: Run) -> None:
    said = moetune("best classic-moe --tokens 1")
    assert (said.code, said.out) == (2, "")
    assert re.fullmatch(
        r"moetune: user \d+: has no home folder .* to a database's file\n", said.err
    )
