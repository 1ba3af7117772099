"""The ladder of selection, rung by rung; what is refused; how fast the answer comes."""

from __future__ import annotations

import json
import math
import sqlite3
import statistics
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.rows import COMPILER, PROBLEM, TARGET, add_trial, add_winner, winner_of
from tuner.errors import DatabaseError, ProblemError
from tuner.problem import Problem
from tuner.select.select import LADDER, best_config
from tuner.select.selection import MAX_TOKEN_DISTANCE, Selection
from tuner.space import templates
from tuner.space.variant import Variant, default_variant
from tuner.store.database import Database
from tuner.store.records import TrialRow
from tuner.target import Target

LESS_CACHE = replace(TARGET, l2_bytes=256 << 10)
MORE_CORES = replace(TARGET, cores=16)
OLDER = replace(TARGET, arch="znver2")
OLDEST = replace(TARGET, arch="x86-64-v3")
NEWER = replace(TARGET, arch="znver4", features=(*TARGET.features, "avx512f"))


@pytest.fixture
def db(database: Path) -> Iterator[Database]:
    with Database(database) as opened:
        yield opened


def fallback(problem: Problem, target: Target, pack: str | None, tokens: int) -> Variant:
    return Variant("k", "k_default", (("a", 1),), pack or "p0")


def ask(tokens: int = 128, load: str = "uniform", **more: Any) -> Selection:
    request: dict[str, Any] = {"target": TARGET, "default": fallback, "compiler": COMPILER}
    return best_config(PROBLEM, tokens, load, **{**request, **more})


def test_exact(db: Database) -> None:
    add_winner(db)
    found = ask()
    assert (found.match, found.distance, found.variant) == ("exact", 0.0, "k_a8")
    assert (found.template, found.config, found.arch) == ("k", {"a": 8}, "znver3")
    assert found.reason == "winner tuned on this target: same tokens and load"
    assert (found.evidence["median_ns"], found.evidence["ratio"]) == (900.25, 0.8)
    assert found.evidence["environment"] == {"toolchain": COMPILER}


def test_nearest_tokens(db: Database) -> None:
    for tokens in (1, 64, 1024):
        add_winner(db, tokens, variant=f"k_a{tokens}")
    found = ask(100)
    assert (found.match, found.variant, found.tokens) == ("tokens", "k_a64", 100)
    assert found.distance == pytest.approx(math.log2(100 / 64))
    assert found.reason == "winner tuned on this target: tuned for 64 tokens, asked for 100"


@pytest.mark.parametrize(("tokens", "near"), [(90, 64), (91, 128), (500, 128), (64, 64), (9, 64)])
def test_tokens_are_near_by_their_ratio(db: Database, tokens: int, near: int) -> None:
    for there in (64, 128):
        add_winner(db, there)
    assert ask(tokens).evidence["tokens"] == near


