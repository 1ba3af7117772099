"""Report: one file that loads nothing, and tables for a pull request."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest

from tests.commands import Run
from tests.rows import TARGET
from tests.services import GRANITE, served
from tuner.errors import UsageError
from tuner.problem import PRESETS
from tuner.report.peer_times import PeerFile
from tuner.store.database import Database

__all__ = ["served"]

ROWS = Path(__file__).parents[2] / "benchmarks" / "data" / "peers-readme-znver4.json"


def test_the_page_is_one_file(served: Path, moetune: Run, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    said = moetune(f"report {GRANITE} -o {out} --peers {ROWS}")
    assert (said.code, said.err) == (0, "")
    assert "znver4" in said.out
    page = out.read_text()
    # Times in two types, and of the one that is asked for times and roofline; one trial a workload: no
    # history of a search, no importances.
    assert page.count("<svg ") == 3
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
    own = lines[next(n for n, line in enumerate(lines) if line.startswith("On znver4")) :]
    rows = [line for line in own if line.startswith("| uniform")]
    assert len(rows) == 4
    assert {line.count("|") for line in rows} == {9}
    assert any("act_block 16->64" in row for row in rows)


def test_a_model_without_rows_is_refused(served: Path, moetune: Run) -> None:
    said = moetune("report mixtral-8x7b")
    assert (said.code, said.out) == (1, "")
    assert "no winner in" in said.err
    assert f"there are winners of classic-moe, {GRANITE}" in said.err


def test_machines_and_types_stand_side_by_side(
    served: Path, moetune: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOETUNE_SHIPPED", "0")
    lines = moetune(f"report {GRANITE} --format md").out.splitlines()
    at = lines.index("Machines side by side:")
    assert lines[at + 2] == (
        "| load | tokens | AMD EPYC (znver4, 2 cores), float32 | AMD EPYC (znver4, 2 cores), bfloat16 |"
    )
    assert len([line for line in lines[at + 4 :] if line.count("|") == 5]) == 4


def test_a_file_of_peers(tmp_path: Path) -> None:
    """Its rows are those of the database, of the layer's own type and of machines like the target."""
    target = dataclasses.replace(TARGET, arch="znver4")
    rows = PeerFile(ROWS).of(PRESETS[GRANITE], target)
    assert {(row.tokens, row.peer) for row in rows} == {
        (tokens, peer)
        for tokens in (1, 16, 128, 1024)
        for peer in ("numpy", "torch", "onnxruntime")
    }
    assert {(row.dtype, row.load, row.created) for row in rows} == {
        ("float32", "uniform", "2026-11-25")
    }
    assert PeerFile(ROWS).of(PRESETS[GRANITE], TARGET) == []
    assert PeerFile(ROWS).of(PRESETS[GRANITE].replace(dtype="float16"), target) == []
    broken = tmp_path / "rows.json"
    broken.write_text(json.dumps({"rows": [1]}))
    with pytest.raises(UsageError, match=r"rows\.json: no file of peers' times"):
        PeerFile(broken)


def test_what_ships_stands_beside_and_below(served: Path, moetune: Run, tmp_path: Path) -> None:
    """Beside what was tuned here; alone where nothing was, before there is a database, too."""
    beside = moetune(f"report {GRANITE} --format md").out
    titles = next(line for line in beside.splitlines() if line.startswith("| load | tokens | AMD"))
    assert "NVIDIA H200, bfloat16" in titles
    assert beside.count("On ") == 1
    with Database(tmp_path / "empty.sqlite3"):
        pass
    page = moetune(f"report {GRANITE} --db {tmp_path / 'empty.sqlite3'}").out
    assert "These winners ship with moetune" in page
    assert "Time against tokens" in page
    said = moetune("report qwen3-30b-a3b --dtype bfloat16 --format md")
    assert said.code == 0
    assert "NVIDIA H200" in said.out


def test_where_nothing_ships_a_report_needs_a_database(moetune: Run) -> None:
    said = moetune(f"report {GRANITE} --dtype float16")
    assert said.code == 1
    assert "is not there or out of reach; tune or import first" in said.err
