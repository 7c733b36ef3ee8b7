"""Whatever is wrong with whatever setting, people read a sentence of ours, and the key that it is about."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pydantic
import pytest

from kmel_p2p.agreement.amendment import Amendment
from kmel_p2p.agreement.charter import Charter
from kmel_p2p.agreement.columns import Column
from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.agreement.in_words import _PATTERNS
from kmel_p2p.agreement.invitation import Application
from kmel_p2p.agreement.strict import StrictModel, build
from kmel_p2p.site.config import SiteConfig

SITE = {"name": "north", "key": "ab" * 32}
CHARTER: dict[str, Any] = {"federation": "demo", "sites": [SITE], "assay_endpoints": [{"name": "logd"}]}
FIVE = [{"name": f"s{number}", "key": f"{number:064x}"} for number in range(5)]
BASES: list[tuple[type[StrictModel], dict[str, Any]]] = [
    (Charter, CHARTER),
    (Charter, {**CHARTER, "averaging": {"mode": "pushsum"}}),
    (Charter, {**CHARTER, "sites": FIVE, "averaging": {"mode": "sealed"}}),
    (SiteConfig, {"site": {"name": "north"}, "data": {"path": "x.csv", "columns": {"logd": {"column": "LogD"}}}}),
    (Amendment, {"charter": "ab" * 32, "number": 1, "add": [SITE], "retire": [{"name": "s", "last": 1}]}),
    (Amendment, {"charter": "ab" * 32, "number": 1, "rekey": [{"name": "s", "key": "ab" * 32, "last": 1}]}),
    (Application, {"name": "north", "key": "ab" * 32, "signature": "ab" * 64}),
]  # fmt: skip

WRONG: list[Any] = [
    *(None, True, False, -1, 0, 7, 2**70, 1.5, -0.5, 1e300, float("inf"), float("nan")),
    *("", "x", "North Site", "a\x1b[31mb", "x" * 600, "2024-13-99"),
    *([], [1], ["a", "b", "c"], [[]], [{}], [1.0, 0.0], list(range(2000)), {}, {"a": 1}, {"": {}}, {"a": {"b": 1}}),
]

VALIDATOR = re.compile(
    r"Input should|should be|should match|should have|valid (tuple|string|integer|number|list|dict|boolean|mapping)"
    r"|pattern|tuple|pydantic|validation error|Value error|Assertion|\bdict\b|\bint\b|\bfloat\b|\bNone\b|<class"
    r"|\(\)|\^\["
)
"""What a validator writes, and what only Python calls so."""


def places(model: type[pydantic.BaseModel], raw: dict[str, Any]) -> Iterator[tuple[Any, ...]]:
    """Where a value stands, or could: every field of the model, and of the tables and lists in `raw`."""
    for name, field in model.model_fields.items():
        yield (name,)
        models = list(kinds(field.annotation))
        of_mode = [kind for kind in models if name == "averaging" and kind.__name__.lower().startswith(mode_of(raw))]
        inner = next(iter(of_mode or models), None)
        if inner is not None:
            listed = isinstance(raw.get(name), list)
            child = raw[name][0] if listed and raw[name] else raw.get(name, {})
            mapped = not listed and isinstance(child, dict) and inner is Column
            step: tuple[Any, ...] = (0,) if listed else (next(iter(child)),) if mapped else ()
            if mapped:
                child = child[step[0]]
            if listed and not raw[name]:
                continue
            for rest in places(inner, child if isinstance(child, dict) else {}):
                yield (name, *step, *rest)


def mode_of(raw: dict[str, Any]) -> str:
    return str(raw.get("averaging", {}).get("mode", "ledger"))


def kinds(annotation: Any) -> Iterator[type[pydantic.BaseModel]]:
    """The models that an annotation speaks of, before anything else in it."""
    found = [annotation]
    for current in found:
        found += getattr(current, "__args__", ())
        if isinstance(current, type) and issubclass(current, pydantic.BaseModel):
            yield current


def replaced(raw: Any, place: tuple[Any, ...], value: Any) -> Any:
    if not place:
        return value
    head, *rest = place
    if isinstance(raw, list):
        return [replaced(item, tuple(rest), value) if at == head else item for at, item in enumerate(raw)]
    return {**raw, head: replaced(raw.get(head, {}), tuple(rest), value)}


CASES = [(model, raw, place) for model, raw in BASES for place in places(model, raw)]


@pytest.mark.parametrize(
    ("model", "raw", "place"), CASES, ids=[f"{m.__name__}-{'.'.join(map(str, p))}" for m, _, p in CASES]
)
def test_no_text_of_the_validator_reaches_people(
    model: type[StrictModel], raw: dict[str, Any], place: tuple[Any, ...]
) -> None:
    for wrong in WRONG:
        try:
            build(model, replaced(raw, place, wrong), "file.toml")
        except ConfigError as error:
            for line in str(error).splitlines():
                said = re.sub(r"'[^']*'|\"[^\"]*\"", "", line)
                assert line.startswith("file.toml: ")
                assert not VALIDATOR.search(said), f"{place} = {wrong!r:.40}: {line}"


def test_all_fields_are_tried() -> None:
    tried = {".".join(map(str, place)) for _, _, place in CASES}
    assert {"sites.0.name", "assay_endpoints.0.valid_range", "averaging.age_limit", "averaging.min_group"} <= tried
    assert {"data.columns.logd.factor", "network.bind", "metrics.listen", "rekey.0.key"} <= tried
    assert len(tried) > 120


@pytest.mark.parametrize(
    ("model", "raw", "said"),
    [
        (Charter, {**CHARTER, "federation": "My Run"}, "key 'federation' is 'My Run': expected a name of lower-case"),
        (Charter, {**CHARTER, "training": {"batch_size": "64"}}, "key 'training.batch_size' is '64': expected a whole"),
        (Charter, {**CHARTER, "training": {"learning_rate": 2.0}}, "is 2.0: expected at most 1.0"),
        (Charter, {**CHARTER, "model": {"hidden": []}}, "key 'model.hidden' is []: expected at least 1 items"),
        (Charter, {**CHARTER, "amendments": {"quorum": "half"}}, "expected one of 'majority', 'two-thirds', 'all'"),
        (Charter, {**CHARTER, "sites": [{**SITE, "key": "xyz"}]}, "key 'sites.0.key' is 'xyz': expected 64 hex digits"),
        (Charter, {**CHARTER, "pace": 7}, "key 'pace' is 7: expected a table of settings"),
    ],
)
def test_a_sentence_says_what_was_found_and_what_is_expected(
    model: type[StrictModel], raw: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        build(model, raw, "charter.toml")
    assert said in str(refused.value)


def test_every_pattern_has_words() -> None:
    assert len(_PATTERNS) >= 7
    assert all(words and "^" not in words for words in _PATTERNS.values())
