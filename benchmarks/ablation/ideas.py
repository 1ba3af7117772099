"""Ideas: what can be switched off in a kernel, and the kernels in which it is.

Where an idea can be left out in several ways, each is a form; all are timed and the fastest counts, so that
no idea looks better than it is because what replaces it was chosen badly.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

from ablation import edits, run_time

from tuner.codegen.render import render
from tuner.problem import Problem
from tuner.space import space as spaces
from tuner.space.variant import Variant, default_variant, make
from tuner.target import Target, can_run, named, simd_bytes, supported

LEVELS = ("x86-64-v3", "x86-64-v2")
PLAIN = "plain_weights"
# A row of plain weights is read in vectors of depth: so many of them make an activation block.
PLAIN_ACT_BLOCK = 64


@dataclass(frozen=True)
class Form:
    """One kernel: a variant, the edits to its source, whether its sizes are hidden from the compiler.

    `again`: the same in another library, with threads of its own.
    """

    variant: Variant
    target: Target
    edits: str = ""
    hidden: bool = False
    again: bool = False

    def source(self, problem: Problem) -> str:
        """The Mojo of this kernel. Raises EditError where an edit no longer fits the template."""
        text = render(problem, self.variant).text
        text = edits.apply(self.edits, text) if self.edits else text
        text = run_time.hide_sizes(text) if self.hidden else text
        return f"{text}\n# Once more.\n" if self.again else text

    @property
    def pack(self) -> str:
        """Names the form in which this kernel reads the weights."""
        return f"{PLAIN}_{self.variant.pack}" if self.edits == PLAIN else self.variant.pack

    def changes(self, base: Form) -> str:
        """What differs from the full kernel, in words."""
        config = base.variant.config
        words = [
            f"{name} {config[name]} to {value}"
            for name, value in self.variant.values
            if value != config[name]
        ]
        words += [f"compiled for {self.target.arch}"] if self.target != base.target else []
        words += [f"{self.edits}.toml"] if self.edits else []
        words += ["run_time.py"] if self.hidden else []
        return ", ".join(words) or "nothing"


@dataclass(frozen=True)
class Idea:
    """A row of the table: the idea, what takes its place, and how; `why_not` where there is no form.

    `skewed`: it is timed under the skewed load, too.
    """

    key: str
    idea: str
    off: str
    forms: tuple[Form, ...]
    why_not: str = ""
    skewed: bool = False


def ideas(problem: Problem, base: Form, tokens: int, chosen: str) -> tuple[Idea, ...]:
    """Every idea, switched off in the full kernel `base` for this number of tokens.

    `chosen` tells how the full kernel was chosen: the row of tuning needs a winner.
    """
    default = Form(default_variant(problem, base.target, tokens=tokens), base.target)
    again = dataclasses.replace(base, again=True)
    rows = (
        Idea("control", "nothing", "the same kernel again", (again,), skewed=True),
        *_widths(problem, base, tokens),
        *_constants(base),
        Idea("one_row", "register tile", "tiles of one row, four vectors wide", _one_row(base)),
        Idea("packing", "packed weights", "matrices as given, dot products", _plain(base)),
        Idea("scratch", "scratch pool", "fresh pages for each call", _scratch(base)),
        *_fusions(base),
        *_hand_outs(base),
        Idea("tuning", "tuning", "the template's default", (default,), chosen),
    )
    return tuple(_without(idea, base) for idea in rows)


def _without(idea: Idea, base: Form) -> Idea:
    """The idea with only the forms that are another kernel."""
    forms = tuple(form for form in idea.forms if form != base)
    why_not = "" if forms else idea.why_not or "the full kernel does without"
    return dataclasses.replace(idea, forms=forms, why_not=why_not)


def _changed(base: Form, **changes: int) -> Form:
    config = {**base.variant.config, **changes}
    return dataclasses.replace(base, variant=make(base.variant.template, config))


def _widths(problem: Problem, base: Form, tokens: int) -> Iterator[Idea]:
    """Narrower vectors of this target, and whole targets that have no wider ones."""
    space = spaces.resolve(spaces.load(base.variant.template), problem, base.target, tokens)
    config = base.variant.config
    for lanes in (8, 4):
        if lanes < config["simd_width"]:
            # As if the vectors were no wider: the rules about the tile hold, with all registers.
            narrow = dataclasses.replace(space, facts={**space.facts, "simd_bytes": 4 * lanes})
            tiles = dict.fromkeys([(config["tile_rows"], config["tile_vectors"]), (6, 4)])
            forms = [
                _changed(base, simd_width=lanes, tile_rows=rows, tile_vectors=vectors)
                for rows, vectors in tiles
            ]
            fits = tuple(f for f in forms if narrow.broken(f.variant.config) is None)
            off = f"vectors of {lanes} lanes"
            yield Idea(f"lanes_{lanes}", "SIMD width", off, fits, "no tile fits the registers")
    for arch in LEVELS if LEVELS[0] in supported() else ():
        target = named(arch)
        if can_run(base.target, target.features) and simd_bytes(target) < simd_bytes(base.target):
            form = Form(default_variant(problem, target, tokens=tokens), target)
            yield Idea(arch, "SIMD width", f"compiled for {arch}, with its default", (form,))


def _constants(base: Form) -> Iterator[Idea]:
    idea = "compile-time constants"
    sizes = dataclasses.replace(base, hidden=True)
    rows = dataclasses.replace(sizes, edits="run_time_rows")
    whole = dataclasses.replace(base, edits="whole_tiles")
    yield Idea("sizes", idea, "the layer's sizes at run time", (sizes,))
    yield Idea("rows", idea, "those and the rows of a tile at run time, sums in memory", (rows,))
    yield Idea("tails", idea, "one micro-kernel for tiles of any number of rows", (whole,))


def _plain(base: Form) -> tuple[Form, ...]:
    """Tiles that leave room for several columns, with and without a prefetch of the next ones."""
    prefetch_rows = base.variant.config["prefetch_rows"]
    return tuple(
        dataclasses.replace(
            _changed(base, tile_rows=rows, act_block=PLAIN_ACT_BLOCK, prefetch_rows=least),
            edits=PLAIN,
        )
        for rows in (6, 12)
        for least in (prefetch_rows, 1)
    )


def _one_row(base: Form) -> tuple[Form, ...]:
    return (_changed(base, tile_rows=1, tile_vectors=4),)


def _scratch(base: Form) -> tuple[Form, ...]:
    return (_changed(base, scratch_keep=0),)


def _fusions(base: Form) -> Iterator[Idea]:
    idea = "fusion"
    activation = dataclasses.replace(base, edits="activation_pass")
    yield Idea("activation", idea, "activation in a pass of its own", (activation,))
    weight = dataclasses.replace(_changed(base, combine=1), edits="weight_pass")
    yield Idea("weights", idea, "routing weights in a pass of their own", (weight,))
    combine = base.variant.config["combine"]
    off = (
        "product 2 adds to the tokens' sums"
        if combine
        else "sums of a token in a pass of their own"
    )
    yield Idea("combine", idea, off, (_changed(base, combine=1 - combine),))


def _hand_outs(base: Form) -> Iterator[Idea]:
    idea = "hand-out of work"
    static = dataclasses.replace(base, edits="static_shares")
    yield Idea("static", idea, "one fixed share a worker", (static,), skewed=True)
    units = dataclasses.replace(base, edits="equal_units")
    yield Idea("units", idea, "by units of expert and columns, not by cost", (units,), skewed=True)
