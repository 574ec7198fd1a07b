"""An installed component as the beginning of a package: its own modules, under another name, without what it needs not.

Public names of other packages are imported as they were; of its own package what it needs comes along.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import final

from flowmap.plugin.catalogue import Component
from flowmap.plugin.kinds import BackboneConfig, ComponentConfig
from flowmap.scaffold.closure import Closure, UncopyableError
from flowmap.scaffold.modules import Import, Module, Piece
from flowmap.scaffold.names import class_name

_WIDTH = 120
_PLACES = ("configs", "component", "contents")
"""What the module is called in a copy that was the package itself; the first that is free."""


@final
@dataclass(frozen=True)
class Copy:
    """The modules of a copied component by their paths within the package, without the one that has the hook.

    Its configuration is the class `config` in the module `home` (dotted, in the new package). `others` are the
    top-level modules of other packages that it imports.
    """

    files: Mapping[str, str]
    home: str
    config: str
    others: frozenset[str]


def as_it_is(component: Component) -> ComponentConfig:
    """Its configuration with every field left out. Raises UncopyableError if it has none, or if it cannot be copied."""
    cls = component.config
    needed = [name for name, field in cls.model_fields.items() if field.is_required()]
    if needed:
        raise UncopyableError(f"it is nothing until a recipe sets {', '.join(needed)}")
    if issubclass(cls, BackboneConfig) and cls.of_weights.__func__ is not BackboneConfig.of_weights.__func__:  # type: ignore[attr-defined]
        raise UncopyableError("it claims weights that others made, and only one backbone may claim them")
    config = cls.model_validate({"type": component.name})
    for finding in config.missing():
        raise UncopyableError(f"what it reads is not here ({finding.message.splitlines()[0].rstrip('.')})")
    return config


def copied(component: Component, name: str) -> Copy:
    """The component under the name `name`. Raises UncopyableError if it cannot be copied."""
    as_it_is(component)
    cls = component.config
    if cls.__qualname__ != cls.__name__:
        raise UncopyableError("its configuration is made within a function")
    closure = Closure(cls.__module__, cls.__name__)
    new = f"{class_name(name)}Config"
    writer = _Writer(closure, name)
    files = {writer.path(module): writer.text(module) for module in closure.modules.values()}
    if new != cls.__name__ and any(re.search(rf"\b{new}\b", text) for text in files.values()):
        raise UncopyableError(f"its code has something else that is called {new}; choose another name")
    home = writer.path(closure.modules[cls.__module__])
    files[home] = _retyped(files[home], cls.__name__, component.name, name)
    files = {path: re.sub(rf"\b{cls.__name__}\b", new, text) for path, text in files.items()}
    return Copy(files, writer.renamed(cls.__module__), new, frozenset(closure.others))


@final
class _Writer:
    """Writes the needed parts of modules, as modules of the package `name`."""

    def __init__(self, closure: Closure, name: str) -> None:
        self._closure, self._name = closure, name
        self._place = next(p for p in _PLACES if f"{closure.root}.{p}" not in closure.modules)

    def renamed(self, dotted: str) -> str:
        """What a module of the old package is called in the new one."""
        below = dotted.removeprefix(self._closure.root)
        return f"{self._name}{below or f'.{self._place}'}"

    def path(self, module: Module) -> str:
        """Its path within the new package."""
        path = "/".join(self.renamed(module.name).split(".")[1:])
        is_folder = module.is_package and module.name != self._closure.root
        return f"{path}/__init__.py" if is_folder else f"{path}.py"

    def text(self, module: Module) -> str:
        """What of it is needed, with blank lines where there were any."""
        first = module.tree.body[0] if ast.get_docstring(module.tree) is not None else None
        parts = [] if first is None else module.lines[: first.end_lineno]
        blank, block = 0, -1
        for piece in module.pieces:
            lines = module.lines[piece.first : piece.last]
            blank = max(blank, next((number for number, line in enumerate(lines) if line.strip()), 0))
            if not self._closure.kept(module, piece):
                continue
            kept = self._typing(module, piece, piece.first != block) if piece.typing else self._lines(module, piece)
            block = piece.first if piece.typing else -1
            parts += [""] * blank + "\n".join(kept).lstrip("\n").split("\n")
            blank = 0
        return "\n".join(parts).strip("\n") + "\n"

    def _typing(self, module: Module, piece: Piece, begins: bool) -> list[str]:
        """An import for types alone, the first of its block with what `begins` that."""
        assert isinstance(piece.node, Import)
        head = module.lines[piece.first : piece.node.lineno - 1]
        start = next(number for number, line in enumerate(head) if line.startswith("if "))
        anew = self._import(module, piece.node, self._closure.names[module.name])
        return [*head[: start + 1], *anew] if begins else anew

    def _lines(self, module: Module, piece: Piece) -> list[str]:
        """Its lines, with the imports of the package itself under the new name, and without names that nobody needs."""
        lines = module.lines[piece.first : piece.last]
        for node in sorted(piece.imports, key=lambda node: -node.lineno):
            needed = self._closure.names[module.name] if node is piece.node else None
            if node is piece.node and isinstance(node, ast.ImportFrom) and node.module == "__future__":
                continue
            first, last = node.lineno - 1 - piece.first, (node.end_lineno or node.lineno) - piece.first
            if self._closure.own(node, module) or (needed is not None and not _bound_by(node) <= needed):
                lines[first:last] = self._import(module, node, needed)
        return lines

    def _import(self, module: Module, node: Import, needed: Iterable[str] | None) -> list[str]:
        """The statement anew, of the names that are `needed`, or of all."""
        indent = " " * node.col_offset
        kept = [a for a in node.names if needed is None or (a.asname or a.name.split(".")[0]) in needed]
        if isinstance(node, ast.Import):
            return [f"{indent}import {_as_written(alias)}" for alias in kept]
        target = module.target(node)
        if not self._closure.own(node, module):
            return _from(indent, target, kept)
        # The package itself is another module in the copy; the modules in it are where they were.
        inside = [alias for alias in kept if f"{target}.{alias.name}" in self._closure.modules]
        folder = self.renamed(f"{target}.").removesuffix(".")
        return [
            *_from(indent, folder, inside),
            *_from(indent, self.renamed(target), [alias for alias in kept if alias not in inside]),
        ]


def _from(indent: str, target: str, aliases: Sequence[ast.alias]) -> list[str]:
    """The lines of an import from `target`; none if it is of nothing."""
    words = [_as_written(alias) for alias in aliases]
    whole = f"{indent}from {target} import {', '.join(words)}"
    if len(whole) <= _WIDTH:
        return [whole] if words else []
    return [f"{indent}from {target} import (", *(f"{indent}    {word}," for word in words), f"{indent})"]


def _as_written(alias: ast.alias) -> str:
    return alias.name if alias.asname is None else f"{alias.name} as {alias.asname}"


def _bound_by(node: Import) -> set[str]:
    return {alias.asname or alias.name.split(".")[0] for alias in node.names}


def _retyped(text: str, cls: str, old: str, new: str) -> str:
    """`text`, in which the class `cls` is the component `new`, and says so in its messages."""
    node = next(n for n in ast.parse(text).body if isinstance(n, ast.ClassDef) and n.name == cls)
    told = next((line for line in _fields(node) if line.target.id == "type"), None)  # type: ignore[union-attr]
    if told is None:
        raise UncopyableError(f"{cls} does not say itself what type it is")
    lines = text.split("\n")
    for number in range(node.lineno - 1, node.end_lineno or node.lineno):
        quotes = "[\"']" if told.lineno - 1 <= number < (told.end_lineno or told.lineno) else "'"
        lines[number] = re.sub(rf"({quotes}){re.escape(old)}\1", rf"\g<1>{new}\g<1>", lines[number])
    return "\n".join(lines)


def _fields(node: ast.ClassDef) -> Iterator[ast.AnnAssign]:
    return (part for part in node.body if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name))
