"""Asks for the best configuration of a model, from this machine's database.

    python examples/best_config.py [PRESET]

`moetune tune PRESET` fills the database; without winners of your own the answer is one that moetune brings,
else the template's default.
"""

from __future__ import annotations

import sys

import tuner

TOKENS = (1, 16, 128, 1024)


def main() -> None:
    problem = tuner.Problem.preset(sys.argv[1] if len(sys.argv) > 1 else "granite-3.0-1b-a400m")
    print(problem.describe())
    for tokens in TOKENS:
        selection = tuner.best_config(problem, tokens=tokens)
        print(f"{tokens:5} tokens  {selection.match:8}  {selection.variant}")
        print(f"              {selection.reason}")


if __name__ == "__main__":
    main()
