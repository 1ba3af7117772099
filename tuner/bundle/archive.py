"""The archive of a bundle: a zip that can be written in one way only, and a reader that takes no other.

A zip says most things twice, and leaves room for what no reader looks at: that is how two programs come
to see two archives in one file. Here every byte is accounted for: members stand one after the other from
the first byte, then the central directory, then its end record. Names, sizes and flags are checked before
anything is unpacked, and unpacking stops at the size that was declared.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tuner.errors import (
    BundleBombError,
    BundleDigestError,
    BundleDuplicateError,
    BundleError,
    BundleExtraDataError,
    BundleFormatError,
    BundleLinkError,
    BundleManifestSizeError,
    BundleNameError,
    BundleTruncatedError,
)

MANIFEST = "manifest.json"
SIGNATURE = "manifest.sig"

MAX_FILE_BYTES = 64 << 20
MAX_MEMBERS = 4096
MAX_MEMBER_BYTES = 32 << 20
MAX_TOTAL_BYTES = 256 << 20
MAX_MANIFEST_BYTES = 4 << 20
# Deflate reaches 1,032; sources and tables reach about 20. Small members may do better by chance.
MAX_RATIO = 100
RATIO_FREE_BYTES = 64 << 10
MAX_NAME = 200

# APPNOTE.TXT 6.3.10 (PKWARE), sections 4.3.7, 4.3.12 and 4.3.16.
_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")
_LOCAL_MARK, _CENTRAL_MARK, _END_MARK = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"
_STORED, _DEFLATED = 0, 8
_VERSION = 20  # deflate
_MADE_BY = 3 << 8 | _VERSION  # Unix: the attributes are a mode
_TIME, _DATE = 0, 1 << 5 | 1  # the zip format's earliest moment: 1980-01-01
_FILE_MODE = 0o100644
_KIND = 0o170000
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]*")


@dataclass(frozen=True)
class DirectoryEntry:
    """What the archive says of one member; `start` is where its compressed bytes begin."""

    name: str
    method: int
    crc: int
    packed: int
    size: int
    start: int


class Archive:
    """The members of a bundle, held as the compressed bytes that were read once.

    Nothing is read from disk again, so that what was checked is what is used.
    """

    def __init__(self, data: bytes, entries: tuple[DirectoryEntry, ...], label: str) -> None:
        self.label = label
        self.data = data
        self._entries = {entry.name: entry for entry in entries}

    @property
    def sizes(self) -> dict[str, int]:
        """Name of each member -> its size, bytes, in the order of the file."""
        return {entry.name: entry.size for entry in self._entries.values()}

    def read(self, name: str) -> bytes:
        """The bytes of one member.

        Raises:
            BundleFormatError: there is no such member.
            BundleDigestError: its bytes do not unpack to what the archive says.
        """
        if name not in self._entries:
            raise BundleFormatError(f"{self.label}: has no {name}; build it again")
        return _unpack(self.data, self._entries[name], self.label)


def read_file(path: Path) -> bytes:
    """The whole file, read once and at most MAX_FILE_BYTES of it.

    Raises:
        BundleError: it cannot be read.
        BundleBombError: it is larger.
    """
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise BundleError(f"{path}: cannot be read ({why}); name a bundle") from error
    if len(data) > MAX_FILE_BYTES:
        raise BundleBombError(f"{path}: is larger than {MAX_FILE_BYTES >> 20} MiB; it is no bundle")
    return data


def parse(data: bytes, label: str) -> Archive:
    """The archive in `data`; nothing is unpacked yet. `label` is its name in messages.

    Raises:
        BundleError: one of its kinds for each thing that is wrong, as tuner.errors lists them.
    """
    count, start, end = _directory(data, label)
    entries: list[DirectoryEntry] = []
    names: set[str] = set()
    at, position, total = start, 0, 0
    for _ in range(count):
        entry, at = _entry(data, at, end, position, label)
        if entry.name in names:
            raise BundleDuplicateError(
                f"{label}: has two members {entry.name}; it was tampered with"
            )
        total += entry.size
        _check_size(entry, total, label)
        position = entry.start + entry.packed
        if position > start:
            raise BundleTruncatedError(f"{label}: {entry.name} is cut off; copy the file again")
        names.add(entry.name)
        entries.append(entry)
    if at != end or position != start:
        raise BundleExtraDataError(f"{label}: holds bytes that belong to no member; build it again")
    return Archive(data, tuple(entries), label)


def _directory(data: bytes, label: str) -> tuple[int, int, int]:
    """Number of members, and where the central directory starts and ends."""
    at = data.rfind(_END_MARK)
    if at < 0:
        if data[:4] == _LOCAL_MARK:
            raise BundleTruncatedError(f"{label}: its end is missing; copy the file again")
        raise BundleFormatError(f"{label}: is no bundle; `moetune bundle build` makes one")
    if at + _END.size > len(data):
        raise BundleTruncatedError(f"{label}: its end is cut off; copy the file again")
    _, disk, first, here, count, size, start, comment = _END.unpack_from(data, at)
    if at + _END.size < len(data) or comment:
        raise BundleExtraDataError(f"{label}: holds bytes after its end; take the file as built")
    if (disk, first, here) != (0, 0, count) or count == 0:
        raise BundleFormatError(f"{label}: its end record is damaged; copy the file again")
    if count > MAX_MEMBERS:
        raise BundleBombError(f"{label}: has {count} members, at most {MAX_MEMBERS} are read")
    if start + size > at:
        raise BundleTruncatedError(f"{label}: bytes are missing; copy the file again")
    if start + size < at:
        raise BundleExtraDataError(f"{label}: holds bytes before its start; take the file as built")
    return count, start, at


def _entry(data: bytes, at: int, end: int, position: int, label: str) -> tuple[DirectoryEntry, int]:
    """The central entry at `at`, whose member must start at `position`; and where the next one is."""
    if at + _CENTRAL.size > end:
        raise BundleFormatError(f"{label}: lists fewer members than it counts; copy the file again")
    _, made, *fields = _CENTRAL.unpack_from(data, at)
    _, _, method, _, _, crc, packed, size, name_size, *_, outside, start = fields
    following = at + _CENTRAL.size + name_size
    name = _name(data[at + _CENTRAL.size : following], name_size, label)
    _check_plain(name, made, outside, label)
    if start != position:
        raise BundleExtraDataError(f"{label}: {name} does not follow the member before it")
    entry = DirectoryEntry(name, method, crc, packed, size, position + _LOCAL.size + name_size)
    if data[at:following] != _central_header(entry) or method not in (_STORED, _DEFLATED):
        raise BundleFormatError(
            f"{label}: {name} is listed another way than bundles do; build it again"
        )
    if data[position : entry.start] != _local_header(entry):
        raise BundleFormatError(f"{label}: the two headers of {name} differ; copy the file again")
    return entry, following


def _name(raw: bytes, size: int, label: str) -> str:
    """A name of plain parts joined by slashes: no absolute one, no `..`, no surprise for a shell."""
    name = raw.decode("ascii", errors="replace")
    parts = name.split("/")
    plain = all(_PART.fullmatch(part) for part in parts)
    if len(raw) != size or not 0 < size <= MAX_NAME or not plain:
        raise BundleNameError(
            f"{label}: {name[:80]!r} is no name that a bundle uses; don't trust it"
        )
    return name


def _check_plain(name: str, made: int, outside: int, label: str) -> None:
    mode = outside >> 16
    if mode & _KIND not in (0, _FILE_MODE & _KIND) or outside & 0xFFFF:
        raise BundleLinkError(f"{label}: {name} is a link or no plain file; don't trust it")
    if made != _MADE_BY or mode != _FILE_MODE:
        raise BundleFormatError(
            f"{label}: {name} is listed another way than bundles do; build it again"
        )


def _check_size(entry: DirectoryEntry, total: int, label: str) -> None:
    if entry.name == MANIFEST and entry.size > MAX_MANIFEST_BYTES:
        raise BundleManifestSizeError(
            f"{label}: {MANIFEST} has {entry.size} bytes, at most {MAX_MANIFEST_BYTES} are read"
        )
    if entry.size > MAX_MEMBER_BYTES or total > MAX_TOTAL_BYTES:
        raise BundleBombError(
            f"{label}: {entry.name} says {entry.size} bytes, {total} so far; at most "
            f"{MAX_MEMBER_BYTES} of one member and {MAX_TOTAL_BYTES} of all are read"
        )
    if entry.size > RATIO_FREE_BYTES and entry.size > MAX_RATIO * entry.packed:
        raise BundleBombError(
            f"{label}: {entry.name} grows {entry.size // max(1, entry.packed)} times, at most "
            f"{MAX_RATIO} times is read"
        )


def _unpack(data: bytes, entry: DirectoryEntry, label: str) -> bytes:
    """One member's bytes, never more than declared."""
    packed = data[entry.start : entry.start + entry.packed]
    content = packed if entry.method == _STORED else _inflate(packed, entry, label)
    if len(content) != entry.size or zlib.crc32(content) != entry.crc:
        raise BundleDigestError(f"{label}: {entry.name} was altered; copy the file again")
    return content