@pytest.mark.parametrize("there", [128 // 8, 128 * 8])
def test_distance_guard(db: Database, there: int) -> None:
    add_winner(db, there)
    assert (ask(128).match, ask(128).distance) == ("tokens", MAX_TOKEN_DISTANCE)
    beyond = ask(129 if there < 128 else 127)
    assert (beyond.match, beyond.variant) == ("default", "k_default")
    assert "1 winners of this problem, none fits: more than 3 octaves of tokens" in beyond.reason


def test_another_load(db: Database) -> None:
    add_winner(db, load="zipf:1.2")
    found = ask()
    assert (found.match, found.distance) == ("load", 1.0)
    assert found.reason == "winner tuned on this target: load zipf:1.2 instead of uniform"


def test_another_load_costs_as_much_as_twice_the_tokens(db: Database) -> None:
    add_winner(db, 128, "onehot", variant="k_load")
    add_winner(db, 300, variant="k_tokens")
    assert (ask(128).match, ask(200).match) == ("load", "tokens")


def test_load_is_compared_in_its_shortest_spelling(db: Database) -> None:
    add_winner(db, load="zipf:1.2")
    assert ask(load="zipf:1.20").match == "exact"


def test_same_architecture_on_another_machine(db: Database) -> None:
    add_winner(db, target=MORE_CORES, variant="k_cores")
    add_winner(db, target=LESS_CACHE, variant="k_cache")
    found = ask()
    assert (found.match, found.variant, found.distance) == ("arch", "k_cache", 0.5)
    assert found.reason == (
        "winner tuned on another machine of architecture znver3: L2 of 256 KiB instead of 512 KiB"
    )


def test_other_cores_lower_the_rank(db: Database) -> None:
    add_winner(db, target=MORE_CORES)
    assert (ask().match, ask().distance) == ("arch", 2.0)
    assert ask().reason.endswith("16 cores instead of 4")


def test_older_architecture(db: Database) -> None:
    add_winner(db, target=OLDEST, variant="k_oldest")
    add_winner(db, target=OLDER, variant="k_older")
    found = ask()
    assert (found.match, found.variant, found.distance) == ("older", "k_older", 1.0)
    assert (found.arch, found.target) == ("znver2", OLDER)
    assert found.reason.startswith("winner tuned for znver2, whose code runs on znver3: ")


def test_rungs_come_in_order_whatever_the_distance(db: Database) -> None:
    """Each rung is taken as soon as it has a winner, although those below it are nearer."""
    near = 130
    seen = [ask(near).match]
    for target, tokens in ((OLDER, near), (LESS_CACHE, near), (TARGET, 1024)):
        add_winner(db, tokens, target=target)
        seen.append(ask(near).match)
    add_winner(db, near)
    seen.append(ask(near).match)
    assert seen == ["default", "older", "arch", "tokens", "exact"]
    assert len(LADDER) == 4


def test_default_without_any_winner(db: Database) -> None:
    found = ask(16, "onehot")
    assert (found.match, found.variant, found.config) == ("default", "k_default", {"a": 1})
    assert found.reason == "the template's default: no winner of this problem is recorded"
    assert (found.evidence, found.target, found.tokens) == ({}, TARGET, 16)


def test_default_is_the_templates() -> None:
    problem = Problem(hidden=64, expert_dim=64, num_experts=4, top_k=2)
    found = best_config(problem, 16, target=TARGET, compiler="")
    assert found.variant == default_variant(problem, TARGET, tokens=16).name


def test_missing_and_empty_database_give_the_default(database: Path) -> None:
    assert ask().match == "default"
    assert not database.exists()
    database.touch()
    assert ask().match == "default"


def test_rows_of_other_problems_are_never_returned(db: Database) -> None:
    add_winner(db, problem=PROBLEM.replace(top_k=1))
    assert ask().match == "default"


def test_label_of_the_problem_does_not_matter(db: Database) -> None:
    add_winner(db, problem=PROBLEM.replace(name="another label"))
    assert ask().match == "exact"


@pytest.mark.parametrize("arch", ["znver4", "znver3", "znver2"])
def test_code_that_needs_features_that_are_not_here_is_refused(db: Database, arch: str) -> None:
    add_winner(db, target=replace(NEWER, arch=arch))
    found = ask()
    assert found.match == "default"
    assert f"code for {arch} needs avx512f, which is not here" in found.reason


def test_newer_architecture_is_no_match_even_if_its_code_would_run(db: Database) -> None:
    add_winner(db, target=replace(TARGET, arch="znver4"))
    assert ask().match == "default"


def test_another_kind_of_device_is_refused(db: Database) -> None:
    add_winner(db, target=replace(TARGET, kind="gpu"))
    assert "made for a gpu" in ask().reason


def test_another_compiler_lowers_the_rank_and_is_told(db: Database) -> None:
    add_winner(db, 128, compiler="Mojo 0.9", variant="k_old_compiler")
    found = ask()
    assert (found.match, found.distance) == ("exact", 0.5)
    assert found.reason == "winner tuned on this target: compiler Mojo 0.9 instead of Mojo 1.0"
    add_winner(db, 140, variant="k_near")
    assert ask().variant == "k_near"
    add_winner(db, 128, variant="k_same_compiler")
    assert ask().variant == "k_same_compiler"


def test_packing_that_is_asked_for_is_kept_to(db: Database) -> None:
    add_winner(db, 128, pack="p1", variant="k_p1")
    add_winner(db, 64, pack="p2", variant="k_p2")
    assert (ask().variant, ask(pack="p2").variant) == ("k_p1", "k_p2")
    found = ask(pack="p3")
    assert (found.match, found.variant) == ("default", "k_default")
    assert "packing p1 instead of p3" in found.reason


def test_default_is_asked_for_the_packing_and_the_tokens(db: Database) -> None:
    asked = []

    def noting(problem: Problem, target: Target, pack: str | None, tokens: int) -> Variant:
        asked.append((problem, target, pack, tokens))
        return fallback(problem, target, pack, tokens)

    ask(0, pack="p7", default=noting)
    assert asked == [(PROBLEM, TARGET, "p7", 1)]


def test_wrong_trial_is_never_selected(db: Database) -> None:
    trial = add_trial(db, status="wrong")
    with pytest.raises(DatabaseError, match="can never be a winner"):
        db.record_winner(winner_of(trial))
    assert ask().match == "default"


def test_no_tokens_at_all(db: Database) -> None:
    add_winner(db, 1)
    assert (ask(0).match, ask(0).distance) == ("tokens", 0.0)


def test_request_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(ProblemError, match="tokens=-1"):
        ask(-1)
    with pytest.raises(ProblemError, match="load='hot': not known"):
        ask(load="hot")


def test_new_winners_are_seen_at_once(db: Database) -> None:
    seen = [ask().match]
    for tokens in (64, 128):
        add_winner(db, tokens)
        seen.append(ask().match)
    assert seen == ["default", "tokens", "exact"]


def test_another_file_at_the_same_path_is_seen(db: Database, tmp_path: Path) -> None:
    add_winner(db)
    assert ask().match == "exact"
    db.close()
    for old in tmp_path.glob(f"{db.path.name}*"):  # the log too, or it would be replayed
        old.unlink()
    Database(db.path).close()
    assert ask().match == "default"


@pytest.mark.parametrize("form", [lambda db: db, lambda db: db.path, lambda db: str(db.path)])
def test_database_by_object_or_path(db: Database, form: Any, monkeypatch: Any) -> None:
    monkeypatch.delenv("MOETUNE_DB")
    add_winner(db)
    assert ask(db=form(db)).match == "exact"


def test_damaged_database_is_told(database: Path) -> None:
    database.write_bytes(b"noise" * 1000)
    with pytest.raises(DatabaseError, match="is not a database; move it away"):
        ask()


def test_answers_are_json(db: Database) -> None:
    add_winner(db)
    exact, default = ask().to_json(), ask(tokens=1 << 20).to_json()
    assert json.loads(json.dumps(exact, allow_nan=False)) == exact
    assert json.loads(json.dumps(default, allow_nan=False)) == default
    assert {"variant", "match", "config", "evidence", "reason", "arch"} <= set(exact)
    assert (exact["target"], default["distance"]) == (TARGET.key, None)


def fill(db: Database) -> None:
    """10,000 winners of one problem: eight machines, two loads, 625 token counts."""
    for cores in range(1, 9):
        for load in ("uniform", "onehot"):
            add_winner(db, 1, load, target=replace(TARGET, cores=cores))
    columns = "target_id, problem_id, variant_id, load, status, message, source_digest,"
    columns += "binary_key, environment, session, created"
    raw = sqlite3.connect(db.path)
    with raw:
        raw.execute(
            "WITH RECURSIVE counts(n) AS (SELECT 2 UNION ALL SELECT n + 1 FROM counts LIMIT 624)"
            f"INSERT INTO trials (tokens, {columns}) SELECT n, {columns} FROM trials, counts"
        )
        raw.execute("DELETE FROM winners")
        raw.execute(
            "INSERT INTO winners SELECT NULL, id, target_id, problem_id, tokens, load, NULL,"
            "1, 1, 1, 0, 1000, NULL, NULL, NULL, created, 1, NULL FROM trials"
        )
    raw.close()


@pytest.mark.timed
def test_10000_rows_answer_in_a_millisecond(db: Database) -> None:
    fill(db)
    assert len(db.best()) == 10_000
    ask()
    times = []
    for n in range(200):
        start = time.perf_counter()
        found = ask(n * 20 + 1)
        times.append(time.perf_counter() - start)
        assert found.match in ("exact", "tokens")
    assert statistics.median(times) < 1e-3


def test_a_winner_of_a_template_with_other_parameters_is_refused(db: Database) -> None:
    add_moe_cpu(db, {"tile_rows": 4}, digest="")
    found = ask()
    assert found.match == "default"
    assert "template moe_cpu has other parameters now" in found.reason


def test_a_winner_of_a_template_that_has_changed_since_says_so(db: Database) -> None:
    add_moe_cpu(db, default_variant(PROBLEM, TARGET).config, digest="0123456789abcdef")
    found = ask()
    assert (found.match, found.distance) == ("exact", 0.5)
    assert "template moe_cpu was another when it was tuned" in found.reason


@pytest.mark.parametrize("digest", [templates.digest("moe_cpu"), "9a02fb168b05a4e2"])
def test_a_winner_of_the_template_s_history_is_as_good_as_a_new_one(
    db: Database, digest: str
) -> None:
    add_moe_cpu(db, default_variant(PROBLEM, TARGET).config, digest=digest)
    found = ask()
    assert (found.match, found.distance) == ("exact", 0.0)
    assert "another" not in found.reason


def add_moe_cpu(db: Database, config: dict[str, int], digest: str) -> None:
    row = TrialRow(
        target_id=db.add_target(TARGET),
        problem_id=db.add_problem(PROBLEM),
        variant_id=db.add_variant("id-moe-cpu", "moe_cpu", "moe_cpu_x", config, "v8_p1"),
        tokens=128,
        load="uniform",
        status="ok",
        environment={"toolchain": COMPILER, "template": digest},
    )
    db.record_winner(winner_of(db.trial(db.record_trial(row))))
