"""Answers: what a page says first: how fast, faster than what, on which machine, and since when."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from tuner.report import words
from tuner.report.history import change
from tuner.report.machines import MachineRow, SideBySide
from tuner.report.overview import Overview
from tuner.report.peer_times import by_peer, proven_faster, proven_slower
from tuner.store.peer_times import PeerTimeRow

_MEMORY = ("read", "copy")
_ALONE = "Only this machine was tuned for this layer."
_DAY = 10  # letters of a date


class Answer(NamedTuple):
    """A question and what is known about it."""

    question: str
    text: str


def answers(
    view: Overview, peers: Sequence[PeerTimeRow], machines: SideBySide
) -> tuple[Answer, ...]:
    """What is known of one problem on one target; ``peers`` are the newest rows of each."""
    return (
        Answer("How fast is it?", _speed(view)),
        Answer("Is it faster than other libraries?", _beside(view, peers)),
        Answer("Which machine is faster?", which_machine(machines)),
        Answer("What did tuning gain?", _gain(view)),
        Answer("Did it become slower?", _since(view)),
    )


def of_ceiling(ceiling: str, fraction: float | None) -> str:
    """A share of a ceiling in words."""
    if fraction is None or not ceiling:
        return ""
    return (
        f"{100 * fraction:.0f} % of {'memory bandwidth' if ceiling in _MEMORY else 'peak FLOP/s'}"
    )


def _speed(view: Overview) -> str:
    if not view.cells:
        return "Nothing has won yet: no session here came to its finals."
    load = view.chosen.load if view.under(view.chosen.load) else view.cells[0].load
    cells = view.under(load)
    told = [
        ", ".join(filter(None, [f"{words.duration(c.median_ns)} at {_tokens(c.tokens)}",
                                of_ceiling(c.ceiling, c.fraction)]))
        for c in (*cells[:1], *cells[1:][-1:])
    ]  # fmt: skip
    return f"{'; '.join(told)} (load {load})."


def _beside(view: Overview, peers: Sequence[PeerTimeRow]) -> str:
    paired = [row for row in peers if row.ratio is not None]
    if not paired:
        return "Not measured: no library has run beside it on this machine."
    return " ".join(_against(name, rows) for name, rows in by_peer(paired).items())


def _against(name: str, rows: Sequence[PeerTimeRow]) -> str:
    """How many times as fast ours is as one peer, least to greatest, and of how many it is proven."""
    ratios = sorted(row.ratio for row in rows if row.ratio is not None)
    span = " to ".join(dict.fromkeys(f"{ratio:.2f}" for ratio in (ratios[0], ratios[-1])))
    version = max(rows, key=lambda row: row.created).version
    faster, slower = sum(map(proven_faster, rows)), sum(map(proven_slower, rows))
    told = f"surely faster in {faster} of {words.counted(len(rows), 'workload')}"
    told += f", surely slower in {slower}" if slower else ""
    return f"{span} times as fast as {name}{f' {version}' if version else ''}: {told}."


def which_machine(machines: SideBySide) -> str:
    """The fastest machine of the workloads that several have, and by how much."""
    alone = len({machine.target.digest for machine in machines.machines}) < 2
    if not machines.shared:
        return _ALONE if alone else "No number of tokens was tuned on two machines."
    fewest, most = machines.shared[0], machines.shared[-1]
    told = [_fastest(machines, row) for row in dict.fromkeys((fewest, most))]
    return f"{_ALONE} " * alone + f"{'; '.join(told)}."


def _fastest(machines: SideBySide, row: MachineRow) -> str:
    times = [
        (time, machine)
        for time, machine in zip(row.times, machines.machines, strict=True)
        if time is not None
    ]
    best, machine = min(times, key=lambda pair: pair[0].median_ns)
    if not best.fastest:
        return f"at {_tokens(row.tokens)} no machine is surely the fastest"
    second = min(time.over_fastest for time, _ in times if time is not best)
    types = {m.problem.dtype for _, m in times}
    dtype = f" in {machine.problem.dtype}" if len(types) > 1 else ""
    return (
        f"{machine.label}{dtype} is {second:.2f} times as fast as the next at {_tokens(row.tokens)}"
    )


def _gain(view: Overview) -> str:
    cells = view.cells
    gained = [cell for cell in cells if not cell.is_default]
    if not cells:
        return "Not known yet."
    if not gained:
        return f"Nothing: no variant was surely faster than the template's default{_noise(view)}."
    best = max(gained, key=lambda cell: cell.speedup)
    return (
        f"In {len(gained)} of {words.counted(len(cells), 'workload')} something is faster than the default: "
        f"at most {words.times(best.speedup, best.speedup_low, best.speedup_high)} at "
        f"{_tokens(best.tokens)}, {best.load}."
    )


def _noise(view: Overview) -> str:
    """The noise of the chosen workload's session, in which a smaller gain is lost."""
    account = view.explanation.account
    if account is None or not account.noise_floor:
        return ""
    return (
        f"; at {_tokens(view.chosen.tokens)} the noise floor was {100 * account.noise_floor:.1f} %"
    )


def _since(view: Overview) -> str:
    found = view.occasions
    if not found:
        return "Not known: no finals are recorded."
    last = change(found)
    if last is None:
        return f"Not known: it was measured once, on {found[-1].created[:_DAY]}."
    dates = f"{last.before.created[:_DAY]} and {last.after.created[:_DAY]}"
    if not last.told_apart:
        return f"Not that it shows: the intervals of {dates} overlap."
    more = last.ratio - 1
    name = "slower" if more > 0 else "faster"
    return (
        f"It is {100 * abs(more):.1f} % {name}: {words.duration(last.before.median_ns)} and then "
        f"{words.duration(last.after.median_ns)} at {_tokens(view.chosen.tokens)}, on {dates}."
    )


def _tokens(count: int) -> str:
    return words.counted(count, "token")
