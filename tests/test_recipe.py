"""Recipes that are right: defaults, `--set`, locks, folders, and the lines that errors point at."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import tomli_w
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field

from flowmap.comparison.unfold import read_comparison
from flowmap.errors import FlowmapError
from flowmap.plugin import Config, SamplerConfig
from flowmap.recipe.layout import StagePlan, make_plan
from flowmap.recipe.lines import line_of
from flowmap.recipe.read import is_comparison, read
from flowmap.recipe.recipe import Recipe

from .conftest import TINY, edited

RECIPES = sorted((Path(__file__).parent.parent / "recipes").glob("*.toml"))

KNOWN_WARNINGS = {
    # These show what goes wrong without a forward objective.
    "digits_full.toml": ["stages.on_policy_alone.objective.forward", "stages.consistency_dmd.objective.forward"],
    "ablation_on_policy.toml": ["contestants.on_policy_alone.stages.0.objective.forward"],
    "compare_digits.toml": [
        "contestants.dmd2.stages.1.objective.forward",
        "contestants.causvid.stages.1.objective.forward",
    ],
    # Their question is about long rollouts.
    "ablation_unrolling.toml": [
        f"contestants.{name}.stages.0.objective.rollout_steps" for name in ("segments", "full")
    ],
    # As published.
    "compare_moving_digits.toml": [
        "contestants.anyflow_forward.stages.0.objective.tangent.step",
        "contestants.anyflow_on_policy.stages.forward.objective.tangent.step",
        "contestants.anyflow_on_policy.stages.1.objective.forward.tangent.step",
    ],
    **{
        f"anyflow_{name}.toml": [
            "stages.forward.objective.tangent.step",
            "stages.on_policy.objective.rollout_steps",
            "stages.on_policy.objective.forward.tangent.step",
        ]
        for name in ("wan_1.3b", "wan_14b", "far_1.3b", "far_14b", "wan_i2v_14b")
    },
}

LINE = """\
name = "line"
seeds = {seeds}
data = "checkerboard"
backbone = "mlp"

[[stages]]
name = "teacher"
steps = 10
batch = 8
objective = "flow_matching"

[[stages]]
name = "forward"
steps = 10
batch = 8
objective = "flow_map"
roles.student.from = "teacher"

[[stages]]
name = "on_policy"
steps = 10
batch = 8
objective = {{ type = "backward_simulation", forward = "flow_map" }}
roles.student.from = "forward"

[[stages]]
name = "other"
steps = 10
batch = 8
objective = "consistency"
roles.teacher.from = "teacher"

[evaluation]
teacher = "teacher"
metrics = ["frechet_pixels"]
contests = [{{ stage = "forward", samplers = ["flow_map"] }}]
"""


def recipe(here: Path, text: str, *overrides: str) -> Recipe:
    (here / "r.toml").write_text(text)
    return read(Path("r.toml"), overrides)[0]


def stages(here: Path, *overrides: str, seeds: str = "[0]") -> dict[tuple[str, int], StagePlan]:
    plan = make_plan(recipe(here, LINE.format(seeds=seeds), *overrides), Path("runs"))
    return {(stage.stage.name, stage.seed): stage for stage in plan.stages}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_shipped_recipes_are_right(path: Path) -> None:
    checked, warnings = read_comparison([path]) if is_comparison(path) else read(path)
    assert [warning.split(": ")[1] for warning in warnings] == KNOWN_WARNINGS.get(path.name, [])
    assert checked.name == path.stem


@pytest.mark.parametrize("path", [path for path in RECIPES if is_comparison(path)], ids=lambda path: path.name)
def test_shipped_comparisons_say_what_they_cannot_show(path: Path) -> None:
    assert "It cannot show" in read_comparison([path])[0].about


def test_defaults(here: Path) -> None:
    checked = recipe(here, LINE.format(seeds="[0]").split("[evaluation]")[0].replace("seeds = [0]\n", ""))
    assert checked.seeds == (0,)
    assert checked.evaluation is None
    assert (checked.compute.device, checked.compute.precision, checked.compute.trackers) == ("auto", "no", ())
    assert (checked.checkpoints.every, checked.checkpoints.keep) == (1000, 2)
    teacher = checked.stage("teacher")
    assert (teacher.optimizer.lr, teacher.optimizer.betas, teacher.optimizer.weight_decay) == (1e-3, (0.9, 0.999), 0.0)
    assert (teacher.ema.decay, teacher.ema.start, teacher.clip, teacher.roles) == (0.999, 0, 1.0, {})
    assert checked.stage("forward").roles["student"].weights == "ema"


def test_stages_that_build_on_one_another_in_many_ways_are_found_once_each(here: Path) -> None:
    """Two roles from the stage before double the ways back at every stage: one by one they are 2^62."""
    stage = """
