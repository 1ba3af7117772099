"""The pages in Chromium: clicks and keys, no console errors, no violations that axe-core finds, no
scrolling sideways on a small screen. Needs the extra `browser`, chromium and its driver."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import formula
from tests.services import BEST
from tuner.store import listings
from tuner.store.database import Database
from tuner.store.jsonl import import_best
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
WIDTHS = (360, 800, 1400)
SCHEMES = ("light", "dark")


def ns(config: dict[str, int], workload: Any) -> float:
    return 1e5 * max(workload.tokens, 4) ** 0.8 * (1 + 0.05 * abs(config["tile_rows"] - 10))


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A service with the repository's winners and one searched problem."""
    import socket

    from tuner.serve.app import create
    from tuner.serve.settings import Settings

    folder = tmp_path_factory.mktemp("served")
    path = folder / "tuning.sqlite3"
    with Database(path) as db:
        import_best(db, BEST)
        formula.Machine(folder, ns).session(db, Plan((1, 128), trials=25))
        target = db.add_target(formula.TARGET)
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


def models(browser: Any) -> list[str]:
    links = browser.find_elements(By.CSS_SELECTOR, "#rows tbody tr:not([hidden]) a")
    return [link.text for link in links]


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_axe_finds_nothing_and_nothing_scrolls_sideways(
    browser: Any, url: str, searched: str, width: int, scheme: str
) -> None:
    look(browser, width, scheme)
    for path in ("/", searched):
        browser.get(url + path)
        wide = browser.execute_script("return document.documentElement.scrollWidth")
        assert wide <= width, path
        assert violations(browser) == [], path


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
