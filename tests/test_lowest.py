"""What `make test-lowest` installs: every lower bound of the package and of its tests."""

from __future__ import annotations

import pytest

from tests.lowest import constraints

PROJECT = {
    "name": "it",
    "dependencies": ["a>=1.2,<3", "b==4.0"],
    "optional-dependencies": {
        "test": ["it[serve]", "c[extra]>=5; python_version > '3'"],
        "serve": ["d>=6"],
        "docs": ["e>=7"],
    },
}


def test_bounds_of_the_package_and_of_an_extra_with_those_it_takes_in() -> None:
    assert constraints(PROJECT) == {"a": "1.2", "b": "4.0", "c": "5", "d": "6"}
    assert constraints(PROJECT, "docs") == {"a": "1.2", "b": "4.0", "e": "7"}


@pytest.mark.parametrize(
    ("text", "told"),
    [("f", "f: must have one lower bound, like f>=1.0"), ("a>=2", "a>=2: another place says 1.2")],
)
def test_what_has_no_bound_or_two(text: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        constraints({**PROJECT, "optional-dependencies": {"test": [text]}})
