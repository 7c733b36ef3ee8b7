"""`kmel-peer serve` in a real browser: by keyboard, on a phone's screen, without anything from elsewhere."""

from __future__ import annotations

import csv
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.browser import CONTRAST, NEEDS_BROWSER, browser, fits, wait_for
from tests.support.stacked_site import make_site

__all__ = ["browser"]
"""A fixture."""

pytestmark = [pytest.mark.process, pytest.mark.timeout(600), NEEDS_BROWSER]


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
            assert server.wait(120) == 0


def test_structures_typed_by_keyboard_come_back_explained(browser: Any, address: str) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    browser.get(address)
    assert fits(browser)
    assert browser.execute_script(CONTRAST) == []
    keys = ActionChains(browser)
    keys.send_keys(Keys.TAB).send_keys("CCCCO alpha", Keys.ENTER, "nonsense beta")
    keys.send_keys(Keys.TAB * 4).send_keys(Keys.ENTER).perform()
    wait_for(lambda: "2 structures" in browser.title)
    assert browser.current_url.endswith("/#results")
    titles = [element.text for element in browser.find_elements(By.CSS_SELECTOR, "section h2")]
    assert titles == ["1 alpha", "2 beta"]
    images = browser.find_elements(By.CSS_SELECTOR, "section img")
    assert len(images) > 4
    assert all(browser.execute_script("return arguments[0].naturalWidth", image) > 100 for image in images)
    assert all(image.get_attribute("alt") for image in images)
    assert fits(browser)
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
    wait_for(done.exists)
    rows = list(csv.DictReader(done.read_text("utf-8").splitlines()))
    assert [row["Name"] for row in rows] == ["gamma", "delta"]
    assert 0 < float(rows[0]["kmel_herg"]) < 1
    assert rows[1]["kmel_reason"]
