"""`flowmap new backbone|objective|sampler|data|metric`: what is written is a package that works."""

from __future__ import annotations

import ast
import importlib
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner

from flowmap.cli.main import app
from flowmap.errors import FlowmapError
from flowmap.plugin import catalogue as installed
from flowmap.plugin.catalogue import KINDS as ALL_KINDS
from flowmap.recipe.read import read
from flowmap.scaffold import example
from flowmap.scaffold.kinds import KINDS
from flowmap.scaffold.packages import write_package
from flowmap.testing.suite import Requirements

ROOT = Path(__file__).parents[1]
COPIES = {
    "backbone": "mlp",
    "objective": "shortcut",
    "sampler": "gamma",
    "data": "digits",
    "metric": "sliced_wasserstein",
}
"""Of each kind one whose modules have neighbours that it needs, and others that it does not."""
DIGITS = {"type": "digits", "conditional": True}
BEGUN = [*((kind, None) for kind in KINDS), *COPIES.items()]

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch"),
]


@pytest.fixture
def importable(here: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], ModuleType]]:
    """Import a package that was written into the current folder; it is forgotten afterwards."""
    before = set(sys.modules)

    def imported(name: str) -> ModuleType:
        monkeypatch.syspath_prepend(here / name)
        return importlib.import_module(name)

    yield imported
    for name in set(sys.modules) - before:
        if name.split(".")[0].startswith("mine_"):
            del sys.modules[name]


def named(kind: str, source: str | None) -> str:
    return f"mine_{kind}" if source is None else f"mine_copied_{kind}"


def classes_of(name: str, *only: str) -> list[type[Requirements]]:
    """The classes of the package's own tests: all of them, or `only` some."""
    space: dict[str, Any] = {}
    exec(Path(name, "tests", f"test_{name}.py").read_text(), space)
    classes = [value for value in space.values() if isinstance(value, type) and issubclass(value, Requirements)]
    return [cls for cls in classes if cls is not Requirements and (not only or cls.__name__ in only)]


def examined(name: str, *only: str) -> dict[str, list[Any]]:
    """What becomes of each law, by the class of the package's own tests."""
    return {cls.__name__: cls.examination().outcomes() for cls in classes_of(name, *only)}


def test_every_kind_has_a_template_but_features() -> None:
    assert set(KINDS) == set(ALL_KINDS) - {"features"}


@pytest.mark.parametrize(("kind", "source"), BEGUN)
def test_a_package_can_be_used_at_once(
    kind: str, source: str | None, importable: Callable[[str], ModuleType], install: Any
) -> None:
    """Its configuration is that of the kind, its recipe one that nothing is wrong with, its folder whole."""
    name = named(kind, source)
    assert write_package(kind, name, source) == Path(name)
    (config,) = importable(name).flowmap_components()
    assert (config.kind, config.type_name()) == (kind, name)
    assert config.__name__ == "".join(part.capitalize() for part in name.split("_")) + "Config"
    install(config)
    recipe, warnings = read(Path(name, f"{name}.toml"))
    assert not warnings
    assert f'"{name}"' in recipe.model_dump_json()
    project = tomllib.loads(Path(name, "pyproject.toml").read_text())["project"]
    assert project["name"] == name.replace("_", "-")
    assert list(project["entry-points"].values()) == [{name: name}]
    assert (project["dependencies"], project["license"]) == (["flowmap"], "Apache-2.0")
    assert Path(name, "LICENSE").is_file() == (source is not None)
    written = {str(path.relative_to(name)) for path in Path(name).rglob("*") if path.is_file()}
    assert {".gitignore", ".github/workflows/test.yml", "README.md", f"tests/test_{name}.py"} <= written
    modules = {path for path in written if path.startswith(f"{name}/") and path.endswith(".py")}
    readme = Path(name, "README.md").read_text()
    assert {path for path in modules if f"| `{path}` | " in readme} == modules


