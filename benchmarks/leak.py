"""What the entries of a federation tell its members about each other's compounds, measured by attacks.

    python benchmarks/leak.py --federations 6 --json [FILE] [--modes ledger sealed_projected]

Four sites with the demo's solubility data train 40 entries of 10 steps in step, each on a random half of its compounds;
the other half, of the same chemistry, is what an attacker has to tell them from. Attacks need no label and no access to
a model (`leak_views`):

    bits      positions of the fingerprint, from the columns of the first layer that carry a value
    ranked    compounds, by the energy of the weakest quarter of their positions: against drugs that no site has
              (`drugs`) and against the site's own other half (`site`)
    lira      membership by likelihood ratios, each federation in turn the target and the others its shadows

Views: A, one author's entries; S, the sums of the three others as one site sees them; F, the final trunk. A mode of the
table is a trunk and a way of averaging; where only sums exist there is no A.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from benchmarks.parts.inprocess import federate
from benchmarks.parts.leak_views import VIEWS, View, Watcher
from benchmarks.parts.likelihood_ratio import ratios
from benchmarks.parts.measure import parse, publish, say, settings_of, this_machine
from benchmarks.parts.noised_federation import noised_trunk
from benchmarks.parts.sealed_sums import SealedSums
from benchmarks.parts.solubility_data import ENDPOINT, POLICY, Solubility, read_solubility
from kmel_p2p.agreement.features import descriptor_constants
from kmel_p2p.agreement.privacy import PrivacyRule
from kmel_p2p.chem.structures.cache import StructureCache
from kmel_p2p.delta.layout import initial_trunk
from kmel_p2p.learn.audit.first_layer_view import FirstLayerView, weakest_energies
from kmel_p2p.learn.audit.ranking import auroc, found_at
from kmel_p2p.learn.models.architecture import Architecture
from kmel_p2p.learn.models.layout import trunk_layout
from kmel_p2p.learn.models.networks import Network
from kmel_p2p.learn.privacy.accountant import noise_for
from kmel_p2p.learn.train.dataset import Dataset
from kmel_p2p.learn.worker.plan import TrainingSettings

SMOKE: dict[str, Any] = {
    "federations": 4,
    "entries": 2,
    "steps": 2,
    "decoys": 20,
    "private_rounds": 2,
    "modes": ["ledger_projected", "sealed_projected", "sealed_private"],
}
RATE = 1e-3
PRIVACY = PrivacyRule(dp="record", epsilon=8.5, delta=1e-4)
MEMBER = 0
"""The site that looks at sums."""

SHAPE = Architecture(
    inputs=POLICY.width, descriptors=len(descriptor_constants()), endpoints=(ENDPOINT,), hidden=(512, 256), dropout=0.1
)


@dataclass(frozen=True)
class Mode:
    """One row of the table.

    Attributes:
        shape: of the trunk.
        sealed: only sums of levels exist, as sealed rounds make them; otherwise every entry is read by everybody.
        private: with differential privacy of single compounds, a step in each round.
    """

    shape: Architecture
    sealed: bool = False
    private: bool = False

    @property
    def views(self) -> tuple[str, ...]:
        """Which of the views there are."""
        return VIEWS[1:] if self.sealed else VIEWS


PROJECTED = SHAPE.changed(trunk="projected", hidden=(128, 64))
MODES = {
    "ledger": Mode(SHAPE),
    "ledger_projected": Mode(PROJECTED),
    "sealed_projected": Mode(PROJECTED, sealed=True),
    "sealed_private": Mode(PROJECTED.changed(hidden=(32, 16), dropout=0.0), sealed=True, private=True),
}


@dataclass(frozen=True)
class Seen:
    """One federation: who was trained on, and what each view gives.

    Attributes:
        trained: bool[n], of all compounds of the data.
        statistics: view and site -> float64[compounds of the site, k]; view S has none of the site that looks.
        responses: likewise, float32[compounds of the site, p]; `out`: outputs of the final trunk.
        bits, ranked: figures of view A, by site.
        rmse: of the final trunk on compounds of nobody.
    """

    trained: NDArray[np.bool_]
    statistics: Mapping[tuple[str, int], NDArray[np.float64]]
    responses: Mapping[tuple[str, int], NDArray[np.floating]]
    bits: Sequence[Mapping[str, float]]
    ranked: Mapping[str, Sequence[Mapping[str, float]]]
    rmse: float


def federation(arguments: argparse.Namespace, mode: Mode, data: Solubility, seed: int) -> Seen:
    """Train one federation and look at it."""
    rng, sites = np.random.default_rng([17, seed]), len(data.members)
    halves = [np.sort(rng.permutation(rows)[: len(rows) // 2]) for rows in data.members]
    layout = trunk_layout(mode.shape)
    datasets = [data.site(rows) for rows in halves]
    watcher = Watcher(FirstLayerView(mode.shape), layout.size, MEMBER, range(sites) if "A" in mode.views else ())
    if mode.private:
        trunk = noised_trunk(
            mode.shape, datasets, PRIVACY, noise_of(arguments), arguments.private_rounds,
            tick=watcher.round_over, watch=watcher.entry,
        )  # fmt: skip
    else:
        sums = sums_of(arguments, mode.shape, sites, seed) if mode.sealed else None
        trunk = trained(arguments, mode.shape, datasets, seed, sums, tick=watcher.round_over, watch=watcher.entry)
    watcher.ended(trunk.astype(np.float64) - initial_trunk(layout, 0))
    member = np.zeros(len(data.inputs), np.bool_)
    member[np.concatenate(halves)] = True
    views = {("A", site): view for site, view in watcher.authors.items()}
    views |= {("S", site): watcher.sums for site in range(sites) if site != MEMBER}
    views |= {("F", site): watcher.final for site in range(sites)}
    network = Network(mode.shape)
    network.load(trunk)
    features = [data.inputs.rows(rows) for rows in data.members]
    return Seen(
        member,
        {key: view.statistics(features[key[1]]) for key, view in views.items()},
        {key: view.response(features[key[1]]) for key, view in views.items()}
        | {("out", site): network.predict(rows) for site, rows in enumerate(features)},
        [bits(view, data, halves[site]) for site, view in watcher.authors.items()],
        {
            name: [ranked(view, data, halves[site], site) for (which, site), view in views.items() if which == name]
            for name in mode.views
        },
        data.rmse(network.predict(data.inputs.rows(data.scored))),
    )


def sums_of(arguments: argparse.Namespace, shape: Architecture, sites: int, seed: int) -> SealedSums:
    """How sealed rounds add up what so many sites trained."""
    return SealedSums(trunk_layout(shape).size, sites, RATE, arguments.steps, seed)


def trained(
    arguments: argparse.Namespace,
    shape: Architecture,
    datasets: Sequence[Dataset],
    seed: int,
    sums: SealedSums | None,
    **given: Any,
) -> NDArray[np.float32]:
    """Rounds without noise; the final trunk, float32[d].

    Args:
        sums: of sealed rounds; None: entries of a ledger.
        given: further arguments of `federate`.
    """
    settings = [
        TrainingSettings(
            batch_size=32, learning_rate=RATE, weight_decay=0.01, seed=1000 * seed + site,
            entry_limit=arguments.entries, steps_per_entry=arguments.steps,
        )
        for site in range(len(datasets))
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        return federate(shape, datasets, settings, arguments.entries, Path(folder), sums=sums, **given).trunk


def noise_of(arguments: argparse.Namespace) -> float:
    """Sigma of the whole sum that spends the budget."""
    return noise_for(PRIVACY.epsilon, PRIVACY.delta, PRIVACY.rate, arguments.private_rounds)


def bits(view: View, data: Solubility, half: NDArray[np.int64]) -> dict[str, float]:
    """What the columns of one author's entries tell; nothing where no weight stands for one position."""
    occurs: NDArray[np.bool_] = np.asarray(data.inputs.bits(half).any(axis=0))
    if not view.reader.sparse:
        return {}
    energies = np.stack([np.zeros(view.reader.bits), *view.after])
    shown, each = energies[1:] > 0, energies[1:] > energies[:-1]
    return {
        "bits_precision": float(occurs[shown[-1]].mean()),
        "bits_recall": float(shown[-1][occurs].mean()),
        "bits_precision_5": float(occurs[shown[min(4, len(shown) - 1)]].mean()),
        "bits_recall_1": float(shown[0][occurs].mean()),
        "bits_recall_5": float(shown[min(4, len(shown) - 1)][occurs].mean()),
        "bits_recall_per_entry": float(each[:, occurs].mean()),
        "bits_base": float(occurs.mean()),
    }


