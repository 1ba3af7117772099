"""Defaults by rows, and parameters that matter in some configurations alone."""

from __future__ import annotations

import json
import random
import tomllib
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from tests.space.test_space import GOOD, GRANITE, ZEN, loaded
from tuner.errors import SpaceError
from tuner.problem import PRESETS, Problem
from tuner.search.search import Search
from tuner.search.strategies import STRATEGIES
from tuner.space import count, neighbours, space, templates
from tuner.space.variant import default_variant, make, parse
from tuner.target import Target, named

H100 = named("nvidia-h100")
TABLE = """
[parameters.form]
short = "f"
values = [0, 1]
default = [
    { value = 1, when = "tokens == 1", why = "one" },
    { value = 0, why = "more" },
]
help = "which of two forms"
when = "tokens <= 16"

[parameters.wide]
short = "w"
values = [1, 2, 4]
when = "form == 0"
help = "of form 0"

[[parameters.wide.default]]
value = 2
when = "form == 0 and cores > 1"
why = "many"

[[parameters.wide.default]]
value = 1
why = "else"

[parameters.deep]
short = "d"
values = [1, 2, 3]
default = "2 if wide == 4 else 3"
when = "form == 1"
help = "of form 1"

[[restr"""


def two_forms(tmp_path: Path, old: str = "", new: str = "") -> space.SpaceFile:
    text = GOOD.replace("[[restr", TABLE, 1)
    assert old in text
    return loaded(tmp_path, text.replace(old, new, 1) if old else text)


def test_the_first_row_that_holds_is_the_default(tmp_path: Path) -> None:
    file = two_forms(tmp_path)
    told = {tokens: space.resolve(file, GRANITE, ZEN, tokens).default for tokens in (1, 2, 17)}
    assert told == {
        1: {"a": 2, "form": 1, "wide": 1, "deep": 3},
        2: {"a": 2, "form": 0, "wide": 2, "deep": 3},
        17: {"a": 2, "form": 0, "wide": 2, "deep": 3},
    }


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        (', when = "tokens == 1"', "", 15, "parameters.form.default.when: is '', but only the last has none"),
        ('why = "else"', 'why = "else"\nwhen = "cores > 1"', 36,
         "parameters.wide.default.when: is 'cores > 1', but the last row is for all else and has none"),
        ('why = "many"', "", 28, "parameters.wide.default.why: 'why' is missing"),
        ("value = 2\n", "value = 3\n", 22, "parameters.wide.default: default 3 is not in [1, 2, 4]"),
        ('value = 1\nwhy = "else"', 'value = "z"\nwhy = "else"', 34, "'z' reads z, which is not known"),
        ('when = "form == 0"\n', 'when = "deep == 0"\n', 25, "'deep == 0' reads deep, which is not known"),
        ('value = 1, when = "tokens', 'value = "z", when = "tokens', 15, "'z' reads z, which is not known"),
    ],
)  # fmt: skip
def test_a_bad_row_is_named_with_its_line(
    tmp_path: Path, old: str, new: str, line: int, message: str
) -> None:
    with pytest.raises(SpaceError) as error:
        space.resolve(two_forms(tmp_path, old, new), GRANITE, ZEN, 2)
    assert message in str(error.value)
    assert str(error.value).startswith(f"{tmp_path / 't.toml'}:{line}: ")


@pytest.mark.parametrize("tokens", [1, 2])
def test_points_that_differ_in_what_is_idle_are_one(tmp_path: Path, tokens: int) -> None:
    where = space.resolve(two_forms(tmp_path), GRANITE, ZEN, tokens)
    points = list(where.points())
    assert len(points) == where.size() == count.count(where).value == 2 * (3 + 3)
    assert len({neighbours.key(where, point) for point in points}) == len(points)
    for point in points:
        assert where.canonical(point) == point
        other = {**point, "wide": 4} if point["form"] == 1 else {**point, "deep": 1}
        assert where.canonical(other) == point
        assert where.holds(other)
        where.check(other)
    assert {p["wide"] for p in points if p["form"] == 1} == {1}
    assert {p["deep"] for p in points if p["form"] == 0} == {3}


def test_where_a_form_is_not_to_be_had_its_parameters_are_pinned(tmp_path: Path) -> None:
    file = two_forms(tmp_path)
    where = space.resolve(file, GRANITE, ZEN, 17)
    assert where.idle == ()
    assert where.values == {"a": (1, 2), "form": (0,), "wide": (1, 2, 4), "deep": (3,)}
    assert space.idle(file, where.facts) == {"form", "deep"}
    assert space.idle(file, space.resolve(file, GRANITE, ZEN, 2).facts) == frozenset()


def test_a_walk_meets_every_point_of_both_forms_once(tmp_path: Path) -> None:
    where = space.resolve(two_forms(tmp_path), GRANITE, ZEN, 2)
    walked = [tuple(sorted(config.items())) for config in neighbours.walk(where, where.default)]
    assert sorted(walked) == sorted(tuple(sorted(config.items())) for config in where.points())
    for point in where.points():
        changed = list(neighbours.changes(where, point))
        assert point not in changed
        assert all(where.canonical(config) == config for config in changed)


