"""Files are written by tuner.host.files; whoever does it otherwise stands here, with the reason."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2] / "tuner"
DRAFT = "in a draft's folder, which becomes visible by one rename"
LOCK = "a file for a lock: nothing is written into it"
OWN = "in a temporary folder of this process"
# Module -> what it calls there, and why.
OTHERS = {
    "host/files.py": ({"open", "fdopen", "replace"}, "it is the writer"),
    "host/lock.py": ({"open"}, LOCK),
    "serve/tokens.py": ({"open"}, LOCK),
    "offline/place.py": ({"open"}, LOCK),
    "codegen/batch.py": ({"write_text"}, DRAFT),
    "codegen/cache.py": ({"write_text", "rename"}, DRAFT),
    "codegen/compile.py": ({"write_text"}, DRAFT),
    "offline/data.py": ({"open", "save"}, OWN),
    "offline/trial.py": ({"copyfile"}, OWN),
    "audit/audit.py": ({"copyfile"}, OWN),
    "tune/session.py": ({"copyfile"}, OWN),
    "report/plots/canvas.py": ({"savefig"}, "into memory"),
    "bundle/private.py": ({"fdopen"}, "it reads a file that is no link"),
}
# Names that mean something else of other things.
OF = {
    "copy": ("shutil",),
    "move": ("shutil",),
    "save": ("np", "numpy", "torch"),
    "savez": ("np", "numpy"),
}
WRITES = {
    "write_text", "write_bytes", "copyfile", "copy", "copy2", "copytree", "move", "savefig", "save",
    "savez", "tofile", "fdopen", "mkstemp", "NamedTemporaryFile", "symlink_to", "hardlink_to", "rename",
    "touch", "truncate", "mkfifo",
}  # fmt: skip


def writes(tree: ast.AST) -> Iterator[str]:
    """The names of calls that write, or could."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = (
            node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        )
        texts = [part.value for part in ast.walk(node) if isinstance(part, ast.Constant)]
        modes = [text for text in texts if isinstance(text, str) and set(text) <= set("wxa+bt")]
        of = ast.unparse(node.func.value) if isinstance(node.func, ast.Attribute) else ""
        one = len(node.args) == 1 and not node.keywords  # Path.replace; that of a text has two
        if (
            (name in WRITES and (name not in OF or of in OF[name]))
            or (name == "open" and of != "os" and any(modes))
            or (name == "replace" and (one or of == "os"))
        ):
            yield name


def test_nobody_else_writes() -> None:
    found: dict[str, set[str]] = {}
    for path in sorted(ROOT.rglob("*.py")):
        for name in writes(ast.parse(path.read_text())):
            found.setdefault(str(path.relative_to(ROOT)), set()).add(name)
    assert found == {module: names for module, (names, _) in OTHERS.items()}


def test_each_way_of_writing_is_seen() -> None:
    lines = """
open(path, "w"); path.open("ab"); open(path, mode="x"); path.write_text(""); path.write_bytes(b"")
os.replace(a, b); draft.replace(path); path.rename(other); shutil.copyfile(a, b); np.save(path, x)
open(path); path.open("rb"); text.replace("a", "w"); dataclasses.replace(row, name="w")
"""
    assert list(writes(ast.parse(lines))) == [
        "open", "open", "open", "write_text", "write_bytes", "replace", "replace", "rename", "copyfile",
        "save",
    ]  # fmt: skip
