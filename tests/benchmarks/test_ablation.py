"""Each idea can still be switched off: edits fit the template, kernels are right, the table says all of it."""

from __future__ import annotations

import dataclasses
import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cpu_ablation
import pytest
from ablation import edits, run_time
from ablation import measure as measuring
from ablation.edits import EditError
from ablation.ideas import PLAIN_ACT_BLOCK, Form, Idea, ideas
from ablation.measure import Asked, full_kernel, measure
from ablation.page import table

from tests.kernels import REDUCED, TINY, variant
from tests.space.test_space import ZEN
from tuner.codegen.render import render
from tuner.measure.worker import Worker
from tuner.problem import Problem
from tuner.problem.workload import Workload
from tuner.space.variant import default_variant, make
from tuner.store.database import Database
from tuner.store.records import MeasurementRow, TrialRow, WinnerRow
from tuner.target import detect, named, supported

# Every structure of the template that an edit may meet.
BASES: dict[str, dict[str, int]] = {
    "default": {},
    "interleaved": {"act_block": 1, "tile_rows": 6, "tile_vectors": 4},
    "blocked": {"depth_block": 64, "row_tiles": 4, "prefetch": 8, "prefetch_act": 1, "combine": 0},
}
# Biases, a shared expert, sizes that are no multiple of a vector.
ODD = TINY.replace(expert_bias=True, shared_dim=56, name="odd")
ODD_DEEP = ODD.replace(hidden=200, expert_dim=136)
ODD_BF16 = ODD_DEEP.replace(hidden=137, expert_dim=71, dtype="bfloat16", weight_dtype="bfloat16")
SMALL = {"tile_rows": 2, "unroll": 1}  # compiles fast


def base(problem: Problem, tokens: int = 20, **changes: int) -> Form:
    default = default_variant(problem, ZEN, tokens=tokens)
    return Form(make(default.template, {**default.config, **changes}), ZEN)


def rows(full: Form, problem: Problem = ODD) -> dict[str, Idea]:
    return {idea.key: idea for idea in ideas(problem, full, 20, "no winner stored")}


@pytest.mark.parametrize("name", edits.names())
@pytest.mark.parametrize("model", REDUCED)
@pytest.mark.parametrize("changes", BASES.values(), ids=BASES)
def test_every_edit_fits_the_template(name: str, model: str, changes: dict[str, int]) -> None:
    text = base(REDUCED[model], **changes).source(REDUCED[model])
    edited = edits.apply(name, text)
    assert edited != text
    assert all(edit.new in edited for edit in edits.load(name))


def test_an_edit_that_does_not_fit_is_told() -> None:
    with pytest.raises(EditError, match=r"^equal_units\.toml: units are counted, not their cost: "):
        edits.apply("equal_units", "def product(): pass")


def test_edits_of_another_file_come_first() -> None:
    assert edits.load("run_time_rows")[:-1] == edits.load("whole_tiles")


@pytest.mark.parametrize("model", REDUCED)
def test_no_warm_function_sees_a_size(model: str) -> None:
    text = run_time.hide_sizes(base(REDUCED[model]).source(REDUCED[model]))
    sizes = run_time.derived(text)
    assert {"STEPS_1", "STEPS_2", "VECTORS_1", "EXPERT_PAD", "ALL_K", "PACKED_1"} <= set(sizes)
    assert not {"TILE_ROWS", "SIMD_WIDTH", "ACT_BLOCK", "FORMS", "WORKERS"} & set(sizes)
    function = ""
    for line in re.sub('""".*?"""', "", text, flags=re.DOTALL).splitlines():
        function = (
            match.group(1) if (match := re.match(r"(?:def|struct) (\w+)", line)) else function
        )
        code = line.partition("#")[0]
        if line.startswith(" ") and function not in run_time.COLD:
            bare = set(re.findall(r"(?<!unseen\()\b[A-Z][A-Z0-9_]+\b", code)) & set(sizes)
            assert not bare, f"{function}: {line}"


def test_a_size_that_is_hidden_makes_what_follows_a_variable() -> None:
    text = run_time.hide_sizes(base(ODD).source(ODD))
    depth = "var depth = unseen(STEPS_1) if part == 1 else unseen(STEPS_2)"
    assert text.count(depth) == 2
    assert "    var step = depth if DEPTH_BLOCK == 0 else DEPTH_BLOCK // PAIR" in text
    assert "    comptime SIZE" not in text
    assert "        for j in range(unseen(ALL_K)):" in text


def test_sizes_elsewhere_are_told() -> None:
    with pytest.raises(EditError, match=r"^run_time\.py: the kernel's sizes are not where"):
        run_time.hide_sizes("comptime HIDDEN = 3\n")


@pytest.mark.parametrize("changes", BASES.values(), ids=BASES)
def test_every_form_is_another_kernel(changes: dict[str, int]) -> None:
    full = base(ODD, **changes)
    found = [form for idea in rows(full).values() for form in idea.forms]
    sources = [(form.source(ODD), form.target) for form in (full, *found)]
    assert len(set(sources)) == len(sources)


