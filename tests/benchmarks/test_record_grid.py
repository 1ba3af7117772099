"""A grid recorded for real: built, verified, timed, stopped and resumed, and searched again."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import jsonschema
import pytest

from tests.benchmark_scripts import script
from tests.store.test_t4 import SCHEMA
from tuner.search import replay
from tuner.search.search import Search
from tuner.store import t4
from tuner.target import Target

# The grids hold vectors of 16 numbers: on a narrower machine they are much smaller.
AVX512 = Target("amd", "znver4", ("avx2", "avx512bf16", "avx512f"), 2, 32 << 10, 1 << 20, 32 << 20)
CELL = (
    "--model granite-3.0-1b-a400m --hidden 64 --expert-dim 48 --experts 4 --top-k 2 --tokens 8 "
    "--grid chunks=1,2;combine=0,1"
)


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return script("record_grid", monkeypatch)


def test_the_grids_that_are_recorded_are_large_and_hold_the_default(recorder: ModuleType) -> None:
    for model, dtype, tokens in recorder.GRIDS:
        command = f"--model {model} --dtype {dtype} --tokens {tokens} --db x --out y".split()
        found = recorder.Recorder(recorder.parser().parse_args(command), AVX512)
        assert 500 <= len(found.variants) <= 700
        assert found.variants[0].config == found.space.default


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("", "--grid: missing; only these cells have one of their own: granite-3.0-1b-a400m"),
        ("--grid chunks", "--grid 'chunks': "),
        ("--grid chunks=a", "--grid 'chunks=a': "),
        ("--grid chunks=3", "chunks=3: must be one of"),
        ("--grid chunk=1", "chunk: no parameter of moe_cpu"),
    ],
)
def test_a_grid_that_makes_no_sense(
    recorder: ModuleType, capsys: pytest.CaptureFixture[str], options: str, message: str
) -> None:
    words = f"--model granite-3.0-1b-a400m --tokens 3 --db x --out y {options}".split()
    assert recorder.main(words) != 0
    assert message in capsys.readouterr().err


@pytest.mark.compiler
@pytest.mark.slow
def test_it_goes_on_where_it_was_stopped(
    recorder: ModuleType,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "small.t4.json.gz"
    words = [*CELL.split(), "--db", str(tmp_path / "grid.sqlite3"), "--out", str(out)]
    monkeypatch.setattr(recorder, "BATCH", 2)
    assert recorder.main([*words, "--budget", "0.01s"]) == 0
    said = capsys.readouterr().err
    assert "4 points, 0 recorded, 4 to do" in said
    assert "the time is over; the same command goes on" in said
    assert len(replay.load(out).missing) == 2

    assert recorder.main(words) == 0
    assert "4 points, 2 recorded, 2 to do" in capsys.readouterr().err
    content = t4.read(out)
    jsonschema.validate(content, SCHEMA)
    assert [result["invalidity"] for result in content["results"]] == ["correct"] * 4
    grid = replay.load(out)
    assert grid.missing == ()
    assert 0.5 < grid.answer(grid.space.default).ratio < 2  # type: ignore[operator]
    assert len(replay.run(grid, Search(grid.space, 0), 9)) == 4

    assert recorder.main(words) == 0  # but for races of points that are near the best, once more
    assert "4 recorded, 0 to do" in capsys.readouterr().err
    again = t4.read(out)["results"]
    assert [r["configuration"] for r in again] == [r["configuration"] for r in content["results"]]
