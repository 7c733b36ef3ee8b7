"""The stack of a site: per assay endpoint what is best alone and with the federation, and which of them answers.

made = fit_stack(architecture, dataset, models, seed)        # learn.stack.fit
made.stack.sides(inputs)["stack"]                            # float64[n, E]; also "best_local", "foreign"
made.stack.answers(inputs, neighbours.unusual(bits))         # what the site predicts with
write_state(path, made.stack.tensors(), made.stack.facts())  # one safetensors file, which stays at the site
SiteStack.from_tensors(tensors, facts, architecture, models)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.agreement.endpoint import AssayEndpoint
from kmel_p2p.learn.models.architecture import Architecture
from kmel_p2p.learn.models.graph_rows import parts_of
from kmel_p2p.learn.models.networks import Network
from kmel_p2p.learn.stack.graph_networks import GRAPHS, GraphEnsemble, GraphNetworks
from kmel_p2p.learn.stack.learners import Learner, read_learner
from kmel_p2p.learn.stack.logits import LogitMap
from kmel_p2p.learn.stack.rare_classes import JUDGES
from kmel_p2p.learn.stack.readings import Known, LearnerInputs, Reader, Similar
from kmel_p2p.learn.stack.sides import LOCAL_NETWORKS, LOCALS, SIDES, STACK, Mixture
from kmel_p2p.learn.stack.stored import Tensors, below, damaged, require, under
from kmel_p2p.learn.stack.weigh import spread_of
from kmel_p2p.learn.stack.weights import mixed
from kmel_p2p.learn.train.checkpoint import Parameters

STORED_ELSEWHERE = ("local", "federated", "personalised")
"""Networks that the model directory holds already."""

BLOCK = 1024
"""Compounds predicted at a time."""

WHERE = "the site's stack"


@dataclass(frozen=True, slots=True)
class EndpointStack:
    """What predicts one assay endpoint.

    Attributes:
        learners: trees, boosting and Gaussian processes by name.
        rows: int64[m] of the site's `Known`, what the Gaussian processes were fitted to.
        sides: those of `SIDES`.
        own, unusual: which side answers for compounds like the site's own, and for those that are less so.
        held_out: how many compounds decided that.
        judges: what class sets are made from where that is not the side that answers (`rare_classes`).
    """

    learners: Mapping[str, Learner]
    rows: NDArray[np.int64]
    sides: Mapping[str, Mixture]
    own: str
    unusual: str
    held_out: int
    judges: Mixture | None = None


@dataclass(frozen=True, slots=True)
class SideOutputs:
    """What the sides give for some compounds.

    Attributes:
        sides: each of `SIDES`, float64[n, E]: labels, or logits.
        spread: how much the learners of the federation's stack disagree (`weigh.spread_of`), float64[n, E].
        judged: outputs of `EndpointStack.judges`, float64[n, E]; NaN for assay endpoints without.
    """

    sides: Mapping[str, NDArray[np.float64]]
    spread: NDArray[np.float64]
    judged: NDArray[np.float64]


class SiteStack:
    """All networks and learners of a site.

    Attributes:
        architecture: of the networks.
        endpoints: in the charter's order.
    """

    def __init__(
        self,
        architecture: Architecture,
        bits: int,
        models: Mapping[str, Parameters],
        known: Known,
        endpoints: tuple[EndpointStack, ...],
        graphs: GraphNetworks | None = None,
    ) -> None:
        """
        Args:
            bits: width of the fingerprint.
            models: parameters of the networks; `sides` has their names.
            graphs: the site's graph networks, where it has some.
        """
        self.architecture, self.endpoints = architecture, endpoints
        self._bits, self._models, self._known = bits, dict(models), known
        self._graphs = graphs
        self._networks = readers_of(architecture, models, graphs)

    @property
    def reads(self) -> Architecture:
        """The model whose rows of inputs it takes (`Dataset.read_by`)."""
        return self.architecture if self._graphs is None else self._graphs.architecture

    def sides(self, inputs: NDArray[np.float32]) -> Mapping[str, NDArray[np.float64]]:
        """Outputs float64[n, E] of each of `SIDES`: labels, or logits.

        Args:
            inputs: rows of network inputs (`dataset.Inputs.rows`).
        """
        return self.outputs(inputs).sides

    def outputs(self, inputs: NDArray[np.float32]) -> SideOutputs:
        """The same, and how much the learners disagree."""
        found = {side: np.empty((len(inputs), len(self.endpoints))) for side in SIDES}
        spread = np.empty((len(inputs), len(self.endpoints)))
        judged = np.full((len(inputs), len(self.endpoints)), np.nan)
        stop = 0
        for part in parts_of(inputs, BLOCK):
            block = slice(stop, stop + len(part))
            stop = block.stop
            readings = LearnerInputs(part, self._networks, self._bits)
            for place, endpoint in enumerate(self.architecture.endpoints):
                stack = self.endpoints[place]
                similar = Similar(readings, self._known, stack.rows)
                outputs: dict[str, NDArray[np.float64]] = {}
                for mixture in (*stack.sides.values(), *([stack.judges] if stack.judges else [])):
                    for name in mixture.names:
                        if name not in outputs:
                            outputs[name] = output_of(name, stack.learners, readings, similar, place)
                for side in SIDES:
                    found[side][block, place] = mixture_of(endpoint, stack.sides[side], outputs)
                if stack.judges is not None:
                    judged[block, place] = mixture_of(endpoint, stack.judges, outputs)
                spread[block, place] = spread_of(endpoint, stack.sides[STACK], outputs)
        return SideOutputs(found, spread, judged)

    def answers(self, inputs: NDArray[np.float32], unusual: NDArray[np.bool_]) -> NDArray[np.float64]:
        """What the site predicts, float64[n, E].

        Args:
            unusual: bool[n], compounds less like the site's own than most held-out ones (`Neighbours.unusual`).
        """
        return self.chosen(self.sides(inputs), unusual)

    def chosen(self, sides: Mapping[str, NDArray[np.float64]], unusual: NDArray[np.bool_]) -> NDArray[np.float64]:
        """The same from what `sides` gave."""
        columns = [
            np.where(unusual, sides[stack.unusual][:, place], sides[stack.own][:, place])
            for place, stack in enumerate(self.endpoints)
        ]
        return np.stack(columns, axis=1)

    def tensors(self) -> dict[str, NDArray[Any]]:
        """Everything but facts and the networks of `STORED_ELSEWHERE`, as named arrays. They reveal structures."""
        found = under("known", self._known.tensors())
        for name, model in self._models.items():
            if name not in STORED_ELSEWHERE:
                found |= under(f"network/{name}", {"trunk": model.trunk, "private": model.private})
        if self._graphs is not None:
            found |= under("graphs", self._graphs.tensors())
        for place, stack in enumerate(self.endpoints):
            found[f"{place}/rows"] = stack.rows
            for name, learner in stack.learners.items():
                found |= under(f"{place}/learner/{name}", learner.tensors())
            for side in SIDES:
                found[f"{place}/weights/{side}"] = stack.sides[side].weights
                found[f"{place}/logits/{side}"] = stack.sides[side].logits.rows()
        return found

    def facts(self) -> dict[str, Any]:
        """What is no array, ready for JSON: names of networks and learners, and which side answers."""
        endpoints = [
            {
                "name": endpoint.name,
                "learners": list(stack.learners),
                "sides": {side: list(stack.sides[side].names) for side in SIDES},
                "own": stack.own,
                "unusual": stack.unusual,
                "held_out": stack.held_out,
                "judged": stack.judges is not None,
            }
            for endpoint, stack in zip(self.architecture.endpoints, self.endpoints, strict=True)
        ]
        found = {"bits": self._bits, "networks": list(self._models), "endpoints": endpoints}
        return found if self._graphs is None else {**found, "graphs": self._graphs.facts()}

    @classmethod
    def from_tensors(
        cls, tensors: Tensors, facts: Mapping[str, Any], architecture: Architecture, models: Mapping[str, Parameters]
    ) -> SiteStack:
        """What `tensors` and `facts` gave.

        Args:
            models: parameters of the networks in `STORED_ELSEWHERE`.

        Raises:
            ConfigError: something is damaged, or belongs to other networks; or there are graph networks, and chemprop
                is missing or another.
        """
        try:
            return _read(tensors, facts, architecture, models)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise damaged(WHERE, repr(error)) from None


def networks_of(architecture: Architecture, models: Mapping[str, Parameters]) -> dict[str, Network]:
    """A network for each set of parameters."""
    networks = {name: Network(architecture) for name in models}
    for name, network in networks.items():
        models[name].load_into(network)
    return networks


def readers_of(
    architecture: Architecture, models: Mapping[str, Parameters], graphs: GraphNetworks | None
) -> dict[str, Reader]:
    """What learners read: the networks, and under `GRAPHS` those of graphs where there are some."""
    found: dict[str, Reader] = {**networks_of(architecture, models)}
    return found if graphs is None else found | {GRAPHS: GraphEnsemble(graphs)}


def output_of(
    name: str, learners: Mapping[str, Learner], readings: LearnerInputs, similar: Similar, place: int
) -> NDArray[np.float64]:
    """One learner's outputs for the assay endpoint at `place`, float64[n]."""
    if name in learners:
        return learners[name](readings, similar)
    if name == LOCALS:
        parts = [readings.outputs(network)[:, place] for network in LOCAL_NETWORKS if network in readings.networks]
        mean: NDArray[np.float64] = np.mean(parts, axis=0)
        return mean
    return readings.outputs(name)[:, place]