@pytest.mark.parametrize(("kind", "source"), BEGUN)
def test_its_code_is_neat(kind: str, source: str | None, here: Path) -> None:
    """No name is unknown or idle, nothing private to others; a copy keeps its order."""
    name = named(kind, source)
    write_package(kind, name, source)
    # A copy's lines stand in the order that they had, and are as long as its name makes them.
    left = "F403,F405,PLR0913,PLR0917,PLC0415,PLR2004,N812,N803,N806,RUF012" + ("" if source is None else ",I001,E501")
    selected = ",".join(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]["lint"]["select"])
    words = ["--isolated", "--no-cache", "--quiet", "--line-length=120", f"--select={selected}", f"--ignore={left},D1"]
    ruff = Path(sys.executable).with_name("ruff")
    for command in (["check", *words], ["format", "--isolated", "--check", "--quiet", "--line-length=120", "--diff"]):
        if source is None or command[0] == "check":
            done = subprocess.run([ruff, *command, "."], cwd=name, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout + done.stderr
    for path in Path(name).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                assert node.module is not None
                assert not node.level
                top = node.module.split(".")[0]
                assert not any(alias.name.startswith("_") for alias in node.names) or top == name
                assert not top.startswith("flowmap_"), path


def test_templates_use_what_is_public(here: Path) -> None:
    pages = "".join(path.read_text() for path in (ROOT / "docs").glob("reference-*.md"))
    shown = set(re.findall(r"^::: (\S+)$", pages, re.MULTILINE))
    for kind in KINDS:
        write_package(kind, name := named(kind, None))
        nodes = [node for path in Path(name).rglob("*.py") for node in ast.walk(ast.parse(path.read_text()))]
        used = [
            f"{node.module}.{alias.name}"
            for node in nodes
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("flowmap.")
            for alias in node.names
        ]
        assert len(used) > 8
        assert set(used) - shown == {"flowmap.testing.suite.*"}


@pytest.mark.parametrize("kind", ["data", "metric", "objective", "sampler"])
def test_a_template_keeps_every_law(kind: str, importable: Callable[[str], ModuleType]) -> None:
    write_package(kind, name := named(kind, None))
    importable(name)
    for outcomes in examined(name).values():
        assert {o.check.name: o.sentence for o in outcomes if o.status != "passed"} == {}


def test_the_backbone_that_is_copied_is_right(importable: Callable[[str], ModuleType]) -> None:
    """As adapters it keeps every law but those of texts, of pictures and of frames one after the other."""
    write_package("backbone", name := named("backbone", None))
    importable(name)
    outcomes = examined(name, "Adapted")["Adapted"]
    assert [o.sentence for o in outcomes if o.status in ("failed", "not run")] == []
    others = {"text", "pictured", "causal", "context"}
    assert all(others & set(o.check.needs) for o in outcomes if o.status != "passed")
    # Of whole networks what adapters on one base have by themselves.
    (whole,) = classes_of(name, "Whole")
    (law,) = [case for case in whole.examination().cases() if case.name == "student_starts_as_its_teacher"]
    assert law.outcome().status == "passed", law.outcome().sentence


def test_the_split_that_is_copied_is_one(importable: Callable[[str], ModuleType]) -> None:
    write_package("data", name := named("data", None))
    (config,) = importable(name).flowmap_components()
    source = config().build()
    rows = [{row.numpy().tobytes() for row in source.reference(split, 10**6).x} for split in ("train", "held_out")]
    assert (len(rows[0]), len(rows[1]), len(rows[0] & rows[1])) == (1600, 400, 0)


def test_a_copy_keeps_every_law(importable: Callable[[str], ModuleType]) -> None:
    write_package("sampler", name := named("sampler", "gamma"), "gamma")
    importable(name)
    for outcomes in examined(name).values():
        assert [o.sentence for o in outcomes if o.status in ("failed", "not run")] == []


def test_a_copy_has_the_fields_of_the_original_and_says_its_own_name(importable: Callable[[str], ModuleType]) -> None:
    from flowmap_mlp.configs import MlpConfig

    write_package("backbone", "mine_mlp", "mlp")
    (config,) = importable("mine_mlp").flowmap_components()
    fields, theirs = ({k: v for k, v in c.model_fields.items() if k != "type"} for c in (config, MlpConfig))
    assert {k: (v.annotation, v.default, v.description) for k, v in fields.items()} == {
        k: (v.annotation, v.default, v.description) for k, v in theirs.items()
    }
    assert typing.get_args(config.model_fields["type"].annotation) == ("mine_mlp",)
    from flowmap.plugin import SampleSpec

    (finding,) = config().findings(SampleSpec((3, 1, 8, 8)))
    assert finding.message == "'mine_mlp' takes single frames; these data have 3"
    readme = Path("mine_mlp/README.md").read_text()
    assert "It began as a copy of `mlp` of flowmap " in readme
    assert "under Apache-2.0; its terms are in `LICENSE`." in readme
    assert Path("mine_mlp/LICENSE").read_text() == (ROOT / "LICENSE").read_text()


def test_a_copy_begins_with_data_that_it_takes(here: Path, install: Any) -> None:
    """Findings do not say of every backbone that it takes no class labels."""
    from flowmap_gaussian.configs import GaussianConfig

    class PlainConfig(GaussianConfig):
        """Exact, by another name."""

        type: Any = "plain"

    install(PlainConfig)
    for source, data in (("gaussian", "gaussian"), ("plain", "checkerboard"), ("mlp", DIGITS)):
        found = next(c for c in installed.catalogue().components if (c.kind, c.name) == ("backbone", source))
        shown = example.of_copy(found.config.model_validate({"type": source}), "mine", installed.catalogue())
        told = tomllib.loads(f"data = {shown.data}")["data"]
        assert told == data
        assert ("cfg_scale" in shown.objective) == (source == "mlp")


def test_the_commands_of_a_readme_are_commands(here: Path) -> None:
    for kind in KINDS:
        write_package(kind, name := named(kind, None))
        text = Path(name, "README.md").read_text() + Path(name, ".github/workflows/test.yml").read_text()
        lines = re.findall(r"^(?:      - run: )?(flowmap [^#\n]+)", text, re.MULTILINE)
        assert len(lines) == 5
        for line in lines:
            command: Any = typer.main.get_command(app)
            words = shlex.split(line)[1:]
            command.commands[words[0]].make_context(words[0], words[1:])
            assert all((Path(name) / word).is_file() for word in words if word.endswith(".toml"))
        assert tomllib.loads(re.findall(r"```toml\n(.*?)```", text, re.DOTALL)[0])
        assert Path(name, "pyproject.toml").read_text().count("\ntest = [") == 1
        # In the README, and in the CI file.
        assert text.count("pip install -e '.[test]'") == 2
        assert "index-url" not in text


# --- what is refused


def refusal(*words: str, code: int = 2) -> str:
    done = CliRunner().invoke(app, ["new", *words])
    assert isinstance(done.exception, FlowmapError), done.output
    assert done.exception.code == code
    message = str(done.exception)
    assert "\n" not in message
    assert list(Path().iterdir()) == []
    return message


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("My-UNet", "'My-UNet' is no name for a package, .*beginning with a letter: 'my_unet', say$"),
        ("my unet", ": 'my_unet', say$"),
        ("2d", "is no name for a package, .* beginning with a letter$"),
        ("class", "is no name for a package"),
        ("_mine", ": 'mine', say$"),
        ("mine_", ": 'mine', say$"),
        ("a__b", ": 'a_b', say$"),
        ("münze", "is no name for a package"),
        ("../mine", ": 'mine', say$"),
        ("", "^'' is no name for a package"),
        ("a" * 101, "at most 100 lower-case letters"),
        ("json", "'json' is a module of Python's own, which a package of that name would hide; choose another name$"),
        ("tests", "'tests' is a folder that every package has"),
        ("torch", "'torch' is installed here already, by torch, which"),
        ("flowmap", "'flowmap' is installed here already, by flowmap, which"),
        ("scikit_learn", "'scikit_learn' is installed here already, by scikit-learn, which"),
        ("sklearn", "by scikit-learn"),
        ("euler", r"^a sampler of flowmap \S+ is called 'euler' already; choose another name$"),
        ("digits", r"^a data source of flowmap \S+ is called 'digits' already"),
        ("flow_map", r"^an objective of flowmap \S+ is called 'flow_map' already"),
    ],
)
def test_a_name_that_nothing_can_have_is_refused(name: str, words: str, here: Path) -> None:
    assert re.search(words, refusal("sampler", "--", name))


