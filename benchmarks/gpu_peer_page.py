"""Table and plot of what benchmarks/gpu_peers.py measured.

    python benchmarks/gpu_peer_page.py samples.jsonl --out rows.json --plot ratios.svg
    python benchmarks/cpu_peers.py --render rows.json

Ours is the fastest of its variants by the median; --default takes the template's default instead. The rows have
the form of benchmarks/cpu_peers.py, so that what reads those reads these.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from peer_page import page
from peer_plot import check, plot
from peer_rows import About, Row, RowsFile

from tuner.intervals import median
from tuner.measure.race import Race
from tuner.peers.compare import PeerRow
from tuner.problem import Problem
from tuner.target.roofline import GpuCeilings


def variants(told: dict[str, Any]) -> list[str]:
    return [name for name in told["samples"] if name.startswith("moe_gpu_")]


def rows_of(told: dict[str, Any], run: int, default: bool) -> Iterable[Row]:
    """A row for each peer of a cell."""
    samples = told["samples"]
    medians = {name: median(values).value for name, values in samples.items()}
    mine = told["default"] if default else min(variants(told), key=medians.__getitem__)
    model = told["model"].removesuffix(f"-{told['dtype']}")
    ns = medians[mine]
    for peer in (name for name in samples if name not in variants(told)):
        race = Race((tuple(samples[mine]), tuple(samples[peer])))
        ratio = race.ratio(1)
        limits = GpuCeilings(told["copy_gb_s"], told["read_gb_s"], dense_gflop_s=0.0)
        floor_ns, ceiling = limits.floor_ns(told["flops"], told["bytes"])
        row = PeerRow(
            tokens=told["tokens"],
            load=told["load"],
            peer=peer.partition(",")[0],
            variant=mine,
            match="default" if mine == told["default"] else "tuned",
            ours_median_ns=ns,
            peer_median_ns=medians[peer],
            ratio=ratio.value,
            ratio_low=ratio.low,
            ratio_high=ratio.high,
            gflop_s=told["flops"] / ns,
            gb_s=told["bytes"] / ns,
            ceiling=ceiling,
            ceiling_fraction=floor_ns / ns,
            temperature="cold",
            form=peer.partition(", ")[2] or "whole layer",
        )
        yield Row(model, told["dtype"], told["experts"], whole(model, told), run, row)


def whole(model: str, told: dict[str, Any]) -> int:
    """How many experts the model has."""
    return Problem.preset(model).num_experts if model else int(told["experts"])


def about(told: dict[str, Any]) -> About:
    return {
        "machine": f"{told['device']}, copy {told['copy_gb_s']:.0f}, read {told['read_gb_s']:.0f} GB/s",
        "date": told["date"],
        "versions": f"{told['toolchain']}, PyTorch {told['torch']}",
        "command": "`python benchmarks/gpu_peers.py JOB --out samples.jsonl`",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("samples", type=Path, nargs="+")
    parser.add_argument("--default", action="store_true", help="the template's default as ours")
    parser.add_argument("--out", type=Path, metavar="FILE.json")
    parser.add_argument("--plot", type=Path, metavar="FILE.svg")
    options = parser.parse_args()
    if options.plot:
        check(options.plot)
    file = RowsFile(options.out)
    for path in options.samples:
        cells = [json.loads(line) for line in path.read_text().splitlines()]
        run = file.start(about(cells[0]))
        for told in cells:
            file.add(rows_of(told, run, options.default))
    print(page(file.runs, file.rows))
    if options.plot:
        plot(file.rows, options.plot)


if __name__ == "__main__":
    main()
