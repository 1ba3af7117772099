"""Refusals: pages for browsers, problem documents for programs and for all of the API."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.services import client, served
from tuner.serve.problem_document import MEDIA_TYPE

__all__ = ["served"]

BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}


@pytest.mark.parametrize("path", ["/nowhere", "/problems/a/b", "/problems/a", "/?skip=x"])
def test_a_browser_gets_a_page(served: Path, path: str) -> None:
    asked = client(served)
    page, document = asked.get(path, headers=BROWSER), asked.get(path)
    assert page.status_code == document.status_code >= 400
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'self'" in page.headers["content-security-policy"]
    assert page.headers["vary"] == "Accept"
    assert document.headers["content-type"] == MEDIA_TYPE
    assert f"<h1>{document.json()['title']} <span>{page.status_code}</span></h1>" in page.text
    assert '<a href="/">All tuned layers</a>' in page.text


def test_the_api_speaks_json_to_browsers_too(served: Path) -> None:
    answer = client(served).get("/v1/best?model=nothing&tokens=1", headers=BROWSER)
    assert (answer.status_code, answer.headers["content-type"]) == (404, MEDIA_TYPE)


def test_what_was_asked_for_is_text(served: Path) -> None:
    answer = client(served).get("/<script>alert(1)</script>", headers=BROWSER)
    assert answer.status_code == 404
    assert "<script>alert" not in answer.text
    assert "&lt;script&gt;alert(1)" in answer.text


def test_limits_have_pages_and_their_headers(served: Path) -> None:
    asked = client(served, reads_per_s=0.5)
    asked.get("/")
    answer = asked.get("/", headers=BROWSER)
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "2")
    assert "too many requests from this address; ask again in 2 s" in answer.text


def test_a_database_that_is_away(served: Path) -> None:
    asked = client(served)
    served.unlink()
    answer = asked.get("/", headers=BROWSER)
    assert answer.status_code == 503
    assert "the database cannot be read now" in answer.text
    assert str(served) not in answer.text
