"""JSON from outside: what is taken can be written again, and what is not is told by its place."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.properties import tried
from tuner.errors import JsonError
from tuner.host.json_text import MOST_DEPTH, mended, parse

# Any text, halves of pairs and NUL too.
TEXTS = st.text(st.characters(exclude_categories=()), max_size=20)
VALUES = st.recursive(
    st.none() | st.booleans() | st.floats() | TEXTS
    | st.integers() | st.integers(-(1 << 70), 1 << 70),
    lambda inside: st.lists(inside, max_size=4) | st.dictionaries(TEXTS, inside, max_size=4),
)  # fmt: skip


@pytest.mark.fuzz
@tried(100)
@given(VALUES, st.booleans())
def test_what_is_taken_can_be_written_again(value: Any, escaped: bool) -> None:
    text = json.dumps(value, ensure_ascii=escaped)
    try:
        taken = parse(text, "it")
    except JsonError as error:
        str(error).encode()
    else:
        assert taken == value
        again = json.dumps(taken, ensure_ascii=False, allow_nan=False).encode()
        assert parse(again) == taken


@pytest.mark.fuzz
@tried(100)
@given(st.binary() | st.text())
def test_anything_is_taken_or_refused(data: str | bytes) -> None:
    try:
        parse(data)
    except JsonError as error:
        str(error).encode()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "Expecting value: line 1 column 1 (char 0)"),
        (b'{"a": {"b": 1, "b": 2}}', "'b': stands twice in one object"),
        (b"[NaN]", "holds NaN, which is no JSON number"),
        (b"[-Infinity]", "holds -Infinity, which is no JSON number"),
        (b"[1e400]", "holds 1e400, which is too large a number"),
        (b'{"a": [0, {"b": 9223372036854775808}]}', "a[1].b: is a whole number of more than 64 bits"),
        (b"-9223372036854775809", "is a whole number of more than 64 bits"),
        (b'{"a": ' + b"9" * 100_000 + b"}", "a: is a whole number of more than 64 bits"),
        (b'{"a": {"b": "x\\ud800"}}', r"a.b: holds '\ud800', half of a surrogate pair"),
        (b'{"a": {"x\\udfff": 1}}', r"a name: holds '\udfff', half of a surrogate pair"),
        ('"\ud800"', r"holds '\ud800', half of a surrogate pair"),
        (b'"\xff"', "is not UTF-8 (byte 1)"),
        (b"[" * 1_000_000, "is nested deeper than 100"),
        (b'[{"a":' * 1_000_000, "is nested deeper than 100"),
    ],
    ids=range(14),
)  # fmt: skip
def test_what_is_refused(text: str | bytes, said: str) -> None:
    with pytest.raises(JsonError) as caught:
        parse(text, "file")
    assert str(caught.value) == f"file: {said}"


def test_what_looks_like_it_is_taken() -> None:
    deepest = "[" * MOST_DEPTH + "]" * MOST_DEPTH
    assert json.dumps(parse(deepest)) == deepest
    brackets = "[" * 200 + '\\"{'
    assert parse(json.dumps({brackets: brackets})) == {brackets: brackets}
    assert parse(b"[9223372036854775807, -9223372036854775808]") == [(1 << 63) - 1, -(1 << 63)]
    assert parse('"\\ud83d\\ude00 \\u0000"') == "\U0001f600 \0"


def test_texts_that_nothing_ends_take_no_time_that_grows() -> None:
    """Seconds where the look at depth began again at each of these."""
    with pytest.raises(JsonError):
        parse("[" * 200 + '\\"' * 500_000)


def test_a_mended_text_can_be_written() -> None:
    assert mended("a\ud800b\U0001f600\udc00") == "a\ufffdb\U0001f600\ufffd"
