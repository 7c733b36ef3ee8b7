"""A doctor finds each planted fault, names what to do, and finds nothing at a site that is well."""

from __future__ import annotations

import dataclasses
import socket
import tarfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from kmel_p2p.agreement.amendment import Constitution
from kmel_p2p.agreement.charter import Charter, CharterDocument
from kmel_p2p.agreement.identity import Identity
from kmel_p2p.cli.doctor import exit_code
from kmel_p2p.cli.exits import ExitCode
from kmel_p2p.cli.init import site_template
from kmel_p2p.core.wire import PROTOCOL
from kmel_p2p.learn.models.reference import trunk_reference_hash
from kmel_p2p.net.desk import DeskGuest
from kmel_p2p.site.config import load_config
from kmel_p2p.site.control.client import ControlClient, RefusedError
from kmel_p2p.site.desk.members import MembersDesk
from kmel_p2p.site.desk.room import DeskRoom
from kmel_p2p.site.doctor.bundle import bundle_contents, write_bundle
from kmel_p2p.site.doctor.examination import Examination, _daemon, _limits
from kmel_p2p.site.doctor.findings import Finding
from kmel_p2p.site.doctor.machine import ThisMachine, trainer_problem
from tests.unit.site.test_site_metrics import document

NORTH, SOUTH, OTHER = (Identity(letter.encode() * 32) for letter in "nso")
SMILES = "CC(=O)Oc1ccccc1C(=O)O"
WELL = ThisMachine(
    free_disk=lambda path: 10**11,
    free_memory=lambda: 10**10,
    open_files=lambda: 65536,
    trainer_problem=lambda config: "",
)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclasses.dataclass
class South:
    """The other site: a desk that tells the truth, unless a test has it say something else."""

    desk: MembersDesk
    says: dict[str, Any] = dataclasses.field(default_factory=dict)
    sees: Callable[[str], str] | None = None

    async def answer(self, guest: DeskGuest, name: str, given: Mapping[str, Any]) -> Any:
        assert guest.site == NORTH.key
        answer = dict(await self.desk.answer(guest.site, name, {}))
        if name == "look" and self.sees is not None:
            return {"looked": [{**row, "problem": self.sees(row["address"])} for row in answer["looked"]]}
        return {**answer, **self.says}


@dataclasses.dataclass
class Site:
    """A site called north that is well, in a federation with south."""

    folder: Path
    charter: Charter
    port: int
    south: South

    @property
    def config(self) -> Path:
        return self.folder / "site.toml"

    def write(self, old: str, new: str) -> None:
        text = self.config.read_text()
        assert old in text
        self.config.write_text(text.replace(old, new))

    def examine(self, machine: ThisMachine = WELL, clock: Callable[[], float] = time.time) -> list[Finding]:
        return list(Examination(self.config, machine, clock).findings())


@pytest.fixture(scope="module")
def reference_hash() -> str:
    bare = charter_of("", 1, 2)
    return trunk_reference_hash(bare.features, bare.model)


def charter_of(reference: str, north: int, south: int) -> Charter:
    rows = [
        {"name": name, "key": identity.key.hex(), "addresses": (f"tcp://127.0.0.1:{port}",)}
        for name, identity, port in (("north", NORTH, north), ("south", SOUTH, south))
    ]
    values = {"federation": "demo", "sites": tuple(rows), "assay_endpoints": ({"name": "logd"},)}
    return Charter.model_validate({**values, "features": {"reference_hash": reference}})


def signed(charter: Charter, *identities: Identity) -> str:
    document = CharterDocument(charter=charter)
    for identity in identities:
        document = document.signed_by(identity)
    return document.render()


@pytest.fixture
def site(tmp_path: Path, reference_hash: str) -> Iterator[Site]:
    port, south_port = free_port(), free_port()
    charter = charter_of(reference_hash, port, south_port)
    constitution = Constitution(charter)
    desk = MembersDesk(SOUTH, lambda: constitution, lambda key: constitution.roster[key].addresses)
    south = South(desk)
    (tmp_path / "site.key").write_text((b"n" * 32).hex())
    (tmp_path / "site.key").chmod(0o600)
    (tmp_path / "state").mkdir(mode=0o700)
    (tmp_path / "charter.toml").write_text(signed(charter, NORTH, SOUTH))
    (tmp_path / "assays.csv").write_text(f"smiles,LogD\n{SMILES},1.2\n")
    bind = f"tcp://127.0.0.1:{port}"
    (tmp_path / "site.toml").write_text(
        site_template("north", bind=bind, path="assays.csv", columns={"logd": ("LogD", "")})
    )
    address = f"tcp://127.0.0.1:{south_port}"
    with DeskRoom(SOUTH, address, south.answer, members=lambda: list(constitution.roster)):
        yield Site(tmp_path, charter, port, south)


def faults(found: list[Finding]) -> dict[str, Finding]:
    """What is wrong, by the name of the check."""
    return {finding.check: finding for finding in found if finding.level in ("problem", "warning")}


