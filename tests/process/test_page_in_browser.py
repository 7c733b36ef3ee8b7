"""A peer's page in a real browser: live without a reload, by keyboard, on a phone's screen, nothing from elsewhere."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from kmel_p2p.site.page import app
from tests.support.browser import CONTRAST, NEEDS_BROWSER, browser, fits, wait_for
from tests.support.page_sample import HOSTILE, ShownPeer, comparison, facts, members, status, trouble

__all__ = ["browser"]
"""A fixture."""

pytestmark = [pytest.mark.process, pytest.mark.timeout(600), NEEDS_BROWSER]


class Peer:
    """A page that is served in a thread of its own; what it shows is changed from the test."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self.shown = self._run(self._made())
        self.port: int = self._run(self.shown.pages.start("127.0.0.1", 0))

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def stop_serving(self) -> None:
        self._run(self.shown.pages.close())

    def close(self) -> None:
        self.stop_serving()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _made(self) -> ShownPeer:
        return ShownPeer()

    def _run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(120)


@pytest.fixture
def peer(browser: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Peer]:
    monkeypatch.setattr(app, "EVERY_S", 0.2)
    monkeypatch.setattr(app, "FRESH_S", 0.05)
    made = Peer()
    yield made
    # An open page would go on asking.
    browser.get("about:blank")
    made.close()


def _text(browser: Any, selector: str) -> Callable[[], str]:
    def read() -> str:
        from selenium.webdriver.common.by import By

        found = browser.find_elements(By.CSS_SELECTOR, selector)
        return found[0].text if found else ""

    return read


def test_the_page_follows_the_peer_without_being_loaded_again(browser: Any, peer: Peer) -> None:
    from selenium.webdriver.common.by import By

    browser.get(peer.address)
    # Lost with the document if the page were loaded again, and so were focus and what was scrolled and opened.
    browser.execute_script("window.kept = 1; document.querySelector('#sites .scroll').focus()")
    wait_for(lambda: "nothing to do" in _text(browser, "#now")())
    assert not browser.find_elements(By.ID, "alarms")
    peer.shown.facts = facts(status(**trouble()), result=comparison())
    wait_for(lambda: "site west is not reachable" in _text(browser, "#alarms")())
    assert "for west east since 5 min, at most 25 min more" in _text(browser, "#now")()
    assert "It pays for 1 of 2 assay endpoints (solubility)" in _text(browser, "#head")()
    order = [each.get_attribute("id") for each in browser.find_elements(By.CSS_SELECTOR, "main > *")]
    assert order == ["head", "alarms", "now", "federation", "sites", "curves", "egress", "held", "facts"]
    peer.shown.facts = facts()
    wait_for(lambda: not browser.find_elements(By.ID, "alarms"))
    assert browser.execute_script("return window.kept") == 1
    assert browser.execute_script("return document.activeElement.getAttribute('aria-label')") == "Other sites"


def test_a_peer_that_has_stopped_is_told_and_what_stood_there_stays(browser: Any, peer: Peer) -> None:
    browser.get(peer.address)
    peer.stop_serving()
    wait_for(lambda: "No answer since" in _text(browser, "#lost")())
    assert "south" in _text(browser, "#sites")()
    # The browser says for itself that nobody answered.
    browser.get("about:blank")
    browser.get_log("browser")


@pytest.mark.parametrize("lang", ["en", "ko"])
def test_the_page_fits_is_legible_and_loads_nothing_from_elsewhere(browser: Any, peer: Peer, lang: str) -> None:
    peer.shown.facts = facts(status(**trouble()), result=comparison(), asks=True, held=(13, 48_000, 95.0))
    browser.get(f"{peer.address}?lang={lang}")
    assert fits(browser)
    assert browser.execute_script(CONTRAST) == []
    assert browser.execute_script("return document.documentElement.lang") == lang
    loaded = browser.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
    assert {name.removeprefix(peer.address) for name in loaded} <= {"style.css", "live.js", f"?lang={lang}&part=main"}
    for path in ("board", "contribution"):
        browser.get(f"{peer.address}{path}?lang={lang}")
        assert fits(browser)
        assert browser.execute_script(CONTRAST) == []


def test_everything_is_reached_by_keyboard_in_the_order_it_is_read(browser: Any, peer: Peer) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    browser.get(peer.address)
    seen = []
    for _ in range(8):
        ActionChains(browser).send_keys(Keys.TAB).perform()
        seen.append(
            browser.execute_script(
                "const e = document.activeElement, style = getComputedStyle(e);"
                "return [e.getAttribute('aria-label') || e.textContent, e.getBoundingClientRect().top,"
                " style.outlineStyle !== 'none' && e.matches(':focus-visible')]"
            )
        )
    names = [name for name, _, _ in seen]
    assert names[:6] == ["Skip to the page", "Contributions", "Board", "Metrics", "Everything as JSON", "한국어"]
    assert names[6:] == ["Other sites", "Left today"]
    assert all(marked for *_, marked in seen)


def test_hostile_names_and_reasons_are_only_text(browser: Any, peer: Peer) -> None:
    browser.get(peer.address)
    peer.shown.facts = facts(status(members=members(HOSTILE), reason=HOSTILE), exposes={"en": HOSTILE, "ko": HOSTILE})
    # What comes with an update is read by the browser, too.
    wait_for(lambda: HOSTILE in _text(browser, "#sites")())
    browser.get(peer.address)
    assert HOSTILE in _text(browser, "#sites")()
    assert HOSTILE in _text(browser, "#head")()
    assert browser.title == "north · training"
    assert fits(browser)


def test_a_roster_of_256_sites_is_shown_and_updated(browser: Any, peer: Peer) -> None:
    many = tuple(dataclasses.replace(members()[0], name=f"site-{number:03}") for number in range(256))
    peer.shown.facts = facts(status(members=many))
    browser.get(peer.address)
    assert "site-255" in _text(browser, "#sites")()
    peer.shown.facts = facts(status(members=many[:3]))
    wait_for(lambda: "site-255" not in _text(browser, "#sites")())
    assert fits(browser)
