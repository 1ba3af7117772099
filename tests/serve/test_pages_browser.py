"""The pages in Chromium: clicks and keys, no console errors, no violations that axe-core finds, no
scrolling sideways on a small screen. Needs the extra `browser`, chromium and its driver."""

from __future__ import annotations

import dataclasses
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import formula
from tests.rows import PROBLEM, TARGET, add_trial
from tests.services import BEST
from tuner.store import listings
from tuner.store.database import Database
from tuner.store.jsonl import import_best
from tuner.store.peer_times import PeerTimeRow
from tuner.store.records import now
from tuner.tune.plan import Plan

webdriver = pytest.importorskip("selenium.webdriver")
axe_core_python = pytest.importorskip("axe_core_python")
By = pytest.importorskip("selenium.webdriver.common.by").By
Keys = pytest.importorskip("selenium.webdriver.common.keys").Keys
uvicorn = pytest.importorskip("uvicorn")

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver"),
]
RUNNING = f"/problems/{PROBLEM.digest}/{TARGET.digest}"
WIDTHS = (360, 800, 1400)
SCHEMES = ("light", "dark")


def ns(config: dict[str, int], workload: Any) -> float:
    return 1e5 * max(workload.tokens, 4) ** 0.8 * (1 + 0.05 * abs(config["tile_rows"] - 10))


def add_trials(db: Database) -> None:
    """A session in progress, and what a library took at the problem that was searched."""
    add_trial(db, 16, session="running", created=now())
    keys = {"problem_id": formula.PROBLEM.digest, "target_id": formula.TARGET.digest}
    row = PeerTimeRow(
        **keys, tokens=128, load="uniform", peer="torch", version="2.13", dtype="float32",
        median_ns=9e6, ours_ns=5e6, ratio=1.8, ratio_low=1.7, ratio_high=1.9,
    )  # fmt: skip
    db.record_peer_times(dataclasses.replace(row, tokens=2**n) for n in range(14))


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The database of the service."""
    return tmp_path_factory.mktemp("served") / "tuning.sqlite3"


@pytest.fixture(scope="module")
def url(stored: Path) -> Iterator[str]:
    """A service with the repository's winners and one searched problem."""
    import socket

    from tuner.serve.app import create
    from tuner.serve.settings import Settings

    folder, path = stored.parent, stored
    with Database(path) as db:
        import_best(db, BEST)
        formula.Machine(folder, ns).session(db, Plan((1, 128), trials=25))
        target = db.add_target(formula.TARGET)
        add_trials(db)
        for name, value, unit in (("fma", 235.0, "GFLOP/s"), ("read", 33.0, "GB/s")):
            db.set_ceiling(target, name, value, unit)
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(
        uvicorn.Config(create(Settings(path)), log_level="error", lifespan="off")
    )
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def searched(url: str) -> str:
    """The page of the problem that was searched."""
    return f"/problems/{formula.PROBLEM.digest}/{formula.TARGET.digest}"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-background-networking"):
        options.add_argument(argument)
    options.binary_location = CHROMIUM
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(autouse=True)
def quiet(request: pytest.FixtureRequest, browser: Any) -> Iterator[None]:
    """Nothing may be complained of in the console."""
    browser.get_log("browser")
    yield
    assert browser.get_log("browser") == []


def look(browser: Any, width: int, scheme: str = "light") -> None:
    screen = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)


def violations(browser: Any) -> list[tuple[str, Any]]:
    """What axe-core finds: the file that MOETUNE_AXE names, else the one of the package."""
    shipped = Path(axe_core_python.__file__).with_name("axe.min.js")
    browser.execute_script(Path(os.environ.get("MOETUNE_AXE", shipped)).read_text())
    found = browser.execute_async_script("axe.run().then(arguments[0])")["violations"]
    return [(v["id"], [node["target"] for node in v["nodes"]]) for v in found]


def best_page(browser: Any, url: str) -> str:
    """The page of winners that came without their search."""
    browser.get(url)
    link = browser.find_element(By.LINK_TEXT, "granite-3.0-1b-a400m-bfloat16")
    return str(link.get_attribute("href")).removeprefix(url)


def models(browser: Any) -> list[str]:
    links = browser.find_elements(By.CSS_SELECTOR, "#rows tbody tr:not([hidden]) a")
    return [link.text for link in links]


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_axe_finds_nothing_and_nothing_scrolls_sideways(
    browser: Any, url: str, searched: str, width: int, scheme: str
) -> None:
    look(browser, width, scheme)
    pages = (
        "/",
        searched,
        searched.rpartition("/")[0],
        RUNNING,
        "/nowhere",
        best_page(browser, url),
    )
    for path in pages:
        browser.get(url + path)
        browser.execute_script(
            "document.querySelectorAll('details').forEach((d) => (d.open = true))"
        )
        wide = browser.execute_script("return document.documentElement.scrollWidth")
        assert wide <= width, path
        assert violations(browser) == [], path
    assert [entry["level"] for entry in browser.get_log("browser")] == [
        "SEVERE"
    ]  # /nowhere is not there


