"""Whatever stands in a file, reading it ends in a bundle that runs the same, or in a declared error.

MOETUNE_FUZZ_SECONDS is how long the slow test goes on (600 unless given):
`pytest -m slow tests/bundle/test_fuzz.py`.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from tests.bundles import V2, ZEN4, contents, manifest_of
from tuner.bundle import selftest, signing
from tuner.bundle.archive import MANIFEST, SIGNATURE, write
from tuner.bundle.build import packed
from tuner.bundle.catalogue import BundleCatalogue, section_of
from tuner.bundle.choose import ladder
from tuner.bundle.reader import Bundle, read_bytes
from tuner.errors import BundleError, SelfTestError

_MADE, _MEMBERS = contents((ZEN4, V2))
_SECTIONS = _MADE.sections
MANIFEST_BYTES = manifest_of(_SECTIONS, _MEMBERS).dump()
PLAIN = packed(MANIFEST_BYTES, _MEMBERS)
NOWHERE = Path("fuzzed.moe")
ALTERED = 1000
LIMITS = settings(
    max_examples=60,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)


def what_runs(bundle: Bundle) -> tuple[Any, ...]:
    """All that decides what a bundle does."""
    archive = bundle.archive
    names = [name for name in archive.sizes if name != SIGNATURE]
    return bundle.manifest, {name: archive.read(name) for name in names}


def altered(data: bytes, number: int) -> bytes:
    """One byte at a random place becomes another."""
    rng = random.Random(number)
    at = rng.randrange(len(data))
    return data[:at] + bytes([data[at] ^ rng.randrange(1, 256)]) + data[at + 1 :]


@pytest.fixture
def signed(tmp_path: Path) -> bytes:
    signing.generate(tmp_path / "key")
    signing.trust(tmp_path / "key.pub")
    return packed(MANIFEST_BYTES, _MEMBERS, tmp_path / "key")


@pytest.mark.parametrize("trust", ["signed", "unsigned"])
def test_a_thousand_altered_bundles(signed: bytes, trust: str) -> None:
    """Each is refused, or what it runs is bit-identical: deflate has several spellings of one text."""
    right = what_runs(read_bytes(signed, NOWHERE, trust))
    ends: Counter[str] = Counter()
    for number in range(ALTERED):
        try:
            found = read_bytes(altered(signed, number), NOWHERE, trust)
        except BundleError as error:
            ends[type(error).__name__] += 1
        else:
            assert what_runs(found) == right
            ends["the same"] += 1
    assert ends["the same"] < 0.05 * ALTERED
    assert {"BundleDigestError", "BundleFormatError", "BundleNameError"} <= ends.keys()


def exercise(data: bytes) -> None:
    """Read, choose, select and unpack to memory: all that comes before code is loaded."""
    try:
        bundle = read_bytes(data, NOWHERE, "unsigned")
        for section in bundle.manifest.sections:
            section_of(bundle, section.problem)
            for part in ladder(section.parts, ZEN4):
                catalogue = BundleCatalogue(bundle, section, part, ZEN4)
                for tokens, load in ((0, "uniform"), (9, "zipf:1.2"), (1 << 30, "onehot")):
                    catalogue.select(tokens, load, None).to_json()
            members = {name: bundle.archive.read(name) for name in bundle.manifest.members}
            list(selftest.read(section.problem, section.selftest, members))
    except BundleError:
        return


@st.composite
def edited(draw: st.DrawFn) -> bytes:
    """A bundle with some stretches of bytes put in, taken away or replaced."""
    data = PLAIN
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        end = at + draw(st.sampled_from([0, 1, 2, 4, 22, 46, 1000]))
        new = draw(st.binary(max_size=8) | st.sampled_from([b"\0" * 4, b"\xff" * 4, PLAIN[-22:]]))
        data = data[:at] + new + data[end:]
    return data


@st.composite
def directories(draw: st.DrawFn) -> bytes:
    """A bundle whose directory and end record are edited: sizes, offsets, flags, names."""
    start = int.from_bytes(PLAIN[-6:-2], "little")
    data = bytearray(PLAIN)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(start, len(data) - 4))
        size = draw(st.sampled_from([1, 2, 4]))
        data[at : at + size] = draw(st.binary(min_size=size, max_size=size))
    return bytes(data)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20)
    | st.sampled_from(["uniform", "zipf:1", "../x", "k_a1", "x86-64-v2", "0" * 64]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) inside a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    found = []
    for key, inner in list(items):
        found.append((value, key))
        if isinstance(inner, dict | list):
            found += _places(inner)
    return found


@st.composite
def manifests(draw: st.DrawFn) -> bytes:
    """A bundle with right digests whose manifest has some values replaced or dropped."""
    values = json.loads(MANIFEST_BYTES)
    for _ in range(draw(st.integers(1, 3))):
        places = _places(values)
        container, key = places[draw(st.integers(0, len(places) - 1))]
        if draw(st.booleans()):
            container[key] = draw(JSON)
        else:
            del container[key]
    return write({MANIFEST: json.dumps(values).encode(), **_MEMBERS})


@st.composite
def contained(draw: st.DrawFn) -> bytes:
    """A bundle of any members whose digests are right."""
    names = draw(st.sets(st.sampled_from(sorted(_MEMBERS)), min_size=1, max_size=4))
    members = {**_MEMBERS, **{name: draw(st.binary(max_size=200)) for name in names}}
    return packed(manifest_of(_SECTIONS, members).dump(), members)


FORMS = {
    "any bytes": st.binary(max_size=400),
    "edited": edited(),
    "directories": directories(),
    "manifests": manifests(),
    "contained": contained(),
}


def test_a_sound_bundle_goes_through() -> None:
    """All the way to its self-test, which holds no arrays."""
    section = read_bytes(PLAIN, NOWHERE, "unsigned").manifest.sections[0]
    with pytest.raises(SelfTestError, match="other sizes"):
        list(selftest.read(section.problem, section.selftest, _MEMBERS))


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_no_other_error(form: st.SearchStrategy[bytes]) -> None:
    settings(LIMITS)(given(form)(exercise))()


@pytest.mark.slow
def test_no_other_error_for_minutes() -> None:
    end = time.monotonic() + float(os.environ.get("MOETUNE_FUZZ_SECONDS", "600"))
    counts: Counter[str] = Counter()

    def counted(name: str) -> Callable[[bytes], None]:
        def run(data: bytes) -> None:
            counts[name] += 1
            exercise(data)

        return run

    while time.monotonic() < end:
        for name, form in FORMS.items():
            entropy = int.from_bytes(os.urandom(8), "little")
            once = settings(LIMITS, max_examples=200, derandomize=False)(given(form)(counted(name)))
            seed(entropy)(once)()
    print(dict(counts))
    assert min(counts.values()) > 0
