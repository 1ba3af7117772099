"""The manifest: what `dump` writes comes back, and nothing else is taken."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.bundles import V2, V3, contents
from tests.rows import PROBLEM
from tuner.bundle.fields import read_json
from tuner.bundle.manifest import parse
from tuner.errors import BundleManifestError

MANIFEST = contents([V2, V3], [PROBLEM, PROBLEM.replace(hidden=128, name="wide")])[0]

Change = Callable[[dict[str, Any]], object]


def test_a_manifest_comes_back() -> None:
    assert parse(MANIFEST.dump(), "x") == MANIFEST
    assert parse(MANIFEST.dump(), "x").dump() == MANIFEST.dump()


def test_labels_of_targets_and_problems_travel() -> None:
    section = parse(MANIFEST.dump(), "x").sections[1]
    assert (section.problem.name, section.parts[0].target.arch) == ("wide", "x86-64-v2")


def of_part(change: Change) -> Change:
    return lambda top: change(top["sections"][0]["parts"][0])


def of_rules(change: Change) -> Change:
    return of_part(lambda part: change(part["tables"]["uniform"]["rules"]))


CHANGES: dict[str, tuple[Change, str]] = {
    "format": (lambda t: t.update(format="other"), "is not of format moetune-bundle 1"),
    "version": (lambda t: t.update(version=2), "is not of format moetune-bundle 1"),
    "a flag for a number": (lambda t: t.update(abi=True), "abi must be a whole number"),
    "negative": (lambda t: t.update(abi=-1), "abi must be a whole number"),
    "a float": (lambda t: t.update(abi=1.0), "abi is a float"),
    "lacking": (lambda t: t.pop("toolchain"), "lacks toolchain"),
    "no sections": (lambda t: t.update(sections=[]), "must have sections"),
    "two of a problem": (lambda t: t.update(sections=t["sections"][:1] * 2), "each of another"),
    "a list for an object": (lambda t: t.update(members=[]), "members is a list"),
    "a digest": (lambda t: t["members"].popitem()[1].update(sha256="x"), "is no member"),
    "bad digest": (lambda t: next(iter(t["members"].values())).update(sha256="x"), "sha256 is 'x'"),
    "a problem": (lambda t: t["sections"][0]["problem"]["key"].update(hidden=0), "hidden"),
    "unhashable": (lambda t: t["sections"][0]["problem"]["key"].update(activation=[]), "problem"),
    "another field": (lambda t: t["sections"][0]["problem"]["key"].update(more=1), "more"),
    "no parts": (lambda t: t["sections"][0].update(parts=[]), "has no parts"),
    "no uniform load": (of_part(lambda p: p["tables"].pop("uniform")), "no table of the uniform"),
    "an unknown load": (
        of_part(lambda p: p["tables"].update(x=p["tables"]["uniform"])),
        "load='x'",
    ),
    "features": (of_part(lambda p: p["target"].update(features=[1])), "features must be texts"),
    "a folder": (of_part(lambda p: p["target"].update(arch="../x")), "arch is '../x'"),
    "a stray member": (of_part(lambda p: p.update(probe="bin/none.so")), "which is no member"),
    "a stray variant": (of_rules(lambda r: r[0].update(variant="k")), "not among the builds"),
    "another pack": (
        of_part(lambda p: p["builds"][0].update(pack="p2")),
        "reads another packed form",
    ),
    "falling": (of_rules(lambda r: r.insert(0, {**r[0], "up_to_tokens": 9})), "rules must rise"),
    "closed": (of_rules(lambda r: r[-1].update(up_to_tokens=99)), "rules must rise"),
    "open twice": (of_rules(lambda r: r.append(r[-1])), "rules must rise"),
    "no rules": (of_rules(lambda r: r.clear()), "rules must rise"),
    "stray evidence": (of_part(lambda p: p["evidence"][0].update(variant="k")), "not among"),
    "evidence of a load": (of_part(lambda p: p["evidence"][0].update(load="x")), "load='x'"),
}


@pytest.mark.parametrize(("change", "message"), CHANGES.values(), ids=CHANGES)
def test_falsified(change: Change, message: str) -> None:
    values = json.loads(MANIFEST.dump())
    change(values)
    with pytest.raises(BundleManifestError, match=message):
        parse(json.dumps(values).encode(), "x")


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"{",
        b"\xff\xfe{}",
        b'{"a": 1, "a": 2}',
        b'{"a": NaN}',
        b'{"a": -Infinity}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"a": ' + b"9" * 5000 + b"}",
    ],
    ids=["empty", "list", "cut", "utf-16", "twice", "nan", "inf", "deep", "deep objects", "long"],
)
def test_no_json_of_ours(text: bytes) -> None:
    with pytest.raises(BundleManifestError):
        read_json(text, "x")
