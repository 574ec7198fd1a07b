"""docs/architecture.md says what the code does: its rooms, and which of them each imports."""

from __future__ import annotations

import ast
from pathlib import Path

from tests.duplicated_shapes import duplicates

ROOT = Path(__file__).parents[1]
CORE = ROOT / "flowmap"
PAGE = ROOT / "docs" / "architecture.md"
ALONE = {"errors", "phases", "version"}
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


def test_no_import_goes_in_a_circle() -> None:
    """In the core none at all. In a plugin a configuration may import, within `build`, what it makes."""
    for folders, everywhere in ((["flowmap"], True), (["plugins/*/*"], False)):
        assert _in_circles(_graph(folders, everywhere)) == set()


def _graph(folders: list[str], everywhere: bool) -> dict[str, set[str]]:
    """The modules below `folders`, and those of them that each imports: `everywhere`, or outside of functions only."""
    packages = [package for folder in folders for package in ROOT.glob(folder) if (package / "__init__.py").exists()]
    files = {path: _dotted(path.relative_to(package.parent)) for package in packages for path in package.rglob("*.py")}
    names = set(files.values())
    graph: dict[str, set[str]] = {}
    for path, name in files.items():
        tree = ast.parse(path.read_text("utf-8"))
        nodes = list(ast.walk(tree))
        functions = (node for node in nodes if isinstance(node, ast.FunctionDef))
        within = {inner for function in functions for inner in ast.walk(function)}
        found = [node for node in nodes if isinstance(node, ast.ImportFrom) and (everywhere or node not in within)]
        dotted = {(node.module or "", f"{node.module}.{alias.name}") for node in found for alias in node.names}
        graph[name] = {whole if whole in names else module for module, whole in dotted} & names - {name}
    return graph


def _dotted(path: Path) -> str:
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


def _in_circles(graph: dict[str, set[str]]) -> set[str]:
    """What is left when modules that import nothing that is left are taken away, again and again."""
    left = dict(graph)
    while free := [name for name, imports in left.items() if not imports & left.keys()]:
        for name in free:
            del left[name]
    return set(left)


def test_a_module_is_short_or_says_why_not() -> None:
    for path in (path for folder in ("flowmap", "plugins") for path in (ROOT / folder).rglob("*.py")):
        text = path.read_text("utf-8")
        assert text.count("\n") <= 250 or "Over 250 lines" in (ast.get_docstring(ast.parse(text)) or ""), path


def test_configurations_of_a_plugin_are_beside_its_hook() -> None:
    for path in ROOT.glob("plugins/*/*/__init__.py"):
        body = ast.parse(path.read_text("utf-8")).body
        assert [node.name for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef)] == [
            "flowmap_components"
        ]


def test_no_six_lines_stand_in_two_places() -> None:
    files = [*sorted(CORE.rglob("*.py")), *sorted((ROOT / "plugins").glob("*/*/**/*.py"))]
    assert duplicates(ROOT, files) == []


_ONE = """
def total(rows, scale):
    found = []
    for row in rows:
        if row.size > 3:
            found.append(row.size * scale)
    found.sort(reverse=True)
    return found
"""
_OTHER = """
import math

def summed(parts, weight):
    \"\"\"Another text.\"\"\"
    sizes = []
    for part in parts:
        if part.width > 1:  # of note
            sizes.append(part.width * weight)
    sizes.sort(reverse=False)
    return sizes
"""


def test_a_shape_with_other_names_is_found_and_one_that_uses_them_otherwise_is_not(tmp_path: Path) -> None:
    for text, found in (
        (_ONE, True),
        (_OTHER.replace("=False", "=True"), True),
        (_OTHER, False),
        (_OTHER.replace("=False", "=True").replace("part.width * weight", "part.height * weight"), False),
    ):
        (tmp_path / "one.py").write_text(_ONE)
        (tmp_path / "other.py").write_text(text)
        pairs = duplicates(tmp_path, [tmp_path / "one.py", tmp_path / "other.py"])
        assert bool(pairs) == found, text


def test_what_is_alike_by_nature_is_no_shape(tmp_path: Path) -> None:
    fields = "class {}:\n" + "".join(f"    {{0}}{n}: int = Field({n}, about='x')\n" for n in range(8))
    table = "\n{}s = {{\n" + "".join(f"    '{{0}}{n}': all.{{0}}{n},\n" for n in range(8)) + "}}\n"
    both = (fields + table).replace("{}", "{0}")
    (tmp_path / "one.py").write_text(both.format("One"))
    (tmp_path / "other.py").write_text(both.format("Two"))
    files = [tmp_path / "one.py", tmp_path / "other.py"]
    assert duplicates(tmp_path, files) == []
    (tmp_path / "other.py").write_text(both.format("One"))
    assert duplicates(tmp_path, files) != []  # to the letter, fields count
