"""Write the list of what is public, docs/interface/VERSION.txt, from the source: `python docs/interface.py`.

Public is what the pages docs/reference-*.md show. The list says of each name what of it others depend on: arguments,
fields with their types and defaults, what is abstract. It is read from the source and nothing is imported, so it is the
same whatever Python and whatever libraries there are.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final, TypeAlias, final

ROOT = Path(__file__).parents[1]
LISTS = ROOT / "docs" / "interface"
CORE: Final = "flowmap"

_KEPT = ("final", "abstractmethod", "property", "classmethod", "staticmethod", "contextmanager")
_SPOKEN = ("__init__", "__call__", "__len__", "__iter__", "__getitem__", "__bool__", "__add__")
_FIELD_MAKERS = ("Field", "field")
_NOT_OF_THE_TYPE = ("description", "repr")

Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef


@final
@dataclass(frozen=True)
class Found:
    """Where a name is defined: in the file of `module`, by `node`."""

    module: str
    node: ast.stmt


def interface() -> str:
    """The version of the interface, which flowmap/plugin/version.py has."""
    return str(_version().value)


@cache
def _version() -> ast.Constant:
    found = resolved(f"{CORE}.plugin.version.INTERFACE")
    assert isinstance(found.node, ast.AnnAssign)
    assert isinstance(found.node.value, ast.Constant)
    return found.node.value


def public_names() -> list[str]:
    """What the reference shows, by the names under which it is imported."""
    pages = sorted(ROOT.glob("docs/reference-*.md"))
    shown = {name for page in pages for name in re.findall(r"^::: (\S+)$", page.read_text("utf-8"), re.MULTILINE)}
    return sorted(shown)


def listed() -> str:
    """The whole list."""
    lines = [f"# The plugin interface {interface()}: what is public. Written by `python docs/interface.py`."]
    for name in public_names():
        found = resolved(name)
        lines += ["", *described(name, found.node, found.module)]
    return "\n".join(lines) + "\n"


def resolved(name: str) -> Found:
    """Where the dotted `name` is defined; raises LookupError if it is nowhere."""
    parts = name.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        module = ".".join(parts[:cut])
        if _file(module) is not None:
            return _within(module, parts[cut])
    raise LookupError(f"{name} is nowhere in {CORE}")


def _within(module: str, name: str) -> Found:
    for node in _statements(module):
        if name in _defines(node):
            return Found(module, node)
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith(CORE):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return resolved(f"{node.module}.{alias.name}")
    raise LookupError(f"{module} has no {name}")


def _defines(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.ClassDef | Function):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [target.id for target in targets if isinstance(target, ast.Name)]


def _statements(module: str) -> Iterator[ast.stmt]:
    """What stands at the top of a module, and what is imported there for types alone."""
    for node in _tree(module).body:
        yield node
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            yield from node.body


@cache
def _tree(module: str) -> ast.Module:
    file = _file(module)
    assert file is not None
    return ast.parse(file.read_text("utf-8"))


def _file(module: str) -> Path | None:
    path = ROOT.joinpath(*module.split("."))
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


def described(name: str, node: ast.stmt, module: str) -> list[str]:
    """The lines of one public name: itself, and below it, indented, what of it is public."""
    if isinstance(node, ast.ClassDef):
        return [f"{name}: {_class(node)}", *(f"  {key}: {text}" for key, text in _members(node, module).items())]
    if isinstance(node, Function):
        return [f"{name}: {_function(node)}"]
    value = node.value if isinstance(node, ast.Assign | ast.AnnAssign) else None
    assert value is not None, f"{name} is nothing"
    annotation = f"{ast.unparse(node.annotation)} " if isinstance(node, ast.AnnAssign) else ""
    if value is _version():
        return [f"{name}: {annotation}str"]  # the list is of one version, and another is no change of what it lists
    return [f"{name}: {annotation}= {ast.unparse(value)}"]


def _class(node: ast.ClassDef) -> str:
    words = [text for text in map(ast.unparse, node.decorator_list) if text == "final" or text.startswith("dataclass")]
    bases = ", ".join(map(ast.unparse, (*node.bases, *(keyword.value for keyword in node.keywords))))
    return " ".join([*words, "class", f"({bases})"])


def _members(node: ast.ClassDef, module: str) -> dict[str, str]:
    """The public members of a class, and those of bases of ours that are not public themselves."""
    found: dict[str, str] = {}
    for base in node.bases:
        inherited = _private_base(base, module)
        if inherited is not None and isinstance(inherited.node, ast.ClassDef):
            found |= _members(inherited.node, inherited.module)
    for inner in node.body:
        if isinstance(inner, Function):
            name, text = inner.name, _function(inner)
        elif isinstance(inner, ast.AnnAssign) and isinstance(inner.target, ast.Name):
            name, text = inner.target.id, ast.unparse(inner.annotation) + _default(inner.value)
        elif isinstance(inner, ast.Assign) and isinstance(inner.targets[0], ast.Name):
            name, text = inner.targets[0].id, f"= {ast.unparse(inner.value)}"
        else:
            continue
        if name in _SPOKEN or not name.startswith("_"):
            found[name] = text
        if name == "__init__":
            found |= dict.fromkeys(_set_by(inner), "attribute")
    return found


def _set_by(node: ast.stmt) -> Iterator[str]:
    """The public attributes that a constructor sets."""
    for inner in ast.walk(node):
        if isinstance(inner, ast.Attribute) and isinstance(inner.ctx, ast.Store) and not inner.attr.startswith("_"):
            yield inner.attr


def _private_base(base: ast.expr, module: str) -> Found | None:
    try:
        found = _within(module, ast.unparse(base).split("[")[0])
    except LookupError:
        return None
    return None if (found.module, found.node) in _public() else found


@cache
def _public() -> set[tuple[str, ast.stmt]]:
    return {(found.module, found.node) for found in map(resolved, public_names())}


def _function(node: Function) -> str:
    words = [text for text in map(ast.unparse, node.decorator_list) if text in _KEPT]
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return " ".join([*words, f"def({ast.unparse(node.args)}){returns}"])


def _default(value: ast.expr | None) -> str:
    """The default of a field, and its bounds, but not what it is described by."""
    if value is None:
        return ""
    if isinstance(value, ast.Call) and ast.unparse(value.func) in _FIELD_MAKERS:
        kept = [keyword for keyword in value.keywords if keyword.arg not in _NOT_OF_THE_TYPE]
        value = ast.Call(value.func, value.args, kept)
    return f" = {ast.unparse(value)}"


def lists() -> dict[tuple[int, int], str]:
    """The lists that there are, by the version of the interface."""
    return {version_of(path.stem): path.read_text("utf-8") for path in LISTS.glob("*.txt")}


def version_of(text: str) -> tuple[int, int]:
    """The version that `text` names."""
    major, minor = text.split(".")
    return int(major), int(minor)


def main() -> None:
    """Write the list of this version, unless that is released; say what is still to be done."""
    from interface_changes import problems, sections

    changelog = (ROOT / "CHANGELOG.md").read_text("utf-8")
    current = version_of(interface())
    if current not in {section.interface for section in sections(changelog) if section.released}:
        LISTS.mkdir(exist_ok=True)
        (LISTS / f"{interface()}.txt").write_text(listed(), "utf-8")
    print("\n".join(problems(current, listed(), lists(), changelog)) or f"docs/interface/{interface()}.txt is right")


if __name__ == "__main__":
    main()
