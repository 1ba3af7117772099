"""Files that are written whole or not at all, and what is no plain file."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tuner.host import files
from tuner.host.files import append_line, replace_whole, write_whole


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@contextlib.contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def test_a_file_takes_the_place_of_the_former_one(tmp_path: Path) -> None:
    path = tmp_path / "best.jsonl"
    write_whole(path, b"first")
    write_whole(path, b"second")
    assert path.read_bytes() == b"second"
    assert list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "taken"
    path.mkdir()
    with pytest.raises(IsADirectoryError):
        write_whole(path, b"text")
    with pytest.raises(IsADirectoryError):
        replace_whole(path, b"text", 0o600)
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(FileNotFoundError):
        write_whole(tmp_path / "none" / "file", b"text")


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left")])
@pytest.mark.parametrize("step", ["fsync", "replace", "fchmod"])
def test_nothing_is_left_of_what_was_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, step: str
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"former")

    def stopped(*_: object) -> None:
        raise error

    monkeypatch.setattr(files.os, step, stopped)
    with pytest.raises(type(error)):
        write_whole(path, b"text")
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == b"former"


def test_permissions(tmp_path: Path) -> None:
    """Those of the former file, what the umask leaves to a new one, or what is asked for."""
    with umask(0o027):
        write_whole(tmp_path / "new", b"")
        write_whole(tmp_path / "asked", b"", 0o644)
        (tmp_path / "former").touch(0o604)
        (tmp_path / "former").chmod(0o604)
        write_whole(tmp_path / "former", b"text")
    found = {path.name: oct(mode_of(path)) for path in tmp_path.iterdir()}
    assert found == {"new": "0o640", "asked": "0o644", "former": "0o604"}


def test_a_name_as_long_as_names_may_be(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 255)
    write_whole(path, b"text")
    assert path.read_bytes() == b"text"


def test_a_link_stays_and_what_it_leads_to_is_written(tmp_path: Path) -> None:
    there, new, link, other = (tmp_path / name for name in ("there", "new", "link", "other"))
    there.write_bytes(b"former")
    link.symlink_to("there")
    other.symlink_to(new)
    write_whole(link, b"text")
    write_whole(other, b"text")
    assert (os.readlink(link), os.readlink(other)) == ("there", str(new))
    assert (there.read_bytes(), new.read_bytes()) == (b"text", b"text")
    assert not there.is_symlink()
    assert len(list(tmp_path.iterdir())) == 4


def test_a_link_to_itself(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OSError, match="Too many levels"):
        write_whole(tmp_path / "loop", b"text")


def test_our_own_files_take_the_place_of_links(tmp_path: Path) -> None:
    there, link = tmp_path / "there", tmp_path / "link"
    there.write_bytes(b"theirs")
    link.symlink_to(there)
    replace_whole(link, b"ours", 0o600)
    assert (there.read_bytes(), link.read_bytes(), link.is_symlink()) == (b"theirs", b"ours", False)
    assert mode_of(link) == 0o600


def test_a_device_stays(tmp_path: Path) -> None:
    before = os.stat(os.devnull)
    link = tmp_path / "null"
    link.symlink_to(os.devnull)
    write_whole(Path(os.devnull), b"text", 0o600)
    write_whole(link, b"text")
    after = os.stat(os.devnull)
    assert (after.st_mode, after.st_ino) == (before.st_mode, before.st_ino)
    assert list(tmp_path.iterdir()) == [link]


def test_a_full_device_says_so() -> None:
    with pytest.raises(OSError, match="No space left"):
        write_whole(Path("/dev/full"), b"text")


def test_a_fifo_is_written_into(tmp_path: Path) -> None:
    pipe, read = tmp_path / "pipe", list[bytes]()
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    write_whole(pipe, b"text" * 100_000)
    reader.join()
    assert read == [b"text" * 100_000]
    assert list(tmp_path.iterdir()) == [pipe]
    assert pipe.is_fifo()


def test_a_fifo_that_nobody_reads_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "FIFO_S", 0.05)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match=r"nobody has read this FIFO for 0\.05 s"):
        write_whole(tmp_path / "pipe", b"text")


def test_an_open_pipe_by_its_number() -> None:
    """As ``>(program)`` of a shell, and /dev/stdout before a pipe."""
    read, write = os.pipe()
    write_whole(Path(f"/proc/self/fd/{write}"), b"text")
    os.close(write)
    with os.fdopen(read, "rb") as stream:
        assert stream.read() == b"text"


def test_an_open_file_without_a_name(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w+b") as stream:
        (tmp_path / "file").unlink()
        write_whole(Path(f"/proc/self/fd/{stream.fileno()}"), b"text")
        assert stream.read() == b"text"
    assert list(tmp_path.iterdir()) == []


def test_a_line_is_added_behind_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    append_line(path, "first")
    append_line(path, "second é")
    path.write_bytes(path.read_bytes() + b"cut")
    append_line(path, "third")
    assert path.read_text() == "first\nsecond é\ncut\nthird\n"
