"""What the peer's page costs its daemon: memory and processor time with it, without it, and while it is looked at.

    python benchmarks/page_memory.py [--views 50] [--json FILE]

Two sites of one federation whose run is over: one serves the page, the other does not. Both hold the same ledger.

  rss_mb            resident memory of the daemon without the page
  page_mb           what the page adds, before anybody looks
  viewed_mb         what it adds after so many views of the page and of /metrics
  view_ms           of one view of the page, median
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

from benchmarks.parts.daemons import all_published, found_federation, until
from benchmarks.parts.measure import Goal, at_most, parse, publish, say, this_machine
from kmel_p2p.simulate.sites import SiteProcess, free_ports

GOALS: dict[str, Goal] = {"page_mb": at_most(10.0), "viewed_mb": at_most(20.0)}
SMOKE: dict[str, Any] = {"views": 2, "entries": 1}
MB = 1e6


def resident(site: SiteProcess) -> float:
    """Resident memory of a site's daemon, MB."""
    status = site.status(timeout_s=60.0)
    assert status is not None, f"{site.name} does not answer"
    return status.process.rss_bytes / MB


def serve_the_page(site: SiteProcess) -> str:
    """Have a site that is not started serve its page; gives the address."""
    where = f"127.0.0.1:{free_ports(1)[0]}"
    settings = site.folder / "site.toml"
    text = settings.read_text("utf-8")
    assert 'listen = ""' in text
    settings.write_text(text.replace('listen = ""', f'listen = "{where}"'), "utf-8")
    return f"http://{where}"


def view(address: str) -> float:
    """Look at the page once; gives the milliseconds until it is here whole."""
    began = perf_counter()
    for path in ("/", "/metrics"):
        with urllib.request.urlopen(address + path, timeout=120) as answer:
            answer.read()
    return (perf_counter() - began) * 1e3


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """All figures."""
    federation = found_federation(folder, 2, hidden=(64, 32), steps=4, entries=options.entries, tiny=True)
    with federation:
        shown, plain = federation
        address = serve_the_page(shown)
        federation.start()
        say("training")
        until("all entries", lambda: all_published(list(federation), options.entries, 2), 600, federation)
        base, before = resident(plain), resident(shown)
        say("looking")
        times = [view(address) for _ in range(options.views)]
        return {
            "rss_mb": base,
            "page_mb": before - base,
            "viewed_mb": resident(shown) - base,
            "view_ms": statistics.median(times),
        }


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--views", type=int, default=50, help="of the page and of /metrics")
    parser.add_argument("--entries", type=int, default=20, help="of each site")
    options = parse(parser, SMOKE, given)
    machine = this_machine()
    with tempfile.TemporaryDirectory(prefix="kmel-page-") as folder:
        figures = measure(Path(folder), options)
    publish(f"the page of a peer, {options.views} views", machine, figures, GOALS, options.json)


if __name__ == "__main__":
    main()