def test_all_that_was_asked_is_there() -> None:
    assert (
        list(rows(base(ODD)))
        == (
            "control lanes_8 lanes_4 sizes rows tails one_row packing scratch activation weights combine "
            "static units tuning"
        ).split()
    )


@pytest.mark.skipif("x86-64-v3" not in supported(), reason="another architecture")
def test_older_machines_have_their_own_default() -> None:
    full = dataclasses.replace(base(ODD), target=named("x86-64-v4"))
    found = [rows(full)[arch].forms[0] for arch in ("x86-64-v3", "x86-64-v2")]
    assert [form.target.arch for form in found] == ["x86-64-v3", "x86-64-v2"]
    assert [form.variant.config["simd_width"] for form in found] == [8, 4]
    assert [form.variant.config["tile_rows"] for form in found] == [6, 6]
    assert found[0].changes(full).endswith(", compiled for x86-64-v3")


def test_narrow_vectors_have_a_tile_that_fits() -> None:
    found = rows(base(ODD, tokens=128))
    for lanes in (8, 4):
        configs = [form.variant.config for form in found[f"lanes_{lanes}"].forms]
        assert {config["simd_width"] for config in configs} == {lanes}
        assert all(c["tile_rows"] * c["tile_vectors"] + c["tile_vectors"] < 32 for c in configs)


def test_what_is_off_already_is_told() -> None:
    found = rows(base(ODD, scratch_keep=0, tile_rows=1, tile_vectors=4))
    assert found["scratch"].forms == found["one_row"].forms == ()
    assert found["scratch"].why_not == "the full kernel does without"
    assert rows(base(ODD))["tuning"].why_not == "no winner stored"
    assert rows(base(ODD, chunks=8))["tuning"].forms == (base(ODD),)


def test_plain_weights_are_another_packed_form() -> None:
    full = base(ODD)
    packing = rows(full)["packing"].forms
    assert {form.pack for form in packing} == {f"plain_weights_{full.pack}"}
    assert {form.variant.config["act_block"] for form in packing} == {PLAIN_ACT_BLOCK}


def test_without_a_winner_the_default_is_the_full_kernel(database: Path) -> None:
    with Database(database):
        pass
    found, chosen = full_kernel(ODD, ZEN, database, Workload(16))
    assert (found, chosen) == (base(ODD, tokens=16), "no winner stored")


def test_the_stored_winner_is_the_full_kernel(database: Path) -> None:
    won = base(ODD, tokens=16, chunks=8).variant
    with Database(database) as db:
        keys = {"problem_id": db.add_problem(ODD), "target_id": db.add_target(ZEN)}
        kept = db.add_variant(won.id, won.template, won.name, won.config, won.pack)
        trial = TrialRow(**keys, variant_id=kept, tokens=16, load="uniform", status="ok")
        number = db.record_trial(trial, MeasurementRow(median_ns=9.0, low_ns=8.0, high_ns=10.0))
        row = WinnerRow(**keys, trial_id=number, tokens=16, load="uniform", median_ns=9.0)
        db.record_winner(row)
    found, chosen = full_kernel(ODD, ZEN, database, Workload(16))
    assert found == Form(won, ZEN)
    assert chosen.startswith("another than the default won (winner tuned on this target")
    assert full_kernel(ODD, ZEN, database, Workload(17))[1] == "no winner stored"


def row(key: str, **more: Any) -> dict[str, Any]:
    fields = {
        "key": key, "idea": key, "off": "off", "load": "uniform", "form": "a 1 to 2", "forms": 1, "ratio": 1.5,
        "low": 1.25, "high": 2.0, "median_ns": 1e6, "rounds": 9, "why_not": "",
    }  # fmt: skip
    return fields | more


def cell(tokens: int, *found: dict[str, Any], **more: Any) -> dict[str, Any]:
    fields = {
        "model": "m", "tokens": tokens, "load": "uniform", "temperature": "warm", "full": "v",
        "chosen": "no winner", "full_median_ns": 1.5e6, "rounds": 20, "foreign": 0.0, "rows": list(found),
    }  # fmt: skip
    return fields | more


def test_the_table() -> None:
    cells = [
        cell(1, row("a"), row("b", ratio=0.0, why_not="no winner stored"), temperature="cold"),
        cell(128, row("a", ratio=1.111), row("a", load="onehot")),
    ]
    assert table(cells) == [
        "| idea | switched off | T=1 (cold) | T=128 (warm) |",
        "| --- | --- | ---: | ---: |",
        "| a | off | 1.50 (1.25 to 2.00) | 1.11 (1.25 to 2.00) |",
        "| b | off | no winner stored | - |",
        "| a | off, load onehot | - | 1.50 (1.25 to 2.00) |",
    ]