def ranked(view: View, data: Solubility, half: NDArray[np.int64], site: int) -> dict[str, float]:
    """How well the compounds that a site trained on rank above drugs, and above its others."""
    other = np.setdiff1d(data.members[site], half)
    members, others, drugs = (
        weakest_energies(view.energies, data.inputs.bits(at)) for at in (half, other, data.decoys)
    )
    return {
        "ranked_drugs_auroc": auroc(members, drugs),
        "ranked_drugs_tpr_at_1pct": found_at(members, drugs),
        "ranked_site_auroc": auroc(members, others),
        "ranked_site_tpr_at_1pct": found_at(members, others),
    }


def lira(seen: Sequence[Seen], data: Solubility, view: str) -> dict[str, float]:
    """Of all compounds that a view is about, in all federations. Who sees entries or sums has the final trunk, too."""
    inside, outside = [], []
    for site, rows in enumerate(data.members):
        if (view, site) not in seen[0].statistics:
            continue
        trained = np.stack([one.trained[rows] for one in seen])
        parts = dict.fromkeys((view, "F"))
        scores = ratios(
            np.stack([np.concatenate([one.statistics[part, site] for part in parts], axis=1) for one in seen]),
            trained,
            [np.stack([one.responses[part, site] for one in seen]) for part in (*parts, "out")],
        )
        inside.append(scores[trained])
        outside.append(scores[~trained])
    members, others = np.concatenate(inside), np.concatenate(outside)
    return {"lira_auroc": auroc(members, others), "lira_tpr_at_1pct": found_at(members, others)}


