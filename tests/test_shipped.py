"""The recipes that flowmap brings: by name, each with what it says of itself, and as a copy that runs."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import pytest

from flowmap.comparison.unfold import read_comparison
from flowmap.console.commands import command_line, compare_line
from flowmap.console.pages import page, pages, title_of
from flowmap.errors import FlowmapError
from flowmap.recipe.copying import write_copy
from flowmap.recipe.read import is_comparison, read, text_of
from flowmap.recipe.shipped import Head, head_of, shipped
from tests.small_runs import flowmap

ROOT = Path(__file__).parents[1]
NAMES = sorted(path.stem for path in ROOT.glob("recipes/*.toml"))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, which is the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refusal(path: str) -> str:
    with pytest.raises(FlowmapError) as caught:
        text_of(Path(path))
    return str(caught.value)


def test_every_recipe_of_the_repository_is_found_by_its_name() -> None:
    assert list(shipped()) == NAMES
    assert all(path.parent == ROOT / "recipes" for path in shipped().values())


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_is_called_as_its_file_and_says_what_it_is(here: Path, name: str) -> None:
    text = text_of(Path(name))
    assert text == (ROOT / "recipes" / f"{name}.toml").read_text()
    assert tomllib.loads(text)["name"] == name
    head = head_of(text)
    assert all((head.about, head.takes, head.needs)), head
    assert len(head.about) < 120
    command = "compare" if is_comparison(Path(name)) else "run"
    assert re.search(rf"^#   (torchrun .* -m )?flowmap {command} {re.escape(name)}( |$)", text, re.MULTILINE)
    # A copy of a recipe lies anywhere, where no page of a clone does.
    assert "docs/" not in text


def test_a_head_is_the_first_sentence_and_two_lines() -> None:
    text = (
        "#:schema ./x.json\n\n# Wan2.1 1.3B, in words. And\n# more.\n#\n# Takes: a day.\n# Needs: a: b\n\n# Takes: no\n"
    )
    assert head_of(text) == Head("Wan2.1 1.3B, in words", "a day", "a: b")
    assert head_of("a = 1\n# Not a head.\n") == Head("", "", "")


def test_what_is_there_wins_over_a_name(here: Path) -> None:
    (here / "quickstart").write_text("mine")
    assert text_of(Path("quickstart")) == "mine"
    (here / "quickstart").unlink()
    (here / "quickstart").mkdir()
    assert text_of(Path("quickstart")) == (ROOT / "recipes/quickstart.toml").read_text()


def test_an_unknown_name_brings_the_nearest(here: Path) -> None:
    ours = f"neither a file nor one that flowmap brings: {', '.join(NAMES)}"
    assert refusal("quikstart") == f"quikstart: there is no such recipe, {ours}. Did you mean 'quickstart'?"
    assert refusal("xyzzy") == f"xyzzy: there is no such recipe, {ours}"
    (here / "mine.toml").touch()
    assert refusal("mine").endswith("Did you mean 'mine.toml'?")
    (here / "recipes").mkdir()
    (here / "recipes" / "quikstarr.toml").touch()
    assert refusal("quikstarr").endswith("Did you mean 'recipes/quikstarr.toml'?")


def test_a_path_that_a_clone_has_leads_to_the_name(here: Path) -> None:
    told = "recipes/quickstart.toml: there is no such recipe; flowmap brings one of that name: write 'quickstart'"
    assert refusal("recipes/quickstart.toml") == told
    with pytest.raises(FlowmapError, match=r"; flowmap compare compare_digits$"):
        read(Path("compare_digits"))


def test_the_command_to_go_on_has_the_name(here: Path) -> None:
    line = command_line(Path("quickstart"), ["seeds=[1]"], (), Path("runs"))
    assert line.endswith("run quickstart --set 'seeds=[1]'")
    assert compare_line([Path("compare_digits")], (), Path("runs"), None).endswith("compare compare_digits")
    code, text = flowmap(here, "run", "quickstart", "--stage", "forward")
    assert code == 1
    assert "not finished in runs/quickstart/teacher" in text
    assert "run quickstart --stage teacher && " in text


@pytest.mark.parametrize("name", NAMES)
def test_a_copy_differs_in_its_name_alone(here: Path, name: str) -> None:
    file, compares = write_copy("mine", Path(name))
    assert file == Path("mine.toml")
    text = file.read_text()
    assert tomllib.loads(text) == {**tomllib.loads(text_of(Path(name))), "name": "mine"}
    command = "compare" if compares else "run"
    assert f"flowmap {command} mine.toml" in text
    assert f"flowmap {command} {name}" not in text
    if compares:
        assert read_comparison([file])[0].name == "mine"
    else:
        assert read(file)[0].name == "mine"


def test_a_copy_of_a_copy(here: Path) -> None:
    write_copy("one", Path("quickstart"))
    file, _ = write_copy("two.toml", Path("one.toml"))
    assert file == Path("two.toml")
    assert "flowmap run two.toml" in file.read_text()


def test_a_copy_leads_an_editor_to_a_schema_that_is_there(here: Path) -> None:
    assert write_copy("one", Path("quickstart"))[0].read_text().startswith("# Real images")
    (here / "recipe.schema.json").touch()
    beside = write_copy("two", Path("quickstart"))[0].read_text()
    assert beside.startswith("#:schema ./recipe.schema.json\n\n# Real images")


@pytest.mark.parametrize(
    ("name", "source", "told"),
    [
        ("a/b", "quickstart", "'a/b' is no name for a recipe"),
        ("-x", "quickstart", "'-x' is no name for a recipe"),
        ("n" * 101, "quickstart", "is no name for a recipe: use at most 100"),
        ("quickstart", "quickstart", "brings a recipe called 'quickstart'; choose another name"),
        ("mine", "quikstart", "Did you mean 'quickstart'?"),
        ("there", "quickstart", "there.toml is there already, and is not overwritten; choose another name"),
        ("mine", "named.toml", "named.toml: has no line 'name = ...' of its own"),
    ],
)
def test_what_cannot_be_copied(here: Path, name: str, source: str, told: str) -> None:
    (here / "there.toml").symlink_to("nowhere")
    (here / "named.toml").write_text('"name" = "quoted"\n[name_of]\nname = "inner"\n')
    with pytest.raises(FlowmapError) as caught:
        write_copy(name, Path(source))
    assert told in str(caught.value)
    assert sorted(path.name for path in here.iterdir()) == ["named.toml", "there.toml"]


def test_no_message_points_into_a_clone() -> None:
    """Whoever has installed a wheel has neither docs/ nor recipes/ nor tests/ in any folder."""
    for path in [*ROOT.glob("flowmap/**/*.py"), *ROOT.glob("plugins/**/*.py")]:
        tree = ast.parse(path.read_text("utf-8"))
        # Texts that document code; a command's own is its help.
        silent = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        silent = set() if path.parent.name == "cli" else silent
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in silent:
                assert not re.search(r"\b(docs|recipes|tests)/\w", node.value), f"{path}:{node.lineno}: {node.value}"


def test_the_readme_is_short_and_names_recipes_that_there_are() -> None:
    text = (ROOT / "README.md").read_text()
    assert text.count("\n") < 120
    named = re.findall(r"^flowmap (?:run|compare|plan|check|encode) (\S+)", text, re.MULTILINE)
    assert named
    assert set(named) <= {*NAMES, "mine.toml"}


def test_messages_name_pages_that_there_are() -> None:
    named = set[str]()
    for path in [*ROOT.glob("flowmap/**/*.py"), *ROOT.glob("plugins/**/*.py")]:
        # A sentence may go on in the next line of the source.
        text = re.sub(r'"\n\s*f?"', "", path.read_text("utf-8"))
        named |= set(re.findall(r"flowmap docs ([\w.-]+)", text))
    assert {"rivals", "laws"} <= named <= set(pages())


def test_a_page_is_shown_by_the_name_that_a_message_has() -> None:
    text = (ROOT / "docs" / "rivals.md").read_text()
    assert page("rivals") == page("rivals.md#as-a-start") == text
    assert title_of(text) == "Other projects' few-step Wan students"
    assert all(title_of(path.read_text()) for path in pages().values())
    with pytest.raises(FlowmapError, match=r"no page is called 'rivaals'; there are architecture, .* mean 'rivals'\?"):
        page("rivaals")
