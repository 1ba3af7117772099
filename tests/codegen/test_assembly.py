from __future__ import annotations

from tuner.codegen.assembly import split

# What LLVM writes, in short: two modules, a constant each, a function that both call.
TEXT = """\
\t.att_syntax
\t.file\t"kernel.mojo"
\t.text
\t.globl\tkernel0_call
\t.prefalign\t4, .Lfunc_end0, nop
\t.type\tkernel0_call,@function
kernel0_call:
\tcallq\t"kernel0::region(::Int)"
.Lfunc_end0:
\t.size\tkernel0_call, .Lfunc_end0-kernel0_call
\t.cfi_endproc

\t.globl\tkernel1_call
\t.type\tkernel1_call,@function
kernel1_call:
\tcallq\t"kernel1::region(::Int)"
.Lfunc_end1:
\t.size\tkernel1_call, .Lfunc_end1-kernel1_call

\t.section\t.rodata.cst4,"aM",@progbits,4
\t.p2align\t2, 0x0
.LCPI2_0:
\t.long\t1
\t.size\t.LCPI2_0, 4
.LCPI3_0:
\t.long\t2
\t.size\t.LCPI3_0, 4
\t.text
\t.type\t"kernel0::region(::Int)",@function
"kernel0::region(::Int)":
\tvmovss\t.LCPI2_0(%rip), %xmm0
\tcallq\t"std::shared"
.Lfunc_end2:
\t.size\t"kernel0::region(::Int)", .Lfunc_end2-"kernel0::region(::Int)"

\t.type\t"kernel1::region(::Int)",@function
"kernel1::region(::Int)":
\tvmovss\t.LCPI3_0(%rip), %xmm0
\tcallq\t"std::shared"
.Lfunc_end3:
\t.size\t"kernel1::region(::Int)", .Lfunc_end3-"kernel1::region(::Int)"

\t.type\t"std::shared",@function
"std::shared":
\tcallq\tmemset@PLT
.Lfunc_end4:
\t.size\t"std::shared", .Lfunc_end4-"std::shared"

\t.section\t".note.GNU-stack","",@progbits
"""

SECOND = """\
\t.att_syntax
\t.file\t"kernel.mojo"
\t.text

\t.globl\tcall
\t.type\tcall,@function
call:
\tcallq\t"kernel::region(::Int)"
.Lfunc_end1:
\t.size\tcall, .Lfunc_end1-call
\t.section\t.rodata.cst4,"aM",@progbits,4
\t.p2align\t2, 0x0
.LCPI3_0:
\t.long\t2
\t.size\t.LCPI3_0, 4
\t.text

\t.type\t"kernel::region(::Int)",@function
"kernel::region(::Int)":
\tvmovss\t.LCPI3_0(%rip), %xmm0
\tcallq\t"std::shared"
.Lfunc_end3:
\t.size\t"kernel::region(::Int)", .Lfunc_end3-"kernel::region(::Int)"
\t.text

\t.type\t"std::shared",@function
"std::shared":
\tcallq\tmemset@PLT
.Lfunc_end4:
\t.size\t"std::shared", .Lfunc_end4-"std::shared"
\t.section\t".note.GNU-stack","",@progbits

"""


def test_a_module_gets_what_its_functions_lead_to() -> None:
    first, second, third = split(TEXT, 3)
    assert second == SECOND
    assert third is None
    assert first is not None
    assert "\t.p2align\t4\n" in first
    assert ".LCPI3_0" not in first


def test_what_is_no_assembly_has_no_modules() -> None:
    assert split("garbage\n\n: \x00", 2) == [None, None]
    assert split("", 1) == [None]
