"""The short page of a side by side: docs/results/models.md is one."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.benchmark_scripts import script
from tuner.peers.compare import PeerRow

RUNS = [{"machine": "m", "command": "c"}]
DATA = Path("data/rows.json")


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return script("peer_brief", monkeypatch)


def row(short: ModuleType, model: str, tokens: int, name: str, ratio: float, **more: Any) -> Any:
    fields: dict[str, Any] = {
        "load": "uniform", "variant": "v", "match": "default", "ours_median_ns": 2e6,
        "peer_median_ns": 250e6, "ratio_low": ratio - 0.1, "ratio_high": ratio + 0.1, "gflop_s": 99.6,
        "gb_s": 40.2, "ceiling": "read", "ceiling_fraction": 0.8, "temperature": "cold",
    }  # fmt: skip
    own = {"dtype": "float32", "experts": 8, "of_experts": 8, "run": 0}
    own |= {field: more.pop(field) for field in list(more) if field in own}
    peer = PeerRow(tokens=tokens, peer=name, ratio=ratio, **(fields | more))
    return short.Row(model=model, peer=peer, **own)


PAGE = """\
# Models beside other libraries

Made by `python benchmarks/cpu_peers.py --render data/rows.json --brief --plot data/rows.svg`; \
without `--brief` it shows every peer,
`--forms` every form of them, and the commands that measured.

- machine: m

**5 of 16 cells are measured** (2 models x 2 token counts x 2 loads x 2 types): a dash is one that is not yet.
`python benchmarks/cpu_peers.py --models MODEL --out data/rows.json` measures what a model lacks.

A cell says our median time, its share of the ceiling that binds (`read`: bandwidth probed beside the samples,
of cold weights; `fma`, `dot`: the peak), and the best peer's time over ours, the median of paired rounds with
its 95 % interval: above 1 ours is faster. Peers that ran, each in its fastest form:
float32: numpy, torch; bfloat16: torch.
Our kernels: the template's defaults, none tuned. \
Experts are left out where the copies that all contestants hold do not fit into memory.
A star: other processes took more than 5 % of the machine meanwhile.

Best peer's time over ours: median over models and loads (least to greatest), and of how many cells.

| tokens | 1 | 16 |
| --- | ---: | ---: |
| float32 | 1.50 (0.80 to 2.00), 3 of 4 | - |
| bfloat16 | - | 3.00 (3.00 to 3.00), 1 of 4 |

![time of the best peer over ours](../../data/rows.svg)

The best peer is faster: b float32 T=1 uniform (0.80 (0.70 to 0.90)).

## float32

| model | tokens | uniform | hot |
| --- | --- | --- | --- |
| a | 1 | 2 ms, 0.80 of read; 2.00 (1.90 to 2.10) torch | 2 ms, 0.80 of read; 1.50 (1.40 to 1.60) numpy * |
| a | 16 | - | - |
| b (4 of 8 experts) | 1 | 2 ms, 0.80 of read; 0.80 (0.70 to 0.90) numpy | - |
| b (4 of 8 experts) | 16 | - | - |

## bfloat16

| model | tokens | uniform | hot |
| --- | --- | --- | --- |
| a | 1 | 2 ms, 0.80 of read; no peer can run | - |
| a | 16 | 2 ms, 0.80 of read; 3.00 (2.90 to 3.10) torch | - |
| b | 1 | - | - |
| b | 16 | - | - |"""


def test_the_page_of_a_part(short: ModuleType) -> None:
    half: dict[str, Any] = {"dtype": "bfloat16"}
    rows = [
        row(short, "a", 1, "numpy", 2.5),
        row(short, "a", 1, "torch", 2.0),
        row(short, "a", 1, "numpy", 1.5, load="hot", foreign=0.06),
        row(short, "b", 1, "numpy", 0.8, experts=4),
        row(short, "a", 1, "numpy", 0.0, refused="float32 alone", **half),
        row(short, "a", 16, "torch", 3.0, **half),
    ]
    assert short.brief(RUNS, rows, DATA, DATA.with_suffix(".svg")) == PAGE


def test_the_page_of_all_has_no_dash(short: ModuleType) -> None:
    rows = [
        row(short, "a", tokens, "numpy", 2.0, match=m)
        for tokens, m in ((16, "exact"), (4, "tokens"))
    ]
    page = short.brief(RUNS, rows, DATA)
    assert "**All 2 cells are measured**" in page
    assert "Our kernels: exact, tokens.\n" in page
    assert "In no measured cell is the best peer proven to be faster." in page
    assert page.endswith(
        "| a | 4 | 2 ms, 0.80 of read; 2.00 (1.90 to 2.10) numpy |\n"
        "| a | 16 | 2 ms, 0.80 of read; 2.00 (1.90 to 2.10) numpy |"
    )
    assert "dash" not in page
    assert "![" not in page
