"""Explanations as pages show them: texts and pictures, ready for a template. The report and the web page share it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kmel_p2p.agreement.endpoint import AssayEndpoint
from kmel_p2p.learn.predict.drawing import as_image, draw
from kmel_p2p.learn.predict.explain import AssayExplanation, Explanation, contribution_unit
from kmel_p2p.learn.predict.own_compounds import Measured
from kmel_p2p.learn.predict.values import Value, in_digits

SHOWN_NEIGHBOURS = 8
"""Own compounds shown for one compound, of those near in any assay endpoint."""

LONGEST = 300
"""Characters of a SMILES that are shown."""


@dataclass(frozen=True, slots=True)
class AssayView:
    """One assay endpoint of a compound.

    Attributes:
        bounds: the interval, or the classes that cannot be ruled out; empty if there are none.
        image: address of the coloured structure; empty if there are no contributions.
        alt: what the picture shows, in words.
        full: the contribution that has full colour.
        unit: of contributions.
    """

    name: str
    kind: str
    value: str
    unit: str
    bounds: str
    model: str
    image: str
    alt: str
    full: str
    contribution_unit: str


@dataclass(frozen=True, slots=True)
class NeighbourView:
    """One own compound; `values` are measured ones, in the order of the assay endpoints shown."""

    smiles: str
    image: str
    similarity: str
    values: Sequence[str]
    is_itself: bool


@dataclass(frozen=True, slots=True)
class CompoundView:
    """One compound.

    Attributes:
        name: of the input, if it has one.
        smiles: as given.
        drawn: address of the plain structure; empty where a coloured one is shown.
    """

    name: str
    smiles: str
    standardised: str
    reason: str
    similarity: str
    applicability: str
    drawn: str
    assays: Sequence[AssayView]
    neighbours: Sequence[NeighbourView]
    notes: Sequence[str]


def compound_view(
    explanation: Explanation, endpoints: Sequence[AssayEndpoint], name: str = "", *, reason: str = ""
) -> CompoundView:
    """How one compound is shown.

    Args:
        endpoints: of the model, in its order.
        name: of the compound in the input.
        reason: why there is no prediction, where the input knows better than the prediction.
    """
    prediction = explanation.prediction
    by_name = {endpoint.name: endpoint for endpoint in endpoints}
    assays = [
        _assay(by_name[name], made, explanation)
        for name, made in explanation.assays.items()
    ]  # fmt: skip
    coloured = any(view.image for view in assays)
    return CompoundView(
        name=_shortened(name),
        smiles=_shortened(prediction.smiles),
        standardised=_shortened(prediction.standardised),
        reason=reason or prediction.reason,
        similarity="" if prediction.similarity is None else f"{prediction.similarity:.2f}",
        applicability=prediction.applicability,
        drawn="" if coloured or not prediction.standardised else _image(prediction.standardised),
        assays=assays,
        neighbours=_neighbours(explanation, by_name),
        notes=explanation.notes,
    )


def in_words(measured: Measured, endpoint: AssayEndpoint) -> str:
    """A measured value, with its relation."""
    if endpoint.kind == "classification":
        return f"{measured.value:.0f}"
    return measured.relation + in_digits(measured.value, endpoint)


def bounds_of(value: Value, endpoint: AssayEndpoint) -> str:
    """The interval or the classes that cannot be ruled out, in words; empty if there are none."""
    if value.classes is not None:
        return " or ".join(map(str, value.classes)) or "none"
    if value.lower is None or value.upper is None:
        return ""
    return f"{in_digits(value.lower, endpoint)} to {in_digits(value.upper, endpoint)}"


def _assay(endpoint: AssayEndpoint, made: AssayExplanation, explanation: Explanation) -> AssayView:
    svg = explanation.svg(endpoint.name) if made.contributions else ""
    raising = sum(1 for value in made.contributions if value > 0)
    unit = contribution_unit(endpoint)
    alt = (
        f"{explanation.prediction.standardised} coloured by contributions to {endpoint.name}: {raising} atoms raise "
        f"the value, {len(made.contributions) - raising} do not; "
        f"the strongest contribution is {_strongest(made.contributions)} {unit}"
    )
    return AssayView(
        name=endpoint.name,
        kind=endpoint.kind,
        value=in_digits(made.value.value, endpoint),
        unit=endpoint.unit,
        bounds=bounds_of(made.value, endpoint),
        model=made.value.model.replace("_", " "),
        image=as_image(svg) if svg else "",
        alt=_shortened(alt) if svg else "",
        full=f"{made.full:.2g}",
        contribution_unit=unit,
    )


def _strongest(contributions: Sequence[float]) -> str:
    return f"{max(contributions, key=abs):+.2g}" if contributions else ""


def _neighbours(explanation: Explanation, by_name: Mapping[str, AssayEndpoint]) -> list[NeighbourView]:
    """All that are near in any assay endpoint, each once, the most similar first."""
    similar: dict[str, float] = {}
    measured: dict[tuple[str, str], str] = {}
    for name, made in explanation.assays.items():
        for neighbour in made.neighbours:
            similar.setdefault(neighbour.smiles, neighbour.similarity)
            measured[neighbour.smiles, name] = in_words(neighbour.measured, by_name[name])
    order = sorted(similar, key=lambda smiles: -similar[smiles])[:SHOWN_NEIGHBOURS]
    return [
        NeighbourView(
            smiles=_shortened(smiles),
            image=_image(smiles),
            similarity=f"{similar[smiles]:.2f}",
            values=[measured.get((smiles, name), "") for name in explanation.assays],
            is_itself=smiles == explanation.prediction.standardised,
        )
        for smiles in order
    ]


def _image(smiles: str) -> str:
    svg = draw(smiles)
    return as_image(svg) if svg else ""


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "\N{HORIZONTAL ELLIPSIS}"
