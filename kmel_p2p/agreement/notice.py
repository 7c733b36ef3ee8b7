"""What a notice on the board says: a need, an offer, an answer to one of them, or a statement of what a site measured.

Signing, spreading and replacing notices is `core.board`'s.

A kind never changes: what a later version has to say more gets a kind of its own. Whatever a version cannot read it
keeps and hands on all the same, out of sight (`kind_of`, `content_in`), so that boards of different versions agree.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias

import msgpack
import pydantic

from kmel_p2p.agreement.canonical import canonical, plain, unpack_bounded
from kmel_p2p.agreement.endpoint import LABEL, MAX_ENDPOINTS
from kmel_p2p.agreement.errors import LocalError, WireError
from kmel_p2p.agreement.shown import CONTROL, PRINTABLE
from kmel_p2p.agreement.strict import Name, StrictModel

MAX_BODY_BYTES = 2048
"""Of what a notice says, encoded."""

Stage: TypeAlias = Literal["discovery", "preclinical", "clinical"]

Line = Annotated[str, pydantic.Field(max_length=120, pattern=PRINTABLE)]
"""One line for people."""

Text = Annotated[str, pydantic.Field(max_length=600, pattern=rf"^(?:[^{CONTROL}]|\n)*$")]
"""A few lines for people."""

Label = Annotated[str, pydantic.Field(max_length=64, pattern=rf"(?:{LABEL})|^$")]
"""An assay endpoint by its name, or nothing."""

SizeClass = Annotated[int, pydantic.Field(ge=0, le=40)]
"""Number of measurements as a power of two, as in a site's descriptor: 11 is 1,024 to 2,047; 0: none, or not told."""


class _Described(StrictModel):
    """What needs and offers have in common: what they are about, and for whom."""

    assay_endpoint: Label = ""
    """Name of the measured property, in the words of the catalogue where it has them."""
    unit: Annotated[str, pydantic.Field(max_length=32, pattern=PRINTABLE)] = ""
    stage: Stage | None = None
    size_class: SizeClass = 0
    """Of the poster's own measurements of it."""
    text: Text = ""
    sites: Annotated[tuple[Name, ...], pydantic.Field(max_length=16)] = ()
    """For these sites only, by name; empty: for all. Everybody can read it all the same."""


class Need(_Described):
    """What a site would like to predict better."""

    kind: Literal["need"] = "need"
    assay_endpoint: Annotated[str, pydantic.Field(min_length=1, max_length=64, pattern=LABEL)]
    baseline_error: Annotated[float, pydantic.Field(ge=0.0)] | None = None
    """Of the best model that the site can make alone, in the unit (log10 of it where it is learned so)."""
    in_return: Line = ""


class Offer(_Described):
    """What a site would give: data to learn from (which stay where they are), a model package, compute, a service."""

    kind: Literal["offer"] = "offer"
    what: Literal["data", "model", "compute", "service"]
    package: Line = ""
    """Of a model: name and version of the package, as it is installed."""
    package_hash: Annotated[str, pydantic.Field(pattern=r"^([0-9a-f]{64})?$")] = ""
    """SHA-256 of the package's file."""
    card: Line = ""
    """Where the model card is."""

    @pydantic.model_validator(mode="after")
    def _a_model_is_named(self) -> Offer:
        if self.what == "model" and not (self.package and self.package_hash):
            raise ValueError("an offer of a model names package and package_hash, so that everybody gets the same one")
        if self.what != "model" and (self.package or self.package_hash or self.card):
            raise ValueError("package, package_hash and card belong to an offer of a model")
        return self


class NoticeAnswer(StrictModel):
    """An answer to a notice; everybody can read it."""

    kind: Literal["answer"] = "answer"
    to_site: Annotated[str, pydantic.Field(pattern=r"^[0-9a-f]{64}$")]
    """Key of whoever posted the notice."""
    to_slot: Annotated[int, pydantic.Field(ge=0, le=255)]
    text: Text
    interested: bool = True


PREFIX = 16
"""Hex digits of a key by which a statement names an author: as many as no two sites share by accident."""

MAX_STATED = 64
"""Authors in a statement; those with the largest parts."""

_Author = Annotated[str, pydantic.Field(pattern=rf"^[0-9a-f]{{{PREFIX}}}$")]


