"""What a bundle has to know of the libraries in it: System V ABI, ELF-64, little-endian.

The linker leaves a search path for libraries in each of them (DT_RUNPATH): a folder of the machine that it was
built on, which on another may be anybody's. A kernel needs libc alone, so bundles go without.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from tuner.errors import BundleArchitectureError

# e_machine (gABI, chapter 4).
_MACHINES = {"x86_64": 62, "aarch64": 183}
_HEADER = struct.Struct("<16sHHIQQQIHHH")
_PROGRAM = struct.Struct("<IIQQQQ")
_DYNAMIC = struct.Struct("<qQ")
_LOAD, _DYNAMIC_SEGMENT = 1, 2
_END, _STRINGS, _RPATH, _RUNPATH = 0, 5, 15, 29


def check_machine(library: bytes, machine: str, name: str) -> None:
    """Raises BundleArchitectureError where `library` is none for `machine` (as ``uname -m`` has it)."""
    number = int.from_bytes(library[18:20], "little")
    if library[:6] != b"\x7fELF\x02\x01" or number != _MACHINES.get(machine):
        raise BundleArchitectureError(
            f"{name}: is no library for {machine}; build the bundle again"
        )


def without_search_path(library: bytes) -> bytes:
    """The library without its search path: the entry goes, those behind it move up, the text becomes zeros."""
    changed = bytearray(library)
    segments = list(_segments(library))
    start = next(offset for kind, offset, _, _ in segments if kind == _DYNAMIC_SEGMENT)
    entries = list(_entries(library, start))
    strings = next(value for tag, value in entries if tag == _STRINGS)
    text = next(
        strings - address + offset
        for kind, offset, address, size in segments
        if kind == _LOAD and address <= strings < address + size
    )
    kept = [entry for entry in entries if entry[0] not in (_RPATH, _RUNPATH)]
    kept += [(_END, 0)] * (len(entries) - len(kept))
    for number, entry in enumerate(kept):
        _DYNAMIC.pack_into(changed, start + number * _DYNAMIC.size, *entry)
    for tag, value in entries:
        if tag in (_RPATH, _RUNPATH):
            end = library.index(b"\0", text + value)
            changed[text + value : end] = bytes(end - text - value)
    return bytes(changed)


def _segments(library: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Kind, offset, address and size in the file of each program header."""
    header = _HEADER.unpack_from(library)
    offset, size, count = header[5], header[9], header[10]
    for number in range(count):
        kind, _, place, address, _, length = _PROGRAM.unpack_from(library, offset + number * size)
        yield kind, place, address, length


def _entries(library: bytes, start: int) -> Iterator[tuple[int, int]]:
    """Tag and value of the dynamic section, with the one that ends it."""
    while True:
        tag, value = _DYNAMIC.unpack_from(library, start)
        yield tag, value
        if tag == _END:
            return
        start += _DYNAMIC.size
