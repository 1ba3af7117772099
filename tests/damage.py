"""JSON from outside as strategies: any value, and a right document one or two of whose values are any."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

# Beyond what UTF-8 can hold, what SQLite can, and what terminals take, too.
TEXTS = st.text(st.characters(exclude_categories=[]), max_size=12)
NUMBERS = st.integers() | st.integers(-(1 << 70), 1 << 70) | st.floats()
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(TEXTS, inside, max_size=3),
)
LIKELY = st.sampled_from(
    [0, 1, 5e-324, 1.7e308, 2**63 - 1, -(2**63), 2**63, "", "trace:00000000", "zipf:1e300"]
)


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every value inside, as what holds it and its name or number there."""
    names = value if isinstance(value, dict) else range(len(value))
    found = [(value, name) for name in list(names)]
    inside = [value[name] for name in names if isinstance(value[name], dict | list)]
    return found + [place for part in inside for place in places(part)]


@st.composite
def damaged(draw: st.DrawFn, right: Any) -> Any:
    """A copy of what is right, with one or two of its values, or one more, anything."""
    copy = json.loads(json.dumps(right))
    for _ in range(draw(st.integers(1, 2))):
        holder, name = draw(st.sampled_from(places(copy)))
        value = draw(VALUES | LIKELY)
        if isinstance(holder, dict) and draw(st.booleans()) and draw(st.booleans()):
            holder[draw(TEXTS)] = value
        else:
            holder[name] = value
    return copy


@st.composite
def as_bytes(draw: st.DrawFn, value: Any) -> bytes:
    """How it may stand in a file: escaped or not, in rare cases cut short, or with a byte changed."""
    data = json.dumps(value, ensure_ascii=draw(st.booleans())).encode("utf-8", "surrogatepass")
    if draw(st.integers(0, 9)) == 0:
        data = data[: draw(st.integers(0, len(data)))]
    if data and draw(st.integers(0, 9)) == 0:
        at = draw(st.integers(0, len(data) - 1))
        data = data[:at] + bytes([draw(st.integers(0, 255))]) + data[at + 1 :]
    return data