class ContributionStatement(StrictModel):
    """What a site states of the others' contributions, coarsely: what it measured on own compounds stays with it."""

    kind: Literal["statement"] = "statement"
    measure: Literal["second half", "whole"]
    """Of the run."""
    entries: Annotated[int, pydantic.Field(ge=1, le=2**40)]
    """Of all authors together, that it rests on."""
    given: Annotated[tuple[tuple[_Author, Annotated[int, pydantic.Field(ge=1, le=100)]], ...],
                     pydantic.Field(max_length=MAX_STATED)]  # fmt: skip
    """First digits of an author's key, and the percent of what the other sites gave that came from it. Sorted."""
    copiers: Annotated[tuple[_Author, ...], pydantic.Field(max_length=MAX_STATED)] = ()
    """Authors whose entries are, in good part, nearly copies of entries that they knew. Sorted."""

    @pydantic.model_validator(mode="after")
    def _adds_up(self) -> ContributionStatement:
        names = [name for name, _ in self.given]
        if names != sorted(set(names)) or list(self.copiers) != sorted(set(self.copiers)):
            raise ValueError("authors are listed once each, sorted")
        if sum(percent for _, percent in self.given) > 100:
            raise ValueError("more than 100 percent are given")
        return self


UNKNOWN, NO_EVIDENCE, BETTER, WORSE = ".", "0", "1234", "abcd"
"""Letters of classes. The first letter of `BETTER` and `WORSE` is for effects below the first of `EFFECTS_PCT`."""

EFFECTS_PCT = (5, 10, 25)
"""Relative changes of an error, in percent, from which on it is told as the next larger one."""


class PayoffStatement(StrictModel):
    """What a site says of its own models: whether those that the federation has a part in beat its best local ones.

    One letter for each assay endpoint, by place, says so on the site's own held-out compounds: `UNKNOWN` (it has none,
    or too few), `NO_EVIDENCE` either way, or one of `BETTER` or `WORSE` by the size of the effect on its test fold. A
    site predicts with best local where the federation's are worse.
    """

    kind: Literal["payoff"] = "payoff"
    campaign: Annotated[int, pydantic.Field(ge=1, le=2**32)]
    """At whose end the models were compared."""
    classes: Annotated[str, pydantic.Field(max_length=MAX_ENDPOINTS, pattern=r"^[.0-4a-d]*[0-4a-d]$")]
    """The places after the last that is known are left out: one spelling."""


Said: TypeAlias = Need | Offer | NoticeAnswer | ContributionStatement | PayoffStatement

Content: TypeAlias = Annotated[Said, pydantic.Field(discriminator="kind")]

_READER: pydantic.TypeAdapter[Said] = pydantic.TypeAdapter(Content)

_KIND = re.compile(r"[a-z][a-z-]{0,31}")
"""How every kind is spelled, also one of a later version: it may be shown to people."""


def encode_content(content: Said) -> bytes:
    """One spelling of what a notice says; fields at their defaults are left out.

    Raises:
        LocalError: it is too long.
    """
    body = canonical(plain({"kind": content.kind, **content.model_dump(exclude_defaults=True)}))
    if len(body) > MAX_BODY_BYTES:
        raise LocalError(f"the notice takes {len(body)} bytes; at most {MAX_BODY_BYTES} are allowed: shorten its text")
    return body


def kind_of(body: bytes) -> str:
    """What kind of notice this is, whether or not this version can read it.

    What is checked here holds for the notices of every version: a map in the one spelling, of bounded size, with a
    kind.

    Raises:
        WireError: no version says this.
    """
    raw = _unpacked(body)
    kind = raw.get("kind") if type(raw) is dict else None
    if type(kind) is not str or not _KIND.fullmatch(kind):
        raise WireError("a notice does not say of which kind it is")
    try:
        same = canonical(raw) == body
    except (TypeError, ValueError, OverflowError, msgpack.exceptions.PackException):
        same = False
    if not same:
        raise WireError("a notice has another spelling")
    return kind


def content_in(body: bytes) -> Said | None:
    """What a notice on the board says; None: this version cannot read it, a later one may."""
    try:
        return decode_content(body)
    except WireError:
        return None


def decode_content(body: bytes) -> Said:
    """Read what a notice from anybody says.

    Raises:
        WireError: it says nothing that this version knows, or in another spelling.
    """
    raw = _unpacked(body)
    try:
        content = _READER.validate_python(_tuples(raw))
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        raise WireError(f"no notice: {'.'.join(map(str, first['loc']))}: {first['msg']}"[:200]) from None
    try:
        same = encode_content(content) == body
    except (LocalError, ValueError, msgpack.exceptions.PackException):
        same = False
    if not same:
        raise WireError("a notice has another spelling")
    return content


def content_of(raw: Mapping[str, Any]) -> Said:
    """A notice from what an operator gave; lists stand for tuples.

    Raises:
        LocalError: names the field and what is wrong with it.
    """
    try:
        return _READER.validate_python(_tuples(dict(raw)))
    except pydantic.ValidationError as error:
        lines = [f"{'.'.join(map(str, each['loc'][1:])) or 'notice'}: {each['msg']}" for each in error.errors()]
        raise LocalError("; ".join(lines).replace("Value error, ", "")) from None


def _unpacked(body: bytes) -> Any:
    return unpack_bounded(body, MAX_BODY_BYTES, containers=MAX_STATED + 8, length=MAX_STATED)


def _tuples(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_tuples(item) for item in value)
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return value
