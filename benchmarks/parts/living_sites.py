"""The federation of `living.py`: real peers on this machine, and what their operators type between campaigns."""

from __future__ import annotations

import contextlib
import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.parts.daemons import FederationFailedError, rounds_of, until
from benchmarks.parts.living_data import NEWCOMER, Drop
from benchmarks.parts.silos_data import ENDPOINTS, POLICY, fold_key
from kmel_p2p.agreement.averaging import LedgerRule
from kmel_p2p.agreement.columns import Column
from kmel_p2p.agreement.split import Fold, SplitRule
from kmel_p2p.agreement.training import ModelRule, PaceRule, TrainingRule
from kmel_p2p.chem.structures.features import reference_hash
from kmel_p2p.cli.data import read_measurements
from kmel_p2p.cli.main import invoke
from kmel_p2p.cli.registering import open_register
from kmel_p2p.files import write_whole
from kmel_p2p.learn.predict.predict import load_model
from kmel_p2p.learn.predict.versions import NEWEST_FOLDER, newest_version
from kmel_p2p.learn.register.matched import Matched, match
from kmel_p2p.simulate.config import DataSource, SimulatedCharter, SimulatedEndpoint, Simulation, SitesSection
from kmel_p2p.simulate.sites import (
    DATA_NAME,
    LocalFederation,
    SiteProcess,
    create_federation,
    free_ports,
    simulated_identity,
    simulated_seed,
)
from kmel_p2p.site.config import NetworkSection, PredictionsSection, SiteConfig, load_config
from kmel_p2p.site.observe.status import SitePhase, StatusDocument
from kmel_p2p.site.state.store import STORE_NAME, Store

DEADLINE_S = 1800.0
VALID_FRACTION = 0.2
"""Of the series. There is no test fold: what is measured next is the test."""


class CommandFailedError(Exception):
    """A command of an operator did not end with 0."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What all campaigns share.

    Attributes:
        entries: of each site in the first campaign; `later`: in each further one.
        steps: optimiser steps of an entry.
    """

    entries: int
    later: int
    steps: int
    hidden: tuple[int, ...]
    dropout: float
    batch: int
    rate: float


def found(
    folder: Path, start: Mapping[str, Drop], settings: Settings, seed: int, *, late: str, with_late: bool
) -> LocalFederation:
    """Founders with what they have at the start, and a register of predictions; nothing runs yet.

    Args:
        late: the assay endpoint that a campaign adds, whose head is private.
        with_late: whether the charter has it from the start.
    """
    folder.mkdir(parents=True)
    parts = []
    for name, drop in start.items():
        parts.append(folder / f"{name}.csv")
        drop.write(parts[-1])
    simulation = Simulation(
        task="a federation that lives",
        seed=seed,
        data=DataSource(kind="csv", train=parts[0], test=parts[0]),
        sites=SitesSection(names=tuple(start), preset="sim", deadline_s=DEADLINE_S),
        charter=SimulatedCharter(
            federation="living",
            model=ModelRule(hidden=settings.hidden, dropout=settings.dropout, calibrate=True),
            assay_endpoints=tuple(
                SimulatedEndpoint(
                    name=e.name,
                    column=e.name,
                    center=e.center,
                    scale=e.scale,
                    head="private" if e.name == late else e.head,
                )
                for e in ENDPOINTS
                if e.name in next(iter(start.values())).cells and (with_late or e.name != late)
            ),
            training=TrainingRule(batch_size=settings.batch, learning_rate=settings.rate),
            averaging=LedgerRule(steps_per_entry=settings.steps, entry_limit=settings.entries),
            pace=PaceRule(start_sites=len(start)),
            split=SplitRule(fold_key=fold_key(seed), valid_fraction=VALID_FRACTION, test_fraction=0.0),
        ),
    )
    federation = create_federation(simulation, folder, parts, None, reference_hash(POLICY))
    for site in federation:
        rewrite(site, predictions=PredictionsSection(record=True))
    return federation


def rewrite(which: SiteProcess, /, **sections: object) -> SiteConfig:
    """Change sections of a site's settings."""
    path = config_of(which)
    config = load_config(path).model_copy(update=sections)
    write_whole(path, config.render().encode(), mode=0o644)
    return config


def command(*arguments: object) -> str:
    """What a command of kmel-peer prints, run in this process.

    Raises:
        CommandFailedError: it did not end with 0.
    """
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = invoke([str(argument) for argument in arguments])
    if code:
        raise CommandFailedError(f"kmel-peer {' '.join(map(str, arguments))} ended with {code}:\n{said.getvalue()}")
    return said.getvalue()


