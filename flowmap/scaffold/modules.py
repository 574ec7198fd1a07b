"""The module of a package in pieces: its statements, the names that each binds, and the names that it uses."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import final

_DEFINITIONS = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
Import = ast.Import | ast.ImportFrom


@final
@dataclass(frozen=True)
class Piece:
    """A statement: its lines from `first` to before `last`, counted from 0, comments before it among them.

    `binds` are the names that it gives the module. What is `always` there cannot be left out: it does something. What
    is for types alone stands in the block `if TYPE_CHECKING`, in the lines of which the others of that block are too.
    """

    node: ast.stmt
    first: int
    last: int
    binds: frozenset[str]
    always: bool = False
    typing: bool = False

    @cached_property
    def uses(self) -> frozenset[str]:
        """Every name in it, those in strings too, which may be annotations."""
        words = (_word(node) for node in ast.walk(self.node))
        return frozenset(word for word in words if word)

    @cached_property
    def imports(self) -> tuple[Import, ...]:
        """The imports in it, at any depth."""
        return tuple(node for node in ast.walk(self.node) if isinstance(node, Import))


@final
class Module:
    """The module `name` (dotted) of the file `path`."""

    def __init__(self, name: str, path: Path) -> None:
        self.name, self.path = name, path
        self.is_package = path.name == "__init__.py"
        text = path.read_text("utf-8")
        self.lines = text.splitlines()
        self.tree = ast.parse(text)
        self.pieces = tuple(self._pieces())
        self.bound = frozenset(name for piece in self.pieces for name in piece.binds)

    def binding(self, name: str) -> Iterator[Piece]:
        """The pieces that bind `name`."""
        return (piece for piece in self.pieces if name in piece.binds)

    def target(self, node: ast.ImportFrom) -> str:
        """The dotted name of the module that `node` imports from, a relative one too."""
        if not node.level:
            return node.module or ""
        parts = self.name.split(".")
        above = parts[: len(parts) - node.level + self.is_package]
        return ".".join([*above, *([node.module] if node.module else [])])

    def _pieces(self) -> Iterator[Piece]:
        end = 0
        for place, node in enumerate(self.tree.body):
            first, end = end, self._end(place)
            if _is_text(node):
                continue  # the module's own, or it says what the name before it is, and belongs to that
            if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
                for inner in node.body:
                    yield Piece(inner, first, end, _bound(inner), typing=True)
                continue
            future = isinstance(node, ast.ImportFrom) and node.module == "__future__"
            yield Piece(node, first, end, _bound(node), always=future or not _is_plain(node))

    def _end(self, place: int) -> int:
        """The line after the statement at `place`, and after a text that follows and says what its name is."""
        body = self.tree.body
        following = body[place + 1] if place + 1 < len(body) else None
        node = following if place and following is not None and _is_text(following) else body[place]
        return node.end_lineno or 0


def _is_plain(node: ast.stmt) -> bool:
    """Whether a statement does nothing but bind names."""
    if isinstance(node, ast.Assign):
        return all(isinstance(target, ast.Name | ast.Tuple) for target in node.targets)
    if isinstance(node, ast.AnnAssign):
        return isinstance(node.target, ast.Name)
    return isinstance(node, _DEFINITIONS | Import)


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _bound(node: ast.stmt) -> frozenset[str]:
    if isinstance(node, _DEFINITIONS):
        return frozenset({node.name})
    if isinstance(node, Import):
        return frozenset(alias.asname or alias.name.split(".")[0] for alias in node.names)
    stored = {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    imported = {name for n in ast.walk(node) if isinstance(n, Import) for name in _bound(n)}
    return frozenset(stored | imported)


def _word(node: ast.AST) -> str:
    if isinstance(node, ast.Name):
        return node.id
    is_string = isinstance(node, ast.Constant) and isinstance(node.value, str)
    return node.value if is_string and node.value.isidentifier() else ""  # type: ignore[attr-defined]
