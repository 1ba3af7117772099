"""The tables of a side by side, as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby

from peer_rows import About, Row

from tuner.peers.compare import PeerRow

NOTES = """\
Ratio = the peer's time / ours, median of the paired rounds with its 95 % interval: above 1 ours is
faster. Rate and the share of the ceiling that binds are ours; of each peer its fastest form."""


def page(runs: Sequence[About], rows: Sequence[Row], forms: bool = False) -> str:
    """Everything as Markdown; `forms`: also what each form of a peer took."""
    parts = [[NOTES], facts(runs, rows)]
    for dtype, own in by_dtype(rows).items():
        parts.append([f"{dtype}:"])
        parts.append(table(own))
    parts += [refused(rows), slower(rows), disturbed(rows)]
    parts += [form_table(rows)] if forms else []
    return "\n\n".join("\n".join(part) for part in parts if part)


def by_dtype(rows: Iterable[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row.dtype, []).append(row)
    return found


def cells(rows: Iterable[Row]) -> list[dict[str, Row]]:
    """The rows by peer of each workload, ordered by model as it came, load and tokens."""
    rows = list(rows)
    models = list(dict.fromkeys(row.model for row in rows))
    loads = list(dict.fromkeys(row.peer.load for row in rows))

    def place(row: Row) -> tuple[int, int, int]:
        return models.index(row.model), loads.index(row.peer.load), row.peer.tokens

    groups = groupby(sorted(rows, key=place), key=place)
    return [{row.peer.peer: row for row in group} for _, group in groups]


def best(cell: Mapping[str, Row]) -> PeerRow | None:
    """The fastest peer of a workload; None where none can run."""
    ran = [row.peer for row in cell.values() if not row.peer.refused]
    return min(ran, key=lambda peer: peer.ratio) if ran else None


def facts(runs: Sequence[About], rows: Sequence[Row]) -> list[str]:
    """What a reader has to know to judge the numbers, from the runs that these rows are of."""
    used = [runs[number] for number in sorted({row.run for row in rows})]
    names = dict.fromkeys(name for about in used for name in about)
    return [
        f"- {name}: {'; '.join(dict.fromkeys(a[name] for a in used if name in a))}"
        for name in names
    ]


def table(rows: Sequence[Row]) -> list[str]:
    """One line for each workload; two columns for each peer, and one for the best of them."""
    peers = list(dict.fromkeys(row.peer.peer for row in rows if not row.peer.refused))
    titles = ["model", "load", "tokens", "match", "ours, ms", "rate", "of ceiling"]
    for peer in peers:
        titles += [f"{peer}, ms", f"ratio to {peer}"]
    titles.append("ratio to the best peer")
    return markdown(titles, 4, (line(cell, peers) for cell in cells(rows)))


def markdown(titles: Sequence[str], words: int, lines: Iterable[Sequence[str]]) -> list[str]:
    """A table of which all but the first columns, which are `words`, hold numbers."""
    rule = ["---"] * words + ["---:"] * (len(titles) - words)
    return ["| " + " | ".join(line) + " |" for line in (titles, rule, *lines)]


def line(cell: Mapping[str, Row], peers: Sequence[str]) -> list[str]:
    first = next(iter(cell.values()))
    ours, fastest = first.peer, best(cell)
    reads = ours.ceiling in ("read", "copy")
    rate = f"{three(ours.gb_s)} GB/s" if reads else f"{three(ours.gflop_s)} GFLOP/s"
    return [
        first.label,
        ours.load,
        f"{ours.tokens} ({ours.temperature})",
        ours.match,
        ms(ours.ours_median_ns),
        rate,
        f"{ours.ceiling_fraction:.2f} of {ours.ceiling}",
        *(text for peer in peers for text in peer_cells(cell.get(peer))),
        ratio(fastest) if fastest else "-",
    ]


def peer_cells(row: Row | None) -> list[str]:
    if row is None:
        return ["-", "-"]
    if row.peer.refused:
        return ["cannot run", "-"]
    return [f"{ms(row.peer.peer_median_ns)} ({row.peer.form})", ratio(row.peer)]


def ratio(peer: PeerRow) -> str:
    return f"{peer.ratio:.2f} ({peer.ratio_low:.2f} to {peer.ratio_high:.2f})"


def ms(nanoseconds: float) -> str:
    return three(nanoseconds / 1e6)


def three(value: float) -> str:
    """Three digits that mean something."""
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def refused(rows: Sequence[Row]) -> list[str]:
    """Which peers cannot run which models, and why."""
    models: dict[tuple[str, str], dict[str, None]] = {}
    for row in rows:
        if row.peer.refused:
            models.setdefault((row.peer.peer, row.peer.refused), {})[row.model] = None
    told = [f"- {peer}: {why} ({', '.join(m)})" for (peer, why), m in models.items()]
    return ["Cannot run:", "", *told] if told else []


def slower(rows: Sequence[Row]) -> list[str]:
    """The workloads at which the best peer is surely faster than ours."""

    def wins(peer: PeerRow) -> bool:
        return not peer.refused and peer.ratio_high < 1

    return _told("The best peer is faster", rows, wins, ratio)


def disturbed(rows: Sequence[Row]) -> list[str]:
    """The workloads whose numbers mean little, as other processes ran meanwhile."""
    busy = [row for row in rows if row.disturbed]
    return _told(
        "Disturbed by other processes, measure again",
        busy, lambda peer: True, lambda peer: f"{peer.foreign:.0%}",
    )  # fmt: skip


def _told(
    title: str,
    rows: Sequence[Row],
    wanted: Callable[[PeerRow], bool],
    say: Callable[[PeerRow], str],
) -> list[str]:
    found = []
    for dtype, own in by_dtype(rows).items():
        for cell in cells(own):
            row = next(iter(cell.values()))
            peer = best(cell) or row.peer
            if wanted(peer):
                found.append(f"{row.model} {dtype} T={peer.tokens} {peer.load} ({say(peer)})")
    return [f"{title}: {', '.join(found)}."] if found else []


def form_table(rows: Sequence[Row]) -> list[str]:
    """What each form of a peer took in the trials that found the fastest, ms."""
    lines = [
        [
            row.label, row.dtype, row.peer.load, str(row.peer.tokens), row.peer.peer,
            ", ".join(f"{form} {ms(ns)}" for form, ns in row.peer.forms.items()),
        ]
        for row in rows
        if row.peer.forms
    ]  # fmt: skip
    titles = ["model", "type", "load", "tokens", "peer", "its forms, ms"]
    return markdown(titles, len(titles), lines)