def test_a_stored_file_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "ablation.json"
    cells = [cell(1, row("a", forms=2), foreign=0.25)]
    path.write_text(json.dumps({"about": {"machine": "here", "command": "again"}, "cells": cells}))
    assert cpu_ablation.main(["--render", str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["- machine: here", "- repeat: `again`"]
    assert lines[-3:] == [
        "- T=1 (warm): full kernel `v`, 1.5 ms, 20 rounds; no winner",
        "- disturbed by other processes, measure again: T=1 (warm) (25%)",
        "- T=1 (warm), the fastest form: off: a 1 to 2 (of 2 forms)",
    ]


def test_a_file_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert cpu_ablation.main(["--render", "none.json"]) == 2
    assert capsys.readouterr().err == "error: none.json: no such file; give one that --out wrote\n"


def test_a_model_that_is_not_known(capsys: pytest.CaptureFixture[str]) -> None:
    assert cpu_ablation.main(["--model", "granit", "--tokens", "1"]) == 2
    assert "error: preset='granit': not known" in capsys.readouterr().err


def check(problem: Problem, full: Form, forms: list[Form], tokens: int = 20) -> None:
    """Builds and verifies kernels; a wrong one raises."""
    with ThreadPoolExecutor(2) as pool:
        entrants = list(pool.map(lambda form: measuring._build(problem, form, full), forms))
    with Worker(problem, full.target, 0) as worker:
        for form, entrant in zip(forms, entrants, strict=True):
            measuring._verify(worker, form, full, entrant, tokens)


def changed_sources(problem: Problem, full: Form) -> list[Form]:
    """One form of each idea that takes more than another variant (test_verify.py has those)."""
    first = [idea.forms[0] for idea in rows(full, problem).values() if idea.forms]
    forms = [form for form in first if form.edits or form.hidden]
    assert len(forms) == len(edits.names()) + 1
    return forms


@pytest.mark.compiler
def test_every_changed_source_is_right() -> None:
    full = Form(variant(ODD, SMALL), detect())
    check(ODD, full, changed_sources(ODD, full))


@pytest.mark.compiler
def test_a_wrong_kernel_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows without their weight, and the pass that would apply it left out."""
    full = Form(variant(ODD, SMALL), detect())
    wrong = dataclasses.replace(full, edits="weight_pass")
    short = edits.load("weight_pass")[:-1]
    monkeypatch.setattr(edits, "load", lambda name: short)
    with pytest.raises(
        EditError, match=r"^weight_pass\.toml: is wrong: T=1 router: relative error"
    ):
        check(ODD, full, [wrong])


@pytest.mark.compiler
def test_a_source_that_does_not_compile_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    full = Form(variant(ODD, SMALL), detect())
    monkeypatch.setattr(Form, "source", lambda self, problem: "def broken(:\n")
    with pytest.raises(EditError, match=r"^nothing: does not compile: kernel\.mojo:1"):
        check(ODD, full, [full])


@pytest.mark.compiler
@pytest.mark.timed
def test_a_cell(monkeypatch: pytest.MonkeyPatch, database: Path) -> None:
    full = Form(variant(ODD, SMALL), detect())
    some = ("static", "units", "packing", "tuning")
    few = [dataclasses.replace(rows(full)[key], forms=rows(full)[key].forms[:1]) for key in some]
    few[-1] = dataclasses.replace(few[-1], forms=(), why_not="no winner stored")
    monkeypatch.setattr(measuring, "full_kernel", lambda *_: (full, "chosen"))
    monkeypatch.setattr(measuring, "ideas", lambda *_: tuple(few))
    found = measure(ODD, full.target, database, 20, Asked(budget_s=0.05), lambda note: None)
    assert (found.model, found.tokens, found.load, found.chosen) == ("odd", 20, "uniform", "chosen")
    assert found.full == full.variant.name
    assert [(r.key, r.load) for r in found.rows] == [
        *((key, "uniform") for key in some),
        ("static", "zipf:1.2"),
        ("units", "zipf:1.2"),
    ]
    assert [r.why_not for r in found.rows if r.why_not] == ["no winner stored"]
    for r in found.rows:
        assert r.why_not or (0 < r.low <= r.ratio <= r.high and r.rounds >= 5 and r.median_ns > 0)


@pytest.mark.compiler
@pytest.mark.slow
def test_all_forms_in_one_cell(database: Path) -> None:
    """A wrong kernel is an error, so who has a ratio has been verified."""
    found = measure(ODD, detect(), database, 20, Asked(budget_s=0.1), lambda note: None)
    full = Form(variant(ODD), detect())
    assert [r.key for r in found.rows if r.load == "uniform"] == list(rows(full))
    assert [r.key for r in found.rows if r.why_not] == ["tuning"]


@pytest.mark.compiler
@pytest.mark.slow
@pytest.mark.parametrize(
    ("problem", "name"),
    [(ODD, "interleaved"), (ODD_DEEP, "blocked"), (ODD_BF16, "default"), (ODD_BF16, "blocked")],
)
def test_edits_are_right_on_other_variants(problem: Problem, name: str) -> None:
    """Pairs of bfloat16, depth blocks, interleaved rows: whatever a winner may be."""
    full = Form(variant(problem, BASES[name]), detect())
    check(problem, full, changed_sources(problem, full), tokens=40)


def test_the_full_kernel_is_rendered_as_it_ships() -> None:
    assert base(ODD).source(ODD) == render(ODD, base(ODD).variant).text
