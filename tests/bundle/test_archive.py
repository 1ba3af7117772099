"""The reader of the archive: everything but what `write` writes is refused, each by its own error."""

from __future__ import annotations

import io
import stat
import struct
import zipfile
import zlib
from pathlib import Path

import pytest

from tuner.bundle import archive
from tuner.bundle.archive import Archive, parse, read_file, write
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

MEMBERS = {"manifest.json": b"{}" * 50, "bin/a.so": bytes(range(256)), "src/a.mojo": b"def\n" * 99}
GOOD = write(MEMBERS)


def opened(data: bytes) -> Archive:
    return parse(data, "test.moe")


def changed(data: bytes, at: int, value: bytes) -> bytes:
    return data[:at] + value + data[at + len(value) :]


def central(name: str) -> int:
    """Where the central entry of a member starts."""
    return GOOD.rindex(name.encode()) - 46


def local(name: str) -> int:
    return GOOD.index(name.encode()) - 30


def everywhere(data: bytes, old: bytes, new: bytes) -> bytes:
    """The archive with a name replaced by another of the same length, in both headers."""
    assert len(old) == len(new)
    return data.replace(old, new)


def test_members_come_back_in_their_order() -> None:
    found = opened(GOOD)
    assert {name: found.read(name) for name in found.sizes} == MEMBERS
    assert list(found.sizes) == list(MEMBERS)


def test_other_programs_read_it() -> None:
    with zipfile.ZipFile(io.BytesIO(GOOD)) as zipped:
        assert {name: zipped.read(name) for name in zipped.namelist()} == MEMBERS
        assert zipped.testzip() is None


def test_the_same_members_are_the_same_bytes() -> None:
    assert write(dict(MEMBERS)) == GOOD


def test_no_such_member() -> None:
    with pytest.raises(BundleFormatError, match="has no other"):
        opened(GOOD).read("other")


@pytest.mark.parametrize("data", [b"", b"PK", b"# no zip\n" * 100, b"\x7fELF" + bytes(99)])
def test_no_archive(data: bytes) -> None:
    with pytest.raises(BundleFormatError, match="is no bundle"):
        opened(data)


@pytest.mark.parametrize("size", [31, 200, len(GOOD) - 23, len(GOOD) - 22, len(GOOD) - 1])
def test_truncated(size: int) -> None:
    with pytest.raises(BundleTruncatedError, match="copy the file again"):
        opened(GOOD[:size])


@pytest.mark.parametrize("at", [0, 40, 300, len(GOOD) - 100])
def test_bytes_lost_inside(at: int) -> None:
    with pytest.raises(BundleError):
        opened(GOOD[:at] + GOOD[at + 3 :])


