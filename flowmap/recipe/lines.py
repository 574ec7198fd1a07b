"""Find the line of a field in a TOML file, so that an error can point at it."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from functools import lru_cache
from typing import TypeAlias

import tree_sitter
import tree_sitter_toml

Path: TypeAlias = tuple[str | int, ...]


def line_of(source: str, path: Path) -> int:
    """The 1-based line where `path` is first set in `source`; that of its nearest parent if it is not set."""
    lines = _index(source)
    while path and path not in lines:
        path = path[:-1]
    return lines.get(path, 1)


@lru_cache(maxsize=8)
def _index(source: str) -> dict[Path, int]:
    lines: dict[Path, int] = {}
    for path, line in _lines(source):
        lines.setdefault(path, line)
    # What only `[a.b]` or `[[a]]` brings into being, `a`, begins there.
    for path, line in list(lines.items()):
        for length in range(1, len(path)):
            lines.setdefault(path[:length], line)
    return lines


def _lines(source: str) -> Iterator[tuple[Path, int]]:
    parser = tree_sitter.Parser(tree_sitter.Language(tree_sitter_toml.language()))
    tables: dict[Path, int] = {}
    for node in parser.parse(source.encode()).root_node.named_children:
        if node.type == "pair":
            yield from _pair(node, ())
        elif node.type in ("table", "table_array_element"):
            path = _inside_arrays(_keys(node.named_children[0]), tables)
            if node.type == "table_array_element":
                tables[path] = tables.get(path, -1) + 1
                path = (*path, tables[path])
            yield path, node.start_point.row + 1
            for child in node.named_children[1:]:
                if child.type == "pair":
                    yield from _pair(child, path)


def _inside_arrays(keys: Path, arrays: dict[Path, int]) -> Path:
    """Insert the index of the latest element of every array of tables that `keys` passes through."""
    path: Path = ()
    for position, key in enumerate(keys):
        path = (*path, key)
        if path in arrays and position < len(keys) - 1:
            path = (*path, arrays[path])
    return path


def _pair(node: tree_sitter.Node, parent: Path) -> Iterator[tuple[Path, int]]:
    key, value = (child for child in node.named_children if child.type != "comment")
    path = parent
    for part in _keys(key):
        path = (*path, part)
        yield path, node.start_point.row + 1
    yield from _value(value, path)


def _value(node: tree_sitter.Node, path: Path) -> Iterator[tuple[Path, int]]:
    if node.type == "inline_table":
        for child in node.named_children:
            if child.type == "pair":
                yield from _pair(child, path)
    elif node.type == "array":
        for index, child in enumerate(c for c in node.named_children if c.type != "comment"):
            yield (*path, index), child.start_point.row + 1
            yield from _value(child, (*path, index))


def _keys(node: tree_sitter.Node) -> Path:
    if node.type == "dotted_key":
        return tuple(key for child in node.named_children for key in _keys(child))
    text = (node.text or b"").decode()
    return (next(iter(tomllib.loads(f"{text} = 0"))) if node.type == "quoted_key" else text,)
