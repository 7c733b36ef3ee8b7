"""audit leak and held: what own entries show of own compounds, those that left and the one that waits for approval."""

from __future__ import annotations

import base64
import csv
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from kmel_p2p.agreement.charter import Charter, CharterDocument, SiteRule
from kmel_p2p.agreement.endpoint import AssayEndpoint
from kmel_p2p.agreement.features import FeatureRule
from kmel_p2p.agreement.split import SplitRule
from kmel_p2p.agreement.training import ModelRule
from kmel_p2p.cli.exits import ExitCode
from kmel_p2p.core.ledger.log.entry import NO_PREVIOUS, Basis, create
from kmel_p2p.core.roster_vector import RosterOrder
from kmel_p2p.delta.layout import initial_trunk
from kmel_p2p.learn.models.networks import Network
from kmel_p2p.learn.train.round import Rounds
from kmel_p2p.learn.worker.prepare import prepare
from kmel_p2p.site.config import load_config
from kmel_p2p.site.keys import load_key
from kmel_p2p.site.loaded_site import load_site, trainer_plan
from kmel_p2p.site.modes.stored_ledger import codec_of
from kmel_p2p.site.state.store import STORE_NAME, Store
from tests.support.cli_harness import FakeDaemon, Run

RINGS = ("c1ccccc1", "c1ccncc1", "c1ccoc1", "c1ccsc1", "C1CCCCC1", "C1CCNCC1", "c1ccc2ccccc2c1", "c1cnc2ccccc2c1")


@pytest.fixture(params=["mlp", "projected"])
def trained(request: pytest.FixtureRequest, site: Path) -> tuple[Path, bytes]:
    """Settings of a site with two entries in its store, and the payload of a third."""
    north = load_key(site.parent / "site.key")
    charter = Charter(
        federation="demo",
        sites=(SiteRule(name="north", key=north.key.hex()),),
        assay_endpoints=(AssayEndpoint(name="size", head="shared"),),
        features=FeatureRule(bits=512),
        model=ModelRule(trunk=request.param, hidden=(16,)),
        split=SplitRule(valid_fraction=0.3, test_fraction=0.1),
    )
    document = CharterDocument(charter=charter).signed_by(north)
    (site.parent / "charter.toml").write_text(document.render())
    with (site.parent / "d.csv").open("w", newline="") as handle:
        smiles = [f"{'C' * chain}{ring}" for ring in RINGS for chain in range(1, 9)]
        csv.writer(handle).writerows([("smiles", "D"), *((text, len(text) / 10) for text in smiles)])
    site.write_text(
        '[site]\nname = "north"\n[data]\npath = "d.csv"\n[data.columns]\nsize = { column = "D" }\n'
        "[resources]\nfeaturise_processes = 1\n"
    )
    loaded = load_site(load_config(site))
    plan = trainer_plan(loaded, 1)
    dataset, _ = prepare(plan, lambda progress: None)
    codec, trunk = codec_of(loaded), initial_trunk(loaded.layout, 0)
    rounds = Rounds(Network(plan.architecture), dataset, loaded.layout, codec, plan.training, site.parent / "state")
    payloads = []
    for number in range(1, 4):
        payloads.append(rounds.train(number, 6, None, trunk, lambda progress: None).payload)
        rounds.commit(number)
    with_entries(site, charter, payloads[:2])
    return site, payloads[2]


def with_entries(site: Path, charter: Charter, payloads: list[bytes]) -> None:
    north, previous = load_key(site.parent / "site.key"), NO_PREVIOUS
    store = Store(site.parent / "state" / STORE_NAME)
    for number, payload in enumerate(payloads, 1):
        entry = create(
            north, charter_id=charter.id, number=number, previous=previous,
            basis=Basis(RosterOrder([north.key]).vector({}), bytes(32), {}, 0), weight=2**15, steps=6, norm_squared=1,
            codec_id=1, payload=payload,
        )  # fmt: skip
        store.append_entry(north.key, number, entry.encode(), f"round-{number}.safetensors")
        previous = entry.hash
    store.close()


@pytest.fixture
def holding(trained: tuple[Path, bytes]) -> Iterator[FakeDaemon]:
    """A daemon of that site that holds the third entry."""
    fake = FakeDaemon(trained[0].parent / "state")
    fake.answers["held"] = {"number": 3, "payload": base64.b64encode(trained[1]).decode(), "age_s": 61.0}
    fake.start()
    yield fake
    fake.close()


