"""Generate: files follow from the winners alone, and ``--check`` tells when they don't."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.rows import TARGET, winner_of
from tuner.cli import main
from tuner.codegen.render import render
from tuner.errors import MoetuneError
from tuner.problem import Problem
from tuner.space.variant import Variant, default_variant, make
from tuner.store import generate, shipped
from tuner.store.database import Database
from tuner.store.jsonl import export_best
from tuner.store.records import TrialRow

SMALL = Problem(hidden=64, expert_dim=32, num_experts=8, top_k=2, name="small")
DEFAULT = default_variant(SMALL, TARGET)
OTHER = make(DEFAULT.template, {**DEFAULT.config, "chunks": 4})


def add(db: Database, tokens: int, variant: Variant = DEFAULT, problem: Problem = SMALL) -> None:
    """Record a winner with a variant of the real template."""
    trial = TrialRow(
        target_id=db.add_target(TARGET),
        problem_id=db.add_problem(problem),
        variant_id=db.add_variant(
            variant.id, variant.template, variant.name, variant.config, variant.pack
        ),
        tokens=tokens,
        load="uniform",
        status="ok",
    )
    db.record_winner(winner_of(db.trial(db.record_trial(trial))))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with two winners in db/best.jsonl, as the current folder."""
    (tmp_path / "db").mkdir()
    with Database(tmp_path / "some.sqlite3") as db:
        add(db, 1)
        add(db, 16, OTHER)
        add(db, 128, OTHER)
        export_best(db, tmp_path / "db" / "best.jsonl")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_a_file_for_each_winning_variant(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate"]) == 0
    assert capsys.readouterr() == ("generated: 2 files, 2 written\n", "")
    place = f"{DEFAULT.template}/small"
    assert names(home / "generated") == sorted(f"{place}/{v.name}.mojo" for v in (DEFAULT, OTHER))
    text = (home / "generated" / place / f"{OTHER.name}.mojo").read_text()
    assert text == render(SMALL, OTHER).text
    assert main(["generate", "--check"]) == 0
    assert main(["generate"]) == 0
    assert "2 files, 0 written" in capsys.readouterr().out


def test_check_lists_what_is_not_fresh(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["generate"])
    folder = home / "generated" / DEFAULT.template / "small"
    (folder / f"{DEFAULT.name}.mojo").unlink()
    (folder / f"{OTHER.name}.mojo").write_text("# edited\n")
    (folder / "mine.mojo").write_text("# by hand\n")
    (folder / "notes.md").write_text("not ours\n")
    capsys.readouterr()
    assert main(["generate", "--check"]) == 1
    out, err = capsys.readouterr()
    assert out == "generated: 2 files, not fresh\n"
    place = f"generated/{DEFAULT.template}/small"
    assert err.splitlines() == [
        f"missing  {place}/{DEFAULT.name}.mojo: run `moetune generate`",
        f"stale    {place}/{OTHER.name}.mojo: run `moetune generate`",
        f"extra    {place}/mine.mojo: no winner needs it; delete it",
    ]
    assert (folder / f"{OTHER.name}.mojo").read_text() == "# edited\n"


def test_nothing_is_deleted(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hand = home / "generated" / "moe_cpu" / "old" / "mine.mojo"
    hand.parent.mkdir(parents=True)
    hand.write_text("# by hand\n")
    assert main(["generate"]) == 0
    assert "extra    generated/moe_cpu/old/mine.mojo: no winner needs it" in capsys.readouterr().err
    assert hand.read_text() == "# by hand\n"


def test_winners_of_a_database(home: Path) -> None:
    with Database(home / "other.sqlite3") as db:
        add(db, 1)
    assert main(["generate", "--db", "other.sqlite3", "--out", "there"]) == 0
    assert names(home / "there") == [f"{DEFAULT.template}/small/{DEFAULT.name}.mojo"]


def rows(tmp_path: Path, *problems: Problem) -> list[dict[str, Any]]:
    with Database(tmp_path / "rows.sqlite3") as db:
        for problem in problems:
            add(db, 1, problem=problem)
        return db.best()


def test_folders_have_the_problems_names(tmp_path: Path) -> None:
    unnamed = SMALL.replace(hidden=128, name="")
    hostile = SMALL.replace(hidden=256, name="../../etc/x y")
    made = generate.sources(rows(tmp_path, unnamed, hostile))
    assert {name.split("/")[1] for name in made} == {unnamed.digest, "etc_x_y"}


def test_problems_of_one_name_get_their_digests(tmp_path: Path) -> None:
    twin = SMALL.replace(renormalize=False)
    made = generate.sources(rows(tmp_path, SMALL, twin))
    assert {name.split("/")[1] for name in made} == {
        f"small-{SMALL.digest}",
        f"small-{twin.digest}",
    }


def test_a_winner_whose_parameters_are_gone(tmp_path: Path) -> None:
    (row,) = rows(tmp_path, SMALL)
    row["config"]["warp"] = 9
    message = "winner of small at 1 tokens: warp: missing or unknown.*; tune it again and export"
    with pytest.raises(MoetuneError, match=message):
        generate.sources([row])


def test_a_bad_line(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "db" / "best.jsonl").write_text("nonsense\n")
    assert main(["generate", "--check"]) == 1
    assert "db/best.jsonl: line 1: " in capsys.readouterr().err


def test_a_folder_that_cannot_be_written(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "file").write_text("")
    assert main(["generate", "--out", "file"]) == 2
    assert "file: cannot be written (Not a directory); name another one with --out" in (
        capsys.readouterr().err
    )


def test_the_packages_winners_stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["generate"]) == 0
    sources = generate.sources(generate.winners_of_text(shipped.path()))
    there = names(tmp_path / "generated") if sources else []
    assert there == sorted(sources)
