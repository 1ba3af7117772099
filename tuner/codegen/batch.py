"""Several sources in one run of the compiler, each to a binary of its own in the cache.

More than half of a build is the same whatever the source: the standard library's part. A run for four
variants takes about as long as two (docs/search.md). The run ends with the program's assembly text,
which is cut by source; what a source becomes doesn't depend on those beside it, to the byte.

What can't be built so is left out, be it refused, too slow, or written in another form than ours:
``compile_source`` gives each such source its own verdict.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tuner.codegen import assembly
from tuner.codegen import program as modules
from tuner.codegen.cache import (
    Binary,
    SourceRefused,
    look_up,
    place,
    publish,
    sha256,
    write,
    writing,
)
from tuner.codegen.compile import all_flags, binary_key, run_mojo
from tuner.host.paths import cache_dir
from tuner.host.process import run
from tuner.host.staging import build_folder
from tuner.host.toolchain import require_linker, toolchain_version
from tuner.target import Target

_LINK_S = 30.0
# An undefined name is an error now, not when the library is loaded: then a piece of the text is missing.
_LINK_FLAGS = ("-shared", "-Wl,--gc-sections", "-Wl,-z,defs", "-Wl,--as-needed", "-lm")


def compile_together(
    texts: Sequence[str], target: Target, *, timeout_s: float, cache: Path | None = None
) -> dict[str, Binary]:
    """The binaries that this call built, by source text. Those that the cache had are not among them.

    Nothing is built where fewer than two sources are new, or the target is a GPU. Raises CompileError where
    the toolchain is missing or the cache folder is full or not writable.
    """
    cache = cache or cache_dir()
    flags = all_flags(target)
    folders = {text: place(cache, binary_key(text, flags)) for text in texts}
    new = [text for text, folder in folders.items() if not _is_known(folder)]
    program = modules.program(new)
    if target.kind != "cpu" or len(new) < 2 or program is None:
        return {}
    with writing(cache), build_folder(folders[new[0]].parent) as draft:
        cut, facts, stderr = _run(draft, program, flags, len(new), timeout_s)
        for text, part in zip(new, cut, strict=True):
            if part is not None and _link(draft / folders[text].name, text, part, facts, stderr):
                folders[text].parent.mkdir(parents=True, exist_ok=True)
                publish(draft / folders[text].name, folders[text])
    built = {text: look_up(folders[text], cached=False) for text in new}
    return {text: binary for text, binary in built.items() if binary is not None}


def _is_known(folder: Path) -> bool:
    try:
        return look_up(folder) is not None
    except SourceRefused:
        return True


def _run(
    draft: Path, program: modules.BatchProgram, flags: Sequence[str], count: int, timeout_s: float
) -> tuple[list[str | None], dict[str, Any], str]:
    """Compiles the program: each source's assembly text, None where there is none; the facts that all
    share; what the compiler said."""
    (draft / "kernel.mojo").write_text(program.main)
    for name, source in program.modules.items():
        (draft / f"{name}.mojo").write_text(source)
    text = draft / "kernel.s"
    done = run_mojo(draft / "kernel.mojo", text, "asm", flags, timeout_s)
    facts: dict[str, Any] = {"toolchain": toolchain_version(), "flags": list(flags)}
    facts |= {"status": "ok", "file": "kernel.so", "together": count}
    facts |= {"seconds": round(done.seconds / count, 3)}
    if done.returncode != 0 or done.timed_out or not text.exists():
        return [None] * count, facts, done.stderr
    return assembly.split(text.read_text(errors="replace"), count), facts, done.stderr


def _link(folder: Path, text: str, part: str, facts: dict[str, Any], stderr: str) -> bool:
    """Assembles and links one source's part in `folder`; whether that went well."""
    folder.mkdir()
    assembled, library = folder.with_suffix(".s"), folder / "kernel.so"
    assembled.write_text(part)
    command: list[str | Path] = [require_linker(), *_LINK_FLAGS, "-o", library, assembled]
    done = run(command, _LINK_S, env={"TMPDIR": str(folder.parent)})
    if "No space left on device" in done.stderr:
        raise OSError(errno.ENOSPC, "No space left on device")
    if done.returncode != 0 or not library.exists():
        return False
    (folder / "kernel.mojo").write_text(text)
    write(folder, {**facts, "sha256": sha256(library)}, stderr)
    return True