[[stages]]
name = "s{n}"
steps = 10
batch = 8
objective = "{objective}"
roles = {{ student.from = "s{before}", first.from = "s{before}" }}
"""
    first = stage.split("roles", maxsplit=1)[0].format(n=0, objective="consistency_training")
    text = 'name = "long"\ndata = "digits"\nbackbone = "mlp"\n' + first
    text += "".join(stage.format(n=n, before=n - 1, objective="tcm") for n in range(1, 64))
    plan = make_plan(recipe(here, text), Path("runs"))
    assert [len(one.lock["stages"]) for one in plan.stages] == list(range(1, 65))


def test_a_role_that_is_not_named_starts_from_the_base(here: Path) -> None:
    plan = stages(here)["other", 0]
    assert plan.role("student").from_ == "base"
    assert plan.role("teacher").from_ == "teacher"
    assert plan.sources == {"teacher": Path("runs/line/teacher")}


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("stages.teacher.clip=0", ("clip", 0.0)),
        ("stages.teacher.ema.decay=0", ("ema.decay", 0.0)),
        ("stages.teacher.optimizer.betas=[0, 0.9]", ("optimizer.betas", (0.0, 0.9))),
        ("stages.teacher.objective.times.mean=0", ("objective.times.mean", 0.0)),
    ],
)
def test_a_zero_that_is_legal_survives(setting: str, value: tuple[str, Any], here: Path) -> None:
    field, expected = value
    checked = recipe(here, TINY, setting)
    node: Any = checked.stage("teacher")
    for part in field.split("."):
        node = getattr(node, part)
    assert node == expected
    again = Recipe.model_validate(tomllib.loads(tomli_w.dumps(checked.model_dump(by_alias=True, exclude_none=True))))
    assert again == checked


def dump(here: Path, *overrides: str) -> dict[str, Any]:
    text = edited(("frechet_pixels", "frechet_teacher"), ("[data]", "seeds = [0]\n[data]"))
    return recipe(here, text, *overrides).as_tables()


SETTINGS: dict[str, tuple[str, list[str | int], Any]] = {
    "whole number": ("stages.teacher.steps=25", ["stages", 0, "steps"], 25),
    "spaces": (" stages . teacher . steps = 25 ", ["stages", 0, "steps"], 25),
    "by position": ("stages.1.steps=25", ["stages", 1, "steps"], 25),
    "number": ("stages.teacher.optimizer.lr=1e-4", ["stages", 0, "optimizer", "lr"], 1e-4),
    "true": ("stages.student.objective.rebalance=false", ["stages", 1, "objective", "rebalance"], False),
    "bare word": ("name=other", ["name"], "other"),
    "bare words that are no TOML": ("name=v1.5-b", ["name"], "v1.5-b"),
    "quoted": ('name="1.5"', ["name"], "1.5"),
    "array": ("seeds=[1, 2]", ["seeds"], [1, 2]),
    "element": ("seeds.0=7", ["seeds"], [7]),
    "table": (
        "stages.student.objective.branches={diffusion=0.3}",
        ["stages", 1, "objective", "branches"],
        {"diffusion": 0.3, "consistency": 0.25},
    ),
    "tables on the way": ("compute.device=cpu", ["compute", "device"], "cpu"),
    "tables on the way of a component": (
        "stages.student.objective.tangent.method=jvp",
        ["stages", 1, "objective", "tangent", "method"],
        "jvp",
    ),
    "field of a component named by a bare word": (
        "stages.teacher.objective.times.mean=0.5",
        ["stages", 0, "objective", "times", "mean"],
        0.5,
    ),
    "component": ("backbone=gaussian", ["backbone", "type"], "gaussian"),
    "contest by its stage": (
        "evaluation.contests.student.weights=raw",
        ["evaluation", "contests", 0, "weights"],
        "raw",
    ),
    "metric by its name": (
        "evaluation.metrics.semigroup=nearest_train",
        ["evaluation", "metrics", 1, "type"],
        "nearest_train",
    ),
    "field of a metric by its name": (
        "evaluation.metrics.frechet_teacher.space=pixels",
        ["evaluation", "metrics", 0, "space"],
        "pixels",
    ),
}


@pytest.mark.parametrize(("setting", "path", "expected"), SETTINGS.values(), ids=SETTINGS.keys())
def test_set(setting: str, path: list[str | int], expected: Any, here: Path) -> None:
    node: Any = dump(here, setting)
    for part in path:
        node = node[part]
    assert node == expected


def test_a_value_may_contain_an_equals_sign(here: Path) -> None:
    with pytest.raises(FlowmapError, match=r"^--set name=a=b: name: 'a=b' is not a name"):
        recipe(here, TINY, "name=a=b")


def test_a_value_cannot_bring_in_more_fields(here: Path) -> None:
    with pytest.raises(FlowmapError, match="must be a whole number, not"):
        recipe(here, TINY, "stages.teacher.steps=3\nclip = 0")


def test_the_last_set_counts_and_the_file_is_untouched(here: Path) -> None:
    assert recipe(here, TINY, "stages.teacher.steps=3", "stages.teacher.steps=4").stage("teacher").steps == 4
    assert (here / "r.toml").read_text() == TINY


def test_a_recipe_survives_its_own_dump(here: Path) -> None:
    checked = recipe(here, LINE.format(seeds="[3, 4]"))
    assert Recipe.model_validate(checked.as_tables()) == checked


def test_stage_raises_for_an_unknown_name(here: Path) -> None:
    with pytest.raises(KeyError):
        recipe(here, TINY).stage("nobody")


def locked_stages(plan: StagePlan) -> list[str]:
    return [stage["name"] for stage in plan.lock["stages"]]


def test_a_lock_holds_a_stage_and_all_that_it_comes_from(here: Path) -> None:
    plans = stages(here)
    assert locked_stages(plans["teacher", 0]) == ["teacher"]
    assert locked_stages(plans["forward", 0]) == ["teacher", "forward"]
    assert locked_stages(plans["on_policy", 0]) == ["teacher", "forward", "on_policy"]
    assert locked_stages(plans["other", 0]) == ["teacher", "other"]
    assert set(plans["teacher", 0].lock) == {"seed", "data", "backbone", "precision", "stages"}
    objective = plans["on_policy", 0].lock["stages"][2]["objective"]
    assert objective["forward"]["branches"] == {"diffusion": 0.5, "consistency": 0.25}  # defaults are locked too


CHANGES = {
    "stages.teacher.steps=11": {"teacher", "forward", "on_policy", "other"},
    "stages.forward.steps=11": {"forward", "on_policy"},
    "stages.forward.objective.shift=2": {"forward", "on_policy"},
    "stages.on_policy.roles.critic.optimizer.lr=0.1": {"on_policy"},
    "stages.other.clip=0": {"other"},
    "backbone.width=16": {"teacher", "forward", "on_policy", "other"},
    "data=gaussian": {"teacher", "forward", "on_policy", "other"},
    "compute.precision=bf16": {"teacher", "forward", "on_policy", "other"},
    "compute.device=cpu": set(),
    "compute.trackers=['tensorboard']": set(),
    "checkpoints.every=3": set(),
    "evaluation.samples=3": set(),
    "evaluation.contests.forward.weights=raw": set(),
    "name=renamed": set(),
}


@pytest.mark.parametrize(("setting", "changed"), CHANGES.items(), ids=CHANGES.keys())
def test_a_lock_changes_exactly_with_what_the_stage_depends_on(setting: str, changed: set[str], here: Path) -> None:
    before, after = stages(here), stages(here, setting)
    assert {name for name, seed in before if before[name, seed].lock != after[name, seed].lock} == changed


def test_a_lock_survives_toml(here: Path) -> None:
    for plan in stages(here).values():
        assert tomllib.loads(tomli_w.dumps(plan.lock)) == plan.lock


def test_folders(here: Path) -> None:
    one, two = stages(here), stages(here, seeds="[3, 5]")
    assert one["forward", 0].folder == Path("runs/line/forward")
    assert list(two) == [(name, seed) for seed in (3, 5) for name in ("teacher", "forward", "on_policy", "other")]
    assert two["forward", 5].folder == Path("runs/line/seed-5/forward")
    assert two["on_policy", 5].sources == {
        "student": Path("runs/line/seed-5/forward"),
    }
    assert {plan.lock["seed"] for (_, seed), plan in two.items() if seed == 5} == {5}


def test_find_raises_for_what_is_not_planned(here: Path) -> None:
    plan = make_plan(recipe(here, TINY), Path("runs"))
    assert plan.find("student", 0).stage.name == "student"
    for stage, seed in (("nobody", 0), ("student", 1)):
        with pytest.raises(KeyError):
            plan.find(stage, seed)


class FileConfig(Config):
    """A plugin's field that TOML has no type for."""

    weights: Annotated[Path, Field(strict=False)]
    pairs: tuple[tuple[int, float], ...] = ()


