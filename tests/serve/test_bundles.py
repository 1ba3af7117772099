"""Bundles over HTTP: who may post one, what is refused, and downloads whole, in part or not at all."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from tests.bundles import V2, V3, bundle
from tests.services import client
from tuner.bundle import signing
from tuner.bundle.reader import read_bytes
from tuner.bundle.shelf import Shelf, path_beside
from tuner.serve.tokens import BUNDLES, RESULTS, Tokens
from tuner.serve.tokens import path_beside as tokens_beside
from tuner.store.database import Database

ZIP = {"content-type": "application/zip"}


@pytest.fixture
def empty(database: Path) -> Path:
    Database(database).close()
    return database


@pytest.fixture
def may(empty: Path) -> dict[str, str]:
    """The headers of who may post bundles."""
    return ZIP | {"authorization": f"Bearer {Tokens(tokens_beside(empty)).create('b', [BUNDLES])}"}


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """A key that is trusted here."""
    signing.generate(tmp_path / "key")
    signing.trust(tmp_path / "key.pub")
    return tmp_path / "key"


@pytest.fixture
def signed(tmp_path: Path, key: Path) -> bytes:
    return bundle(tmp_path / "signed.moe", (V2, V3), key=key).read_bytes()


def ids(asked: TestClient) -> list[str]:
    return [row["id"] for row in asked.get("/v1/bundles").json()["bundles"]]


def test_a_signed_bundle_is_kept_once(
    empty: Path, may: dict[str, str], signed: bytes, key: Path
) -> None:
    asked, id = client(empty), hashlib.sha256(signed).hexdigest()
    assert ids(asked) == []
    first = asked.post("/v1/bundles", content=signed, headers=may)
    assert (first.status_code, first.headers["location"]) == (201, f"/v1/bundles/{id}")
    told = first.json()
    assert (told["id"], told["bytes"]) == (id, len(signed))
    assert told["signer"] == signing.key_id(signing._read_public(key.with_name("key.pub"))[0])
    assert [(part["problem_name"], part["arch"]) for part in told["parts"]] == [
        ("small", "x86-64-v2"), ("small", "x86-64-v3"),
    ]  # fmt: skip
    again = asked.post("/v1/bundles", content=signed, headers=may)
    assert (again.status_code, again.json()) == (200, told)
    assert asked.get("/v1/bundles").json() == {"bundles": [told], "next": None}
    assert client(empty).get(f"/v1/bundles/{id}").content == signed
    assert {path.name for path in path_beside(empty).iterdir()} == {f"{id}.moe", f"{id}.json"}


def test_lists_are_paged(empty: Path, may: dict[str, str], tmp_path: Path, key: Path) -> None:
    asked, made = client(empty), []
    for number, targets in enumerate([(V2,), (V3,), (V2, V3)]):
        data = bundle(tmp_path / f"{number}.moe", targets, key=key).read_bytes()
        made.append(asked.post("/v1/bundles", content=data, headers=may).json()["id"])
    first = asked.get("/v1/bundles?limit=2").json()
    second = asked.get(f"/v1/bundles?limit=2&after={first['next']}").json()
    assert [row["id"] for row in first["bundles"] + second["bundles"]] == sorted(made)
    assert second["next"] is None
    assert asked.get("/v1/bundles?limit=201").status_code == 422


def test_who_may_not_writes_nothing(empty: Path, signed: bytes) -> None:
    asked = client(empty)
    results = Tokens(tokens_beside(empty)).create("r", [RESULTS])
    answer = asked.post("/v1/bundles", content=signed, headers=ZIP)
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    other = asked.post(
        "/v1/bundles", content=signed, headers=ZIP | {"authorization": f"Bearer {results}"}
    )
    assert (other.status_code, "lacks the scope bundles" in other.json()["detail"]) == (403, True)
    assert not path_beside(empty).exists()


def test_what_the_reader_refuses_is_refused(
    empty: Path, may: dict[str, str], signed: bytes, tmp_path: Path
) -> None:
    signing.generate(tmp_path / "stranger")
    plain = bundle(tmp_path / "plain.moe").read_bytes()
    strange = bundle(tmp_path / "strange.moe", key=tmp_path / "stranger").read_bytes()
    middle = len(signed) // 2
    altered = signed[:middle] + bytes([signed[middle] ^ 1]) + signed[middle + 1 :]
    asked = client(empty)
    for data, said in (
        (plain, "body: is not signed"),
        (strange, "whom nobody trusts here"),
        (altered, "body: "),
        (signed[:-1], "body: its end is cut off"),
        (b"", "body: is no bundle"),
    ):
        answer = asked.post("/v1/bundles", content=data, headers=may)
        assert answer.status_code == 422
        assert answer.headers["content-type"] == "application/problem+json"
        assert said in answer.json()["detail"]
        assert str(tmp_path) not in answer.text
    assert ids(asked) == []


def test_unsigned_bundles_need_the_option(
    empty: Path, may: dict[str, str], tmp_path: Path, signed: bytes
) -> None:
    plain = bundle(tmp_path / "plain.moe").read_bytes()
    asked = client(empty, unsigned_bundles=True)
    taken = asked.post("/v1/bundles", content=plain, headers=may)
    assert (taken.status_code, taken.json()["signer"]) == (201, "")
    assert asked.post("/v1/bundles", content=signed, headers=may).json()["signer"] != ""
    assert asked.post("/v1/bundles", content=plain[:-1], headers=may).status_code == 422


def test_limits(empty: Path, may: dict[str, str], signed: bytes) -> None:
    small = client(empty, most_body_bytes=1000)
    assert small.post("/v1/bundles", content=signed, headers=may).status_code == 413
    other = may | {"content-type": "text/plain"}
    assert client(empty).post("/v1/bundles", content=signed, headers=other).status_code == 415
    closed = client(empty, writable=False)
    assert closed.post("/v1/bundles", content=signed, headers=may).status_code == 403


def test_trusted_keys_that_others_may_write_are_named_in_the_log_alone(
    empty: Path, may: dict[str, str], signed: bytes, tmp_path: Path
) -> None:
    (tmp_path / "trusted").chmod(0o777)
    answer = client(empty).post("/v1/bundles", content=signed, headers=may)
    assert (answer.status_code, "trusted keys cannot be used" in answer.text) == (503, True)
    assert str(tmp_path) not in answer.text


def test_a_bundle_without_facts_is_not_there(empty: Path, signed: bytes, key: Path) -> None:
    """Whoever is killed between the two files has acknowledged nothing."""
    shelf = Shelf(path_beside(empty))
    found, new = shelf.take(signed, "body")
    assert new
    (path_beside(empty) / f"{found.id}.json").unlink()
    assert ids(client(empty)) == []
    assert client(empty).get(f"/v1/bundles/{found.id}").status_code == 404
    assert shelf.take(signed, "body")[1]
    assert ids(client(empty)) == [found.id]
    shelf.path(found.id).unlink()
    assert client(empty).get(f"/v1/bundles/{found.id}").status_code == 404


@pytest.fixture
def place(empty: Path, signed: bytes) -> str:
    """Where a bundle is downloaded from."""
    return f"/v1/bundles/{Shelf(path_beside(empty)).take(signed, 'body')[0].id}"


def test_a_download_is_whole_and_verifies(empty: Path, place: str, signed: bytes) -> None:
    answer = client(empty).get(place)
    id = place.rpartition("/")[2]
    assert (answer.status_code, answer.content) == (200, signed)
    assert read_bytes(answer.content, Path("got"), "signed").sha256 == id
    told = ("etag", "accept-ranges", "content-type", "content-disposition")
    assert [answer.headers[name] for name in told] == [
        f'"{id}"', "bytes", "application/zip", f'attachment; filename="{id[:16]}.moe"',
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("asked", "first", "last"),
    [("0-9", 0, 9), ("10-", 10, None), ("-7", -7, None), ("5-999999999", 5, None)],
)
def test_a_range(
    empty: Path, place: str, signed: bytes, asked: str, first: int, last: int | None
) -> None:
    answer = client(empty).get(place, headers={"range": f"bytes={asked}"})
    wanted = signed[first : None if last is None else last + 1]
    assert (answer.status_code, answer.content) == (206, wanted)
    start = first % len(signed)
    told = f"bytes {start}-{start + len(wanted) - 1}/{len(signed)}"
    assert answer.headers["content-range"] == told


def test_several_ranges(empty: Path, place: str, signed: bytes) -> None:
    answer = client(empty).get(place, headers={"range": "bytes=0-3, 8-11"})
    assert answer.status_code == 206
    assert answer.headers["content-type"].startswith("multipart/byteranges; boundary=")
    assert signed[:4] in answer.content
    assert signed[8:12] in answer.content
    assert len(answer.content) == int(answer.headers["content-length"])


@pytest.mark.parametrize("asked", ["bytes=9-1", "bytes=", "bytes=a-b", "lines=0-1", "bytes=-", "x"])
def test_a_range_that_makes_no_sense_is_no_range(
    empty: Path, place: str, signed: bytes, asked: str
) -> None:
    answer = client(empty).get(place, headers={"range": asked})
    assert (answer.status_code, answer.content) == (200, signed)


def test_of_several_ranges_those_that_can_be_had(empty: Path, place: str, signed: bytes) -> None:
    asked = f"bytes={len(signed)}-, 0-1, -0"
    answer = client(empty).get(place, headers={"range": asked})
    assert (answer.status_code, answer.content) == (206, signed[:2])
    assert answer.headers["content-range"] == f"bytes 0-1/{len(signed)}"


def test_bytes_that_are_not_there(empty: Path, place: str, signed: bytes) -> None:
    for asked in (f"bytes={len(signed)}-", "bytes=-0", f"bytes=-0,{len(signed)}-"):
        answer = client(empty).get(place, headers={"range": asked})
        assert (answer.status_code, answer.headers["content-range"]) == (
            416, f"bytes */{len(signed)}",
        )  # fmt: skip
        assert answer.headers["content-type"] == "application/problem+json"


def test_what_the_client_has_is_not_sent(empty: Path, place: str) -> None:
    tag = f'"{place.rpartition("/")[2]}"'
    for condition in (tag, f'"x", W/{tag}', "*"):
        answer = client(empty).get(place, headers={"if-none-match": condition, "range": "bytes=0-"})
        assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", tag)
    assert client(empty).get(place, headers={"if-none-match": '"x"'}).status_code == 200


def test_a_part_of_another_file_is_sent_whole(empty: Path, place: str, signed: bytes) -> None:
    tag, part = f'"{place.rpartition("/")[2]}"', {"range": "bytes=0-9"}
    same = client(empty).get(place, headers=part | {"if-range": tag})
    assert (same.status_code, same.content) == (206, signed[:10])
    for other in ('"x"', f"W/{tag}", "Sat, 01 Jan 2000 00:00:00 GMT"):
        answer = client(empty).get(place, headers=part | {"if-range": other})
        assert (answer.status_code, answer.content) == (200, signed)


def test_heads(empty: Path, place: str, signed: bytes) -> None:
    answer = client(empty).head(place, headers={"range": "bytes=0-9"})
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["content-length"] == str(len(signed))
    tag = answer.headers["etag"]
    assert client(empty).head(place, headers={"if-none-match": tag}).status_code == 304
    assert client(empty).head("/v1/bundles").status_code == 200


@pytest.mark.parametrize("id", ["0" * 64, "..%2F..%2Fetc%2Fpasswd", "%00", "A" * 64, "0" * 63])
def test_no_path_gets_through_an_id(empty: Path, place: str, id: str) -> None:
    for method in ("GET", "HEAD"):
        answer = client(empty).request(method, f"/v1/bundles/{id}")
        assert answer.status_code in (404, 422)
        assert answer.headers["content-type"] == "application/problem+json"
