"""What is public is listed, and a change to it asks for a version, a list and words in the changelog."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

import pytest

from flowmap.plugin.version import INTERFACE

from .doc_scripts import doc_script

ROOT = Path(__file__).parents[1]
listing, judging = doc_script("interface"), doc_script("interface_changes")
CHANGELOG = (ROOT / "CHANGELOG.md").read_text()
MAJOR, MINOR = map(int, INTERFACE.split("."))


def test_what_is_public_is_what_the_list_and_the_changelog_say() -> None:
    left = judging.problems((MAJOR, MINOR), listing.listed(), listing.lists(), CHANGELOG)
    assert not left, "\n".join(left)


def test_the_script_writes_it_where_it_is_not_released(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(ROOT / "docs")
    monkeypatch.setattr(listing, "LISTS", tmp_path / "interface")
    listing.main()
    assert capsys.readouterr().out == f"docs/interface/{INTERFACE}.txt is right\n"
    assert listing.lists() == {(MAJOR, MINOR): listing.listed()}
    assert len(listing.listed()) < 1e6


def test_every_name_of_the_list_can_be_imported() -> None:
    """It is read from the source; what is there is what is imported."""
    for name in listing.public_names():
        found = listing.resolved(name)
        *parts, last = name.split(".")
        module = importlib.import_module(".".join(parts))
        assert hasattr(module, last), name
        if isinstance(found.node, ast.ClassDef | ast.FunctionDef):
            assert getattr(module, last).__module__ == found.module, name


def imported(source: str) -> set[str]:
    """What of flowmap a piece of source imports, `*` left out."""
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom)]
    named = [f"{node.module}.{alias.name}" for node in nodes for alias in node.names if alias.name != "*"]
    return {name for name in named if name.startswith("flowmap.")}


def definitions(names: set[str]) -> dict[str, tuple[str, int]]:
    """Where each of them is defined, wherever it is imported from."""
    found = {name: listing.resolved(name) for name in names}
    return {name: (each.module, each.node.lineno) for name, each in found.items()}


PAGES = [*ROOT.glob("docs/*.md"), *ROOT.glob("tests/third_party/**/*.py"), ROOT / "tests/test_new_objective.py"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_others_are_shown_is_public(page: Path) -> None:
    text = page.read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL) if page.suffix == ".md" else [text]
    public = set(definitions(set(listing.public_names())).values())
    used = definitions(set().union(*map(imported, blocks)))
    assert not {name for name, where in used.items() if where not in public}


BASE = """\
# a list

a.Cond: class (ABC)
  take: abstractmethod def(self, index: Tensor) -> Cond
  join: def(self, other: Cond) -> Cond

a.Loss: final dataclass(frozen=True) class ()
  value: Tensor
  scaled: def(self, by: float) -> Loss

a.Word: = Literal['one', 'two']