def test_a_field_may_ask_to_be_converted() -> None:
    config = FileConfig.model_validate({"weights": "a/b.safetensors", "pairs": [[1, 0.5], [2, 1]]})
    assert config == FileConfig(weights=Path("a/b.safetensors"), pairs=((1, 0.5), (2, 1.0)))
    assert hash(config) == hash(config.model_copy())


def test_a_component_may_be_given_ready_made(here: Path) -> None:
    from flowmap_samplers.configs import EulerConfig

    class Holder(Config):
        sampler: SamplerConfig
        kind: Literal["x"] = "x"

    assert isinstance(Holder(sampler=EulerConfig()).sampler, EulerConfig)


# Lines: TOML is written with every value's line known, in all the ways TOML has, and read back.

KEYS = st.one_of(
    st.from_regex(r"[A-Za-z0-9_-]{1,4}", fullmatch=True),
    st.text(st.characters(codec="utf-8", exclude_categories=["C"]), max_size=4),
)
SCALARS = st.one_of(
    st.integers(-5, 5), st.booleans(), st.floats(-1, 1), st.sampled_from(["", "x = 1", "[a]", 'q"q', "#", "a\nb"])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=3)),
    max_leaves=5,
)


def spelled(key: str) -> str:
    """A key as TOML has it, quoted where it must be."""
    return tomli_w.dumps({key: 0}).rsplit(" = ", 1)[0]