class LivingFederation:
    """Sites that go from campaign to campaign.

    Args:
        federation: founded, not started.
        seed: of the simulation: decides the newcomer's key.
    """

    def __init__(self, federation: LocalFederation, seed: int) -> None:
        self.federation = federation
        self.campaign = 1
        self.amendments: list[Path] = []
        self._seed = seed

    def run(self) -> list[StatusDocument]:
        """The first campaign, to its end."""
        self.federation.start()
        return self._to_the_end()

    def next(self, entries: int, newcomer: Drop | None = None, added: str = "") -> list[StatusDocument]:
        """Open the next campaign, with what the sites' files hold now, and run it to its end; no peer is restarted.

        Training is paused while the campaign opens, so that no entry is trained on what the files held before.

        Args:
            entries: of each site.
            newcomer: what a site has that joins as the campaign begins.
            added: an assay endpoint that the campaign adds. Sites whose files have values of it name its column.
        """
        sites = list(self.federation)
        for site in sites:
            command("pause", "-c", config_of(site))
        self.campaign += 1
        changes = ["--add-endpoint", self._described(added)] if added else []
        self._agree("campaign", f"campaign-{self.campaign}.toml", "start", "--entries", entries, *changes)
        until("every site is in the campaign", lambda: self._opened(sites), DEADLINE_S, self.federation)
        for site in sites:
            command("data", "reload", "-c", config_of(site))
        if newcomer is not None:
            self._let_in(newcomer)
        for site in sites:
            command("resume", "-c", config_of(site))
        return self._to_the_end()

    def _described(self, added: str) -> Path:
        """An assay endpoint as a campaign adds it; the sites that measure it name its column."""
        endpoint = next(endpoint for endpoint in ENDPOINTS if endpoint.name == added)
        path = self.federation.sites[0].folder.parent / f"{added}.toml"
        path.write_text(
            f"[[assay_endpoints]]\nname = {added!r}\ncenter = {endpoint.center}\nscale = {endpoint.scale}\n"
            "head = 'private'\n",
            encoding="utf-8",
        )
        for site in self.federation:
            data = load_config(config_of(site)).data
            if measures(data.path, added):
                rewrite(site, data=data.model_copy(update={"columns": {**data.columns, added: Column(column=added)}}))
        return path

    def _agree(self, group: str, name: str, enact: str, *changes: object) -> None:
        """Draft at the first site, sign at all, put in force at the last one, and wait until all go by it."""
        sites = list(self.federation)
        path = sites[0].folder.parent / name
        command(group, "draft", "-c", config_of(sites[0]), *changes, "-o", path)
        for site in sites:
            command(group, "sign", path, "-c", config_of(site))
        command(group, enact, path, "-c", config_of(sites[-1]))
        self.amendments.append(path)
        until(f"{name} is in force everywhere", lambda: self._go_by(len(self.amendments)), DEADLINE_S, self.federation)

    def _go_by(self, number: int) -> bool:
        """Whether every site has stored the amendment."""
        for site in self.federation:
            with contextlib.closing(Store(site.state_dir / STORE_NAME, read_only=True)) as store:
                if number not in store.amendments():
                    return False
        return True

    def _let_in(self, drop: Drop) -> None:
        """Add a site by an amendment, and start it."""
        model = self.federation.sites[0]
        site = SiteProcess(NEWCOMER, model.folder.parent / NEWCOMER)
        site.folder.mkdir()
        address = f"tcp://127.0.0.1:{free_ports(1)[0]}"
        write_whole(site.folder / "site.key", simulated_seed(self._seed, NEWCOMER).hex().encode() + b"\n")
        write_whole(site.folder / "charter.toml", (model.folder / "charter.toml").read_bytes(), mode=0o644)
        drop.write(site.folder / DATA_NAME)
        text = config_of(model).read_text(encoding="utf-8").replace(str(model.folder), str(site.folder))
        config_of(site).write_text(text.replace(f'name = "{model.name}"', f'name = "{NEWCOMER}"'), encoding="utf-8")
        key = simulated_identity(self._seed, NEWCOMER).key.hex()
        self._agree("amendment", f"{NEWCOMER}.toml", "enact", "--add", f"{NEWCOMER}={key}@{address}")
        own = load_config(config_of(site)).site.model_copy(update={"amendments": tuple(self.amendments)})
        rewrite(site, site=own, network=NetworkSection(bind=address, preset="sim"))
        self.federation = LocalFederation([*self.federation, site], self.federation.document)
        site.start()
        until("the newcomer is there, as all see, and can train", self._newcomer_can_train, DEADLINE_S, self.federation)

    def _newcomer_can_train(self) -> bool:
        """Whether the others will wait for it: those that begin before they see it can be done before its first entry.

        A newcomer that comes after the end has no part in the campaign.
        """
        documents = [document for site in self.federation if (document := site.status()) is not None]
        if len(documents) < len(self.federation.sites) or not self._opened(self.federation):
            return False
        *others, newcomer = documents
        return newcomer.trainer.state == "idle" and all(
            any(member.name == NEWCOMER and member.state == "alive" for member in document.members)
            for document in others
        )

    def _opened(self, sites: Sequence[SiteProcess] | LocalFederation) -> bool:
        documents = [site.status() for site in sites]
        return all(d is not None and d.averaging.facts["campaign"] == self.campaign for d in documents)

    def _to_the_end(self) -> list[StatusDocument]:
        def over() -> list[StatusDocument] | None:
            documents = []
            for site in self.federation:
                document = site.status()
                if not site.running or (document is not None and document.phase is SitePhase.FAILED):
                    raise FederationFailedError(f"{site.name} has failed\n{site.last_lines()}")
                documents.append(document)
            done = [d for d in documents if d is not None and d.phase is SitePhase.COMPLETE]
            same = len({tuple(sorted(d.averaging.vector.items())) for d in done}) == 1
            return done if len(done) == len(documents) and same and self._opened(self.federation) else None

        return until(f"campaign {self.campaign} is over", over, DEADLINE_S, self.federation)


