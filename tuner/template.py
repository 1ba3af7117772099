"""Templates: Mojo sources with Jinja structure. With the pages of `tuner.serve` all that knows jinja2.

A template NAME is `templates/NAME.mojo.j2` with its space `templates/NAME.toml`; what it
includes lies in `templates/NAME/` or `templates/shared/`. In a wheel the folder travels inside
the package; in a checkout it is the repository's.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

from tuner.errors import TemplateError

_PACKAGE = Path(__file__).resolve().parent
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


@functools.cache
def _environment(place: Path) -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(place),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=False,
    )


def fill(name: str, values: Mapping[str, Any], place: Path | None = None) -> str:
    """The text of template NAME with these values; a name it lacks is a TemplateError."""
    try:
        template = _environment(place or folder()).get_template(f"{name}.mojo.j2")
        return template.render(**values).rstrip("\n") + "\n"
    except jinja2.TemplateNotFound as error:
        raise TemplateError(f"template {name!r}: {error.name} is missing in {folder()}") from error
    except jinja2.TemplateError as error:
        raise TemplateError(f"template {name!r}: {error}") from error
