"""Templates: which there are, where they lie and what they are made of. ``tuner.codegen.render`` fills them.

A template NAME is `templates/NAME.mojo.j2` with its space `templates/NAME.toml`; what it
includes lies in `templates/NAME/` or `templates/shared/`. In a wheel the folder travels inside
the package; in a checkout it is the repository's.
"""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

from tuner.errors import TemplateError

_PACKAGE = Path(__file__).resolve().parents[1]
_PLACES = (_PACKAGE / "templates", _PACKAGE.parent / "templates")


@functools.cache
def folder() -> Path:
    """Where the templates lie. Raises TemplateError when the installation lacks them."""
    for place in _PLACES:
        if place.is_dir():
            return place
    raise TemplateError(f"templates: not found in {_PACKAGE}; install moetune again")


@functools.cache
def names() -> tuple[str, ...]:
    """All templates that have a space, sorted."""
    return tuple(sorted(path.stem for path in folder().glob("*.toml")))


def space_path(name: str) -> Path:
    """The space file of a template. Raises TemplateError when there is no such template."""
    path = folder() / f"{name}.toml"
    if not path.is_file():
        raise TemplateError(f"template {name!r}: not known; there are {', '.join(names())}")
    return path


@functools.cache
def digest(name: str) -> str:
    """What a template is made of: 16 hex digits over its files and those it may include."""
    place = folder()
    parts = [place / f"{name}.mojo.j2", *place.glob(f"{name}/*.j2"), *place.glob("shared/*.j2")]
    texts = [f"{path.relative_to(place)}\n{path.read_text()}" for path in sorted(parts)]
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]