def test_filter_and_sort_are_kept_in_the_address(browser: Any, url: str) -> None:
    look(browser, 1280)
    browser.get(url)
    everything = models(browser)
    browser.find_element(By.TAG_NAME, "body").send_keys("/")
    browser.switch_to.active_element.send_keys("granite bfloat16")
    assert models(browser) == ["granite-3.0-1b-a400m-bfloat16"]
    assert browser.find_element(By.ID, "count-rows").text == f"1 of {len(everything)} rows"
    deep = browser.current_url
    assert "q=granite+bfloat16" in deep
    browser.get("about:blank")
    browser.get(deep)
    assert models(browser) == ["granite-3.0-1b-a400m-bfloat16"]
    browser.get(url)
    button = browser.find_element(By.CSS_SELECTOR, "button[data-key=speedup]")
    button.click()
    button.send_keys(Keys.ENTER)
    heading = button.find_element(By.XPATH, "..")
    assert heading.get_attribute("aria-sort") == "descending"
    assert models(browser)[0] == "formula"
    assert "sort=-speedup" in browser.current_url


def test_a_workload_is_chosen_by_a_click(browser: Any, url: str) -> None:
    look(browser, 360)
    browser.get(url)
    browser.find_element(By.LINK_TEXT, "formula").click()
    browser.find_element(By.LINK_TEXT, "1").click()
    assert "The choice at 1 token," in browser.find_element(By.ID, "choice").text
    titles = [e.text for e in browser.find_elements(By.CSS_SELECTOR, "figure strong")]
    assert titles == [
        "Time against tokens",
        "Roofline",
        "Parameter importances",
        "Parallel coordinates",
        "Trials",
    ]


def test_keys_reach_content_and_colours(browser: Any, url: str) -> None:
    look(browser, 1280)
    browser.get(url)
    browser.find_element(By.TAG_NAME, "body").send_keys(Keys.TAB)
    assert browser.switch_to.active_element.text == "Skip to content"
    browser.switch_to.active_element.send_keys(Keys.ENTER)
    assert browser.switch_to.active_element.get_attribute("id") == "main"
    paper = "return getComputedStyle(document.body).backgroundColor"
    light = browser.execute_script(paper)
    button = browser.find_element(By.ID, "theme")
    button.click()
    button.send_keys(Keys.SPACE)
    assert button.text == "Colours: dark"
    assert browser.execute_script(paper) != light
    browser.refresh()
    assert browser.find_element(By.ID, "theme").text == "Colours: dark"
    browser.find_element(By.ID, "theme").click()


def test_the_report_stands_alone(browser: Any, url: str, tmp_path: Path) -> None:
    from tuner.report import report
    from tuner.report.peer_times import PeerFile

    path = tmp_path / "tuning.sqlite3"
    with Database(path) as db:
        import_best(db, BEST)
        layer = listings.overview(db, 0, 1)[0]
        problem = formula.PROBLEM.from_key(layer["problem"], name=layer["problem_name"])
        text = report.html(report.sections(db, problem, PeerFile()))
    page = tmp_path / "report.html"
    page.write_text(text)
    look(browser, 360)
    browser.get(page.as_uri())
    time.sleep(0.1)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 360
    browser.find_element(By.ID, "theme").click()
    assert violations(browser) == []


def test_lines_are_copied(browser: Any, url: str, searched: str) -> None:
    look(browser, 1400)
    browser.get(url + searched)
    grant = {"origin": url, "permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]}
    browser.execute_cdp_cmd("Browser.grantPermissions", grant)
    step = browser.find_elements(By.CSS_SELECTOR, ".step")[2]
    button = step.find_element(By.CSS_SELECTOR, "button.copy")
    button.click()
    soon(lambda: button.text == "Copied")
    read = browser.execute_async_script("navigator.clipboard.readText().then(arguments[0])")
    assert read == step.find_element(By.TAG_NAME, "code").text
    assert read.startswith("moetune tune --hidden 256 --expert-dim 128 --experts 8 --top-k 2 ")


def test_trials_are_sorted_and_filtered(browser: Any, url: str, searched: str) -> None:
    look(browser, 1400)
    browser.get(url + searched)
    browser.find_element(By.XPATH, "//summary[contains(., 'trials as a table')]").click()
    button = browser.find_element(By.CSS_SELECTOR, "#trials button[data-key=speed]")
    button.click()
    button.click()
    cells = browser.find_elements(By.CSS_SELECTOR, "#trials tbody tr td:nth-child(3)")
    speeds = [float(cell.get_attribute("data-value")) for cell in cells]
    assert speeds == sorted(speeds, reverse=True)
    browser.find_element(By.ID, "filter-trials").send_keys("finals")
    shown = browser.find_elements(By.CSS_SELECTOR, "#trials tbody tr:not([hidden])")
    assert 0 < len(shown) < len(cells)
    assert "sort" not in browser.current_url
    assert browser.find_element(By.ID, "count-trials").text == f"{len(shown)} of {len(cells)} rows"


def test_a_session_is_followed(browser: Any, url: str, stored: Path) -> None:
    """A trial that is recorded while the page is open appears in it, and what was opened stays open."""
    look(browser, 1400)
    browser.get(url + RUNNING)
    browser.find_element(By.CSS_SELECTOR, "[data-live] summary").click()
    browser.find_element(By.TAG_NAME, "h1").click()
    with Database(stored) as db:
        add_trial(
            db, 16, session="running", created=now(), status="crash", message="<b>SIGSEGV</b>"
        )
    told = "return document.querySelector('.running').textContent"
    soon(lambda: "2 trials since" in browser.execute_script(told))
    part = browser.find_element(By.CSS_SELECTOR, "[data-live]")
    assert part.find_element(By.TAG_NAME, "details").get_attribute("open") is not None
    assert "<b>SIGSEGV</b>" in part.text


def soon(happened: Callable[[], bool], within_s: float = 15.0) -> None:
    """Wait until it is so."""
    end = time.monotonic() + within_s
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.1)
