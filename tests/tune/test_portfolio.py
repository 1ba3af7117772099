from __future__ import annotations

import pytest

from tuner.problem.workload import Workload
from tuner.tune.portfolio import CellRatios, Entry, Rule, best, keep, loss, pick, selector

PACKS = {"d": "p2", "e": "p2", "a": "p2", "b": "p2", "c": "p2"}


def field(tokens: int, default: str = "d", weight: float = 1.0, **ratios: float) -> CellRatios:
    """A cell in which the default takes 1 and others what is given, give or take half a percent.

    A variant differs from the default in as many parameters as its letter is away from "a", and 1.
    """
    entries = {default: Entry(1.0, 1.0, 1.0, False, 0)}
    for name, ratio in ratios.items():
        proven = ratio < 0.98
        entries[name] = Entry(
            ratio, 0.995 * ratio, 1.005 * ratio, proven, 1 + abs(ord(name) - ord("a"))
        )
    return CellRatios(Workload(tokens), weight, default, 0.01, entries)


def test_the_fastest_that_is_proven_serves() -> None:
    assert pick(field(1, a=0.9, b=0.8), ["d", "a", "b"]) == "b"
    assert best(field(1, a=0.9, b=0.8)) == "b"


def test_a_tie_goes_to_the_one_nearer_to_the_default() -> None:
    assert pick(field(1, a=0.805, b=0.8), ["a", "b"]) == "a"
    assert pick(field(1, a=0.82, b=0.8), ["a", "b"]) == "b"


def test_without_a_proven_gain_the_default_serves_if_it_is_kept() -> None:
    unsure = field(1, a=0.99, b=1.002)
    assert pick(unsure, ["d", "a", "b"]) == "d"
    assert pick(unsure, ["a", "b"]) == "a"


def test_what_is_surely_slower_than_the_default_never_serves() -> None:
    assert pick(field(1, a=1.2), ["a"]) is None
    assert pick(field(1, a=1.2), ["d", "a"]) == "d"


def test_what_was_not_measured_in_a_cell_cannot_serve_it() -> None:
    assert pick(field(1), ["a"]) is None


def test_one_variant_for_two_cells_where_it_ties_with_the_best() -> None:
    fields = [field(1, a=0.5, b=0.8), field(128, a=0.905, b=0.9)]
    kept = keep(fields, PACKS, most=4)
    assert kept.variants == ("a",)
    assert kept.choices == ("a", "a")
    assert kept.losses == (1.0, 1.0)


def test_two_variants_where_one_would_lose() -> None:
    fields = [field(1, a=0.5, b=0.8), field(128, a=0.95, b=0.7)]
    kept = keep(fields, PACKS, most=4)
    assert kept.choices == ("a", "b")
    assert kept.mean_loss == 1.0


def test_at_most_so_many_are_kept_and_the_loss_is_told() -> None:
    fields = [field(1, a=0.5, b=0.6), field(128, a=0.9, b=0.7)]
    kept = keep(fields, PACKS, most=1)
    assert kept.variants == ("b",)
    assert kept.losses == pytest.approx((1.2, 1.0))
    assert kept.mean_loss == pytest.approx(1.2**0.5)


def test_the_weights_of_the_cells_decide() -> None:
    fields = [field(1, a=0.5, b=0.6, weight=4), field(128, a=0.9, b=0.7)]
    assert keep(fields, PACKS, most=1).variants == ("a",)


def test_a_set_must_serve_every_cell() -> None:
    """a is best by far at 1 token, but surely slower than the default at 128: c alone is allowed."""
    fields = [field(1, a=0.4, c=0.95), field(128, a=1.3, c=0.97)]
    assert keep(fields, PACKS, most=1).variants == ("c",)
    assert keep(fields, PACKS, most=2).choices == ("a", "c")


def test_defaults_that_are_needed_are_kept_beyond_the_limit() -> None:
    fields = [field(1, "d", e=1.5), field(128, "e", d=1.5)]
    kept = keep(fields, PACKS, most=1)
    assert sorted(kept.variants) == ["d", "e"]
    assert kept.mean_loss == 1.0


def test_all_that_is_kept_reads_one_packed_form() -> None:
    fields = [field(1, a=0.5, b=0.7), field(128, a=1.1, b=0.6)]
    packs = {**PACKS, "a": "p1"}
    assert keep(fields, packs, most=4).variants == ("b",)


def test_a_cell_loses_nothing_where_the_choice_is_its_best() -> None:
    assert loss(field(1, a=0.8, b=0.9), "a") == 1.0
    assert loss(field(1, a=0.8, b=0.9), "b") == pytest.approx(0.9 / 0.8)


def test_thresholds_lie_half_way_in_octaves() -> None:
    choices = {
        Workload(1): "A", Workload(16): "A", Workload(128): "B", Workload(1024): "B",
        Workload(1, "zipf:1.2"): "C", Workload(128, "zipf:1.2"): "C",
    }  # fmt: skip
    assert selector(choices) == (
        Rule("uniform", 45, "A"),
        Rule("uniform", None, "B"),
        Rule("zipf:1.2", None, "C"),
    )
