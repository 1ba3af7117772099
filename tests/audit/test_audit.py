"""Audit: verdicts from races that are given, costs and times that are counted, and one for real."""

from __future__ import annotations

import dataclasses
import json
import re
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.commands import Run
from tests.kernels import TINY
from tests.rows import winner_of
from tuner.audit import audit as stage
from tuner.audit.audit import Measured, audit, judge
from tuner.audit.claims import AuditVerdict, Claim, Finding, claims, finding, is_here
from tuner.cli.commands import audit as command
from tuner.codegen.render import render
from tuner.errors import UsageError
from tuner.measure.bench import Timing
from tuner.measure.race import FINAL_EFFORT, TRIAL_EFFORT, Race
from tuner.space.variant import Variant, default_variant, make
from tuner.store.database import Database
from tuner.store.records import MeasurementRow, TrialRow
from tuner.target import Target
from tuner.target.roofline import Ceilings
from tuner.tune.finals import PROCESSES

HOST = Target("amd", "x86-64-v3", ("avx2", "fma"), 2, 32 << 10, 512 << 10, 32 << 20, name="Here")
CEILINGS = Ceilings(500.0, 50.0)
COMPILER = "Mojo 1"
RACES = PROCESSES * FINAL_EFFORT.budget_s / TRIAL_EFFORT.budget_s