a.made: def(x: int, *, y: int=1) -> str
"""

ADDITIONS = {
    "a name": ("a.Word:", "a.More: = 3\n\na.Word:"),
    "a word": ("'two'", "'two', 'three'"),
    "a method": ("  join:", "  more: def(self) -> int\n  join:"),
    "a field with a default": ("  scaled:", "  more: int = 3\n  scaled:"),
    "a default": ("value: Tensor", "value: Tensor = None"),
    "an argument of a function": ("x: int,", "x: int, z: int=3,"),
    "a keyword of a function": ("y: int=1", "y: int=1, z: int=2"),
    "an argument of a final class": ("by: float", "by: float, more: int=1"),
    "no need to write it": ("abstractmethod def(self, index", "def(self, index"),
}
BREAKS = {
    "a name": ("a.Word: = Literal['one', 'two']\n", ""),
    "a class": (BASE[BASE.index("a.Loss") : BASE.index("a.Word")], ""),
    "a word": (", 'two'", ""),
    "a method": ("  join: def(self, other: Cond) -> Cond\n", ""),
    "a method to write": ("  join:", "  more: abstractmethod def(self) -> int\n  join:"),
    "an attribute to have": ("  join:", "  more: ClassVar[int]\n  join:"),
    "a field to give": ("  scaled:", "  more: int\n  scaled:"),
    "an argument to give": ("x: int,", "x: int, z: int,"),
    "an argument in between": ("(x: int,", "(z: int=1, x: int=2,"),
    "an argument less": ("x: int, *, y: int=1", "x: int"),
    "another default": ("y: int=1", "y: int=2"),
    "another type": ("x: int,", "x: str,"),
    "another result": ("-> str", "-> int"),
    "an argument that overriders do not take": ("other: Cond)", "other: Cond, more: int=1)"),
    "another base": ("class (ABC)", "class (Any)"),
}


def changed(edit: tuple[str, str]) -> str:
    assert BASE.count(edit[0]) == 1
    return BASE.replace(*edit)


@pytest.mark.parametrize("edit", ADDITIONS.values(), ids=ADDITIONS.keys())
def test_an_addition_asks_for_a_minor_version(edit: tuple[str, str]) -> None:
    found = judging.changes(BASE, changed(edit))
    assert [change.breaks for change in found] == [False]
    assert judging.asked_for((1, 3), found) == (1, 4)


@pytest.mark.parametrize("edit", BREAKS.values(), ids=BREAKS.keys())
def test_a_break_asks_for_a_major_version(edit: tuple[str, str]) -> None:
    found = judging.changes(BASE, changed(edit))
    assert [change.breaks for change in found] == [True]
    assert judging.asked_for((1, 3), found) == (2, 0)


RELEASED = f"## 0.1.0 (2026-12-01)\n\n- Plugin interface 1.0 (list {judging.digest(BASE)}): the first.\n"
LATER = "## 0.2.0 (unreleased)\n\n- Plugin interface {}: {}\n\n"
MORE = changed(ADDITIONS["a method"])


def left(version: tuple[int, int], recomputed: str, lists: dict[tuple[int, int], str], changelog: str) -> str:
    return "\n".join(judging.problems(version, recomputed, lists, f"# Changelog\n\n{changelog}"))


def test_before_the_first_release_the_list_is_written_anew() -> None:
    text = "## 0.1.0 (unreleased)\n\n- Plugin interface 1.0: the first.\n"
    assert not left((1, 0), BASE, {(1, 0): BASE}, text)
    told = left((1, 0), MORE, {(1, 0): BASE}, text)
    difference = "\n  a.Cond.more is new (an addition)\n  run: python docs/interface.py"
    assert told == f"docs/interface/1.0.txt is not what is public:{difference}"
    assert left((1, 0), BASE, {(1, 0): BASE}, "## 0.1.0 (unreleased)\n") == (
        "CHANGELOG.md, 0.1.0 (unreleased): it needs a line '- Plugin interface 1.0: ...'"
    )


def test_a_release_says_its_list_and_the_list_stays() -> None:
    assert not left((1, 0), BASE, {(1, 0): BASE}, RELEASED)
    unsaid = RELEASED.replace(f" (list {judging.digest(BASE)})", "")
    assert f"'- Plugin interface 1.0 (list {judging.digest(BASE)})'" in left((1, 0), BASE, {(1, 0): BASE}, unsaid)
    told = left((1, 0), MORE, {(1, 0): MORE}, RELEASED)
    assert told == "docs/interface/1.0.txt is not as it was released with 0.1.0 (2026-12-01): restore it"


def test_after_a_release_a_change_needs_a_version_a_list_and_a_line() -> None:
    changelog = LATER.format("1.0", "as it was.") + RELEASED
    assert not left((1, 0), BASE, {(1, 0): BASE}, changelog)
    told = left((1, 0), MORE, {(1, 0): BASE}, changelog)
    assert "version 1.0 of the interface is released, and this is another:\n  a.Cond.more is new (an addition)" in told
    assert "set INTERFACE in flowmap/plugin/version.py to 1.1" in told
    lists = {(1, 0): BASE, (1, 1): MORE}
    told = left((1, 1), MORE, lists, LATER.format("1.1", "more.") + RELEASED)
    assert told == "CHANGELOG.md, 0.2.0 (unreleased): it does not name `a.Cond.more`, which is new"
    assert not left((1, 1), MORE, lists, LATER.format("1.1", "`Cond.more`.") + RELEASED)
    assert "1.1.txt is of no release: remove it" in left((1, 0), BASE, lists, changelog)


def test_a_break_after_a_release_needs_a_major_version() -> None:
    broken = changed(BREAKS["a method"])
    lists, changelog = {(1, 0): BASE, (1, 1): broken}, LATER.format("1.1", "`Cond.join` is gone.") + RELEASED
    assert "set INTERFACE in flowmap/plugin/version.py to 2.0" in left((1, 1), broken, lists, changelog)
    lists = {(1, 0): BASE, (2, 0): broken}
    assert not left((2, 0), broken, lists, changelog.replace("interface 1.1", "interface 2.0"))
