"""What of a package a component needs: the modules, and of each the names; whatever else is in them is left out."""

from __future__ import annotations

import ast
import sys
from collections import defaultdict
from pathlib import Path
from typing import final

from flowmap.scaffold.modules import Import, Module, Piece


class UncopyableError(Exception):
    """A component cannot be copied; the text ends a sentence: why."""


@final
class Closure:
    """What the name `name` of the module `start` needs of its own package. Raises UncopyableError if that is unclear.

    `modules` are those, by dotted name, and `names` what of each is needed; `others` are the top-level modules of other
    packages that they import.
    """

    def __init__(self, start: str, name: str) -> None:
        self.root = start.split(".", maxsplit=1)[0]
        self.modules: dict[str, Module] = {}
        self.names: dict[str, set[str]] = defaultdict(set)
        self.others: set[str] = set()
        self._waiting = [(start, name)]
        while self._waiting:
            self._need(*self._waiting.pop())
        # A package within the package is there as a folder.
        for dotted in list(self.modules):
            parts = dotted.split(".")
            for depth in range(2, len(parts)):
                self._module(".".join(parts[:depth]))

    def kept(self, module: Module, piece: Piece) -> bool:
        """Whether `piece` of `module` is needed."""
        return piece.always or bool(piece.binds & self.names[module.name])

    def own(self, node: Import, module: Module) -> bool:
        """Whether an import in `module` is of this package."""
        dotted = [module.target(node)] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
        return any(name.split(".", maxsplit=1)[0] == self.root for name in dotted)

    def _need(self, dotted: str, name: str) -> None:
        module = self._module(dotted)
        if name in self.names[dotted]:
            return
        if name not in module.bound:
            raise UncopyableError(f"{dotted} does not say in a plain way what '{name}' is")
        self.names[dotted].add(name)
        for piece in module.binding(name):
            self._follow(module, piece, name)

    def _follow(self, module: Module, piece: Piece, name: str) -> None:
        """Need what `piece` uses; of an import, what binds `name`."""
        if piece.typing:
            self._want(module, "TYPE_CHECKING")
        if "__file__" in piece.uses:
            raise UncopyableError(f"{module.name} reads files that lie beside it")
        if isinstance(piece.node, ast.Import | ast.ImportFrom):
            self._follow_import(module, piece.node, name)
            return
        for used in piece.uses & module.bound:
            self._want(module, used)
        for node in piece.imports:
            self._follow_import(module, node, None)

    def _follow_import(self, module: Module, node: Import, name: str | None) -> None:
        """Need what `node` imports under `name`, or all of it."""
        aliases = [a for a in node.names if name is None or (a.asname or a.name.split(".")[0]) == name]
        if not self.own(node, module):
            dotted = {node.module or ""} if isinstance(node, ast.ImportFrom) else {alias.name for alias in aliases}
            self.others |= {each.split(".")[0] for each in dotted} - sys.stdlib_module_names
            if dotted & {"importlib.resources", "pkgutil"} or {a.name for a in aliases} & {"pkgutil", "resources"}:
                raise UncopyableError(f"{module.name} reads files that lie beside it")
            return
        if module.lines[node.lineno - 1][: node.col_offset].strip() or (isinstance(node, ast.Import)):
            raise UncopyableError(f"{module.name}:{node.lineno} imports in a way that cannot be given another name")
        target = module.target(node)
        for alias in aliases:
            if alias.name == "*":
                raise UncopyableError(f"{module.name}:{node.lineno} imports '*', so that nobody knows what it uses")
            if self._path(f"{target}.{alias.name}") is None:
                self._want(self._module(target), alias.name)
                continue
            whole = self._module(f"{target}.{alias.name}")
            for each in whole.bound:
                self._want(whole, each)

    def _want(self, module: Module, name: str) -> None:
        self._waiting.append((module.name, name))

    def _module(self, dotted: str) -> Module:
        if dotted not in self.modules:
            path = self._path(dotted)
            if path is None:
                raise UncopyableError(f"there is no source of {dotted}")
            try:
                module = self.modules[dotted] = Module(dotted, path)
            except (OSError, SyntaxError, UnicodeDecodeError) as error:
                raise UncopyableError(f"{path} cannot be read: {error}") from None
            for piece in module.pieces:
                if piece.always:
                    self._follow(module, piece, "")
        return self.modules[dotted]

    def _path(self, dotted: str) -> Path | None:
        """The source of a module of this package; None if there is none. Imports nothing."""
        known = getattr(sys.modules.get(self.root), "__file__", None)
        if known is None or dotted.split(".", maxsplit=1)[0] != self.root:
            return None
        top = Path(known)
        if dotted == self.root:
            return top if top.suffix == ".py" else None
        if top.name != "__init__.py":
            return None
        base = top.parent.joinpath(*dotted.split(".")[1:])
        return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)