def measure(arguments: argparse.Namespace, name: str, data: Solubility) -> dict[str, Any]:
    """Figures of one mode by view."""
    mode, seen = MODES[name], []
    for seed in range(arguments.federations):
        seen.append(federation(arguments, mode, data, seed))
        say(f"{name}: federation {seed + 1} of {arguments.federations}, RMSE {seen[-1].rmse:.3f}")
    found: dict[str, Any] = {"values": trunk_layout(mode.shape).size, "rmse": float(np.mean([s.rmse for s in seen]))}
    for view in mode.views:
        figures = lira(seen, data, view)
        figures |= mean([one for s in seen for one in s.ranked[view]])
        found[view] = {**mean([one for s in seen for one in s.bits]), **figures} if view == "A" else figures
    return found


def mean(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Key by key; nothing of nothing."""
    return {name: float(np.mean([row[name] for row in rows])) for name in (rows[0] if rows else {})}


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--modes", nargs="+", choices=list(MODES), default=list(MODES))
    parser.add_argument("--federations", type=int, default=6, help="a target and its shadows; 4 at least")
    parser.add_argument("--entries", type=int, default=40)
    parser.add_argument("--steps", type=int, default=10, help="of each entry")
    parser.add_argument("--private-rounds", type=int, default=200, help="with noise, a step each")
    parser.add_argument("--decoys", type=int, default=1_500)
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "kmel-leak-cache")
    arguments = parse(parser, SMOKE, given)
    machine = this_machine()
    torch.set_num_threads(1)
    data = read_solubility(StructureCache(arguments.cache), decoys=arguments.decoys)
    modes = {name: measure(arguments, name, data) for name in arguments.modes}
    rows = [
        {"mode": name, "view": view, "rmse": found["rmse"], **found[view]}
        for name, found in modes.items()
        for view in MODES[name].views
    ]
    details = [pd.DataFrame(rows).round(3).T.to_string(header=False)]
    publish("what members learn", machine, {**modes, "settings": settings_of(arguments)}, {}, arguments.json, details)


if __name__ == "__main__":
    main()
