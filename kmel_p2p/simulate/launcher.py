"""A whole federation on this machine: real daemons, real sockets, one report.

`simulate` divides the data, sets up the federation, starts one daemon per site, follows them until all are complete,
trains the pooled model for comparison, and writes `report.json`, `details.json` and `report.html`.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.learn.models.reference import trunk_reference_hash
from kmel_p2p.simulate.comparison import final_trunks, pooled_model, spread
from kmel_p2p.simulate.config import Simulation, load_simulation
from kmel_p2p.simulate.data import DividedData, divide, hand_out
from kmel_p2p.simulate.follow import View, collect, follow
from kmel_p2p.simulate.interrupts import Interrupts
from kmel_p2p.simulate.report import RunOutcome, build_details, build_report, require_agreement, summary, write_report
from kmel_p2p.simulate.sites import create_federation
from kmel_p2p.site.modes import mode_of
from kmel_p2p.site.state.lockfile import holder

MARKER = ".kmel-simulation"
"""Marks a directory that a simulation made, which the next one may replace."""


def simulate(config: Path, out: Path, seed: int | None, console: Console) -> dict[str, Any]:
    """Run the federation of `config` and report.

    Args:
        config: settings, see `simulate.config`.
        out: directory of the run; that of an earlier run is replaced.
        seed: replaces the one of the file.
        console: where progress is shown.

    Returns:
        The report, as written to `out/report.json`.

    Raises:
        ConfigError, DataError: settings or data cannot be used; nothing has been started.
        SiteFailedError: a site ended early or the sites did not agree; shows the last lines of its log.
        KeyboardInterrupt: interrupted; every process of the run has ended.
    """
    began = time.monotonic()
    simulation = load_simulation(config, seed)
    policy = simulation.charter.features
    # First: a missing package must be reported before an earlier run is replaced.
    reference = trunk_reference_hash(policy, simulation.model)
    prepare_directory(out, simulation)
    names = simulation.sites.names
    console.print(f"{simulation.task}: {len(names)} sites, seed {simulation.seed}, in {out}")
    divided = divide(simulation, policy, out)
    console.print(division_table(simulation, divided))
    federation_files = create_federation(simulation, out, divided.parts, divided.test, reference)
    hand_out(divided, policy, [site.state_dir for site in federation_files])
    with Interrupts() as interrupts, federation_files as federation:
        federation.start()
        record = follow(federation, View(console), simulation.sites.deadline_s, interrupts)
        finals = collect(federation)
        state_dirs = {site.name: site.state_dir for site in federation}
    run_s = time.monotonic() - began
    charter = federation.document.charter
    console.print("all sites are complete; training one model on all data for comparison")
    with console.status("pooled model") as shown:
        pooled = pooled_model(
            simulation, charter, divided, finals, out, lambda done, total: shown.update(f"pooled model: {done}/{total}")
        )
    apart = (
        None if mode_of(charter).one_trunk else spread(final_trunks(state_dirs), charter, simulation.sites.start_file)
    )
    wall_s = time.monotonic() - began
    outcome = RunOutcome(simulation, charter, divided, record, finals, pooled, run_s, wall_s, out, apart)
    report, details = build_report(outcome), build_details(outcome)
    write_report(out, report, details)
    console.print(summary(report, details))
    require_agreement(report)
    console.print(f"report: {(out / 'report.html').absolute()}", soft_wrap=True)
    return report


def prepare_directory(out: Path, simulation: Simulation) -> None:
    """An empty directory for the run.

    Raises:
        ConfigError: it holds files that no simulation made, or a daemon of an earlier run is still running.
    """
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out} is a file; choose another --out")
    if out.exists() and any(out.iterdir()):
        if not (out / MARKER).exists():
            raise ConfigError(f"{out}: holds files that no simulation made; choose another --out, or empty it")
        for state_dir in out.glob("sites/*/state"):
            if (pid := holder(state_dir)) is not None:
                raise ConfigError(
                    f"{state_dir}: a daemon of an earlier run is still alive (process {pid}); end it first"
                )
        for path in out.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / MARKER).write_text(f"{simulation.charter.federation} seed {simulation.seed}\n")
    except OSError as error:
        raise ConfigError(f"{out}: cannot be written: {error.strerror}") from error


def division_table(simulation: Simulation, divided: DividedData) -> Table:
    """How much data each site has, and how different the sites' chemistry is."""
    table = Table(title="who holds what", title_justify="left")
    table.add_column("site")
    for column in ("compounds", "scaffolds", "elsewhere too", "nearest own", "nearest elsewhere"):
        table.add_column(column, justify="right")
    for name, figures in zip(simulation.sites.names, divided.figures, strict=True):
        table.add_row(
            name,
            str(figures.compounds),
            str(figures.scaffolds),
            str(figures.shared_scaffolds),
            f"{figures.similarity_within:.2f}",
            f"{figures.similarity_across:.2f}",
        )
    table.caption = (
        "elsewhere too: scaffolds that another site holds; nearest: mean similarity to the nearest neighbour"
    )
    return table
