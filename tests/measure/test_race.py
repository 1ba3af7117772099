from __future__ import annotations

import subprocess
import sys
import time

import pytest

from tuner.host.interference import FOREIGN_LIMIT
from tuner.intervals import median
from tuner.measure.race import Effort, race


def sleeper(seconds: float) -> tuple[list[int], object]:
    seen: list[int] = []

    def call(number: int) -> None:
        seen.append(number)
        time.sleep(seconds)

    return seen, call


def test_rounds_are_paired_and_the_ratio_is_theirs() -> None:
    seen, slow = sleeper(0.004)
    _, fast = sleeper(0.002)
    result = race([slow, fast], Effort(budget_s=0.2, least_rounds=5, precision=1e-9), retries=0)
    assert len(result.times_ns[0]) == len(result.times_ns[1]) >= 5
    assert seen[1:] == list(range(len(result.times_ns[0])))
    paired = [
        b / a for a, b in zip(*result.times_ns, strict=True)
    ]  # of sleeps, which load makes longer
    assert result.ratio(1).value == median(paired).value
    assert 4e6 <= result.time(0).low <= result.time(0).value <= result.time(0).high


def test_a_candidate_that_cannot_reach_the_incumbent_gets_three_rounds() -> None:
    _, default = sleeper(0.002)
    _, slow = sleeper(0.02)
    effort = Effort(budget_s=20.0, precision=1e-9, reach=1.2)
    assert len(race([default, slow], effort, retries=0).times_ns[1]) == effort.first_rounds == 3


def test_beside_others_it_gets_the_least_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three that other processes disturb tell nothing."""
    monkeypatch.setattr("tuner.measure.race.ForeignMeter.share", lambda meter: 2 * FOREIGN_LIMIT)
    _, default = sleeper(0.002)
    seen, slow = sleeper(0.02)
    found = race([default, slow], Effort(budget_s=20.0, precision=1e-9, reach=1.2), retries=1)
    assert seen == [0, *range(3), 0, *range(7)]
    assert (len(found.times_ns[1]), found.redone) == (7, 1)


def test_one_that_may_still_reach_it_keeps_all_in_the_race() -> None:
    _, default = sleeper(0.002)
    _, slow = sleeper(0.004)
    effort = Effort(budget_s=0.0, least_rounds=9, precision=1e-9, reach=1.2)
    found = race([default, slow, default], effort, retries=0)
    assert [len(row) for row in found.times_ns] == [9, 9, 9]


def test_a_probe_runs_before_every_sample() -> None:
    _, call = sleeper(0.001)
    order: list[str] = []

    def probe() -> float:
        order.append("probe")
        return 40.0

    def sample(number: int) -> None:
        order.append("call")
        call(number)

    result = race([sample], Effort(budget_s=0.0, least_rounds=3), probe, retries=0)
    assert order == ["call", *["probe", "call"] * 3]
    assert result.read_gb_s == 40.0


@pytest.mark.timed
def test_another_process_is_noticed_and_the_race_redone() -> None:
    burner = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        _, call = sleeper(0.02)
        effort = Effort(budget_s=0.5, least_rounds=3, precision=1e-9)
        result = race([call], effort, retries=1)
    finally:
        burner.kill()
        burner.wait()
    assert result.foreign > FOREIGN_LIMIT
    assert result.redone == 1


def test_percentiles() -> None:
    _, call = sleeper(0.001)
    result = race([call], Effort(budget_s=0.05, least_rounds=9, precision=1e-9), retries=0)
    assert result.time(0).value <= result.percentile(0, 95) <= result.percentile(0, 99)
    assert result.percentile(0, 100) == pytest.approx(max(result.times_ns[0]))


def test_the_peak_is_probed_once_a_round() -> None:
    peaks = iter(range(1, 100))
    effort = Effort(budget_s=0.0, least_rounds=3)
    result = race([lambda n: None] * 2, effort, retries=0, peak=lambda: float(next(peaks)))
    assert result.probe_gflop_s == (1.0, 2.0, 3.0)
    assert result.peak_gflop_s == 3.0
    assert result.read_gb_s == 0.0