def _inflate(packed: bytes, entry: DirectoryEntry, label: str) -> bytes:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        content = inflater.decompress(packed, entry.size + 1)
    except zlib.error as error:
        raise BundleDigestError(f"{label}: {entry.name} does not unpack ({error})") from error
    if len(content) > entry.size:
        raise BundleBombError(
            f"{label}: {entry.name} is larger than the {entry.size} bytes declared"
        )
    if not inflater.eof or inflater.unused_data:
        raise BundleDigestError(f"{label}: {entry.name} does not end where it should")
    return content


def write(members: Mapping[str, bytes]) -> bytes:
    """The archive of these members, in their order; the same bytes for the same members and zlib."""
    entries = list(_placed(members))
    body = b"".join(_local_header(entry) + packed for entry, packed in entries)
    directory = b"".join(_central_header(entry) for entry, _ in entries)
    count = len(entries)
    return body + directory + _END.pack(_END_MARK, 0, 0, count, count, len(directory), len(body), 0)


def _placed(members: Mapping[str, bytes]) -> Iterator[tuple[DirectoryEntry, bytes]]:
    position = 0
    for name, content in members.items():
        deflater = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
        packed, method = deflater.compress(content) + deflater.flush(), _DEFLATED
        if len(packed) >= len(content):
            packed, method = content, _STORED
        start = position + _LOCAL.size + len(name)
        yield (
            DirectoryEntry(name, method, zlib.crc32(content), len(packed), len(content), start),
            packed,
        )
        position = start + len(packed)


def _local_header(entry: DirectoryEntry) -> bytes:
    common = (_VERSION, 0, entry.method, _TIME, _DATE, entry.crc, entry.packed, entry.size)
    return _LOCAL.pack(_LOCAL_MARK, *common, len(entry.name), 0) + entry.name.encode()


def _central_header(entry: DirectoryEntry) -> bytes:
    common = (_VERSION, 0, entry.method, _TIME, _DATE, entry.crc, entry.packed, entry.size)
    position = entry.start - _LOCAL.size - len(entry.name)
    tail = (len(entry.name), 0, 0, 0, 0, _FILE_MODE << 16, position)
    return _CENTRAL.pack(_CENTRAL_MARK, _MADE_BY, *common, *tail) + entry.name.encode()
