"""docs/architecture.md says what the code does: its rooms, and which of them each imports."""

from __future__ import annotations

import ast
from pathlib import Path

CORE = Path(__file__).parents[1] / "flowmap"
PAGE = Path(__file__).parents[1] / "docs" / "architecture.md"
ALONE = {"errors", "phases"}
"""Modules that belong to no room."""


def rooms() -> dict[str, set[str]]:
    """The rooms of the core, and which others each imports, for types alone too."""
    packages = [path.parent for path in CORE.glob("*/__init__.py")]
    return {
        package.name: {
            part
            for path in package.rglob("*.py")
            for part in _imported(path)
            if part != package.name and (part in ALONE or (CORE / part).is_dir())
        }
        for package in packages
    }


def _imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        found |= {parts[1] for name in names if (parts := name.split("."))[0] == "flowmap" and len(parts) > 1}
    return found


def table() -> dict[str, set[str]]:
    """The same, as the page has it."""
    lines = PAGE.read_text("utf-8").split("## The way of a recipe")[0].splitlines()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("| `")]
    return {name.strip("`"): set(filter(None, imports.split(", "))) for name, _, imports in cells}


def test_the_page_has_the_rooms_and_their_imports() -> None:
    assert table() == rooms()


def test_the_picture_has_every_room_once_and_imports_go_down_in_it() -> None:
    picture = PAGE.read_text("utf-8").split("```text")[1].split("```")[0]
    height = {}
    for number, line in enumerate(picture.splitlines()):
        for word in "".join(sign if sign.isalpha() else " " for sign in line).split():
            assert word not in height
            height[word] = number
    assert set(height) == set(rooms()) | ALONE
    for room, imports in rooms().items():
        assert [lower for lower in imports if height[lower] <= height[room]] == []


def test_every_place_that_the_page_names_is_there() -> None:
    for word in PAGE.read_text("utf-8").split("`")[1::2]:
        if word.endswith(".py") and "/" in word:
            assert (CORE / word).is_file(), word
