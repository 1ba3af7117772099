"""Templates that exist for a test alone, beside those of the repository."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tuner.space import parse, templates, variant


@contextmanager
def installed(folder: Path) -> Iterator[None]:
    """The templates of a folder are those that there are."""
    before = templates._PLACES
    templates._PLACES = (folder,)
    _forget()
    try:
        yield
    finally:
        templates._PLACES = before
        _forget()


def _forget() -> None:
    """What is kept of the templates, as a process has those of one folder."""
    kept = (
        templates.folder, templates.folders, templates._spaces, templates.names, templates.digest, parse.load,
        variant._made, variant.serving,
    )  # fmt: skip
    for function in kept:
        function.cache_clear()
    variant._defaults.clear()


@contextmanager
def beside(folder: Path) -> Iterator[None]:
    """The templates of a folder are there, too, as ``MOETUNE_TEMPLATES`` says."""
    before = os.environ.get(templates.VARIABLE)
    os.environ[templates.VARIABLE] = str(folder)
    _forget()
    try:
        yield
    finally:
        os.environ.pop(templates.VARIABLE)
        if before is not None:
            os.environ[templates.VARIABLE] = before
        _forget()


def copied(folder: Path) -> Path:
    """The repository's templates in a folder of their own."""
    return shutil.copytree(templates.folder(), folder / "templates")


def add_toy(folder: Path, name: str = "moe_toy", **changes: str) -> None:
    """A second CPU template: moe_cpu under another name, its tile's rows called `height`.

    `changes` are keys of its .toml with what they are instead, as TOML has it.
    """
    for end in ("mojo.j2", "toml"):
        text = (folder / f"moe_cpu.{end}").read_text()
        text = re.sub(r"\btile_rows\b", "height", text).replace("moe_cpu", name)
        for key, value in changes.items():
            text = re.sub(rf"^{key} = .*$", f"{key} = {value}", text, flags=re.MULTILINE)
        (folder / f"{name}.{end}").write_text(text)
    parts = folder / name
    shutil.copytree(folder / "moe_cpu", parts)
    for path in parts.iterdir():
        path.write_text(re.sub(r"\btile_rows\b", "height", path.read_text()))
