"""Report: one file that loads nothing, and tables for a pull request."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.commands import Run
from tests.services import GRANITE, served
from tuner.errors import UsageError
from tuner.problem import PRESETS
from tuner.report.peer_times import PeerTimes

__all__ = ["served"]

ROWS = Path(__file__).parents[2] / "benchmarks" / "data" / "peers-readme-znver4.json"


def test_the_page_is_one_file(served: Path, moetune: Run, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    said = moetune(f"report {GRANITE} -o {out} --peers {ROWS}")
    assert (said.code, said.err) == (0, "")
    assert "znver4" in said.out
    page = out.read_text()
    assert page.count("<svg ") == 2  # one trial a workload: no history of a search, no importances
    assert "Beside it: numpy, onnxruntime, torch." in page
    loaded = re.findall(r'(?:src|href)="(?!#|data:)([^"]*)"', page)
    assert loaded == []
    assert "var(--winner)" in page
    assert "#010101" not in page


def test_ids_are_used_once(served: Path, moetune: Run) -> None:
    ids = re.findall(r'\bid="([^"]+)"', moetune(f"report {GRANITE}").out)
    assert len(ids) == len(set(ids))


def test_markdown_is_a_table(served: Path, moetune: Run) -> None:
    lines = moetune(f"report {GRANITE} --dtype bfloat16 --format md").out.splitlines()
    rows = [line for line in lines if line.startswith("| uniform")]
    assert len(rows) == 4
    assert {line.count("|") for line in rows} == {9}
    assert any("act_block 16->64" in row for row in rows)


def test_a_model_without_rows_is_refused(served: Path, moetune: Run) -> None:
    said = moetune("report mixtral-8x7b")
    assert (said.code, said.out) == (1, "")
    assert "no winner in" in said.err
    assert f"there are winners of classic-moe, {GRANITE}" in said.err


def test_peers_of_another_load_or_type_are_not_taken(tmp_path: Path) -> None:
    times = PeerTimes(ROWS).of(PRESETS[GRANITE], "uniform")
    tokens = [[t for t, _ in points] for points in times.values()]
    assert tokens == [[1, 16, 128, 1024]] * 3
    assert PeerTimes(ROWS).of(PRESETS[GRANITE], "onehot") == {}
    broken = tmp_path / "rows.json"
    broken.write_text(json.dumps({"rows": [1]}))
    with pytest.raises(UsageError, match=r"rows\.json: no file of peers' times"):
        PeerTimes(broken)
