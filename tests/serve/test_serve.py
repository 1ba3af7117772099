"""The service's end points for reading, its limits, and what it says no to."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.commands import Run
from tests.rows import PROBLEM, TARGET, add_trial, add_winner
from tests.services import BEST, GRANITE, ZEN4, client, served
from tuner.codegen.render import render
from tuner.errors import DatabaseError
from tuner.problem import PRESETS
from tuner.select.select import best_config
from tuner.serve.limits import MOST_ADDRESSES, Rate
from tuner.serve.store import Store
from tuner.space.variant import parse
from tuner.store import listings
from tuner.store.database import Database
from tuner.store.jsonl import import_best
from tuner.target import Target

__all__ = ["served"]


def stored_target(path: Path) -> Target:
    with Database(path, read_only=True) as db:
        (row,) = listings.targets(db, "", 10)
    return Target.from_key({**row["target"], "name": row["name"]})


def test_best_answers_as_the_local_call_does(served: Path) -> None:
    target = stored_target(served)
    for tokens, load in ((128, "uniform"), (100, "uniform"), (16, "zipf:1.2"), (9999999, "onehot")):
        query = {"model": GRANITE, "tokens": tokens, "load": load, "target": ZEN4}
        answer = client(served).get("/v1/best", params=query)
        local = best_config(PRESETS[GRANITE], tokens, load, target, served)
        assert answer.status_code == 200
        assert answer.json() == json.loads(json.dumps(local.to_json()))


def test_best_takes_keys_and_ids(served: Path) -> None:
    target, problem = stored_target(served), PRESETS[GRANITE].replace(dtype="bfloat16")
    asked = client(served)
    wanted = asked.get("/v1/best", params={
        "model": json.dumps(problem.key), "tokens": 16, "target": json.dumps(target.key),
    }).json()  # fmt: skip
    assert wanted["match"] == "exact"
    for model, place in ((problem.digest, target.digest), (f"{GRANITE}-bfloat16", ZEN4)):
        query = {"model": model, "tokens": 16, "target": place}
        assert asked.get("/v1/best", params=query).json() == wanted
    query = {"model": GRANITE, "dtype": "bfloat16", "tokens": 16, "target": ZEN4}
    assert asked.get("/v1/best", params=query).json() == wanted


def test_best_for_a_machine_without_rows_is_the_default(served: Path) -> None:
    answer = client(served).get("/v1/best", params={"model": "qwen3-30b-a3b", "tokens": 1}).json()
    assert (answer["match"], answer["distance"], answer["evidence"]) == ("default", None, {})
    assert answer["arch"] == TARGET.arch


@pytest.mark.parametrize(
    ("query", "status", "said"),
    [
        ("tokens=1", 422, "query.model: Field required"),
        (f"model={GRANITE}&tokens=-1", 422, "query.tokens"),
        (f"model={GRANITE}&tokens=1&colour=red", 422, "query.colour: Extra inputs"),
        (f"model={GRANITE}&tokens=1&load=skewed", 422, "load='skewed': not known"),
        ("model=gpt-9&tokens=1", 404, "model 'gpt-9': not known here; give a preset"),
        (f"model={GRANITE}&tokens=1&target=mips", 404, "target 'mips': not known here"),
        ("model={1}&tokens=1", 422, "model: starts like JSON but is none"),
        ('model={"hidden":1}&tokens=1', 422, "model: problem key: lacks"),
        ('model={"hidden":1e99}&tokens=1', 422, "model.hidden: is 1e+99"),
        (f'model={GRANITE}&tokens=1&target={{"cores":1}}', 422, "target: lacks accelerator"),
        (f"model={GRANITE}&tokens=1&pack=v9_p9", 422, "pack 'v9_p9': no packed form of moe_cpu"),
        (f"model={GRANITE}&tokens=1&pack=0", 422, "it must be of the form vN_pN_oN"),
        (f"model={GRANITE}&tokens=1&pack=v16_p2_o7", 422, "dot=7: must be one of"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_a_problem_document(
    served: Path, query: str, status: int, said: str
) -> None:
    answer = client(served).get(f"/v1/best?{query}")
    assert (answer.status_code, answer.headers["content-type"]) == (
        status,
        "application/problem+json",
    )
    document = answer.json()
    assert (document["type"], document["status"]) == ("about:blank", status)
    assert said in document["detail"]


def test_a_label_of_several_problems_is_refused(served: Path) -> None:
    with Database(served) as db:
        for hidden in (64, 128):
            db.add_problem(PROBLEM.replace(hidden=hidden, name="twins"))
    answer = client(served).get("/v1/best?model=twins&tokens=1")
    assert answer.status_code == 422
    assert "several problems have this label" in answer.json()["detail"]


def test_answers_are_kept_until_somebody_writes(served: Path) -> None:
    asked = client(served)

    def ask() -> str:
        return asked.get(f"/v1/best?model=small&tokens=64&target={TARGET.arch}").text

    def kept() -> str:
        lines = asked.get("/metrics").text.splitlines()
        return next(line for line in lines if line.startswith("moetune_kept_answers_total"))

    with Database(served) as db:
        db.add_problem(PROBLEM)
        db.add_target(TARGET)
        assert json.loads(ask())["match"] == "default"
        assert json.loads(ask())["match"] == "default"
        assert kept() == "moetune_kept_answers_total 1.0"
        db.add_target(Target("amd", "znver2", (), 1, 1, 1, 1))
        ask()
        assert kept() == "moetune_kept_answers_total 1.0"


def test_lists_are_paged_and_complete(served: Path) -> None:
    asked = client(served)
    for name in ("problems", "trials"):
        found, after = [], None
        while True:
            page = asked.get(f"/v1/{name}?limit=2" + (f"&after={after}" if after else "")).json()
            assert len(page[name]) <= 2
            found += [row["id"] for row in page[name]]
            if (after := page["next"]) is None:
                break
        whole = [row["id"] for row in asked.get(f"/v1/{name}").json()[name]]
        assert found == whole == sorted(set(whole))
    assert len(whole) == 15
    assert asked.get("/v1/trials?limit=201").status_code == 422


def test_trials_are_filtered(database: Path) -> None:
    with Database(database) as db:
        add_winner(db, 16)
        failed = add_trial(db, 64, status="wrong", message="y is off", variant="k_a4")
        add_trial(db, 64, "onehot", session="s9")
    asked = client(database)

    def ids(query: str) -> list[int]:
        return [row["id"] for row in asked.get(f"/v1/trials?{query}").json()["trials"]]

    assert [ids(q) for q in ("tokens=16", "status=wrong", "load=onehot", "session=s9")] == [
        [1], [2], [3], [3],
    ]  # fmt: skip
    assert ids("variant=k_a4&tokens=64") == [2]
    assert ids(f"problem={PROBLEM.digest}&target={TARGET.digest}") == [1, 2, 3]
    assert ids("problem=none") == []
    rows = asked.get("/v1/trials?status=wrong").json()["trials"]
    assert (rows[0]["message"], rows[0]["measurement"]) == (failed.message, None)
    assert (
        asked.get("/v1/trials?tokens=16").json()["trials"][0]["measurement"]["median_ns"] == 1000.5
    )


def test_targets_come_with_their_ceilings(database: Path) -> None:
    with Database(database) as db:
        db.set_ceiling(db.add_target(TARGET), "read", 40.0, "GB/s")
    (row,) = client(database).get("/v1/targets").json()["targets"]
    assert (row["id"], row["key"], row["name"]) == (TARGET.digest, TARGET.key, TARGET.name)
    assert row["ceilings"]["read"]["value"] == 40.0


def test_a_variant_and_its_source(served: Path) -> None:
    asked = client(served)
    name = asked.get(f"/v1/best?model={GRANITE}&tokens=16&target={ZEN4}").json()["variant"]
    told = asked.get(f"/v1/variants/{name}").json()
    assert told["config"] == parse(name).config
    assert (16, "uniform") in {(won["tokens"], won["load"]) for won in told["won"]}
    text = asked.get(f"/v1/variants/{name}/source?model={GRANITE}").text
    assert text == render(PRESETS[GRANITE], parse(name)).text


@pytest.mark.parametrize(
    "name",
    ["moe_cpu", "moe_cpu_", "..%2F..%2Fetc%2Fpasswd", "moe_cpu_..%2F..%2Fx", "%00", "a" * 201, "moe_cpu.toml"],
)  # fmt: skip
def test_no_path_gets_through_a_name(served: Path, name: str) -> None:
    for place in (f"/v1/variants/{name}", f"/v1/variants/{name}/source?model={GRANITE}"):
        answer = client(served).get(place)
        assert answer.status_code in (404, 422)
        assert answer.headers["content-type"] == "application/problem+json"


def test_health_and_metrics(served: Path) -> None:
    asked = client(served)
    asked.get("/v1/trials")
    asked.get("/v1/variants/moe_cpu_x")
    health = asked.get("/healthz").json()
    assert (health["status"], health["winners"], health["trials"]) == ("ok", 12, 15)
    text = asked.get("/metrics").text
    assert 'moetune_requests_total{method="GET",route="/v1/trials",status="200"} 1.0' in text
    assert (
        'moetune_requests_total{method="GET",route="/v1/variants/{name}",status="404"} 1.0' in text
    )
    assert 'moetune_rows{table="winners"} 12.0' in text


def test_a_database_that_is_away_is_503_and_names_no_path(served: Path) -> None:
    asked = client(served)
    assert asked.get("/healthz").status_code == 200
    served.rename(served.with_suffix(".moved"))
    answer = asked.get("/healthz")
    assert (answer.status_code, answer.json()["title"]) == (503, "Service Unavailable")
    assert str(served.parent) not in answer.text
    assert asked.get(f"/v1/best?model={GRANITE}&tokens=1").status_code == 503
    with Database(served):
        assert asked.get("/healthz").json()["winners"] == 0


def test_a_question_that_takes_too_long_is_ended(served: Path) -> None:
    endless = """WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)
        SELECT COUNT(*) FROM n"""
    store = Store(served, 0.05)
    with pytest.raises(DatabaseError, match="took too long to answer"):
        store.ask(lambda db: db.query(endless, {}))
    assert store.ask(listings.counts)["winners"] == 12


def test_too_many_requests_wait(served: Path) -> None:
    asked = client(served, reads_per_s=1.0)
    assert [asked.get("/healthz").status_code for _ in range(3)] == [200, 200, 429]
    answer = asked.get("/healthz")
    assert answer.headers["retry-after"] == "1"
    assert "ask again in 1 s" in answer.json()["detail"]


def test_a_rate_fills_steadily_and_forgets_the_silent() -> None:
    now = [0.0]
    rate = Rate(2.0, lambda: now[0])
    assert [rate.take("a") for _ in range(5)] == [0.0, 0.0, 0.0, 0.0, 0.5]
    assert rate.take("b") == 0.0
    now[0] = 1.0
    assert [rate.take("a") for _ in range(3)] == [0.0, 0.0, 0.5]
    for number in range(MOST_ADDRESSES):
        rate.take(str(number))
    assert rate.take("a") == 0.0


def test_other_methods_and_large_bodies_are_refused(served: Path) -> None:
    asked = client(served, most_body_bytes=100)
    answer = asked.delete("/v1/best")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET")
    assert asked.post("/v1/best", content=b"x" * 101).status_code == 413
    parts = (b"x" * 10 for _ in range(11))
    assert asked.post("/v1/best", content=parts).status_code == 413


def test_many_threads_may_ask_while_one_writes(served: Path) -> None:
    """Reading connections never wait for a writer, and see whole transactions."""
    asked, failures = client(served), []

    def ask() -> None:
        for tokens in range(1, 30):
            answer = asked.get(f"/v1/best?model={GRANITE}&tokens={tokens}&target={ZEN4}")
            if answer.status_code != 200:
                failures.append(answer.text)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    with Database(served) as db:
        for _ in range(20):
            import_best(db, BEST)
    for thread in threads:
        thread.join()
    assert failures == []


def test_serve_refuses_what_is_no_database(moetune: Run, tmp_path: Path) -> None:
    path = tmp_path / "other.sqlite3"
    raw = sqlite3.connect(path)
    raw.execute("CREATE TABLE cats (name)")
    raw.close()
    said = moetune(f"serve --db {path}")
    assert said.code == 1
    assert "belongs to another program" in said.err


def test_serve_names_the_extra() -> None:
    program = (
        "import sys; sys.modules['uvicorn'] = None; from tuner.cli import main; sys.exit(main())"
    )
    done = subprocess.run([sys.executable, "-c", program, "serve"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "uvicorn: not installed; pip install 'moetune[serve]'" in done.stderr
