"""A kernel without Python: the C header says what the library takes, and the example runs it."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import numpy as np
import pytest

import tuner
from tests.kernels import TINY, kernel
from tuner.codegen import probes
from tuner.cpu.kernel import ABI
from tuner.cpu.worker_pool import ARGUMENT_WORDS
from tuner.host.toolchain import find_linker
from tuner.problem.weights import Weights
from tuner.target import detect

ROOT = Path(__file__).parents[2]
HEADER = ROOT / "tuner" / "moetune.h"


def words(prefix: str) -> list[str]:
    return re.findall(rf"^    MOE_{prefix}_(\w+)(?: = 0)?,", HEADER.read_text(), re.MULTILINE)


def test_the_header_has_the_words_of_the_template() -> None:
    memory = (ROOT / "templates" / "moe_cpu" / "memory.mojo.j2").read_text()
    arguments = re.findall(r"^comptime ARG_(\w+) = (\d+)", memory, re.MULTILINE)
    assert [(name, str(i)) for i, name in enumerate(words("ARG"))] == arguments
    assert f"MOE_ARG_WORDS = {ARGUMENT_WORDS}" in HEADER.read_text()
    template = (ROOT / "templates" / "moe_cpu.mojo.j2").read_text()
    info = re.findall(r"info\[unsafe_offset=(\d+)\]", template)
    assert len(words("INFO")) == len(info)
    assert f"#define MOE_ABI {ABI}\n" in HEADER.read_text()


def build(source: Path, target: Path, *options: str) -> None:
    command = [str(find_linker()), "-Wall", "-Werror", "-O1", f"-I{HEADER.parent}", *options]
    done = subprocess.run(
        [*command, source, "-o", target, "-ldl", "-lpthread"], capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()


@pytest.mark.compiler
def test_the_header_is_c_and_cpp(tmp_path: Path) -> None:
    source = tmp_path / "x.c"
    source.write_text('#include "moetune.h"\nint main(void) { return MOE_ARG_ROUTED - 10; }\n')
    build(source, tmp_path / "x", "-std=c99", "-pedantic")
    build(source, tmp_path / "y", "-x", "c++", "-std=c++17")
    assert subprocess.run([tmp_path / "x"]).returncode == 0


def made_up(*shape: int, salt: int) -> np.ndarray:
    numbers = np.arange(np.prod(shape), dtype=np.int64)
    return (((numbers * 7 + salt * 13) % 64 - 32) / 256).astype(np.float32).reshape(shape)


@pytest.mark.compiler
def test_the_example_computes_what_a_layer_does(tmp_path: Path) -> None:
    e, f, d = TINY.num_experts, TINY.expert_dim, TINY.hidden
    up, gate = made_up(e, f, d, salt=2), made_up(e, f, d, salt=1)
    weights = Weights(router=made_up(e, d, salt=5), gate=gate, up=up, down=made_up(e, d, f, salt=3))
    build(ROOT / "examples" / "layer.c", tmp_path / "layer")
    command = [tmp_path / "layer", kernel(TINY).path, "7"]
    texts = [subprocess.check_output([*command, workers], text=True) for workers in ("0", "1")]
    assert texts[0] == texts[1]
    y = np.array([line.split() for line in texts[0].splitlines()], np.float32)
    layer = tuner.load(TINY, weights)
    assert layer.selection(7).variant == layer.selection(1).variant
    np.testing.assert_array_equal(y, layer(made_up(7, d, salt=4)))
    assert np.abs(y).max() > 1e-3


FUNCTIONS = ("moe_info", "moe_pack", "moe_scratch_bytes", "moe_call", "moe_worker", "moe_stop")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example, built."""
    path = tmp_path_factory.mktemp("example") / "layer"
    build(ROOT / "examples" / "layer.c", path)
    return path


def refusal(*command: Path | str) -> tuple[int, str]:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout == ""
    return done.returncode, done.stderr


@pytest.mark.compiler
@pytest.mark.parametrize("lacking", FUNCTIONS)
def test_the_example_refuses_a_library_that_lacks_a_function(
    lacking: str, program: Path, tmp_path: Path
) -> None:
    source, library = tmp_path / "x.c", tmp_path / "x.so"
    there = (f"void {name}(void) {{}}\n" for name in FUNCTIONS if name != lacking)
    source.write_text("".join(there))
    build(source, library, "-shared", "-fPIC")
    said = refusal(program, library, "7", "1")
    assert said == (1, f"{library}: is no kernel: lacks {lacking}\n")


@pytest.mark.compiler
def test_the_example_refuses_what_is_no_kernel(program: Path, tmp_path: Path) -> None:
    probe = probes.of_cpu(detect())
    assert refusal(program, probe, "7", "1") == (1, f"{probe}: is no kernel: lacks moe_info\n")
    code, said = refusal(program, tmp_path / "absent.so", "7", "1")
    assert (code, "cannot open shared object file" in said) == (1, True)
    for words in (["7"], ["0", "1"], ["seven", "1"], ["7", "-1"]):
        code, said = refusal(program, kernel(TINY).path, *words)
        assert (code, said.split(" (")[0]) == (2, "layer KERNEL.so TOKENS WORKERS")
