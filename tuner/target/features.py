"""What the compiler's architecture names mean: features, levels, and who runs whose code.

Names are LLVM's, as ``mojo build --print-effective-target`` prints them.
"""

from __future__ import annotations

import functools
from collections.abc import Collection

# Every x86-64 processor has these; the compiler leaves some out of some lists (cmov of znver4).
X86_BASELINE = frozenset({"cmov", "cx8", "fxsr", "mmx", "sse", "sse2", "x87"})

_V2 = X86_BASELINE | {"crc32", "cx16", "popcnt", "sahf", "sse3", "sse4.1", "sse4.2", "ssse3"}
_V3 = _V2 | {"avx", "avx2", "bmi", "bmi2", "f16c", "fma", "lzcnt", "movbe", "xsave"}
_V4 = _V3 | {"avx512bw", "avx512cd", "avx512dq", "avx512f", "avx512vl"}

# Newest first (x86-64 psABI, "micro-architecture levels").
LEVELS = {"x86-64-v4": _V4, "x86-64-v3": _V3, "x86-64-v2": _V2, "x86-64": X86_BASELINE}

# The one fallback list: an architecture and the next older one whose code it runs. A test
# holds it against the feature lists of the compiler.
_NEXT_OLDER = {
    "znver6": "znver5",
    "znver5": "znver4",
    "znver4": "znver3",
    "znver3": "znver2",
    "znver2": "znver1",
    "znver1": "x86-64-v3",
    "graniterapids": "emeraldrapids",
    "emeraldrapids": "sapphirerapids",
    "sapphirerapids": "icelake-server",
    "icelake-server": "icelake-client",
    "tigerlake": "icelake-client",
    "rocketlake": "icelake-client",
    "icelake-client": "skylake-avx512",
    "cooperlake": "cascadelake",
    "cascadelake": "skylake-avx512",
    "skylake-avx512": "skylake",
    "arrowlake": "alderlake",
    "meteorlake": "alderlake",
    "raptorlake": "alderlake",
    "alderlake": "skylake",
    "skylake": "broadwell",
    "broadwell": "haswell",
    "haswell": "x86-64-v3",
    "neoverse-v2": "neoverse-n2",
    "neoverse-v1": "neoverse-n1",
    "neoverse-n2": "neoverse-n1",
    "neoverse-n1": "generic",
}
# The first of their families with all of x86-64-v4.
_FIRST_V4 = frozenset({"znver4", "skylake-avx512"})

# Features that a compiler uses only when a program asks by name (an intrinsic or the
# operating system does): a processor without them runs compiled kernels all the same.
# Virtual machines hide these most often.
UNUSED_BY_CODE = frozenset(
    """adx aes cldemote clflushopt clwb clzero enqcmd fsgsbase hreset invpcid kl lwp movdir64b
    movdiri mwaitx pclmul pconfig pku prefetchi ptwrite rdpid rdpru rdrnd rdseed rtm sahf serialize
    sgx sha shstk tsxldtrk uintr vaes vpclmulqdq waitpkg wbnoinvd widekl xsave xsavec xsaveopt
    xsaves ccdp ccidx ete fpac mte pauth perfmon rand ras sb sha2 sha3 sm4 spe ssbs trbe""".split()
)

# /proc/cpuinfo flag -> feature. "=" marks flags whose name is the feature's.
_CPUINFO = dict.fromkeys(
    """adx aes avx avx2 avx512bw avx512cd avx512dq avx512f avx512ifma avx512vl avx512vbmi bmi2
    clflushopt clwb clzero cmov cx16 cx8 f16c fma fsgsbase fxsr gfni invpcid mmx movbe movdir64b
    movdiri mwaitx pku popcnt rdpid rdpru rdseed sse sse2 sse4a ssse3 vaes vpclmulqdq wbnoinvd
    xsave xsavec xsaveopt xsaves sve sve2 i8mm bf16""".split(),
    "=",
) | {
    "abm": "lzcnt",
    "avx512_bf16": "avx512bf16",
    "avx512_bitalg": "avx512bitalg",
    "avx512_fp16": "avx512fp16",
    "avx512_vbmi2": "avx512vbmi2",
    "avx512_vnni": "avx512vnni",
    "avx512_vp2intersect": "avx512vp2intersect",
    "avx512_vpopcntdq": "avx512vpopcntdq",
    "avx512vbmi": "avx512vbmi",
    "avx_vnni": "avxvnni",
    "3dnowprefetch": "prfchw",
    "amx_bf16": "amx-bf16",
    "amx_fp16": "amx-fp16",
    "amx_int8": "amx-int8",
    "amx_tile": "amx-tile",
    "asimd": "neon",
    "asimddp": "dotprod",
    "asimdfhm": "fp16fml",
    "asimdhp": "fullfp16",
    "asimdrdm": "rdm",
    "atomics": "lse",
    "bmi1": "bmi",
    "crc32": "crc",
    "fcma": "complxnum",
    "fp": "fp-armv8",
    "fpu": "x87",
    "jscvt": "jsconv",
    "lahf_lm": "sahf",
    "lrcpc": "rcpc",
    "pclmulqdq": "pclmul",
    "pni": "sse3",
    "rdrand": "rdrnd",
    "sha_ni": "sha",
    "sse4_1": "sse4.1",
    "sse4_2": "sse4.2",
}


def from_cpuinfo(flags: Collection[str]) -> tuple[str, ...]:
    """The compiler's names, sorted, of the kernel's processor flags (unknown ones left out)."""
    known = {flag: _CPUINFO[flag] for flag in flags if flag in _CPUINFO}
    names = {flag if name == "=" else name for flag, name in known.items()}
    if "sse4.2" in names:  # its crc32 instruction has a name of its own
        names.add("crc32")
    return tuple(sorted(names))


def from_effective(printed: str) -> tuple[str, ...]:
    """The features, sorted, of a ``+a,+b,-c`` list as the compiler prints it."""
    names = {name[1:] for name in printed.split(",") if name.startswith("+")}
    return tuple(sorted(names | X86_BASELINE if "sse2" in names else names))


def level_of(features: Collection[str]) -> str:
    """The newest x86-64 level whose features are all there; ``generic`` on another machine."""
    have = frozenset(features) | {"sahf", "xsave"}  # flags that some systems hide
    return next((name for name, needed in LEVELS.items() if needed <= have), "generic")


def runs(have: Collection[str], needed: Collection[str]) -> bool:
    """Whether code compiled for ``needed`` runs on a processor that has ``have``."""
    return frozenset(needed) - UNUSED_BY_CODE <= frozenset(have)


@functools.cache
def older(arch: str) -> tuple[str, ...]:
    """Architectures whose code runs on ``arch``, newest first: its family, then the levels.

    An architecture that the list does not know gets the empty answer, never a guess.
    """
    names = [arch]
    while (following := _NEXT_OLDER.get(names[-1])) and following not in LEVELS:
        names.append(following)
    if any(name in _FIRST_V4 for name in names):  # above the first family that lacks AVX-512
        names.insert(names.index(next(n for n in names if n in _FIRST_V4)) + 1, "x86-64-v4")
    last = following or names[-1]
    levels = list(LEVELS)
    rest = levels[levels.index(last) :] if last in LEVELS else []
    return tuple(name for name in dict.fromkeys(names + rest) if name != arch)
