from __future__ import annotations

from tuner.search import Search
from tuner.space import Restriction, Space


def space(size: int = 6, rule: str = "a + b < 10") -> Space:
    values = {"a": tuple(range(size)), "b": tuple(range(0, 2 * size, 2)), "c": (5,)}
    return Space("t", values, {"a": 0, "b": 0, "c": 5}, (Restriction(rule, "why"),), {})


def valley(config: dict[str, int]) -> float:
    """A bowl with its lowest point at a = 4, b = 4."""
    return 1 + 0.1 * (config["a"] - 4) ** 2 + 0.02 * (config["b"] - 4) ** 2


def test_suggestions_are_valid_and_never_repeat() -> None:
    search = Search(space(), seed=1)
    seen = set()
    for _ in range(15):
        suggestion = search.ask()
        assert suggestion is not None
        config = suggestion.config
        assert config["a"] + config["b"] < 10
        assert config["c"] == 5
        seen.add(tuple(config.values()))
        search.tell(suggestion, valley(config))
    assert len(seen) == 15


def test_a_space_that_is_used_up_ends() -> None:
    search = Search(space(size=2), seed=0)
    asked = [search.ask() for _ in range(5)]
    assert [s is None for s in asked] == [False] * 4 + [True]


def test_what_is_remembered_is_not_asked_again() -> None:
    search = Search(space(size=2), seed=0)
    search.remember({"a": 0, "b": 0, "c": 5}, 1.0)
    search.remember({"a": 1, "b": 2, "c": 5}, None)
    search.remember({"a": 7, "b": 0, "c": 5}, 1.0)
    configs = [s.config for s in (search.ask() for _ in range(2)) if s]
    assert sorted(tuple(c.values()) for c in configs) == [(0, 2, 5), (1, 0, 5)]
    assert search.ask() is None


def test_an_enqueued_configuration_comes_first() -> None:
    search = Search(space(), seed=0)
    search.enqueue({"a": 3, "b": 2, "c": 5})
    suggestion = search.ask()
    assert suggestion is not None
    assert suggestion.config == {"a": 3, "b": 2, "c": 5}


def test_it_finds_the_valley_and_leaves_what_fails() -> None:
    search = Search(space(size=12, rule="a + b < 30"), seed=3)
    best = 9.0
    failures = []
    for _ in range(40):
        suggestion = search.ask()
        assert suggestion is not None
        fails = suggestion.config["a"] > 6
        failures.append(fails)
        ratio = None if fails else valley(suggestion.config)
        search.tell(suggestion, ratio)
        best = min(best, ratio or 9.0)
    assert best <= 1.1
    assert sum(failures[20:]) < sum(failures[:20])
