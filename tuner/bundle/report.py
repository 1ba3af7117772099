"""Words for what an install found."""

from __future__ import annotations

from collections.abc import Iterator

from tuner.bundle.install import REFUSED, Installed, Result


def lines(installed: Installed) -> Iterator[str]:
    """The verdict on each problem, and on the file."""
    for result in installed.results:
        if result.problem:
            yield f"{result.problem}: {result.verdict}"
        yield from (f"  {line}" for line in _about(result))
    signed = f" (signed by {installed.signer})" if installed.signer else ""
    yield f"{installed.path}{signed}: {installed.verdict}"


def _about(result: Result) -> Iterator[str]:
    yield from result.notes
    if result.verdict == REFUSED:
        return
    yield f"runs code for {result.target}; self-test right, largest error {result.worst:.1e}"
    for cell in result.speed:
        slower = ": slower" if cell["slower"] else ""
        place = f"{cell['tokens']} token{'' if cell['tokens'] == 1 else 's'}, {cell['load']}"
        yield (
            f"{place}: {cell['fraction']:.0%} of the ceiling, "
            f"{cell['shipped_fraction']:.0%} where tuned{slower}"
        )