def mixture_of(
    endpoint: AssayEndpoint, mixture: Mixture, outputs: Mapping[str, NDArray[np.float64]]
) -> NDArray[np.float64]:
    """A side's outputs from those of its learners, float64[n]."""
    return mixture.logits(mixed(endpoint, np.stack([outputs[name] for name in mixture.names], axis=1), mixture.weights))


def _read(
    tensors: Tensors, facts: Mapping[str, Any], architecture: Architecture, models: Mapping[str, Parameters]
) -> SiteStack:
    bits, names = facts["bits"], facts["networks"]
    if not isinstance(bits, int) or not 0 < bits <= architecture.inputs or not isinstance(names, list):
        raise damaged(WHERE, "bits or networks")
    every = {}
    for name in names:
        own = below(tensors, f"network/{name}")
        sizes = len(models["local"].trunk), len(models["local"].private)
        parts = (
            [
                require(own, part, np.float32, (size,), WHERE)
                for part, size in zip(("trunk", "private"), sizes, strict=True)
            ]
            if own
            else []
        )
        every[name] = Parameters(*parts) if own else models[name]
    graphs = None
    if "graphs" in facts:
        graphs = GraphNetworks.from_tensors(below(tensors, "graphs"), facts["graphs"], architecture, WHERE)
    hidden = architecture.hidden[-1]
    known = Known.from_tensors(below(tensors, "known"), bits, architecture.inputs, hidden, WHERE)
    if len(facts["endpoints"]) != len(architecture.endpoints):
        raise damaged(WHERE, "it has other assay endpoints")
    widths = {
        "": architecture.inputs,
        **dict.fromkeys(every, architecture.inputs + hidden + len(architecture.endpoints)),
    }
    endpoints = []
    for place, endpoint in enumerate(architecture.endpoints):
        told, where = facts["endpoints"][place], f"{WHERE}: {endpoint.name}"
        rows = require(tensors, f"{place}/rows", np.int64, (None,), where)
        if (len(rows) and not 0 <= rows.min() <= rows.max() < len(known)) or told["name"] != endpoint.name:
            raise damaged(where, "it refers to other compounds or another assay endpoint")
        learners = {
            name: read_learner(
                name,
                below(tensors, f"{place}/learner/{name}"),
                widths.__getitem__,
                len(rows),
                endpoint.kind == "classification",
                where,
            )
            for name in told["learners"]
        }
        sides = {}
        for side in SIDES:
            mixing = tuple(told["sides"][side])
            weights = require(tensors, f"{place}/weights/{side}", np.float64, (len(mixing),), where)
            if (
                not set(mixing) <= {LOCALS, *every, *learners, *([GRAPHS] if graphs is not None else [])}
                or not len(mixing)
                or (weights < 0).any()
                or abs(weights.sum() - 1) > 1e-6
            ):
                raise damaged(where, "a side has other learners or impossible weights")
            rows_of_map = require(tensors, f"{place}/logits/{side}", np.float64, (None, 2), where)
            sides[side] = Mixture(mixing, weights, LogitMap.from_rows(rows_of_map, where))
        if not {told["own"], told["unusual"]} <= set(SIDES):
            raise damaged(where, "no such side")
        judges = JUDGES if told.get("judged") else None
        if judges is not None and not (set(judges.names) <= learners.keys() and endpoint.kind == "classification"):
            raise damaged(where, "what its class sets are made from is missing")
        held_out = int(told["held_out"])
        endpoints.append(EndpointStack(learners, rows, sides, told["own"], told["unusual"], held_out, judges))
    return SiteStack(architecture, bits, every, known, tuple(endpoints), graphs)