def measures(path: Path, column: str) -> bool:
    """Whether a site's file has a value in a column."""
    with path.open(encoding="utf-8", newline="") as file:
        return any(row[column] for row in csv.DictReader(file))


def config_of(site: SiteProcess) -> Path:
    """A site's settings."""
    return site.folder / "site.toml"


def predict(site: SiteProcess, drop: Drop, campaign: int) -> str:
    """Have the register record what the site expects of compounds that it is about to measure.

    Returns:
        the version of the models that said so.
    """
    asked = site.folder / f"asked-{campaign}.csv"
    drop.write_structures(asked)
    command("predict", asked, "-o", site.folder / f"predicted-{campaign}.csv", "-c", config_of(site))
    version = newest_version(site.state_dir)
    assert version is not None
    return version.name


def trained_on(site: SiteProcess) -> dict[str, bool]:
    """Standardised structure -> whether the newest models were trained on it, of all that the site has measured.

    Raises:
        FederationFailedError: they were trained on something that the charter holds out, or not on all of the rest.
    """
    charter, own, _ = read_measurements(load_config(config_of(site)), quiet=True)
    neighbours = load_model(site.state_dir / NEWEST_FOLDER).neighbours
    assert neighbours is not None
    assert neighbours.compounds is not None
    trained = set(neighbours.compounds.smiles)
    folds = own.folds(charter.split)
    expected = {own.structures.smiles[row] for row, fold in enumerate(folds) if fold == Fold.TRAIN}
    if trained - expected:
        raise FederationFailedError(f"{site.name} trained on {len(trained - expected)} compounds of other folds")
    return {smiles: smiles in trained for smiles in own.structures.smiles}


def measured_since(site: SiteProcess) -> dict[str, Matched]:
    """Assay endpoint -> what was predicted before it was measured, beside what was measured."""
    config = load_config(config_of(site))
    _, own, _ = read_measurements(config, quiet=True)
    with open_register(config) as register:
        predictions = list(register.ahead())
    return match(predictions, [own], own.endpoints)[0]


def error_by_entry(site: SiteProcess) -> dict[int, dict[str, float]]:
    """Own entry -> assay endpoint -> error on the validation fold of the trunk that it started from.

    A round that was trained again counts as it was the last time.
    """
    return {
        row["number"]: {name: folds["valid"] for name, folds in row["scores"].items() if "valid" in folds}
        for row in sorted(rounds_of(site), key=lambda row: row["at"])
    }


@contextlib.contextmanager
def ended(federation: LivingFederation) -> Iterator[Any]:
    """Ends every daemon, those that joined later, too."""
    try:
        yield federation
    finally:
        federation.federation.stop()
