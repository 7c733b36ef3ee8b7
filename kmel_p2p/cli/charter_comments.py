"""A charter's text with a comment above every setting: what the field says of itself where it is declared."""

from __future__ import annotations

import ast
import functools
import inspect
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

import pydantic
import tomli_w

from kmel_p2p.agreement.canonical import plain
from kmel_p2p.agreement.charter import CharterDocument
from kmel_p2p.agreement.strict import StrictModel
from kmel_p2p.cli.language import say
from kmel_p2p.cli.wide_help import lines

WIDTH = 100


def commented(document: CharterDocument) -> str:
    """TOML that `CharterDocument.parse` reads back to an equal document, each setting below its explanation.

    The explanations are in the language of this process.

    Of several sites or assay endpoints, the first is explained.
    """
    lines = [*_table(document.charter, "charter", explained=True)]
    if document.signatures:
        lines += ["", tomli_w.dumps({"signatures": dict(sorted(document.signatures.items()))}).rstrip("\n")]
    return "\n".join(lines).lstrip("\n") + "\n"


def explanations(model: type[pydantic.BaseModel]) -> Mapping[str, str]:
    """Field -> what its declaration says, of a model and those that it is made from; a line each, unwrapped."""
    found: dict[str, str] = {}
    for ancestor in reversed(model.__mro__):
        if isinstance(ancestor, type) and issubclass(ancestor, StrictModel) and ancestor is not StrictModel:
            found |= _declared(ancestor)
    return found


@functools.cache
def _declared(model: type[pydantic.BaseModel]) -> Mapping[str, str]:
    """The strings below the fields in the source of a class: Python itself forgets them."""
    body = ast.parse(textwrap.dedent(inspect.getsource(model))).body[0]
    assert isinstance(body, ast.ClassDef)
    found = {}
    for field, below in zip(body.body, body.body[1:], strict=False):
        named = isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        says = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant) and type(below.value.value) is str
        if named and says:
            found[field.target.id] = " ".join(below.value.value.split())  # type: ignore[attr-defined]
    return found


def _table(model: StrictModel, path: str, explained: bool, listed: bool = False) -> Iterator[str]:
    """One table: its own settings, then the tables in it, then those of which there are several."""
    written: Mapping[str, Any] = plain(model.model_dump(mode="python"))
    says = explanations(type(model)) if explained else {}
    values = {name: getattr(model, name) for name in written}
    inner = {name: value for name, value in values.items() if isinstance(value, StrictModel)}
    lists = {name: value for name, value in values.items() if _tables(value)}
    yield ""
    yield f"[[{path}]]" if listed else f"[{path}]"
    for name in (name for name in written if name not in inner and name not in lists):
        if text := says.get(name):
            yield from (f"# {line}" for line in lines(say(text).replace("`", "").split(), WIDTH - 2))
        yield tomli_w.dumps({name: written[name]}).rstrip("\n")
    for name, rows in lists.items():
        for number, row in enumerate(rows):
            yield from _table(row, f"{path}.{name}", explained and number == 0, listed=True)
    for name, table in inner.items():
        yield from _table(table, f"{path}.{name}", explained)


def _tables(value: Any) -> bool:
    return isinstance(value, tuple) and bool(value) and all(isinstance(item, StrictModel) for item in value)