def test_each_entry_and_all_of_them_are_told(trained: tuple[Path, bytes], run: Run) -> None:
    done = run("audit", "leak", "-c", trained[0], "--json")
    assert done.code == 0, done.err
    facts = json.loads(done.out)
    assert [entry["number"] for entry in facts["entries"]] == [1, 2]
    assert facts["held"] is None
    assert facts["compounds"] + facts["other_compounds"] == 64
    first, second = facts["entries"]
    together = facts["together"]
    assert 0.5 < together["picked_auroc"] <= 1
    if facts["trunk"] == "projected":
        assert together["bits"] is together["own_share"] is together["compounds"] is None
        return
    assert first["bits"] == first["right"]
    assert 0 < max(first["own_share"], second["own_share"]) <= together["own_share"] <= 1
    assert together["compounds"] <= facts["compounds"]
    assert "% of the own bits (100.0% right)" in run("audit", "leak", "-c", trained[0]).out


def test_the_held_entry_is_looked_at_before_it_leaves(
    trained: tuple[Path, bytes], holding: FakeDaemon, run: Run
) -> None:
    facts = json.loads(run("audit", "leak", "-c", trained[0], "--json").out)
    assert [entry["number"] for entry in facts["entries"]] == [1, 2, 3]
    assert facts["held"] == 3
    only = json.loads(run("audit", "leak", "-c", trained[0], "--held", "--json").out)
    assert only["entries"] == facts["entries"][2:]
    assert "entry 3 (held)" in run("audit", "leak", "-c", trained[0], "--held").out
    refused = run("audit", "leak", "-c", trained[0], "--held", "--at-most", "0")
    shows = (only["together"]["own_share"] or 0) + only["together"]["picked_at_1pct"] > 0
    assert refused.code == (ExitCode.DOES_NOT_HOLD if shows else 0)
    assert run("audit", "leak", "-c", trained[0], "--held", "--at-most", "1").code == 0


def test_what_would_leave_is_shown_by_tensor(trained: tuple[Path, bytes], holding: FakeDaemon, run: Run) -> None:
    facts = json.loads(run("held", "show", "-c", trained[0], "--json").out)
    assert (facts["number"], facts["bytes"], facts["age_s"]) == (3, len(trained[1]), 61.0)
    assert sum(tensor["sent"] for tensor in facts["tensors"]) == facts["sent"] > 0
    assert sum(tensor["norm"] ** 2 for tensor in facts["tensors"]) == pytest.approx(facts["norm"] ** 2, rel=1e-4)
    assert facts["last"]["number"] == 2
    assert abs(facts["last"]["cosine"]) < 1
    shown = run("held", "show", "-c", trained[0]).out
    assert "entry 3, " in shown
    assert "beside entry 2: " in shown
    assert all(len(line) < 80 for line in shown.splitlines())
    leak = json.loads(run("audit", "leak", "-c", trained[0], "--held", "--json").out)
    assert facts["shows"] == leak["together"]
    assert "of this site's compounds it shows: " in shown
    quick = run("held", "show", "-c", trained[0], "--no-leak").out
    assert "shows:" not in quick
    assert "kmel-peer held approve 3" in quick
    (table,) = trained[0].parent.glob("*.csv")
    table.rename(table.with_suffix(".away"))
    without = run("held", "show", "-c", trained[0])
    assert without.code == 0
    assert "was not measured: " in without.out
    assert "beside entry 2: " in without.out
    table.with_suffix(".away").rename(table)
    assert json.loads(run("held", "list", "-c", trained[0], "--json").out) == {
        "held": [{"number": 3, "bytes": len(trained[1]), "age_s": 61.0}],
        "hold": False,
        "approved_until": 0,
    }
    holding.answers["held"] = None
    assert run("held", "list", "-c", trained[0]).out.splitlines()[0] == "no entry waits for approval"
    assert run("held", "show", "-c", trained[0]).code == ExitCode.REFUSED


def test_where_nothing_waits_or_was_published_it_says_so(trained: tuple[Path, bytes], run: Run) -> None:
    assert run("audit", "leak", "-c", trained[0], "--held").code == ExitCode.NOT_RUNNING
    (trained[0].parent / "state" / STORE_NAME).unlink()
    done = run("audit", "leak", "-c", trained[0])
    assert done.code == ExitCode.REFUSED
    assert "no own entry is kept here yet" in done.err
    fake = FakeDaemon(trained[0].parent / "state")
    fake.start()
    try:
        done = run("audit", "leak", "-c", trained[0], "--held")
    finally:
        fake.close()
    assert done.code == ExitCode.REFUSED
    assert "no entry waits for approval" in done.err
