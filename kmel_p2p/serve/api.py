"""The interface for programs: JSON in and out, described at /openapi.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import pydantic
from fastapi import APIRouter

from kmel_p2p.serve.worker import ModelWorker

MAX_PREDICTED, MAX_EXPLAINED = 1000, 25
"""Structures of one request."""

Level = Annotated[float, pydantic.Field(gt=0, lt=1)]
"""Share of true values that intervals should contain."""

Smiles = Annotated[str, pydantic.Field(max_length=100_000)]


class ToPredict(pydantic.BaseModel):
    """Structures to predict."""

    smiles: Annotated[list[Smiles], pydantic.Field(min_length=1, max_length=MAX_PREDICTED)]
    level: Level = 0.9


class ToExplain(pydantic.BaseModel):
    """Structures to explain; 0.3 s each."""

    smiles: Annotated[list[Smiles], pydantic.Field(min_length=1, max_length=MAX_EXPLAINED)]
    level: Level = 0.9


class PredictedValue(pydantic.BaseModel):
    """One assay endpoint of one structure."""

    value: float
    """In the unit of the assay endpoint; for classes the probability of class 1, never 0 or 1."""
    lower: float | None
    upper: float | None
    """Ends of the interval; null where there is none."""
    classes: list[int] | None
    """Classes that cannot be ruled out; null for values and where they are not known."""
    model: str


class Predicted(pydantic.BaseModel):
    """One structure."""

    smiles: str
    standardised: str
    predictions: Mapping[str, PredictedValue]
    similarity: float | None
    applicability: Literal["", "inside", "edge", "outside"]
    reason: str
    """Why there is no prediction; empty if there is one."""


class NearCompound(pydantic.BaseModel):
    """A training compound of this site, as measured here."""

    smiles: str
    similarity: float
    measured: float
    relation: Literal["", "<", ">"]


class ExplainedAssay(pydantic.BaseModel):
    """Why one assay endpoint is predicted as it is."""

    contributions: list[float]
    """One per heavy atom, in the order of the standardised SMILES; empty where there are none."""
    contribution_unit: str
    neighbours: list[NearCompound]


class Explained(Predicted):
    """One structure, and why."""

    assays: Mapping[str, ExplainedAssay]
    notes: list[str]
    """What is missing, and why."""


class ServedEndpoint(pydantic.BaseModel):
    """One assay endpoint of the models."""

    name: str
    kind: Literal["regression", "classification"]
    unit: str
    no_values: str
    """Why it is not predicted; empty if it is."""
    no_intervals: str
    """Why it has no intervals or classes at a level of 0.9; empty if it has."""


class About(pydantic.BaseModel):
    """The models that answer."""

    labels: Mapping[str, str]
    digest: str
    assay_endpoints: list[ServedEndpoint]
    knows_own_compounds: bool
    """False for an exported copy: there are no similarities and no neighbours."""
    recorded: bool
    """Whether what is answered goes into the register of the site ([predictions] record)."""


class NoAnswer(pydantic.BaseModel):
    """Why a request was not answered."""

    detail: str


REFUSALS: dict[int | str, dict[str, Any]] = {
    429: {"model": NoAnswer, "description": "too many requests wait already; try again"},
    503: {"model": NoAnswer, "description": "no answer in time"},
}


def routes(worker: ModelWorker, about: About) -> APIRouter:
    """The routes below /api."""
    router = APIRouter(prefix="/api")

    @router.get("/model", summary="What the models are")
    async def model() -> About:
        return about

    @router.post("/predict", summary="Values and intervals", responses=REFUSALS)
    async def predict(asked: ToPredict) -> list[Predicted]:
        async with worker.place():
            return [Predicted(**row) for row in await worker.ask("predict", smiles=asked.smiles, level=asked.level)]

    @router.post("/explain", summary="Values, nearest own compounds, atom contributions", responses=REFUSALS)
    async def explain(asked: ToExplain) -> list[Explained]:
        async with worker.place():
            return [Explained(**row) for row in await worker.ask("explain", smiles=asked.smiles, level=asked.level)]

    return router
