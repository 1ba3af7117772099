from __future__ import annotations

from tuner.codegen.program import program

ADD = """\
comptime Number = Int64


struct Pair:
    var a: Number


def twice(a: Number) -> Number:
    return a + a


@export
def add(
    a: Number,
    b: Int64,
) abi("C") -> Number:
    return twice(a) + b


@export
def stop(control: Pair) abi("C"):
    pass
"""


def test_exported_functions_become_calls_into_their_module() -> None:
    made = program([ADD, ADD])
    assert made is not None
    assert made.main.startswith("import kernel0\nimport kernel1\n")
    assert (
        '@export\ndef kernel1_add(a: kernel1.Number, b: Int64,) abi("C") -> kernel1.Number:\n'
        "    return kernel1.add(a, b)\n"
    ) in made.main
    assert (
        '@export\ndef kernel0_stop(control: kernel0.Pair) abi("C"):\n    kernel0.stop(control)\n'
    ) in made.main
    assert made.modules == {name: ADD.replace("@export\n", "") for name in ("kernel0", "kernel1")}


def test_an_export_in_another_form_is_left_alone() -> None:
    assert program([ADD, ADD.replace("@export\n", '@export("other")\n', 1)]) is None
    assert program([ADD, "def nothing():\n    pass\n"]) is None