@pytest.mark.parametrize("data", [GOOD + b"\0", GOOD + b"more", GOOD + GOOD[: len(GOOD) // 2]])
def test_trailing(data: bytes) -> None:
    with pytest.raises(BundleExtraDataError):
        opened(data)


def test_prepended() -> None:
    with pytest.raises(BundleExtraDataError, match="before its start"):
        opened(b"#!/bin/sh\n" + GOOD)


def test_two_archives_in_a_row() -> None:
    with pytest.raises(BundleExtraDataError):
        opened(GOOD + GOOD)


def test_a_comment() -> None:
    with pytest.raises(BundleExtraDataError):
        opened(changed(GOOD, len(GOOD) - 2, b"\x04\x00") + b"PKPK")


def test_bytes_between_members() -> None:
    """The directory starts later by what was put in, and points past it."""
    at = local("src/a.mojo")
    data = GOOD[:at] + b"hide" + GOOD[at:]
    end = struct.unpack_from("<I", data, len(data) - 6)[0]
    data = changed(data, len(data) - 6, struct.pack("<I", end + 4))
    entry = data.rindex(b"src/a.mojo") - 4
    data = changed(data, entry, struct.pack("<I", at + 4))
    with pytest.raises(BundleExtraDataError, match="does not follow"):
        opened(data)


def test_bytes_after_the_last_member() -> None:
    at = struct.unpack_from("<I", GOOD, len(GOOD) - 6)[0]
    data = GOOD[:at] + b"hide" + GOOD[at:]
    with pytest.raises(BundleExtraDataError, match="belong to no member"):
        opened(changed(data, len(data) - 6, struct.pack("<I", at + 4)))


@pytest.mark.parametrize(
    "name",
    ["../a.so", "/bin/a.", "a/../b.", "bin//a.s", "bin/a so", ".hidden", "bin\\a.s", "bin/a\0s"],
)
def test_names(name: str) -> None:
    data = write({"manifest.json": b"{}", "x" * len(name): b"1"})
    with pytest.raises(BundleNameError, match="is no name that a bundle uses"):
        opened(everywhere(data, b"x" * len(name), name.encode()))


def test_a_long_name() -> None:
    with pytest.raises(BundleNameError):
        opened(write({"a" * 201: b"1"}))


@pytest.mark.parametrize("mode", [stat.S_IFLNK | 0o777, stat.S_IFDIR | 0o755, stat.S_IFIFO | 0o644])
def test_links_and_other_kinds(mode: int) -> None:
    with pytest.raises(BundleLinkError, match=r"bin/a.so is a link or no plain file"):
        opened(changed(GOOD, central("bin/a.so") + 38, struct.pack("<I", mode << 16)))


def test_a_link_as_zip_programs_write_it() -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as zipped:
        link = zipfile.ZipInfo("bin/a.so")
        link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
        zipped.writestr(link, "/etc/passwd")
    with pytest.raises(BundleLinkError):
        opened(stream.getvalue())


def test_other_permissions() -> None:
    mode = struct.pack("<I", (stat.S_IFREG | 0o4755) << 16)
    with pytest.raises(BundleFormatError):
        opened(changed(GOOD, central("bin/a.so") + 38, mode))


def test_duplicates() -> None:
    data = write({"a/one": b"1", "a/two": b"2"})
    with pytest.raises(BundleDuplicateError, match="two members a/one"):
        opened(everywhere(data, b"a/two", b"a/one"))


def test_headers_that_differ() -> None:
    with pytest.raises(BundleFormatError, match=r"two headers of bin/a.so differ"):
        opened(changed(GOOD, local("bin/a.so") + 30, b"sbin"))


@pytest.mark.parametrize("method", [1, 12, 14, 99])
def test_other_compressions(method: int) -> None:
    at = central("bin/a.so") + 10
    with pytest.raises(BundleFormatError, match="listed another way"):
        opened(changed(GOOD, at, struct.pack("<H", method)))


def test_too_many_members() -> None:
    with pytest.raises(BundleBombError, match="has 4097 members"):
        opened(write({f"m{i}": b"" for i in range(4097)}))


def test_a_declared_size_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MAX_MEMBER_BYTES", 255)
    with pytest.raises(BundleBombError, match=r"bin/a.so says 256 bytes"):
        opened(GOOD)


def test_declared_sizes_too_large_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MAX_TOTAL_BYTES", 500)
    with pytest.raises(BundleBombError, match="752 so far"):
        opened(GOOD)


def test_a_ratio_too_high() -> None:
    with pytest.raises(BundleBombError, match="zeros grows"):
        opened(write({"zeros": bytes(1 << 20)}))


def test_a_real_size_above_the_declared_one() -> None:
    """Unpacking stops there: the member would be a mebibyte."""
    deflater = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    packed = deflater.compress(bytes(1 << 20)) + deflater.flush()
    entry = archive.DirectoryEntry("bomb", 8, 0, len(packed), 100, 34)
    body = archive._local_header(entry) + packed
    directory = archive._central_header(entry)
    end = archive._END.pack(b"PK\x05\x06", 0, 0, 1, 1, len(directory), len(body), 0)
    with pytest.raises(BundleBombError, match="larger than the 100 bytes declared"):
        opened(body + directory + end).read("bomb")


def test_members_that_share_bytes() -> None:
    """The overlapping zip bomb (Fifield 2019): two entries of one member."""
    data = write({"a/one": b"1" * 99})
    start = struct.unpack_from("<I", data, len(data) - 6)[0]
    directory = data[start:-22]
    end = archive._END.pack(b"PK\x05\x06", 0, 0, 2, 2, 2 * len(directory), start, 0)
    with pytest.raises(BundleExtraDataError):
        opened(data[:start] + 2 * directory + end)


def test_an_oversized_manifest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MAX_MANIFEST_BYTES", 99)
    with pytest.raises(BundleManifestSizeError, match=r"manifest.json has 100 bytes"):
        opened(GOOD)


def test_altered_content() -> None:
    at = local("bin/a.so") + 30 + len("bin/a.so") + 20
    with pytest.raises(BundleDigestError, match=r"bin/a.so was altered"):
        opened(changed(GOOD, at, b"\xff")).read("bin/a.so")


def test_altered_compression() -> None:
    at = local("src/a.mojo") + 30 + len("src/a.mojo")
    with pytest.raises(BundleDigestError, match=r"src/a.mojo does not"):
        opened(changed(GOOD, at, b"\xff\xff")).read("src/a.mojo")


def test_a_file_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.moe"
    path.write_bytes(GOOD)
    assert read_file(path) == GOOD
    monkeypatch.setattr(archive, "MAX_FILE_BYTES", len(GOOD) - 1)
    with pytest.raises(BundleBombError, match="is larger than"):
        read_file(path)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="No such file"):
        read_file(tmp_path / "absent.moe")
    with pytest.raises(BundleError, match="Is a directory"):
        read_file(tmp_path)
