"""What is trained, how, and at what pace: the charter's `[model]`, `[training]` and `[pace]`."""

from __future__ import annotations

from typing import Annotated

import pydantic

from kmel_p2p.agreement.in_words import worded_pattern
from kmel_p2p.agreement.strict import Name, StrictModel
from kmel_p2p.agreement.trunk_package import TrunkPackage

PROJECTION = 256
"""The default of `ModelRule.projection`."""

Width = Annotated[int, pydantic.Field(ge=1, le=65536)]


class ModelRule(StrictModel):
    """Shape of the trunk and the seed of its initial values."""

    trunk: Name = "mlp"
    """Kind of trunk; `kmel-peer charter new --help` lists them. A site refuses to start with one it does not know."""
    hidden: Annotated[tuple[Width, ...], pydantic.Field(min_length=1, max_length=8)] = (512, 256)
    """Widths of the hidden layers. The first one holds most of the values that sites exchange."""
    dropout: Annotated[float, pydantic.Field(ge=0.0, lt=1.0)] = 0.1
    """Probability that a number is set to zero, after each hidden layer while training. 0.1 predicts better than 0."""
    seed: Annotated[int, pydantic.Field(ge=0, lt=2**63)] = 0
    """Decides the initial trunk, which is the same at every site."""
    calibrate: bool = False
    """True: each site fits a private gain and shift to every shared head, so that constant differences between assays
    do not compete in it. Worth trying where units are not harmonised."""
    members: Annotated[int, pydantic.Field(ge=1, le=32)] = 1
    """Networks trained side by side and averaged (an ensemble). Predictions become steadier; bytes and training time
    grow by this factor. 3 to 5 is enough."""
    message_width: Annotated[int, pydantic.Field(ge=1, le=4096)] = 300
    """Numbers in a message, for a trunk that passes messages along bonds. 150 takes under half the time and bytes
    of 300."""
    depth: Annotated[int, pydantic.Field(ge=1, le=16)] = 3
    """Rounds of messages, for such a trunk: an atom sees others up to this many bonds away."""
    projection: Annotated[int, pydantic.Field(ge=1, le=4096, exclude_if=lambda width: width == PROJECTION)] = PROJECTION
    """Numbers that the fingerprint is projected to, for a trunk that reads a fixed random projection of it. At its
    default, it is no part of what is hashed and written: charters signed before there was such a trunk keep their
    id."""
    start: Annotated[
        str,
        worded_pattern(r"^([0-9a-f]{64})?$", "64 hex digits, as sha256sum prints, or nothing"),
        pydantic.Field(exclude_if=lambda start: not start),
    ] = ""
    """SHA-256 of a safetensors file with the values that the trunk starts from; each site names its copy in
    `site.start_file`, or fetches one from another site. Empty: they are drawn from the seed. Heads always are."""
    package: Annotated[TrunkPackage | None, pydantic.Field(exclude_if=lambda package: package is None)] = None
    """Where the trunk is none of this program's: the package that brings it. The last of `hidden` is the width of what
    it gives to the heads."""


class TrainingRule(StrictModel):
    """The local optimiser (AdamW), the same everywhere."""

    batch_size: Annotated[int, pydantic.Field(ge=1, le=65536)] = 64
    """Compounds per optimiser step."""
    learning_rate: Annotated[float, pydantic.Field(gt=0.0, le=1.0)] = 1e-3
    """At the start; it falls along a cosine to a twentieth over `averaging.entry_limit`."""
    weight_decay: Annotated[float, pydantic.Field(ge=0.0, le=10.0)] = 0.01
    """Decoupled from the gradient, as in AdamW."""


class PaceRule(StrictModel):
    """When rounds may start, and how far a site may run ahead of the slowest one that membership calls alive."""

    max_lead: Annotated[int, pydantic.Field(ge=1, le=1000)] = 4
    """Entries or rounds that a site may be ahead of the slowest one. Small keeps sites in step; large spares fast
    sites the wait, but they train on an older trunk."""
    start_sites: Annotated[int, pydantic.Field(ge=0)] = 0
    """Sites ready to train before anyone publishes its first entry; 0 means all founders. With fewer, whoever comes
    late finds a part of the run over. An operator who must not wait any longer says `kmel-peer begin`."""
    patience: Annotated[int, pydantic.Field(ge=0, le=100_000)] = 0
    """Entries without a better validation score after which a site stops publishing and listens; 0 means never."""
