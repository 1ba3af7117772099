"""The comparison of searches on a synthetic grid: every method gives new, valid points."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from tests import grids
from tests.benchmark_scripts import script
from tuner.search import replay

SMALL = grids.SPACE.narrow({"rows": (2, 4, 8, 12), "unroll": (1, 4, 8), "prefetch": (0, 32)})


@pytest.fixture
def compare(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return script("search_compare", monkeypatch)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return grids.write(tmp_path / "synthetic.t4.json.gz", SMALL)


def test_methods_try_each_point_once(compare: ModuleType, path: Path, tmp_path: Path) -> None:
    grid = replay.load(path)
    methods = compare.methods("a", {"a": grid, "b": grid}, tmp_path)
    assert "ours, warm from b" in methods
    for name, method in methods.items():
        if name.startswith("Kernel Tuner"):
            continue
        keys = [replay.key(grid.space, config) for config in method(grid, 1, 9)]
        assert len(set(keys)) == 9, name
        assert set(keys) <= set(grid.answers), name


def test_a_warm_start_is_the_best_of_the_other_grid(
    compare: ModuleType, path: Path, tmp_path: Path
) -> None:
    grid = replay.load(path)
    method = compare.methods("a", {"a": grid, "b": grid}, tmp_path)["ours, warm from b"]
    (first,) = method(grid, 0, 1)
    assert grid.answer(first).ratio == grid.best


def test_kernel_tuners_strategies(compare: ModuleType, tmp_path: Path) -> None:
    pytest.importorskip("kernel_tuner")
    # Of fewer points than its population, its differential evolution fails now and then.
    grid = replay.load(grids.write(tmp_path / "large.t4.json.gz", grids.SPACE))
    methods = compare.methods("a", {"a": grid}, tmp_path)
    names = [name for name in methods if name.startswith("Kernel Tuner")]
    assert len(names) == 6
    for name in names:
        tried = methods[name](grid, 1, 12)
        keys = [replay.key(grid.space, config) for config in tried]
        assert len(set(keys)) == len(keys), name
        assert set(keys) <= set(grid.answers), name
        assert 1 <= len(keys) <= 12, name


def test_the_table_and_the_picture(
    compare: ModuleType, path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    picture = tmp_path / "search.svg"
    words = [str(path), "--seeds", "3", "--trials", "30"]
    asked = ["--method", "grid order", "--method", "tpe, ordinal", "--method", "ours"]
    assert compare.main([*words, *asked, "--plot", str(picture)]) == 0
    said = capsys.readouterr().out
    assert "**synthetic**: " in said
    rows = [line.split(" | ") for line in said.splitlines() if line.startswith("| ")]
    assert [row[0] for row in rows[1:]] == ["| ours", "| tpe, ordinal", "| grid order"]
    assert rows[1][-1] == "3 of 3 |"
    assert "<svg" in picture.read_text()


def test_a_method_that_no_grid_has(
    compare: ModuleType, path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compare.main([str(path), "--method", "ours", "--method", "theirs"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: method='theirs': not known; use ours; ours, random start; ")


def test_a_file_that_is_no_grid(
    compare: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compare.main([str(tmp_path / "none.t4.json")]) == 1
    assert "cannot be read" in capsys.readouterr().err
