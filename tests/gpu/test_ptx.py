from __future__ import annotations

import pytest

from tuner.errors import CompileError
from tuner.gpu.ptx import parse

PRINTED = """\
//// layer abi 1 tile_n 16 pieces1 3
//// kernel moe_logits_0123abcd 256 4096 x router tokens
.visible .entry moe_logits_0123abcd(
)
{ ret; }
//// end
//// kernel moe_combine_4567cdef 128 0 rows weights y
.visible .entry moe_combine_4567cdef() { ret; }
//// end
"""


def test_what_a_program_prints() -> None:
    program = parse(PRINTED)
    assert program.facts == {"abi": 1, "tile_n": 16, "pieces1": 3}
    assert list(program.kernels) == ["moe_logits", "moe_combine"]
    logits = program.kernels["moe_logits"]
    assert (logits.entry, logits.threads, logits.shared_bytes) == ("moe_logits_0123abcd", 256, 4096)
    assert logits.params == ("x", "router", "tokens")
    assert logits.ptx == ".visible .entry moe_logits_0123abcd(\n)\n{ ret; }\n"


def test_another_abi_is_refused() -> None:
    with pytest.raises(CompileError, match=r"abi 3, not 1 or 2; build the job again"):
        parse(PRINTED.replace("abi 1", "abi 3"))
    with pytest.raises(CompileError, match=r"abi None"):
        parse("nothing")
