"""JSON is read by tuner.host.json_text; whoever reads it otherwise stands here, with the reason."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2] / "tuner"
DATABASE = "the database's own columns, which its writer and its checks hold to JSON"
OTHERS = {
    "host/json_text.py": "it is the reader",
    "space/space.py": "what this process has just written",
    "store/database.py": DATABASE,
    "store/former.py": DATABASE,
    "serve/stored_row.py": DATABASE,
    "store/shipped.py": "db/best.jsonl, which the package brings; a test holds it to what `import` makes of it",
    "codegen/cache.py": "the cache's own note beside its binary",
}
READS = {"json.load", "json.loads", "json.JSONDecoder", "pydantic_core.from_json"}


def test_nobody_else_reads() -> None:
    found = {
        str(path.relative_to(ROOT))
        for path in ROOT.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in READS
    }
    assert found == set(OTHERS)