def test_a_module_without_metadata_is_not_hidden(here: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    place = tmp_path.parent / f"{tmp_path.name}-path"
    place.mkdir()
    (place / "lonely.py").touch()
    (place / "folder").mkdir()
    monkeypatch.syspath_prepend(place)
    assert f"'lonely' is installed here already, by {place / 'lonely.py'}" in refusal("metric", "lonely")
    assert write_package("metric", "folder") == Path("folder")


def test_nothing_is_overwritten(here: Path) -> None:
    Path("mine").mkdir()
    Path("mine/kept").write_text("kept")
    Path("also").symlink_to("nowhere")
    for name in ("mine", "also"):
        with pytest.raises(FlowmapError, match=f"^{name} is there already, and is not overwritten; choose another"):
            write_package("metric", name)
    assert [str(path) for path in Path("mine").iterdir()] == ["mine/kept"]


def test_nothing_is_left_of_a_package_that_could_not_be_written(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, text: str, **_: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    assert "the disk is full" in refusal("metric", "mine", code=1)


@pytest.mark.parametrize(
    ("kind", "source", "words"),
    [
        ("sampler", "eulr", r"^unknown sampler 'eulr'; allowed: .*\. Did you mean 'euler'\?$"),
        ("sampler", "mlp", "^unknown sampler 'mlp'; allowed: consistency, "),
        (
            "backbone",
            "sd3",
            "^backbone 'sd3' cannot be copied: it is nothing until a recipe sets weights; these can be: gaussian, "
            "mlp. ",
        ),
        ("data", "images", "it is nothing until a recipe sets path; these can be: checkerboard, digits, gaussian. "),
        (
            "metric",
            "kid",
            r"^metric 'kid' cannot be copied: what it reads is not here \(.*; these can be: class_accuracy, ",
        ),
        ("data", "moving_digits", "the backbone 'mlp', with which a copy begins, does not take its samples"),
    ],
)
def test_what_cannot_be_copied_is_refused_and_what_can_be_is_said(
    kind: str, source: str, words: str, here: Path
) -> None:
    assert re.search(words, refusal(kind, "mine", "--from", source))


# --- installed, as a user does it


OFFLINE = ("--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check")


def caller(place: Path) -> Callable[..., str]:
    """Run a module as a user does who has `place`/site installed; what it prints."""
    env = {**os.environ, "PYTHONPATH": f"{place / 'site'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    env |= {"COLUMNS": "200", "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}

    def call(*words: str, cwd: Path = place) -> str:
        command = [sys.executable, "-m", *words]
        done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return call


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "source"), [*BEGUN, ("objective", "backward_simulation")])
def test_a_package_is_installed_passes_its_tests_and_runs(kind: str, source: str | None, tmp_path: Path) -> None:
    name, site, call = named(kind, source), tmp_path / "site", caller(tmp_path)
    told = call("flowmap", "new", kind, name, *(() if source is None else ("--from", source)))
    assert "pytest" in told
    folder = tmp_path / name
    call("pip", "install", *OFFLINE, "--target", str(site), str(folder))
    # Not from the folder: what was installed.
    (folder / name).rename(folder / "hidden")
    assert " passed" in call("pytest", "-q", "-p", "no:cacheprovider", cwd=folder)
    assert "All laws that apply are kept." in call("flowmap", "plugins", "check", name, cwd=folder)
    assert "rehearsed in" in call("flowmap", "run", f"{name}.toml", "--rehearse", cwd=folder)


