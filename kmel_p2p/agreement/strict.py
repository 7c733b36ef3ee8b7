"""TOML documents read strictly: an unknown key is an error that names the nearest known one."""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, TypeVar, get_args, get_origin

import pydantic

from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.agreement.in_words import fault_in_words, worded_pattern

Name = Annotated[
    str,
    worded_pattern(
        r"^[a-z0-9][a-z0-9_-]{0,31}$",
        "a name of lower-case letters, digits, - and _, at most 32, that begins with a letter or digit",
    ),
]
"""Short lower-case name: it appears in file names, tables and logs."""

M = TypeVar("M", bound="StrictModel")


class StrictModel(pydantic.BaseModel):
    """Frozen settings without room for unknown keys, infinities or silent conversions."""

    model_config = pydantic.ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, validate_default=True
    )

    def changed(self: M, **values: Any) -> M:
        """A copy with other values, checked like the original.

        Raises:
            pydantic.ValidationError: they do not fit.
        """
        return type(self).model_validate({**dict(self), **values})


def parse_json(text: str | bytes) -> Any:
    """What a JSON document says.

    Raises:
        ValueError: it is not JSON, or nested so deeply that Python cannot read it.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("JSON that is nested too deeply") from None


def parse_toml(model: type[M], document: str, source: str) -> M:
    """Read `document` into `model`.

    Args:
        model: the settings expected.
        document: TOML text.
        source: where it came from (a path), for the error.

    Raises:
        ConfigError: names source, key, what was found and what is expected.
    """
    return build(model, read_toml(document, source), source)


def read_toml(document: str, source: str) -> dict[str, Any]:
    """What a TOML document says, before anything is expected of it.

    Raises:
        ConfigError: it is not TOML; names source and line.
    """
    try:
        return tomllib.loads(document)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{source}: not TOML: {error}") from None
    except RecursionError:
        raise ConfigError(f"{source}: not TOML of ours: it is nested too deeply") from None


def build(model: type[M], raw: dict[str, Any], source: str) -> M:
    """Validate decoded TOML. See `parse_toml`."""
    try:
        return model.model_validate(_tuples(raw))
    except pydantic.ValidationError as error:
        lines = [_explain(model, problem) for problem in error.errors()]
        raise ConfigError("\n".join(f"{source}: {line}" for line in lines)) from None


def _tuples(value: Any) -> Any:
    """TOML arrays become tuples, so that frozen models stay hashable."""
    if isinstance(value, list):
        return tuple(_tuples(item) for item in value)
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return value


def _explain(model: type[pydantic.BaseModel], problem: Any) -> str:
    path = _without_tags(model, problem["loc"])
    where = ".".join(str(part) for part in path) or "document"
    if problem["type"] == "extra_forbidden":
        known = _known_keys(model, problem["loc"][:-1])
        near = difflib.get_close_matches(str(path[-1]), known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known keys here: {', '.join(sorted(known))}"
        return f"unknown key {where!r}; {hint}"
    if problem["type"] == "missing":
        return f"key {where!r} is missing"
    if problem["type"] == "union_tag_invalid":
        # pydantic quotes the discriminator's name and lists the tags, both in quotes.
        context, path = problem["ctx"], (*path, problem["ctx"]["discriminator"].strip("'"))
        near = difflib.get_close_matches(context["tag"], re.findall(r"'([^']*)'", context["expected_tags"]), n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {context['expected_tags']}"
        return f"key {'.'.join(str(part) for part in path)!r} is {context['tag']!r}; {hint}"
    found = problem.get("input")
    shown = plain_value(found)
    return f"key {where!r} is {shown:.80}: {fault_in_words(problem)}"


def plain_value(value: Any) -> str:
    """A value as TOML writes it, not as Python does."""
    match value:
        case None:
            return "nothing"
        case bool():
            return str(value).lower()
        case tuple() | list():
            return f"[{', '.join(map(plain_value, value))}]"
        case Mapping() | pydantic.BaseModel():
            return "a table"
        case str():
            return repr(value)
    return str(value)


def _without_tags(model: type[pydantic.BaseModel], path: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """The path as the document has it: pydantic also names which member of a tagged union it took."""
    current: Any = model
    kept: list[int | str] = []
    for part in path:
        tagged = _tagged(current)
        if part in tagged:
            current = tagged[part]
            continue
        kept.append(part)
        field = _fields(current).get(str(part))
        current = field.annotation if field is not None else current
    return tuple(kept)


def _known_keys(model: type[pydantic.BaseModel], path: Iterable[Any]) -> list[str]:
    current: Any = model
    for part in path:
        if isinstance(part, int) or get_origin(current) in (dict, Mapping):
            # An index, or a key that the document chose: the values below share one model.
            continue
        tagged = _tagged(current)
        if part in tagged:
            current = tagged[part]
            continue
        field = _fields(current).get(part)
        if field is None:
            return []
        current = field.annotation
    return list(_fields(current))


def _tagged(annotation: Any) -> dict[Any, Any]:
    """Members of a tagged union, by tag."""
    members = {}
    for candidate in get_args(annotation):
        for extra in get_args(candidate)[1:]:
            if isinstance(extra, pydantic.Tag):
                members[extra.tag] = get_args(candidate)[0]
    return members


def _fields(annotation: Any) -> dict[str, Any]:
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, pydantic.BaseModel):
            return {f.alias or name: f for name, f in candidate.model_fields.items()}
    return {}