class Writer:
    """Writes TOML and keeps where each path was first written."""

    def __init__(self, data: Any, ending: str) -> None:
        self.draw, self.ending = data, ending
        self.text, self.line = "", 1
        self.lines: dict[tuple[str | int, ...], int] = {}

    def put(self, piece: str) -> None:
        self.text += piece.replace("\n", self.ending)
        self.line += piece.count("\n")

    def chance(self) -> bool:
        return bool(self.draw.draw(st.booleans()))

    def blank(self) -> None:
        if self.chance():
            self.put("\n# [not.a.table] x = 1\n\n")

    def value(self, value: Any, path: tuple[str | int, ...]) -> None:
        if isinstance(value, dict):
            self.put("{ ")
            for position, (key, inside) in enumerate(value.items()):
                self.put(", " if position else "")
                self.lines[*path, key] = self.line
                self.put(f"{spelled(key)} = ")
                self.value(inside, (*path, key))
            self.put(" }")
        elif isinstance(value, list):
            self.put("[")
            for index, inside in enumerate(value):
                self.put("\n  # [x]\n  " if self.chance() else " ")
                self.lines[*path, index] = self.line
                self.value(inside, (*path, index))
                self.put(", ")
            self.put("]")
        else:
            self.put(tomli_w.dumps({"v": value}).removeprefix("v = ").strip())

    def table(self, table: dict[str, Any], path: tuple[str | int, ...], header: str) -> None:
        """The body of a table: first what has no header of its own, then what gets one."""
        later: list[tuple[str, Any]] = []
        for key, value in table.items():
            tables = isinstance(value, dict) or (isinstance(value, list) and all(isinstance(e, dict) for e in value))
            if value and tables and self.chance():
                later.append((key, value))
                continue
            self.blank()
            self.lines[*path, key] = self.line
            self.put(f"{spelled(key)} = ")
            self.value(value, (*path, key))
            self.put("  # done\n" if self.chance() else "\n")
        for key, value in later:
            self.section(value, (*path, key), f"{header}.{spelled(key)}".lstrip("."))

    def section(self, value: Any, path: tuple[str | int, ...], header: str) -> None:
        self.blank()
        if isinstance(value, dict):
            self.lines[path] = self.line
            self.put(f"  [{header}] # a table\n")
            self.table(value, path, header)
        else:
            self.lines[path] = self.line
            for index, element in enumerate(value):
                self.lines[*path, index] = self.line
                self.put(f"[[ {header} ]]\n")
                self.table(element, (*path, index), header)


