"""Why a value does not do, in a sentence: no text of the validator that found it reaches people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pydantic

_PATTERNS: dict[str, str] = {}
"""Pattern -> what it asks for, as a part of a sentence."""


def worded_pattern(pattern: str, words: str, **bounds: Any) -> Any:
    """A field whose text has to match `pattern`; `words` say so to people: "expected WORDS"."""
    _PATTERNS[pattern] = words
    return pydantic.Field(pattern=pattern, **bounds)


def fault_in_words(problem: Mapping[str, Any]) -> str:
    """What is expected in place of a value, from one entry of `ValidationError.errors()`."""
    kind, context = str(problem["type"]), problem.get("ctx") or {}
    if kind in ("value_error", "assertion_error") or kind in _OWN:
        # Ours, and written for people.
        return str(problem["msg"]).removeprefix("Value error, ").removeprefix("Assertion failed, ")
    if kind == "string_pattern_mismatch":
        return f"expected {_PATTERNS.get(str(context.get('pattern')), 'another form of text')}"
    if kind in ("literal_error", "enum"):
        return f"expected one of {_choices(str(context.get('expected')))}"
    if kind == "is_instance_of" and context.get("class") == "Path":
        kind = "path_type"
    words = _BY_KIND.get(kind)
    if words is None:
        return "this value is not possible here"
    return f"expected {words.format_map(_Plain(context))}"


_OWN = frozenset({"averaging_mode"})
"""Error types that this package defines, with texts of its own."""

_BY_KIND = {
    "missing": "a value",
    "string_type": "text in quotation marks",
    "string_sub_type": "text in quotation marks",
    "string_too_short": "at least {min_length} characters",
    "string_too_long": "at most {max_length} characters",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing_size": "a smaller whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "greater_than": "more than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "multiple_of": "a multiple of {multiple_of}",
    "tuple_type": "a list in brackets",
    "list_type": "a list in brackets",
    "too_short": "at least {min_length} items",
    "too_long": "at most {max_length} items",
    "model_type": "a table of settings",
    "model_attributes_type": "a table of settings",
    "dict_type": "a table of settings",
    "mapping_type": "a table of settings",
    "path_type": "a path in quotation marks",
    "is_instance_of": "another kind of value",
    "none_required": "nothing",
    "frozen_field": "the value that it has",
    "invalid_key": "a key that is a word",
}


class _Plain(dict[str, Any]):
    """Context of an error; what is not in it is told as "so many"."""

    def __missing__(self, key: str) -> str:
        return "so many"


def _choices(expected: str) -> str:
    """The validator joins them by commas and "or"."""
    return expected.replace(" or ", ", ")