STAGES = """
name = "three"
data = "mine_data"
backbone = { type = "mine_backbone", width = 16, depth = 2, rank = 2 }

[[stages]]
name = "teacher"
steps = 4
batch = 8
objective = { type = "flow_matching", drop_condition = 0.1 }

[[stages]]
name = "forward"
steps = 3
batch = 8
objective = { type = "mine_objective", cfg_scale = 2.0 }
roles.student.from = "teacher"
roles.teacher.from = "teacher"

[[stages]]
name = "on_policy"
steps = 2
batch = 8
objective = { type = "backward_simulation", rollout_steps = [1, 2], forward = "mine_objective" }
roles.student.from = "forward"
roles.teacher.from = "teacher"
roles.critic.from = "teacher"

[evaluation]
teacher = "teacher"
teacher_calls = 4
calls = [1, 2]
samples = 24
metrics = ["mine_metric", "frechet_pixels"]
contests = [{ stage = "on_policy", samplers = ["mine_sampler", "flow_map"] }]
"""

CONTEST = """
name = "both"
seeds = [0, 1]
budget = { by = "steps", amount = 2 }
[recipe]
data = "mine_data"
backbone = { type = "mine_backbone", width = 16, depth = 2 }
[recipe.evaluation]
teacher = "teacher"
teacher_calls = 2
calls = [1]
samples = 8
repeats = 2
metrics = ["mine_metric"]
[[recipe.stages]]
name = "teacher"
steps = 2
batch = 8
objective = "flow_matching"
[stage]
batch = 8
roles.student.from = "teacher"
roles.teacher.from = "teacher"
[[contestants]]
name = "mine"
samplers = ["mine_sampler"]
stages = [{ objective = "mine_objective" }]
[[contestants]]
name = "theirs"
samplers = ["flow_map"]
stages = [{ objective = "discrete_flow_map" }]
"""


@pytest.mark.slow
def test_five_packages_train_through_three_stages_and_stand_in_a_comparison(tmp_path: Path) -> None:
    site, call = tmp_path / "site", caller(tmp_path)
    for kind in KINDS:
        call("flowmap", "new", kind, name := named(kind, None))
        call("pip", "install", *OFFLINE, "--target", str(site), f"./{name}")
    (tmp_path / "three.toml").write_text(STAGES)
    (tmp_path / "both.toml").write_text(CONTEST)
    assert "parameters" in call("flowmap", "plan", "three.toml")
    call("flowmap", "run", "three.toml")
    scores = [json.loads(line) for line in (tmp_path / "runs/three/metrics.jsonl").read_text().splitlines()]
    assert {(s["sampler"], s["nfe"]) for s in scores if (s["stage"], s["metric"]) == ("on_policy", "mine_metric")} == {
        (sampler, calls) for sampler in ("mine_sampler", "flow_map") for calls in (1, 2)
    }
    call("flowmap", "sample", "runs/three", "--class", "2", "--nfe", "2", "--out", "made")
    assert (tmp_path / "made.png").is_file()
    assert "comparison.html" in call("flowmap", "compare", "both.toml")