def test_narrowed_pinned_and_written_down_it_is_the_same(tmp_path: Path) -> None:
    where = space.resolve(two_forms(tmp_path), GRANITE, ZEN, 2)
    assert space.Space.from_json(json.loads(json.dumps(where.to_json()))) == where
    before = {name: value for name, value in where.to_json().items() if name != "idle"}
    assert space.Space.from_json(before).idle == ()
    narrow = where.narrow({"form": (0, 1), "wide": (2, 4)})  # lacks 1, at which form 1 holds `wide`
    assert [(p["form"], p["wide"]) for p in narrow.points()] == [(0, 2), (0, 4), (1, 1)]
    assert len(list(neighbours.walk(narrow, narrow.default))) == narrow.size() == 3
    assert neighbours.places(narrow, {**narrow.default, "form": 1}) == {"form": 1, "wide": 0}
    pinned = where.pin({"form": 1})
    assert pinned.default == {"a": 2, "form": 1, "wide": 1, "deep": 3}
    assert {(p["wide"], p["deep"]) for p in pinned.points()} == {(1, 1), (1, 2), (1, 3)}


@pytest.mark.parametrize("sampler", sorted(set(STRATEGIES) - {"gp"}))
def test_a_search_asks_for_every_kernel_once(tmp_path: Path, sampler: str) -> None:
    where = space.resolve(two_forms(tmp_path), GRANITE, ZEN, 2)
    search = Search(where, seed=0, sampler=sampler)
    search.remember({"a": 1, "form": 1, "wide": 4, "deep": 1}, 0.9)
    search.enqueue({"form": 1, "wide": 4, "deep": 2})
    asked = []
    while (suggestion := search.ask()) is not None:
        asked.append(suggestion.config)
        search.tell(suggestion, 1.0 + 0.01 * len(asked))
    assert asked[0] == {"a": 2, "form": 1, "wide": 1, "deep": 2}
    told = [
        tuple(config.values()) for config in [*asked, {"a": 1, "form": 1, "wide": 1, "deep": 1}]
    ]
    assert sorted(told) == sorted(tuple(point.values()) for point in where.points())


# ---- The templates' own files ----


def test_defaults_and_lines_of_space_files_stay_short() -> None:
    for name in templates.names():
        text = templates.space_path(name).read_text()
        assert [line for line in text.splitlines() if len(line) > 120] == []
        for parameter, row in tomllib.loads(text)["parameters"].items():
            default = row["default"]
            told = [r["value"] for r in default] if isinstance(default, list) else [default]
            assert all(str(value).count(" if ") <= 1 for value in told), parameter
            assert all(r["why"] for r in default) if isinstance(default, list) else True


def winners() -> list[dict[str, Any]]:
    text = (Path(__file__).parents[2] / "db" / "best.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def test_every_stored_winner_is_a_valid_canonical_configuration_of_its_name() -> None:
    found = 0
    for line in winners():
        problem = Problem.from_key(line["problem"]["key"])
        target = Target.from_key({**line["target"]["key"], "name": line["target"]["name"]})
        variant = parse(line["tried"]["variant"]["name"])
        assert variant.config == line["tried"]["variant"]["config"]
        assert variant.pack == line["tried"]["variant"]["pack"]
        file = space.load(variant.template)
        where = space.resolve(file, problem, target, line["tokens"])
        idle = space.idle(file, where.facts)  # a variant of one workload may win another, too
        config = {n: where.default[n] if n in idle else v for n, v in variant.config.items()}
        where.check(config)
        assert where.canonical(config) == config
        assert variant.template == "moe_cpu" or config == variant.config
        made_by = line["tried"]["trial"]["environment"]["template"]
        assert space.is_current(variant.template, made_by)
        found += 1
    assert found == len(winners()) >= 56


@pytest.mark.parametrize("problem", PRESETS.values(), ids=lambda p: p.name)
@pytest.mark.parametrize("tokens", [1, 4, 16])
def test_a_streaming_variant_has_one_name_for_all_workloads(problem: Problem, tokens: int) -> None:
    """Tiles are idle in it: whatever they are asked to be, they stay what stored winners have."""
    where = space.resolve(space.load("moe_gpu"), problem.replace(dtype="bfloat16"), H100, tokens)
    rng = random.Random(tokens)
    for _ in range(50):
        drawn = {name: rng.choice(values) for name, values in where.values.items()}
        config = where.canonical({**drawn, "stream": 1})
        assert (
            make("moe_gpu", config)
            .name.split("_n")[1]
            .startswith("8_u1_v16_l1_m128_c2_s6_b2_p4_o128_d2_t6_k2_r")
        )
        assert config["early"] == 1
        config = where.canonical({**drawn, "stream": 0})
        assert [config[n] for n in ("split1", "ahead1", "split2", "ahead2")] == [
            where.default[n] for n in ("split1", "ahead1", "split2", "ahead2")
        ]


def test_a_search_of_the_gpu_s_space_tries_both_forms() -> None:
    problem = PRESETS["qwen3-30b-a3b"].replace(dtype="bfloat16")
    where = space.resolve(space.load("moe_gpu"), problem, H100, 16)
    assert default_variant(problem, H100, tokens=16).config["stream"] == 0
    starts = Search(where, seed=0, sampler="random")
    asked = [starts.ask() for _ in range(80)]
    forms = [suggestion.config["stream"] for suggestion in asked if suggestion]
    assert set(forms) == {0, 1}
    walked = list(islice(neighbours.walk(where, where.default), 300))
    assert all(where.canonical(config) == config for config in walked)
