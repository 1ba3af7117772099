"""Templates: which there are, where they lie and what they are made of. ``tuner.codegen.render`` fills them.

A template NAME is `templates/NAME.mojo.j2` with its space `templates/NAME.toml`; what it
includes lies in `templates/NAME/` or `templates/shared/`. In a wheel the folder travels inside
the package; in a checkout it is the repository's. ``MOETUNE_TEMPLATES`` names further folders, whose templates
may include what is shared.
"""

from __future__ import annotations

import functools
import os
import re
from pathlib import Path

from tuner.errors import TemplateError
from tuner.space import code

_PACKAGE = Path(__file__).resolve().parents[1]
_PLACES = (_PACKAGE / "templates", _PACKAGE.parent / "templates")
VARIABLE = "MOETUNE_TEMPLATES"
# A Jinja statement that brings another file's text, or its macros.
_INCLUDE = re.compile(r"\{%[-+]?\s*(?:include|import|from)\s+[\"']([^\"']+)[\"'][^%]*%\}")


@functools.cache
def folder() -> Path:
    """Where the templates lie. Raises TemplateError when the installation lacks them."""
    for place in _PLACES:
        if place.is_dir():
            return place
    raise TemplateError(f"templates: not found in {_PACKAGE}; install moetune again")


@functools.cache
def folders() -> tuple[Path, ...]:
    """Where templates are looked for: moetune's own folder, then those of ``MOETUNE_TEMPLATES``.

    Raises TemplateError where one of these is none.
    """
    further = [Path(name) for name in os.environ.get(VARIABLE, "").split(os.pathsep) if name]
    for place in further:
        if not place.is_dir():
            raise TemplateError(f"{VARIABLE}={place}: is no folder; name folders of templates")
    return (folder(), *(place.resolve() for place in further))


@functools.cache
def names() -> tuple[str, ...]:
    """All templates that have a space, sorted."""
    return tuple(sorted(_spaces()))


def space_path(name: str) -> Path:
    """The space file of a template. Raises TemplateError when there is no such template."""
    if name not in _spaces():
        raise TemplateError(f"template {name!r}: not known; there are {', '.join(names())}")
    return _spaces()[name]


@functools.cache
def _spaces() -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in (path for place in folders() for path in sorted(place.glob("*.toml"))):
        first = found.setdefault(path.stem, path)
        if first != path:
            raise TemplateError(f"{path}: {first} has this name already; give it another one")
    return found


@functools.cache
def digest(name: str) -> str:
    """The identity of what a template makes: 16 hex digits over its code.

    Comments, and which of its files something stands in, do not count. ``tuner.space.file.is_current``
    compares it with what is stored. Raises TemplateError where a file is missing that it includes.
    """
    return code.digest(_whole(f"{name}.mojo.j2"))


def _whole(file: str) -> str:
    """The text of a file of the folders, with the files that it includes or imports in their places."""
    path = next((place / file for place in folders() if (place / file).is_file()), None)
    if path is None:
        where = " and ".join(map(str, folders()))
        raise TemplateError(f"template {file}: is missing in {where}; install moetune again")
    return _INCLUDE.sub(lambda found: _whole(found[1]), path.read_text())
