"""A real browser for tests: two screens, and what a script can see of a page's quality."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")

NEEDS_BROWSER = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None,
    reason="there is no chromium with chromedriver here: apt-get install chromium chromium-driver",
)

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
    assert complaints == [], f"the browser refused or missed something: {complaints}"


def fits(browser: Any) -> bool:
    """Whether nothing makes the page wider than the screen."""
    wide: bool = browser.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")
    return wide


def wait_for(true: Callable[[], object], seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)
