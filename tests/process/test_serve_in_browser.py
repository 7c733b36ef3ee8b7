"""`kmel-peer serve` in a real browser: by keyboard, on a phone's screen, without anything from elsewhere."""

from __future__ import annotations

import csv
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.stacked_site import make_site

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")

pytestmark = [
    pytest.mark.process,
    pytest.mark.timeout(240),
    pytest.mark.skipif(
        CHROMIUM is None or DRIVER is None,
        reason="there is no chromium with chromedriver here: apt-get install chromium chromium-driver",
    ),
]

SCREENS = {"desk": (1280, 800), "phone": (390, 844)}

CONTRAST = """
function light(c) { return c.map(v => { v /= 255; return v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4; }) }
function luminance(c) { const [r, g, b] = light(c); return .2126 * r + .7152 * g + .0722 * b }
function parse(t) {
  const n = t.match(/[\\d.]+/g).map(Number);
  return n.length == 4 && n[3] == 0 ? null : n.slice(0, 3);
}
function back(e) {
  for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor); if (c) return c }
  return [255, 255, 255];
}
const bad = [];
for (const e of document.querySelectorAll('body *')) {
  const own = [...e.childNodes].some(n => n.nodeType == 3 && n.data.trim());
  if (!own || !e.checkVisibility()) continue;
  const a = luminance(parse(getComputedStyle(e).color)), b = luminance(back(e));
  const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
  if (ratio < 4.5) bad.push(e.tagName + ' ' + e.textContent.trim().slice(0, 30) + ' ' + ratio.toFixed(2));
}
return bad;
"""
"""Texts whose contrast is below WCAG 2.1's level AA."""


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = make_site().write(tmp_path_factory.mktemp("browser") / "model")
    command = ["-m", "kmel_p2p.cli.main", "serve", "--listen", "127.0.0.1:0", "--model-dir", str(folder)]
    with subprocess.Popen([sys.executable, *command], stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stderr is not None
            found = (re.search(r"http://\S+/", line) for line in iter(server.stderr.readline, ""))
            yield next(address[0] for address in found if address)
        finally:
            server.send_signal(signal.SIGINT)
            assert server.wait(20) == 0


@pytest.fixture(params=SCREENS)
def browser(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    from selenium import webdriver

    width, height = SCREENS[request.param]
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for argument in ("--headless=new", "--disable-gpu", "--disable-dev-shm-usage", f"--window-size={width},{height}"):
        options.add_argument(argument)
    if os.geteuid() == 0:
        options.add_argument("--no-sandbox")  # Chromium refuses its sandbox to root
    options.add_experimental_option("prefs", {"download.default_directory": str(tmp_path)})
    if request.param == "phone":
        metrics = {"width": width, "height": height, "pixelRatio": 1.0}
        options.add_experimental_option("mobileEmulation", {"deviceMetrics": metrics})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(str(DRIVER)))
    yield driver
    complaints = [entry["message"] for entry in driver.get_log("browser")]
    driver.quit()
    assert complaints == [], "the browser refused or missed something"


def _fits(browser: Any) -> bool:
    """Whether nothing makes the page wider than the screen."""
    wide: bool = browser.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")
    return wide


def test_structures_typed_by_keyboard_come_back_explained(browser: Any, address: str) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    browser.get(address)
    assert _fits(browser)
    assert browser.execute_script(CONTRAST) == []
    keys = ActionChains(browser)
    keys.send_keys(Keys.TAB).send_keys("CCCCO alpha", Keys.ENTER, "nonsense beta")
    keys.send_keys(Keys.TAB * 4).send_keys(Keys.ENTER).perform()
    _wait(lambda: "2 structures" in browser.title)
    assert browser.current_url.endswith("/#results")
    titles = [element.text for element in browser.find_elements(By.CSS_SELECTOR, "section h2")]
    assert titles == ["1 alpha", "2 beta"]
    images = browser.find_elements(By.CSS_SELECTOR, "section img")
    assert len(images) > 4
    assert all(browser.execute_script("return arguments[0].naturalWidth", image) > 100 for image in images)
    assert all(image.get_attribute("alt") for image in images)
    assert _fits(browser)
    assert browser.execute_script(CONTRAST) == []
    loaded = browser.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
    assert [name for name in loaded if not name.startswith((address, "data:"))] == []


def test_a_table_is_uploaded_and_downloaded_with_predictions(browser: Any, address: str, tmp_path: Path) -> None:
    from selenium.webdriver.common.by import By

    (tmp_path / "mine.csv").write_text("Name;Structure\ngamma;CCCCN\ndelta;nonsense\n")
    browser.get(address)
    browser.find_element(By.ID, "table").send_keys(str(tmp_path / "mine.csv"))
    column = browser.find_element(By.ID, "column")
    column.clear()
    column.send_keys("Structure")
    browser.find_element(By.CSS_SELECTOR, "button.second").click()
    done = tmp_path / "predictions.csv"
    _wait(done.exists)
    rows = list(csv.DictReader(done.read_text("utf-8").splitlines()))
    assert [row["Name"] for row in rows] == ["gamma", "delta"]
    assert 0 < float(rows[0]["kmel_herg"]) < 1
    assert rows[1]["kmel_reason"]


def _wait(true: Any, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)
