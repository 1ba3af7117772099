"""The pages for people: what stands in them, and that nothing in them comes from outside."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from tests.commands import Run
from tests.rows import CREATED, PROBLEM, TARGET, add_trial, add_winner
from tests.services import GRANITE, client, served
from tuner.serve.settings import Settings
from tuner.store import listings, shipped
from tuner.store.database import Database
from tuner.store.jsonl import import_best
from tuner.store.peer_times import PeerTimeRow
from tuner.store.records import SessionRow, now

__all__ = ["served"]

ROWS = Path(__file__).parents[2] / "benchmarks" / "data" / "peers-readme-znver4.json"


def place(path: Path) -> str:
    with Database(path, read_only=True) as db:
        row = listings.overview(db, 0, 1)[0]
    return f"/problems/{row['problem_id']}/{row['target_id']}"


def test_the_first_page_lists_problems_and_targets(
    served: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOETUNE_SHIPPED", "0")
    answer = client(served).get("/")
    assert answer.headers["content-type"].startswith("text/html")
    assert re.findall(r'<a href="/problems/[^"]+">([^<]+)</a>', answer.text) == [
        "classic-moe", "granite-3.0-1b-a400m", "granite-3.0-1b-a400m-bfloat16",
    ]  # fmt: skip
    assert re.search(r"1\.00. to 1\.06.<", answer.text)
    assert "No more rows." in client(served).get("/?skip=3").text


def test_an_empty_database_says_what_to_do(database: Path) -> None:
    Database(database).close()
    assert "moetune tune granite" in client(database).get("/").text


def test_a_problem_has_its_plots_and_its_story(served: Path) -> None:
    answer = client(served).get(place(served) + "?tokens=128&load=uniform")
    assert answer.status_code == 200
    for part in (
        "Time against tokens",
        "Roofline",
        "The choice at 128 tokens, uniform",
        "paired samples",
    ):
        assert part in answer.text, part
    assert answer.text.count("<svg ") == 2


def test_labels_are_text(database: Path) -> None:
    with Database(database) as db:
        add_winner(db, problem=PROBLEM.replace(name="<script>alert(1)</script>"))
    asked = client(database)
    pages = [asked.get("/").text, asked.get(place(database)).text]
    assert all("&lt;script&gt;alert" in page and "<script>alert" not in page for page in pages)


def test_unknown_problems_and_workloads_are_not_there(served: Path) -> None:
    asked = client(served)
    for path in ("/problems/a/b", f"{place(served)}?tokens=3", f"{place(served)}?tokens=1&load=x"):
        assert asked.get(path).status_code == 404, path


def test_pages_load_nothing_from_elsewhere(served: Path) -> None:
    asked = client(served)
    for path in ("/", place(served)):
        answer = asked.get(path)
        assert "default-src 'self'" in answer.headers["content-security-policy"]
        loaded = re.findall(r'(?:src|href)="(?!#|data:|/|\?)([^"]*)"', answer.text)
        assert loaded == []
    assert asked.get("/style.css").headers["content-type"].startswith("text/css")
    assert asked.get("/page.js").headers["content-type"].startswith("text/javascript")
    assert TARGET.arch not in asked.get("/").text


def test_the_command_hands_on_what_it_is_given(
    served: Path, moetune: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Settings] = []
    monkeypatch.setattr("tuner.serve.server.run", lambda settings, *rest: given.append(settings))
    line = f"serve --db {served} --peers {ROWS} --reads 5 --writes 2 --most-body 2048"
    assert moetune(line).code == 0
    assert moetune(f"serve --db {served} --unsigned-bundles").code == 0
    assert given == [
        Settings(served, most_body_bytes=2048, reads_per_s=5, writes_per_s=2, peers=ROWS),
        Settings(served, unsigned_bundles=True),
    ]


def test_peers_stand_beside(served: Path) -> None:
    with Database(served, read_only=True) as db:
        rows = listings.overview(db, 0, 9)
    row = next(row for row in rows if row["problem_name"] == GRANITE)
    page = f"/problems/{row['problem_id']}/{row['target_id']}"
    assert "Beside it: numpy, onnxruntime, torch." in client(served, peers=ROWS).get(page).text
    assert "Beside it" not in client(served).get(page).text


def test_one_of_a_kind_is_no_several(database: Path) -> None:
    with Database(database) as db:
        add_winner(db, 1)
    asked = client(database)
    index = asked.get("/").text
    assert '<span id="count-rows" data-counts="rows" role="status">1 row</span>' in index
    assert "<small>1 token</small>" in index
    choice = asked.get(f"/problems/{PROBLEM.digest}/{TARGET.digest}").text
    assert "The choice at 1 token, uniform" in choice
    assert "1 tokens" not in index + choice


def test_a_layer_on_all_machines(database: Path) -> None:
    other = dataclasses.replace(TARGET, arch="znver4", name="Newer <CPU>")
    with Database(database) as db:
        add_winner(db)
        add_winner(db, target=other)
    asked = client(database)
    page = asked.get(f"/problems/{PROBLEM.digest}").text
    for target in (TARGET, other):
        assert f'href="/problems/{PROBLEM.digest}/{target.digest}"' in page
    assert "Newer &lt;CPU&gt; (znver4, 4 cores)" in page
    assert "at 128 tokens no machine is surely the fastest." in page
    one = asked.get(f"/problems/{PROBLEM.digest}/{TARGET.digest}").text
    assert f'<a href="/problems/{PROBLEM.digest}">This layer on all machines</a>' in one
    assert "On other machines" in one


def test_stored_peers_are_shown_and_judged(database: Path) -> None:
    with Database(database) as db:
        add_winner(db)
        row = PeerTimeRow(
            problem_id=PROBLEM.digest, target_id=TARGET.digest, tokens=128, load="uniform",
            peer="torch", version="2.13", dtype="float32", median_ns=2000.0, ours_ns=1000.0,
            ratio=2.0, ratio_low=1.9, ratio_high=2.1, created="2026-02-03T00:00:00+00:00",
        )  # fmt: skip
        older = dataclasses.replace(row, ratio=0.5, ratio_low=0.4, ratio_high=0.6, created=CREATED)
        slow = dataclasses.replace(row, peer="<numpy>", ratio=0.9, ratio_low=0.8, ratio_high=0.95)
        db.record_peer_times([row, older, slow])
    page = client(database).get(f"/problems/{PROBLEM.digest}/{TARGET.digest}").text
    assert "2.00 times as fast as torch 2.13: surely faster in 1 of 1 workload." in page
    assert (
        "0.90 times as fast as &lt;numpy&gt; 2.13: surely faster in 0 of 1 workload, surely slower in 1."
        in page
    )
    assert page.count(">ours is faster<") == page.count(">it is faster<") == 1
    assert "<numpy>" not in page
    assert "2026-02-03" in page


def test_a_session_in_progress_is_followed(database: Path) -> None:
    """Its parts of the pages are made anew each time; before anything has won, too."""
    with Database(database) as db:
        add_trial(db, session="s", created=now())
    asked = client(database)
    here = f"/problems/{PROBLEM.digest}/{TARGET.digest}"
    assert 'data-live="/running"' in asked.get("/").text
    assert "session in progress, 1 trial since" in asked.get("/running").text
    page = asked.get(here).text
    part = f"{here}/trials?tokens=128&load=uniform"
    assert f'data-live="{part.replace("&", "&amp;")}" data-every="5"' in page
    assert "Session in progress, 1 trial since" in asked.get(part).text
    assert "no finals yet" in page
    with Database(database) as db:
        db.record_session(
            SessionRow(id="s", target_id=TARGET.digest, problem_id=PROBLEM.digest, data={})
        )
    assert asked.get("/running").text.strip() == ""
    assert "in progress" not in asked.get(part).text + asked.get(here).text


def test_what_to_type_can_be_copied(served: Path) -> None:
    page = client(served).get(place(served)).text
    assert page.count('<button type="button" class="copy" hidden>Copy</button>') == 5
    assert "layer = tuner.load(problem, weights)" in page


def test_what_ships_has_its_pages(database: Path) -> None:
    Database(database).close()
    asked = client(database)
    index = asked.get("/").text
    assert "Winners that ship with moetune" in index
    links = re.findall(r'<a href="(/problems/[^"]+)">granite-3.0-1b-a400m-bfloat16</a>', index)
    page = asked.get(next(link for link in links if "NVIDIA H200" in asked.get(link).text)).text
    assert "These winners ship with moetune" in page
    assert "Roofline" in page
    assert "NVIDIA H200 in bfloat16" in asked.get(links[0].rpartition("/")[0]).text


def test_what_was_tuned_here_stands_above_what_ships(database: Path) -> None:
    with Database(database) as db:
        import_best(db, shipped.path())
    asked = client(database)
    assert "Winners that ship" not in asked.get("/").text
    assert "These winners ship" not in asked.get(place(database)).text
