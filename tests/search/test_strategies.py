"""The table of search strategies: one is a file, found by its name; none loads an engine before it is used."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import tuner.search
from tuner.search import strategies
from tuner.search.search import Search
from tuner.search.strategies import STRATEGIES
from tuner.space.space import Space
from tuner.tune.plan import Plan

TOY = '''
class Backwards:
    """Every valid point, the last one first."""

    def __init__(self, space, seed, trials):
        self._rest = iter(list(space.points())[::-1])

    def propose(self, is_new):
        return next(filter(is_new, self._rest), None)

    def tell(self, config, ratio, failure):
        """Learns nothing."""


STRATEGIES = {"backwards": Backwards}
'''


def test_a_strategy_is_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "toy_strategy.py").write_text(TOY)
    monkeypatch.setattr(tuner.search, "__path__", [*tuner.search.__path__, str(tmp_path)])
    for name, strategy in strategies.found().items():
        monkeypatch.setitem(STRATEGIES, name, strategy)
    assert Plan((1,), sampler="backwards").sampler == "backwards"
    space = Space("t", {"a": (0, 1, 2, 3)}, {"a": 0}, (), {})
    search = Search(space, 0, "backwards")
    asked = [search.ask() for _ in range(5)]
    assert [s and s.config["a"] for s in asked] == [0, 3, 2, 1, None]


def test_the_command_line_knows_it_and_loads_no_engine(tmp_path: Path) -> None:
    (tmp_path / "toy_strategy.py").write_text(TOY)
    script = (
        "import sys, tuner.search\n"
        f"tuner.search.__path__.append({str(tmp_path)!r})\n"
        "from tuner.cli import main\n"
        "code = main(['tune', 'classic-moe', '--sampler', 'nelder'])\n"
        "sys.exit('imports optuna' if 'optuna' in sys.modules else code)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "'grid', 'brute', 'backwards'" in done.stderr
    assert done.returncode == 2
