"""The script of the side by side: what it plans, what it keeps, what it shows."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from tests.rows import TARGET
from tuner.errors import UsageError, WorkerError
from tuner.measure.race import Effort
from tuner.peers import compare as peers
from tuner.peers.compare import PeerRow
from tuner.problem import Problem, footprint
from tuner.problem.workload import Workload

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SHAPE = "64x48x4x2-swiglu"


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


@pytest.fixture
def script() -> ModuleType:
    return importlib.import_module("cpu_peers")


@pytest.fixture
def shown() -> ModuleType:
    return importlib.import_module("peer_page")


@pytest.fixture
def kept() -> ModuleType:
    return importlib.import_module("peer_rows")


def peer(tokens: int, name: str, **more: Any) -> PeerRow:
    fields: dict[str, Any] = {
        "load": "uniform", "variant": "v", "match": "exact", "ours_median_ns": 1.2345e6,
        "peer_median_ns": 250e6, "ratio": 2.0, "ratio_low": 1.9, "ratio_high": 2.1, "gflop_s": 99.6,
        "gb_s": 40.2, "ceiling": "fma", "ceiling_fraction": 0.8, "temperature": "warm", "form": "f",
    }  # fmt: skip
    return PeerRow(tokens=tokens, peer=name, **(fields | more))


def row(kept: ModuleType, tokens: int, name: str, model: str = "a", **more: Any) -> Any:
    own = {"model": model, "dtype": "float32", "experts": 8, "of_experts": 8, "run": 0}
    own |= {field: more.pop(field) for field in list(more) if field in own}
    return kept.Row(**own, peer=peer(tokens, name, **more))


REFUSED = {"refused": "no erf", "ratio": 0.0, "ratio_low": 0.0, "ratio_high": 0.0, "form": ""}


def test_the_table(kept: ModuleType, shown: ModuleType) -> None:
    cold = {"ceiling": "read", "temperature": "cold", "match": "tokens"}
    slow = {"ratio": 2.5, "ratio_low": 2.4, "ratio_high": 2.6}
    rows = [
        row(kept, 1, "numpy", **cold, **slow),
        row(kept, 1, "torch", **cold),
        row(kept, 128, "numpy", model="b", experts=4),
        row(kept, 128, "torch", model="b", experts=4, **REFUSED),
    ]
    assert shown.table(rows) == [
        "| model | load | tokens | match | ours, ms | rate | of ceiling "
        "| numpy, ms | ratio to numpy | torch, ms | ratio to torch | ratio to the best peer |",
        "| --- | --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        "| a | uniform | 1 (cold) | tokens | 1.23 | 40.2 GB/s | 0.80 of read "
        "| 250 (f) | 2.50 (2.40 to 2.60) | 250 (f) | 2.00 (1.90 to 2.10) | 2.00 (1.90 to 2.10) |",
        "| b (4 of 8 experts) | uniform | 128 (warm) | exact | 1.23 | 99.6 GFLOP/s | 0.80 of fma "
        "| 250 (f) | 2.00 (1.90 to 2.10) | cannot run | - | 2.00 (1.90 to 2.10) |",
    ]
    assert shown.refused(rows) == ["Cannot run:", "", "- torch: no erf (b)"]


def test_nobody_runs_but_ours(kept: ModuleType, shown: ModuleType) -> None:
    assert shown.table([row(kept, 1, "numpy", **REFUSED)])[2:] == [
        "| a | uniform | 1 (warm) | exact | 1.23 | 99.6 GFLOP/s | 0.80 of fma | - |"
    ]


def test_what_went_badly_is_told(kept: ModuleType, shown: ModuleType) -> None:
    worse = {"ratio": 0.9, "ratio_low": 0.85, "ratio_high": 0.95}
    rows = [
        row(kept, 1, "numpy"),
        row(kept, 16, "numpy", foreign=0.42),
        row(kept, 16, "torch", foreign=0.42),
        row(kept, 1, "torch", **worse),
    ]
    assert shown.slower(rows) == [
        "The best peer is faster: a float32 T=1 uniform (0.90 (0.85 to 0.95))."
    ]
    assert shown.disturbed(rows) == [
        "Disturbed by other processes, measure again: a float32 T=16 uniform (42%)."
    ]
    assert shown.slower([*rows[1:3], row(kept, 4, "numpy", **REFUSED)]) == []
    assert shown.disturbed(rows[:1]) == []


def test_every_form_is_told(kept: ModuleType, shown: ModuleType) -> None:
    forms = {"mm": 1.5e6, "grouped": 250e6}
    rows = [row(kept, 1, "torch", forms=forms), row(kept, 1, "numpy", **REFUSED)]
    (line,) = shown.form_table(rows)[2:]
    assert line == "| a | float32 | uniform | 1 | torch | mm 1.5, grouped 250 |"


def test_the_page_names_what_repeats_it(
    script: ModuleType, kept: ModuleType, shown: ModuleType
) -> None:
    options = script.parse(["--models", "a,b", "--tokens", "1,2", "--against", "numpy"])
    page = shown.page([script.surroundings(TARGET, options)], [row(kept, 1, "numpy")])
    repeat = "python benchmarks/cpu_peers.py --models a,b --tokens 1,2 --dtypes float32,bfloat16"
    assert f"- command: `{repeat} --loads uniform,zipf:1.2,onehot --against numpy`" in page
    assert f"NumPy {np.__version__} (" in page
    assert script.parse(script.command(options)[2:]) == options


def test_rows_are_kept(kept: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    file = kept.RowsFile(path)
    file.start({"machine": "m"})
    first = row(kept, 1, "torch", forms={"mm": 1.5})
    file.add([first, row(kept, 1, "numpy", foreign=0.5), row(kept, 4, "numpy", **REFUSED)])
    read = kept.RowsFile(path)
    assert (read.rows, read.runs) == (file.rows, [{"machine": "m"}])
    assert read.holds(first.key)
    assert read.holds(("a", "float32", "uniform", 4, "numpy"))
    assert not read.holds(("a", "float32", "uniform", 1, "numpy")), "disturbed"
    assert not read.holds(("a", "bfloat16", "uniform", 1, "torch"))
    read.add([row(kept, 1, "numpy", experts=4)])
    assert len(kept.RowsFile(path).rows) == 3
    assert (read.experts("a", "float32"), read.experts("a", "bfloat16")) == (8, 0)


@pytest.mark.parametrize("text", ["{", "[]", '{"runs": [], "rows": [{}]}'])
def test_another_file_is_left_alone(kept: ModuleType, tmp_path: Path, text: str) -> None:
    path = tmp_path / "rows.json"
    path.write_text(text)
    with pytest.raises(UsageError, match=r"rows\.json: not a file of rows .*; give another name"):
        kept.RowsFile(path)
    assert path.read_text() == text


def test_models_by_any_name(script: ModuleType) -> None:
    relu = script.problem_of("1024x4096x8x2-relu")
    assert relu == Problem(hidden=1024, expert_dim=4096, num_experts=8, top_k=2, activation="relu")
    assert relu.name == "1024x4096x8x2-relu"
    config = BENCHMARKS.parent / "tests" / "models" / "mixtral-8x7b.config.json"
    assert script.problem_of(str(config)) == Problem.preset("mixtral-8x7b")


@pytest.mark.parametrize(
    ("model", "have_gib", "experts"),
    [
        ("qwen3-30b-a3b", 20, 128),
        ("qwen3-30b-a3b", 10, 64),
        ("mixtral-8x7b", 20, 4),
        ("mixtral-8x7b", 15, 3),
        ("deepseek-v3", 20, 16),
    ],
)
def test_experts_that_fit(script: ModuleType, model: str, have_gib: int, experts: int) -> None:
    problem = script.fitted(Problem.preset(model), 20 / 3, have_gib << 30)
    assert problem.num_experts == experts
    assert 20 / 3 * footprint.weights_bytes(problem) <= have_gib << 30


@pytest.mark.parametrize("model", ["mixtral-8x7b", "deepseek-v3"])
def test_too_little_memory_for_a_choice(script: ModuleType, model: str) -> None:
    with pytest.raises(
        UsageError, match=rf"^{model}: 6\.67 copies of the weights of (3|16) experts"
    ):
        script.fitted(Problem.preset(model), 20 / 3, 10 << 30)


def test_the_preset_run_covers_every_shape_at_its_own_tokens(script: ModuleType) -> None:
    options = script.parse(["--preset-run", "issue", "--against", "torch"])
    jobs = list(script.jobs(options, importlib.import_module("peer_rows").RowsFile(None)))
    assert [job.problem.dtype for job in jobs] == ["float32", "bfloat16"] * 4
    tokens = {j.problem.name: [w.tokens for w in j.workloads] for j in jobs}
    assert [most[-1] for most in tokens.values()] == [512, 256, 128, 2048]
    assert sum(few[:3] == [1, 4, 16] for few in tokens.values()) == 2
    assert {w.load for job in jobs for w in job.workloads} == {"uniform"}


Compared = list[tuple[tuple[tuple[int, str], ...], tuple[str, ...]]]


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> Compared:
    """What was asked of the side by side, which measures nothing here; T=4 fails."""
    asked: Compared = []

    def compare(
        problem: Problem, target: Any, database: Any, workloads: Sequence[Workload],
        against: Sequence[str], report: Any,
    ) -> Iterator[list[PeerRow]]:  # fmt: skip
        asked.append((tuple((w.tokens, w.load) for w in workloads), tuple(against)))
        for w in workloads:
            if w.tokens == 4:
                raise WorkerError("crashed")
            yield [peer(w.tokens, name, load=w.load) for name in against]

    monkeypatch.setattr(peers, "compare", compare)
    return asked


def run(script: ModuleType, *arguments: str) -> int:
    code: int = script.main(["--models", SHAPE, "--dtypes", "float32", *arguments])
    return code


def test_a_run_goes_on_where_it_was(
    script: ModuleType, compared: Compared, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ("--loads", "uniform", "--out", str(tmp_path / "rows.json"))
    assert run(script, "--tokens", "1,16", "--against", "numpy", *out) == 0
    assert run(script, "--tokens", "1,16,32", "--against", "numpy", *out) == 0
    assert run(script, "--tokens", "1,16", "--against", "numpy", *out) == 0
    both = (((1, "uniform"), (16, "uniform")), ("numpy",))
    assert compared == [both, (((32, "uniform"),), ("numpy",))]
    assert run(script, "--tokens", "1,16", "--against", "numpy", "--again", *out) == 0
    assert compared[2:] == [both]
    told = capsys.readouterr().out
    assert told.count(f"| {SHAPE} | uniform | 32 ") == 3


def test_a_failure_ends_nothing_but_its_workload(
    script: ModuleType, compared: Compared, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "rows.json"
    code = run(
        script, "--tokens", "1,4,16", "--loads", "onehot", "--against", "numpy", "--out", str(out)
    )
    assert code == 1
    assert f"failed: {SHAPE} float32 T=4 onehot: crashed" in capsys.readouterr().err
    assert [r["tokens"] for r in json.loads(out.read_text())["rows"]] == [1, 16]
    assert [len(workloads) for workloads, _ in compared] == [3, 1]


def test_rendering_measures_nothing(
    script: ModuleType, kept: ModuleType, compared: Compared, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    pytest.importorskip("matplotlib")
    file = kept.RowsFile(tmp_path / "rows.json")
    file.start({"machine": "m"})
    rows = [row(kept, t, "numpy", model=m) for t in (1, 16, 512) for m in "ab"]
    file.add([*rows, *(replace(r, dtype="bfloat16") for r in rows)])
    pictures = [tmp_path / "one.svg", tmp_path / "two.svg"]
    for picture in pictures:
        assert script.main(["--render", str(file.path), "--plot", str(picture)]) == 0
    assert compared == []
    assert "| b | uniform | 512 (warm) |" in capsys.readouterr().out
    assert script.main(["--render", str(file.path), "--brief"]) == 0
    assert "**All 12 cells are measured**" in capsys.readouterr().out
    one, two = (picture.read_bytes() for picture in pictures)
    assert one == two
    assert one.count(b"<!-- bfloat16, uniform -->") == 1


def test_a_picture_needs_matplotlib(
    script: ModuleType, compared: Compared, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Said before hours of measuring, not after."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert run(script, "--plot", "picture.svg") == 2
    assert "pip install 'moetune[compare]', or leave --plot out" in capsys.readouterr().err
    assert compared == []


BAD = {
    "--models granit": "error: preset='granit': not known",
    "--against jax": "error: peer 'jax': not known; use numpy, torch, onnxruntime",
    "--loads hot": "error: load='hot': not known",
    "--plot picture.doc": "error: picture.doc: no kind of picture; use a name that ends in .svg",
    "--render none.json": "error: none.json: no such file; give one that --out wrote",
}


@pytest.mark.parametrize(("line", "message"), BAD.items())
def test_called_wrongly(
    script: ModuleType, line: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert script.main(line.split()) == 2
    assert message in capsys.readouterr().err


@pytest.mark.compiler
@pytest.mark.slow
def test_end_to_end(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(peers, "EFFORT", Effort(budget_s=0.2, least_rounds=3, most_rounds=3))
    monkeypatch.setattr(peers, "RETRIES", 0)
    out = tmp_path / "rows.json"
    options = ["--models", SHAPE, "--tokens", "2,20", "--loads", "onehot", "--against", "numpy"]
    assert script.main([*options, "--out", str(out)]) == 0
    rows = json.loads(out.read_text())["rows"]
    assert [(r["dtype"], r["tokens"], bool(r["refused"])) for r in rows] == [
        ("float32", 2, False), ("float32", 20, False), ("bfloat16", 2, True), ("bfloat16", 20, True),
    ]  # fmt: skip
    assert {r["match"] for r in rows} == {"default"}
    assert "- numpy: it has fast products in float32 alone" in capsys.readouterr().out
