"""Links of the pages lead somewhere, and what is rendered from data is fresh."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

import tuner
from tests.benchmark_scripts import script
from tests.docs.pages import ROOT, anchors, links, name, pages

DATA = Path("benchmarks", "data")


@pytest.mark.parametrize("page", pages(), ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in links(page):
        file, _, anchor = link.partition("#")
        target = page.parent / file if file else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


def test_files_that_pages_name_are_there() -> None:
    named = re.compile(r"`((?:benchmarks|db|docs|examples|templates|tests|tuner)/[\w./-]*\w)`")
    found = {(name(page), path) for page in pages() for path in named.findall(page.read_text())}
    assert [(page, path) for page, path in sorted(found) if not there(path)] == []


def there(path: str) -> bool:
    """Whether a file is there; pages write NAME for one of the reader's."""
    return "NAME" in path or (ROOT / path).exists()


def test_tests_that_the_page_of_faults_names_are_there() -> None:
    named = re.compile(r"`(?:([\w/]*test_\w+\.py)::)?(test_\w+)`")
    place = ROOT / "tests"
    tests = {str(p.relative_to(place)): p.read_text() for p in place.rglob("test_*.py")}
    for file, test in named.findall((ROOT / "docs" / "faults.md").read_text()):
        texts = [tests[file]] if file else tests.values()
        assert any(f"def {test}(" in text for text in texts), f"{file}::{test}"


def test_the_api_has_every_public_name() -> None:
    page = (ROOT / "docs" / "api.md").read_text()
    shown = set(re.findall(r"^::: tuner\.(\w+)$", page, re.MULTILINE))
    assert set(tuner.__all__) - {"__version__"} <= shown
    assert {"torch", "max", "errors"} <= shown


def test_the_readme_shows_the_data(monkeypatch: pytest.MonkeyPatch) -> None:
    table = script("readme_results", monkeypatch).table()
    assert table in (ROOT / "README.md").read_text()


def test_the_picture_of_the_readme_is_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    script("readme_results", monkeypatch).plot(tmp_path / "peers.svg")
    drawn, shown = ((f / "peers.svg").read_text() for f in (tmp_path, ROOT / "docs" / "pictures"))
    words = re.compile(r"<text [^>]*>([^<]+)</text>")
    assert words.findall(drawn) == words.findall(shown) != []


def test_the_page_of_models_shows_the_data(monkeypatch: pytest.MonkeyPatch) -> None:
    page = script("peer_brief", monkeypatch)
    data = DATA / "peers-models-znver4.json"
    file = script("peer_rows", monkeypatch).RowsFile(ROOT / data)
    picture = page.FOLDER / "peers-models-znver4.svg"
    text = page.brief(file.runs, file.rows, data, picture)
    assert text.strip() == (ROOT / page.FOLDER / "models.md").read_text().strip()


@pytest.mark.skipif(not importlib.util.find_spec("mkdocs"), reason="needs moetune[docs]")
def test_the_site_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    loads = re.compile(r"<(?:script|img|link|iframe|source)\b[^>]*?(?:src|href)=\"?(https?:)?//")
    site = list(tmp_path.rglob("*.html"))
    assert len(site) > 20
    assert [page for page in site if loads.search(page.read_text())] == []