@given(table=st.dictionaries(KEYS, VALUES, max_size=4), ending=st.sampled_from(["\n", "\r\n"]), data=st.data())
@settings(max_examples=60, deadline=None)
def test_every_path_is_found_on_its_line(table: dict[str, Any], ending: str, data: Any) -> None:
    writer = Writer(data, ending)
    writer.table(table, (), "")
    assert tomllib.loads(writer.text) == table
    assert {path: line_of(writer.text, path) for path in writer.lines} == writer.lines


def test_keys_are_read_as_toml_reads_them() -> None:
    text = '"a\\"b" = 1\n"\\u00e9" = 2\n\'c\\d\' = 3\n["x.y".z]\n"" = 4\n'
    assert tomllib.loads(text) == {'a"b': 1, "é": 2, "c\\d": 3, "x.y": {"z": {"": 4}}}
    paths = [('a"b',), ("é",), ("c\\d",), ("x.y", "z"), ("x.y", "z", "")]
    assert [line_of(text, path) for path in paths] == [1, 2, 3, 4, 5]


def test_what_is_not_set_is_placed_at_its_nearest_parent() -> None:
    text = "a = 1\n\n[b.c]\nd = 2\n\n[[e]]\nf = 1\n[[e]]\n[e.g]\nh.i = 1\nh.j = 2\n"
    expected: dict[tuple[str | int, ...], int] = {
        ("z",): 1, ("a", "x"): 1, ("b",): 3, ("b", "c", "x"): 3, ("b", "x"): 3, ("e",): 6, ("e", 0, "x"): 6,
        ("e", 1, "x"): 8, ("e", 1, "g", "x"): 9, ("e", 1, "g", "h"): 10, ("e", 1, "g", "h", "x"): 10,
        ("e", 1, "g", "h", "j"): 11, ("e", 7): 6,
    }  # fmt: skip
    assert {path: line_of(text, path) for path in expected} == expected


def test_a_frozen_role_on_random_weights_is_a_warning(here: Path) -> None:
    """Its stage would distil noise for as long as it is paid for."""
    text = edited(('objective = { type = "flow_map" }', 'objective = "discrete_flow_map"'))
    (here / "r.toml").write_text(text)
    _, warnings = read(Path("r.toml"))
    assert warnings == [
        "r.toml:20: stages.student.roles.teacher: warning: the frozen role 'teacher' starts from random weights; "
        "name a stage: roles.teacher.from"
    ]
    (here / "r.toml").write_text(text.replace('backbone]\ntype = "mlp"', 'backbone]\ntype = "gaussian"'))
    assert read(Path("r.toml"))[1] == []