def test_what_holds_the_trainer_to_its_limits_is_what_the_daemon_says(site: Site) -> None:
    config = load_config(site.folder / "site.toml")
    limited = config.model_copy(update={"resources": config.resources.model_copy(update={"cpus": 2.0})})
    trainer = dataclasses.replace(document().trainer, limits="cgroup: 2 CPUs")
    by_cgroup = dataclasses.replace(document(), trainer=trainer)
    levels = [
        [finding.level for finding in _limits(settings, status)]
        for settings, status in ((config, by_cgroup), (limited, None), (limited, by_cgroup), (limited, document()))
    ]
    assert levels == [[], ["note"], ["good"], ["warning"]]


def test_a_site_that_waits_for_its_founders_is_not_said_to_hang(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def status(client: ControlClient) -> None:
        raise RefusedError("refused", "the federation is being founded: this has to wait until kmel-peer run")

    monkeypatch.setattr(ControlClient, "status", status)
    found = list(_daemon(load_config(site.config), True))
    assert [(one.check, one.level) for one in found] == [("daemon", "note")]
    assert "is being founded" in found[0].text


def test_nothing_is_found_at_a_site_that_is_well(site: Site) -> None:
    found = site.examine()
    assert faults(found) == {}
    assert exit_code(found) is ExitCode.OK
    checks = {finding.check for finding in found if finding.level == "good"}
    assert checks >= {
        *("settings", "key", "state", "charter", "amendments", "roster", "data", "disk", "memory", "files"),
        *("features", "trainer", "port", "to south", "from south", "clock", "version", "agreement"),
    }


def open_key(site: Site) -> None:
    (site.folder / "site.key").chmod(0o644)


def foreign_key(site: Site) -> None:
    (site.folder / "site.key").write_text((b"o" * 32).hex())


def misspelt_setting(site: Site) -> None:
    site.write("smiles_column", "smilescolumn")


def unsigned_charter(site: Site) -> None:
    (site.folder / "charter.toml").write_text(signed(site.charter, NORTH))


def open_state(site: Site) -> None:
    (site.folder / "state").chmod(0o755)


def missing_data(site: Site) -> None:
    (site.folder / "assays.csv").unlink()


def renamed_column(site: Site) -> None:
    (site.folder / "assays.csv").write_text("smiles,logD74\nCC,1\n")


def odd_unit(site: Site) -> None:
    site.write('column = "LogD", unit = ""', 'column = "LogD", unit = "uM"')


def unmapped_endpoint(site: Site) -> None:
    site.write('"logd" = ', '"solubility" = ')


def other_features(site: Site) -> None:
    changed = site.charter.features.model_copy(update={"reference_hash": "0" * 64})
    charter = site.charter.model_copy(update={"features": changed})
    (site.folder / "charter.toml").write_text(signed(charter, NORTH, SOUTH))
    site.south.says["charter"] = charter.id.hex()


def other_charter(site: Site) -> None:
    site.south.says["charter"] = "ab" * 32


def parted_amendments(site: Site) -> None:
    site.south.says["head"] = "cd" * 32


def missing_amendment(site: Site) -> None:
    site.south.says |= {"amendments": 1, "head": "cd" * 32}


def wrong_clock(site: Site) -> None:
    site.south.says["time"] = time.time() + 130.0


def other_version(site: Site) -> None:
    site.south.says |= {"version": "0.0.1", "protocol": PROTOCOL - 1}


def later_protocol(site: Site) -> None:
    site.south.says["protocol"] = PROTOCOL + 1


def closed_firewall(site: Site) -> None:
    site.south.sees = lambda address: f"no answer from {address}: a firewall drops the connection"


def renamed_site(site: Site) -> None:
    site.write('name = "north"', 'name = "nord"')


PLANTED = [
    (open_key, "key", "chmod 600", ExitCode.CONFIG),
    (foreign_key, "roster", "neither charter nor amendments list", ExitCode.CONFIG),
    (misspelt_setting, "settings", "did you mean 'smiles_column'", ExitCode.CONFIG),
    (unsigned_charter, "charter", "site 'south' has not signed", ExitCode.CONFIG),
    (renamed_site, "roster", 'write name = "north"', ExitCode.CONFIG),
    (open_state, "state", "chmod 700", ExitCode.CONFIG),
    (missing_data, "data", "No such file", ExitCode.DATA),
    (renamed_column, "data", "no column 'LogD'; it has 'smiles', 'logD74'", ExitCode.DATA),
    (odd_unit, "data", "column 'LogD' (logd): unit is 'uM', but the charter's assay endpoint has none", ExitCode.DATA),
    (unmapped_endpoint, "columns", "the charter and its campaigns have 'logd'", ExitCode.DATA),
    (other_features, "features", "RDKit", ExitCode.MACHINE),
    (other_charter, "agreement", "another charter", ExitCode.CONFIG),
    (parted_amendments, "agreement", "another amendment 0", ExitCode.CONFIG),
    (missing_amendment, "agreement", "south has 1 amendments in force, this site 0", ExitCode.OK),
    (wrong_clock, "clock", "behind those of south", ExitCode.MACHINE),
    (other_version, "version", "south speaks protocol 1, this site 2: south has to be upgraded", ExitCode.CONFIG),
    (later_protocol, "version", "south speaks protocol 3, this site 2: this site has to be upgraded", ExitCode.CONFIG),
    (closed_firewall, "from south", "open the port in the firewall", ExitCode.NETWORK),
]


@pytest.mark.parametrize(("plant", "check", "said", "code"), PLANTED, ids=[row[0].__name__ for row in PLANTED])
def test_a_planted_fault_is_found_and_nothing_else(
    site: Site, plant: Callable[[Site], None], check: str, said: str, code: ExitCode
) -> None:
    plant(site)
    found = site.examine()
    assert list(faults(found)) == [check]
    finding = faults(found)[check]
    assert said in f"{finding.text} -> {finding.todo}"
    assert finding.todo
    assert exit_code(found) is code


@pytest.mark.parametrize(
    ("machine", "check", "said", "level"),
    [
        (dataclasses.replace(WELL, free_disk=lambda path: 10**6), "disk", "1 MB free", "problem"),
        (dataclasses.replace(WELL, free_disk=lambda path: 10**9), "disk", "1.0 GB free", "warning"),
        (dataclasses.replace(WELL, free_memory=lambda: 3 * 10**8), "memory", "300 MB", "problem"),
        (dataclasses.replace(WELL, open_files=lambda: 256), "files", "LimitNOFILE", "problem"),
        (dataclasses.replace(WELL, trainer_problem=lambda config: "no module torch"), "trainer", "torch", "problem"),
    ],
)
def test_a_machine_that_is_short_of_something_is_named(
    site: Site, machine: ThisMachine, check: str, said: str, level: str
) -> None:
    found = site.examine(machine)
    assert list(faults(found)) == [check]
    finding = faults(found)[check]
    assert (said in f"{finding.text} -> {finding.todo}", finding.level) == (True, level)


def test_a_port_that_another_program_has_is_named(site: Site) -> None:
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", site.port))
        taken.listen()
        found = site.examine()
    assert "port" in faults(found)
    assert "in use by another program" in faults(found)["port"].text
    assert exit_code(found) is ExitCode.NETWORK


def test_a_site_that_does_not_run_and_one_that_knows_us_not_are_told_apart(site: Site) -> None:
    rows = site.charter.model_dump()["sites"]
    nowhere = (f"tcp://127.0.0.1:{free_port()}",)
    gone = [{**row, "addresses": nowhere} if row["name"] == "south" else row for row in rows]
    charter = Charter.model_validate({**dict(site.charter), "sites": tuple(gone)})
    (site.folder / "charter.toml").write_text(signed(charter, NORTH, SOUTH))
    assert "nobody listens" in faults(site.examine())["to south"].text
    other = [{**row, "key": OTHER.key.hex()} if row["name"] == "north" else row for row in rows]
    charter = Charter.model_validate({**dict(site.charter), "sites": tuple(other)})
    (site.folder / "site.key").write_text((b"o" * 32).hex())
    (site.folder / "charter.toml").write_text(signed(charter, OTHER, SOUTH))
    assert "does not let this site in" in faults(site.examine())["to south"].text


def test_the_trainer_of_this_machine_starts(site: Site) -> None:
    assert trainer_problem(load_config(site.config)) == ""


@pytest.mark.parametrize("said", [{"time": "now"}, {"time": 1}, {"version": 7, "protocol": []}, {"amendments": "many"}])
def test_what_another_site_says_of_itself_may_be_anything(site: Site, said: dict[str, Any]) -> None:
    site.south.says |= said
    assert {"to south", "version", "agreement"} & set(faults(site.examine()))


def test_a_bundle_holds_no_secret_and_no_measurement(site: Site, tmp_path: Path) -> None:
    site.write("# embargo = {", "embargo = {")
    (site.folder / "state" / "peer.log").write_text('{"event": "peer started"}\n')
    (site.folder / "state" / "invitations.json").write_text('{"secret": "5a5a"}')
    contents = bundle_contents(site.config, site.examine(), None)
    path = tmp_path / "out" / "bundle.tar.gz"
    write_bundle(path, contents)
    with tarfile.open(path) as tar:
        names = {member.name for member in tar.getmembers()}
        whole = b"".join(tar.extractfile(member).read() for member in tar.getmembers())  # type: ignore[union-attr]
    assert names == {f"kmel-peer-doctor/{name}" for name in contents}
    assert {"doctor.json", "versions.json", "settings.toml", "charter.toml", "peer.log"} <= contents.keys()
    for secret in ((b"n" * 32).hex(), "5a5a", SMILES, "X7"):
        assert secret.encode() not in whole


def test_a_bundle_is_made_of_a_site_whose_settings_are_wrong(site: Site) -> None:
    misspelt_setting(site)
    contents = bundle_contents(site.config, site.examine(), None)
    assert b"did you mean" in contents["settings.txt"]