@pytest.fixture(autouse=True)
def no_toolchain(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Nothing is cached, and nobody asks the compiler."""
    if not request.node.get_closest_marker("compiler"):
        monkeypatch.setattr("tuner.audit.claims.is_cached", lambda text, target: False)


@pytest.fixture
def db(database: Path) -> Iterator[Database]:
    with Database(database) as opened:
        yield opened


def variants(tokens: int, target: Target = HOST) -> tuple[Variant, Variant]:
    """The default, and one that differs in two parameters."""
    default = default_variant(TINY, target, tokens=tokens)
    return default, make(default.template, {**default.config, "tile_rows": 4, "chunks": 4})


def add(db: Database, variant: Variant, tokens: int, ratio: float = 1.0, target: Target = HOST,
        seconds: float = 1.0, digest: str | None = None, kind: str = "final") -> TrialRow:  # fmt: skip
    row = TrialRow(
        target_id=db.add_target(target), problem_id=db.add_problem(TINY), tokens=tokens,
        variant_id=db.add_variant(
            variant.id, variant.template, variant.name, variant.config, variant.pack),
        load="uniform", status="ok", environment={"toolchain": COMPILER},
        source_digest=render(TINY, variant).digest if digest is None else digest,
        compile_ms=1e3 * seconds, verify_ms=500.0, benchmark_ms=250.0,
    )  # fmt: skip
    measured = MeasurementRow(
        median_ns=1e6, low_ns=1e6, high_ns=1e6, kind=kind, temperature="cold", ratio=ratio,
        ratio_low=ratio, ratio_high=ratio,
    )  # fmt: skip
    return db.trial(db.record_trial(row, measured))


def add_winner(db: Database, tokens: int, *, default_wins: bool = False, target: Target = HOST,
               seconds: float = 1.0, digest: str | None = None) -> tuple[TrialRow, TrialRow]:  # fmt: skip
    """A default and a faster variant; one of them won. Returns both trials."""
    default, better = variants(tokens, target)
    base = add(db, default, tokens, target=target, seconds=seconds)
    other = add(
        db, better, tokens, 0.98 if default_wins else 0.8, target, seconds=seconds, digest=digest
    )
    won = base if default_wins else other
    ratio = 1.0 if default_wins else 0.8
    db.record_winner(
        winner_of(won, default_trial_id=base.id, is_default=default_wins, ratio=ratio,
                  ratio_low=ratio, ratio_high=ratio)
    )  # fmt: skip
    return base, other


def timing(ratio: float, spread: float = 0.004, foreign: float = 0.0, floor: float = 0.0) -> Timing:
    """A race in which kernel 1 takes ``ratio`` times as long as the default, give or take ``spread``,
    and the default's copy is slower by ``floor``."""
    noise = [1 + spread * step for step in (-1, -0.5, 0, 0.5, 1)] * 4
    other = tuple(round(1e6 * ratio * n) for n in noise)
    times = (tuple([10**6] * 20), other, tuple([round(1e6 * (1 + floor))] * 20))
    return Timing(Race(times, foreign=foreign), 1e6, 1e6, "cold")


def measuring(*ratios: float, **more: float) -> Callable[[Claim, Ceilings | None], Measured]:
    """A measurement that finds these ratios, one in each process."""
    parts = tuple(timing(ratio, **more) for ratio in ratios)
    return lambda claim, ceilings: Measured(parts, CEILINGS, toolchain=COMPILER)


def audited(
    db: Database, measure: stage.Measure, time_s: float = 1e9, **more: object
) -> list[Finding]:
    return audit(db, HOST, time_s, report=lambda *_: None, measure=measure, **more)  # type: ignore[arg-type]


def the_claim(db: Database) -> Claim:
    ((claim,), _) = claims(db, HOST)
    return claim


def judged(db: Database, parts: list[Timing]) -> AuditVerdict:
    return judge(the_claim(db), parts)[0]


@pytest.mark.parametrize(
    ("parts", "verdict"),
    [
        ([timing(0.8), timing(0.82)], AuditVerdict.HOLDS),
        ([timing(0.8), timing(1.1)], AuditVerdict.UNSURE),
        ([timing(0.98), timing(0.981)], AuditVerdict.HOLDS),
        ([timing(0.999), timing(0.998)], AuditVerdict.LOST),
        ([timing(0.985, spread=0.04), timing(0.985, spread=0.04)], AuditVerdict.UNSURE),
        ([timing(1.1), timing(1.2)], AuditVerdict.LOST),
        ([timing(1.1, foreign=0.3), timing(1.2)], AuditVerdict.UNSURE),
        ([timing(0.8, foreign=0.3), timing(0.8)], AuditVerdict.HOLDS),
        ([timing(0.8, floor=0.3), timing(0.8, floor=0.3)], AuditVerdict.UNSURE),
        ([timing(1.1, floor=0.3), timing(1.1, floor=0.3)], AuditVerdict.UNSURE),
        ([timing(1.1, floor=0.2), timing(1.1, floor=0.2)], AuditVerdict.LOST),
    ],
)  # fmt: skip
def test_a_winner_holds_while_it_is_surely_faster(
    parts: list[Timing], verdict: AuditVerdict, db: Database
) -> None:
    add_winner(db, 4)
    assert the_claim(db).gain == pytest.approx(0.25)
    assert judged(db, parts) is verdict


@pytest.mark.parametrize(
    ("ratio", "verdict"),
    [
        (0.9, AuditVerdict.HOLDS),
        (1.0, AuditVerdict.HOLDS),
        (1.012, AuditVerdict.HOLDS),
        (1.03, AuditVerdict.LOST),
    ],
)
def test_one_that_claims_no_gain_holds_until_it_is_surely_slower(
    ratio: float, verdict: AuditVerdict, db: Database
) -> None:
    base, other = add_winner(db, 4)
    no_gain = {"ratio": 0.99, "ratio_low": 0.97, "ratio_high": 1.01}
    db.record_winner(winner_of(other, default_trial_id=base.id, **no_gain))
    assert the_claim(db).gain == 0
    assert judged(db, [timing(ratio)] * 2) is verdict


@pytest.mark.parametrize(
    ("parts", "verdict"),
    [
        ([timing(1.1), timing(1.0)], AuditVerdict.HOLDS),
        ([timing(0.995), timing(0.995)], AuditVerdict.HOLDS),
        ([timing(0.9), timing(1.01)], AuditVerdict.HOLDS),
        ([timing(0.9), timing(0.91)], AuditVerdict.LOST),
        ([timing(0.9, foreign=0.3), timing(0.9)], AuditVerdict.UNSURE),
        ([timing(0.99, floor=0.05), timing(0.99, floor=0.05)], AuditVerdict.HOLDS),
        ([timing(0.9, floor=0.2), timing(0.9, floor=0.2)], AuditVerdict.UNSURE),
    ],
)  # fmt: skip
def test_a_default_holds_until_the_contender_wins(
    parts: list[Timing], verdict: AuditVerdict, db: Database
) -> None:
    add_winner(db, 4, default_wins=True)
    assert judged(db, parts) is verdict


def test_a_default_that_was_kept_for_other_workloads_loses_what_was_put_up_with(
    db: Database,
) -> None:
    base, _ = add_winner(db, 4, default_wins=True)
    db.record_winner(winner_of(base, default_trial_id=base.id, is_default=True, regret=1.1))
    assert judged(db, [timing(0.92)] * 2) is AuditVerdict.HOLDS
    assert judged(db, [timing(0.8)] * 2) is AuditVerdict.LOST


def test_measurements_are_kept_as_audits_of_both_and_the_winner_stays(db: Database) -> None:
    base, other = add_winner(db, 4)
    before = db.best()
    (found,) = audited(db, measuring(0.7, 0.7))
    assert (found.verdict, found.reason) == (AuditVerdict.HOLDS, "noise floor 1.0 %")
    assert found.now == pytest.approx((0.7, 0.7, 0.7), rel=0.01)
    assert (found.then, found.against) == ((0.8, 0.8, 0.8), base.variant)
    assert set(found.changes) == {"tile_rows", "chunks"}
    assert db.best() == before
    assert base.id is not None
    assert other.id is not None
    (of_base,), (of_other,) = (db.trial(id).audits for id in (base.id, other.id))
    assert (of_base.kind, of_base.ratio) == ("audit", 1.0)
    assert of_other.ratio == pytest.approx(0.7, rel=0.01)
    assert len(of_other.samples) == 40
    assert db.trial(other.id).final == other.final


def test_ceilings_are_asked_for_once(db: Database) -> None:
    add_winner(db, 4)
    add_winner(db, 8)
    given: list[Ceilings | None] = []

    def measure(claim: Claim, ceilings: Ceilings | None) -> Measured:
        given.append(ceilings)
        return measuring(0.7, 0.7)(claim, ceilings)

    audited(db, measure)
    assert given == [None, CEILINGS]


def test_the_contender_of_a_default_is_the_best_of_the_finals_that_is_still_there(
    db: Database,
) -> None:
    default, better = variants(4)
    base, other = add_winner(db, 4, default_wins=True)
    config = {**default.config, "chunks": 1}
    add(db, make(default.template, config), 4, 0.5, kind="trial")
    add(db, make(default.template, {**config, "unroll": 1}), 4, 0.6, digest="another")
    claim = the_claim(db)
    assert (claim.default, claim.default_trial) == (default, base.id)
    assert (claim.other, claim.other_trial) == (better, other.id)


def test_a_default_without_contenders_is_verified_alone(db: Database) -> None:
    default, _ = variants(4)
    base = add(db, default, 4)
    db.record_winner(winner_of(base, default_trial_id=base.id, is_default=True))
    race = Race((tuple([10**6] * 20),) * 2)
    parts = (Timing(race, 1e6, 1e6, "cold"),) * 2
    (found,) = audited(db, lambda *_: Measured(parts, CEILINGS, toolchain=COMPILER))
    assert (found.verdict, found.now, found.against) == (AuditVerdict.HOLDS, None, "")
    assert base.id is not None
    assert [row.kind for row in db.trial(base.id).audits] == ["audit"]


def test_another_compiler_is_named(db: Database) -> None:
    add_winner(db, 4)
    parts = (timing(1.1), timing(1.1))
    (found,) = audited(db, lambda *_: Measured(parts, CEILINGS, toolchain="Mojo 2"))
    assert found.reason == "noise floor 1.0 %; Mojo 1 then, Mojo 2 now"


@pytest.mark.parametrize("default_wins", [False, True])
@pytest.mark.parametrize(
    ("status", "of_winner", "of_rival"),
    [
        ("wrong", AuditVerdict.GONE, (AuditVerdict.UNSURE, AuditVerdict.HOLDS)),
        ("compile", AuditVerdict.GONE, (AuditVerdict.UNSURE, AuditVerdict.HOLDS)),
        ("crash", AuditVerdict.GONE, (AuditVerdict.UNSURE, AuditVerdict.HOLDS)),
        ("timeout", AuditVerdict.UNSURE, (AuditVerdict.UNSURE, AuditVerdict.UNSURE)),
    ],
)
def test_failures(
    default_wins: bool, status: str, of_winner: AuditVerdict, of_rival: tuple[AuditVerdict, AuditVerdict],
    db: Database,
) -> None:  # fmt: skip
    trials = add_winner(db, 4, default_wins=default_wins)
    default, better = variants(4)
    winner, rival = (default, better) if default_wins else (better, default)
    for culprit, verdict in (
        (winner, of_winner),
        (rival, of_rival[default_wins]),
        (None, AuditVerdict.UNSURE),
    ):
        failed = Measured(status=status, message="why it failed", culprit=culprit)
        (found,) = audited(db, lambda *_, failed=failed: failed)
        assert found.verdict is verdict
        assert f"{status}: why it failed" in found.reason
        assert found.now is None
    assert all(db.trial(trial.id or 0).audits == () for trial in trials)


def test_a_crash_for_want_of_memory_says_nothing_of_the_kernel(db: Database) -> None:
    add_winner(db, 4)
    _, better = variants(4)
    killed = Measured(status="crash", message="ended by SIGKILL", culprit=better)
    assert audited(db, lambda *_: killed)[0].verdict is AuditVerdict.UNSURE


def test_too_little_memory_is_told_and_the_next_one_measured(db: Database) -> None:
    add_winner(db, 4)
    add_winner(db, 8, seconds=2.0)

    def measure(claim: Claim, ceilings: Ceilings | None) -> Measured:
        if claim.workload.tokens == 4:
            raise UsageError("take 126.5 GiB, 24.0 GiB are free")
        return measuring(0.7, 0.7)(claim, ceilings)

    found = [(f.tokens, f.verdict, f.reason) for f in audited(db, measure)]
    assert found == [
        (4, AuditVerdict.UNSURE, "take 126.5 GiB, 24.0 GiB are free"),
        (8, AuditVerdict.HOLDS, "noise floor 1.0 %"),
    ]


def test_a_changed_template_is_known_without_a_measurement(db: Database) -> None:
    _, better = variants(4)
    add_winner(db, 4, digest="0123456789abcdef")
    (found,) = audited(db, _never)
    assert (found.verdict, found.winner) == (AuditVerdict.GONE, better.name)
    assert "the template changed: its source was 0123456789abcdef, it is " in found.reason


def test_other_parameters_are_known_without_a_measurement(db: Database) -> None:
    default, _ = variants(4)
    fewer = {k: v for k, v in default.config.items() if k != "chunks"}
    add(db, dataclasses.replace(default, values=tuple(fewer.items())), 4, digest="any")
    (row,) = db.trials(TINY.digest, HOST.digest, 4, "uniform")
    db.record_winner(winner_of(row))
    (found,) = audited(db, _never)
    assert found.verdict is AuditVerdict.GONE
    assert "chunks: missing or unknown in a configuration of moe_cpu" in found.reason


def test_a_default_that_is_no_longer_the_default_is_gone(db: Database) -> None:
    _, better = variants(4)
    row = add(db, better, 4)
    db.record_winner(winner_of(row, is_default=True))
    (found,) = audited(db, _never)
    assert found.verdict is AuditVerdict.GONE
    assert "the template's default is another now: moe_cpu_v" in found.reason


def test_a_problem_without_a_name_is_described(db: Database) -> None:
    add_winner(db, 4)
    nameless = TINY.replace(name="")
    assert db.add_problem(TINY.replace(name="another")) == nameless.digest
    assert claims(db, HOST)[0][0].problem.name == "another"
    raw = db.best()[0] | {"problem_name": ""}
    assert finding(raw, AuditVerdict.GONE, "").problem == nameless.describe()


def test_winners_of_another_machine_are_named_and_left_alone(db: Database) -> None:
    add_winner(db, 4, target=dataclasses.replace(HOST, cores=8))
    (found,) = audited(db, _never)
    assert found.verdict is AuditVerdict.ELSEWHERE
    assert "8 cores" in found.reason


def test_code_for_an_older_architecture_that_was_tuned_here_is_of_here() -> None:
    assert is_here(dataclasses.replace(HOST, arch="x86-64-v2", features=("sse2",)), HOST) is False
    older = dataclasses.replace(HOST, arch="x86-64-v2", features=("avx2",))
    assert is_here(older, HOST)
    assert is_here(dataclasses.replace(HOST, cores=1), HOST)
    assert not is_here(dataclasses.replace(older, l3_bytes=1), HOST)
    assert not is_here(dataclasses.replace(HOST, arch="znver5", features=("avx512f",)), HOST)


def _never(claim: Claim, ceilings: Ceilings | None) -> Measured:
    raise AssertionError(f"{claim.workload} was measured")


def test_costs_come_from_what_builds_and_measurements_took(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_winner(db, 4, seconds=3.0)
    both = 2 * 0.5 + RACES * 0.25
    assert the_claim(db).cost_s == pytest.approx(2 * 3.0 + both)
    monkeypatch.setattr("tuner.audit.claims.is_cached", lambda text, target: True)
    assert the_claim(db).cost_s == pytest.approx(both)


def test_the_cheapest_comes_first_and_what_does_not_fit_is_left(db: Database) -> None:
    for tokens, seconds in ((4, 30.0), (8, 1.0), (16, 10.0)):
        add_winner(db, tokens, seconds=seconds)
    fixed = 2 * 0.5 + RACES * 0.25
    now = [0.0]
    order: list[int] = []

    def measure(claim: Claim, ceilings: Ceilings | None) -> Measured:
        now[0] += claim.cost_s
        order.append(claim.workload.tokens)
        return measuring(0.7, 0.7)(claim, ceilings)

    time_s = 2 * (1.0 + 10.0) + 2 * fixed + 5.0
    found = audited(db, measure, time_s, clock=lambda: now[0])
    assert order == [8, 16]
    assert [(f.tokens, f.verdict) for f in found] == [
        (8, AuditVerdict.HOLDS),
        (16, AuditVerdict.HOLDS),
        (4, AuditVerdict.LEFT),
    ]
    assert found[2].reason == f"{60 + fixed:.0f} s needed, 5 s left"


def run_audit(
    db: Database, moetune: Run, monkeypatch: pytest.MonkeyPatch, ratios: Sequence[float], line: str
) -> tuple[int, str, str]:
    monkeypatch.setattr("tuner.cli.commands.audit.detect", lambda: HOST)
    monkeypatch.setattr("tuner.doctor.require_toolchain", lambda: None)
    monkeypatch.setattr(stage, "remeasure", measuring(*ratios))
    return moetune(line)


@pytest.mark.parametrize(
    ("ratios", "code", "verdict"),
    [([0.7, 0.7], 0, "holds"), ([1.1, 1.1], 1, "slower"), ([0.7, 1.1], 3, "inconclusive")],
)
def test_the_command_ends_with_a_code_for_each_verdict(
    ratios: list[float], code: int, verdict: str, db: Database, moetune: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    add_winner(db, 4)
    said = run_audit(db, moetune, monkeypatch, ratios, "audit")
    assert (said[0], said[2]) == (code, "1/1 tiny, 4 tokens uniform, about 0:05\n")
    verdict_line, ratios_line, *_ = said[1].splitlines()
    default, better = variants(4)
    rows = f"tile_rows {default.config['tile_rows']}->{better.config['tile_rows']}"
    assert verdict_line.startswith(f"{verdict:18} tiny, 4 tokens uniform: {rows}, chunks ")
    assert "1.25x [1.25, 1.25] of the default's speed then, " in ratios_line
    assert ratios_line.endswith("] now")
    assert said[1].endswith(f"1 winner: 1 {verdict}\n")


@pytest.mark.parametrize(
    ("verdicts", "allow", "code"),
    [
        ({"holds", "not of this machine"}, (), 0),
        ({"holds", "skipped"}, (), 4),
        ({"inconclusive", "skipped"}, (), 3),
        ({"inconclusive", "skipped", "slower"}, ("inconclusive", "skipped"), 1),
        ({"inconclusive", "skipped", "gone"}, (), 1),
        ({"inconclusive", "skipped"}, ("inconclusive",), 4),
        ({"inconclusive", "skipped"}, ("inconclusive", "skipped"), 0),
    ],
)
def test_the_worst_verdict_that_is_not_allowed_is_the_exit_code(
    verdicts: set[str], allow: tuple[str, ...], code: int
) -> None:
    assert command._exit_code(verdicts, allow) == code


def test_no_time_is_no_success(db: Database, moetune: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    add_winner(db, 4)
    code, out, _ = run_audit(db, moetune, monkeypatch, [0.7], "audit --time 1s")
    assert code == 4
    assert out.startswith("skipped ")
    assert out.endswith("1 winner: 1 skipped\n")
    assert run_audit(db, moetune, monkeypatch, [0.7], "audit --time 1s --allow skipped")[0] == 0


def test_the_page_of_commands_has_the_codes() -> None:
    page = (Path(__file__).parents[2] / "docs" / "commands.md").read_text()
    for verdict, code in command.EXIT_CODES.items():
        assert re.search(rf"\| {code} \|.*`audit`.*\b{verdict}\b", page), verdict


def test_the_command_ends_with_1_where_a_winner_is_gone(
    db: Database, moetune: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_winner(db, 4, digest="another")
    assert run_audit(db, moetune, monkeypatch, [0.7], "audit")[0] == 1


def test_the_command_gives_json_and_knows_models(
    db: Database, moetune: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_winner(db, 4, default_wins=True)
    code, out, _ = run_audit(db, moetune, monkeypatch, [1.2, 1.2], "audit --json")
    (told,) = json.loads(out)
    assert (code, told["verdict"], told["is_default"]) == (0, "holds", True)
    assert told["now"] == pytest.approx([1.2, 1.2, 1.2], rel=0.01)
    assert set(told["changes"]) == {"tile_rows", "chunks"}
    sizes = "--hidden 48 --expert-dim 40 --experts 4 --top-k 2"
    again = run_audit(db, moetune, monkeypatch, [1.2, 1.2], f"audit {sizes} --json")
    assert len(json.loads(again[1])) == 1
    other = run_audit(db, moetune, monkeypatch, [1.2, 1.2], "audit classic-moe")
    assert other == (0, "0 winners\n", "")


def test_an_empty_database_has_nothing_to_audit(
    database: Path, moetune: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tuner.doctor.require_toolchain", lambda: None)
    Database(database).close()
    assert moetune("audit")[:2] == (0, "0 winners\n")


@pytest.mark.compiler
@pytest.mark.timed
def test_audit_for_real(moetune: Run, database: Path) -> None:
    """Tuned in a few trials, a winner holds or cannot be told; with another source it is gone."""
    sizes = "--hidden 64 --expert-dim 48 --experts 4 --top-k 2"
    assert moetune(f"tune {sizes} --tokens 8 --trials 3 --no-peers").code == 0
    said = moetune(f"audit {sizes} --json")
    (told,) = json.loads(said.out)
    assert told["verdict"] in ("holds", "slower", "inconclusive")
    assert said.code == {"holds": 0, **command.EXIT_CODES}[told["verdict"]]
    assert told["now"][1] <= told["now"][0] <= told["now"][2]
    with Database(database, read_only=True) as db:
        (best,) = db.best()
        winner = db.trial(best["trial_id"])
        (row,) = winner.audits
        assert row.sample_count >= PROCESSES * FINAL_EFFORT.least_rounds
        assert winner.final is not None
        assert winner.final.kind == "final"
    raw = sqlite3.connect(database)
    raw.execute("UPDATE trials SET source_digest = '0' WHERE id = ?", [best["trial_id"]])
    raw.commit()
    raw.close()
    gone = moetune(f"audit {sizes} --json")
    assert (gone.code, json.loads(gone.out)[0]["verdict"]) == (1, "gone")
