"""What the source of the package says to people: its texts, with a mark where they differ from case to case.

For scripts/reference and the tests of the pages. The files are read, not run.
"""

from __future__ import annotations

import ast
import functools
import itertools
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent / "kmel_p2p"

OPEN = "…"
"""Stands where a text has what differs from case to case."""

Scope = ast.FunctionDef | ast.AsyncFunctionDef | ast.match_case | ast.Module


class Texts:
    """The source of one file, asked for its texts. A field of an f-string becomes `OPEN`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.tree = ast.parse(path.read_text("utf-8"))
        kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.match_case, ast.Module)
        self._scopes: list[Scope] = [node for node in ast.walk(self.tree) if isinstance(node, kinds)]

    def calls(self) -> Iterator[tuple[str, ast.Call]]:
        """Name of what is called, and the call, in the order of the source."""
        found = [node for node in ast.walk(self.tree) if isinstance(node, ast.Call)]
        for node in sorted(found, key=lambda one: (one.lineno, one.col_offset)):
            if isinstance(node.func, ast.Attribute):
                yield node.func.attr, node
            elif isinstance(node.func, ast.Name):
                yield node.func.id, node

    def whole(self, inside: ast.AST) -> Iterator[str]:
        """Texts in a part of the file that are no part of another one; no docstrings. White space is one blank."""
        silent = {id(inner) for node in ast.walk(inside) if _says_nothing(node) for inner in ast.walk(node)}
        for node in ast.walk(inside):
            if id(node) in silent:
                continue
            if isinstance(node, ast.JoinedStr):
                silent |= {id(piece) for piece in node.values if isinstance(piece, ast.Constant)}
            if isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str)):
                yield " ".join(self.text(node).split())

    def text(self, node: ast.expr) -> str:
        """The text that an expression makes, as far as the file shows it; of several, the last."""
        return self.texts(node)[-1]

    def texts(self, node: ast.expr) -> Sequence[str]:
        """The texts that an expression may make: a name stands for what its nearest scope assigns to it."""
        match node:
            case ast.Constant(value=str() as text):
                return (text,)
            case ast.JoinedStr(values=parts):
                return ("".join(str(part.value) if isinstance(part, ast.Constant) else OPEN for part in parts),)
            case ast.Name(id=name):
                return [text for value in self._assigned(name, node.lineno) for text in self.texts(value)] or (OPEN,)
            case ast.IfExp(body=one, orelse=other):
                return (*self.texts(one), *self.texts(other))
            case ast.BinOp(op=ast.Add(), left=left, right=right):
                return (self.text(left) + self.text(right),)
        return (OPEN,)

    def _assigned(self, name: str, line: int) -> Sequence[ast.expr]:
        inside = [scope for scope in self._scopes if _first(scope) <= line <= _last(scope)]
        for scope in sorted(inside, key=_first, reverse=True):
            found = [
                node.value
                for part in scope.body
                for node in ast.walk(part)
                if isinstance(node, ast.Assign)
                and isinstance(node.targets[0], ast.Name)
                and node.targets[0].id == name
                and node.value.lineno < line  # what is assigned to a name may be made from it
            ]
            if found or name in _bound(scope):
                return found
        return ()


def _first(scope: Scope) -> int:
    if isinstance(scope, ast.Module):
        return 0
    return scope.pattern.lineno if isinstance(scope, ast.match_case) else scope.lineno


def _last(scope: Scope) -> int:
    return (scope.body[-1].end_lineno or 0) if scope.body else 0


def _bound(scope: Scope) -> set[str]:
    """Names that a scope gets from outside: parameters of a function, captures of a case."""
    if isinstance(scope, ast.match_case):
        return {node.name for node in ast.walk(scope.pattern) if isinstance(node, ast.MatchAs) and node.name}
    if isinstance(scope, ast.Module):
        return set()
    return {node.arg for node in ast.walk(scope.args) if isinstance(node, ast.arg)}


@functools.cache
def sources() -> Sequence[Texts]:
    """Every file of the package."""
    return [Texts(path) for path in sorted(PACKAGE.rglob("*.py"))]


def texts_of_the_package() -> set[str]:
    """Every text and f-string in the package, those added up included; white space is one blank."""
    found = set()
    for source in sources():
        silent = {id(inner) for node in ast.walk(source.tree) if _says_nothing(node) for inner in ast.walk(node)}
        for node in ast.walk(source.tree):
            if isinstance(node, (ast.Constant, ast.JoinedStr, ast.BinOp)) and id(node) not in silent:
                found.add(" ".join(source.text(node).split()))
    return found


def _says_nothing(node: ast.AST) -> bool:
    """A docstring: for those who read the code."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def numbered(text: str) -> str:
    """A text as a catalogue of translations has it: `{1}`, `{2}` ... for what differs, in order."""
    count = itertools.count(1)
    return re.sub(rf"{OPEN}|\{{\w+(?:![rs])?\}}", lambda found: f"{{{next(count)}}}", text)


def alarms() -> dict[str, set[str]]:
    """Alarm -> its texts."""
    found: dict[str, set[str]] = defaultdict(set)
    for source in sources():
        for name, call in source.calls():
            if name not in ("alarm", "Alarm", "_stands") or len(call.args) < 2:
                continue
            text = call.args[2] if name == "_stands" else call.args[1]
            found[source.text(call.args[0])] |= {" ".join(one.split()) for one in source.texts(text)}
    found.pop(OPEN, None)
    return dict(sorted(found.items()))
