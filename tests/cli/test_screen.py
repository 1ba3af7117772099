"""Text from outside never reaches a terminal as it is: one place writes, and it spells what would be obeyed."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.commands import Run
from tuner.cli import screen
from tuner.store import shipped

ROOT = Path(__file__).parents[2] / "tuner"
HOSTILE = "a\x1b[31mRED\x1b]0;title\x07\x9b2J\u202eb\u2028"
# Module -> how often it prints without `screen`, and why that is no harm.
OTHERS = {
    "cli/screen.py": (2, "it is the place"),
    "cli/endings.py": (1, "errors, in one line, spelled"),
    "bundle/__main__.py": (2, "without the packages of the command line; spelled"),
    "bundle/probation.py": (2, "JSON, for the process that started it"),
    "offline/run.py": (2, "without the packages of the command line; spelled"),
    "offline/trial.py": (1, "JSON, for the process that started it"),
    "tune/for_layer.py": (1, "one line, for the process that started it"),
}


def prints(tree: ast.AST) -> Iterator[ast.Call]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in (
            "print", "click.echo", "click.secho", "sys.stdout.write", "sys.stderr.write", "Console",
        ):  # fmt: skip
            yield node


def test_one_place_prints() -> None:
    found = {
        str(path.relative_to(ROOT)): len(list(prints(ast.parse(path.read_text()))))
        for path in sorted(ROOT.rglob("*.py"))
    }
    expected = {module: count for module, (count, _) in OTHERS.items() if count}
    assert {module: count for module, count in found.items() if count} == expected


def harmless(text: str) -> bool:
    return all(c.isprintable() or c in "\n\t" for c in text)


def test_each_way_of_the_screen(capsys: pytest.CaptureFixture[str]) -> None:
    screen.echo(HOSTILE)
    screen.echo(HOSTILE, err=True)
    screen.stdout().print(HOSTILE, soft_wrap=True)
    screen.stderr().print(HOSTILE)
    screen.stdout().print(screen.table(["name"], [[HOSTILE]]))
    out, err = capsys.readouterr()
    assert harmless(out + err)
    assert out.count(r"a\x1b[31mRED") == 3
    assert err.count(r"a\x1b[31mRED") == 2


def test_a_problem_with_such_a_name(tmp_path: Path, moetune: Run) -> None:
    """Merged, and then shown by all that list what there is."""
    line = json.loads(shipped.path().read_text().splitlines()[0])
    line["problem"]["name"] = HOSTILE
    (tmp_path / "n.jsonl").write_text(json.dumps(line) + "\n")
    db = f"--db {tmp_path / 't.sqlite3'}"
    commands = (
        f"merge {tmp_path / 'n.jsonl'} {db}", f"export {tmp_path / 't4'} --format t4 --tokens 12345 {db}",
        f"report granite-3.0-1b-a400m {db}", f"best {HOSTILE.split()[0]} --tokens 1 {db}",
    )  # fmt: skip
    for command in commands:
        said = moetune(command)
        assert harmless(said.out + said.err), command
    assert r"\x1b[31mRED" in moetune(commands[1]).err
