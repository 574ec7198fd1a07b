"""The JSON Schemas for editors say of a recipe what `flowmap check` says, as far as a schema can."""

from __future__ import annotations

import copy
import json
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Literal

import pytest
import tomli_w
from pydantic import Field

from flowmap.comparison.json_schema import comparison_schema
from flowmap.comparison.unfold import read_comparison
from flowmap.errors import FlowmapError
from flowmap.plugin import SamplerConfig
from flowmap.plugin.catalogue import Component, catalogue
from flowmap.recipe.json_schema import recipe_schema
from flowmap.recipe.read import is_comparison, read
from flowmap.recipe.shipped import shipped

jsonschema = pytest.importorskip("jsonschema")

ROOT = Path(__file__).parents[1]
MOST_BYTES = 1_000_000
OURS = tuple(c for c in catalogue().components if c.distribution.startswith("flowmap "))
MADE = {"recipe": recipe_schema, "comparison": comparison_schema}


@cache
def validator(kind: str) -> Any:
    return jsonschema.Draft4Validator(MADE[kind](OURS))


def tables(name: str) -> dict[str, Any]:
    return tomllib.loads(shipped()[name].read_text("utf-8"))


def kind_of(name: str) -> str:
    return "comparison" if is_comparison(Path(name)) else "recipe"


@pytest.mark.parametrize("kind", MADE)
def test_the_committed_schema_is_up_to_date(kind: str) -> None:
    file = ROOT / "recipes" / f"{kind}.schema.json"
    command = f"run: flowmap schema --kind {kind} --out recipes/{kind}.schema.json"
    assert file.read_text() == json.dumps(MADE[kind](OURS), indent=1) + "\n", command
    assert file.stat().st_size < MOST_BYTES


@pytest.mark.parametrize("kind", MADE)
def test_it_is_a_schema_whose_references_lead_somewhere(kind: str) -> None:
    schema = MADE[kind](OURS)
    jsonschema.Draft4Validator.check_schema(schema)
    names = set(references(schema))
    assert names == set(schema["definitions"])
    assert all(name.replace("-", "").replace("_", "").isalnum() for name in names)  # or a pointer would be quoted


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            if key == "$ref":
                assert set(value) == {"$ref"}, value  # beside it nothing is read
                yield inner.removeprefix("#/definitions/")
            else:
                yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


@pytest.mark.parametrize("kind", MADE)
def test_every_field_is_described(kind: str) -> None:
    schema = MADE[kind](OURS)
    for name, definition in {"root": schema, **schema["definitions"]}.items():
        for field, about in definition.get("properties", {}).items():
            assert field == "type" or about.get("description"), f"{name}.{field}"


@pytest.mark.parametrize("name", list(shipped()))
def test_every_recipe_is_valid_and_names_its_schema(name: str) -> None:
    kind = kind_of(name)
    assert shipped()[name].read_text().startswith(f"#:schema ./{kind}.schema.json\n")
    assert list(validator(kind).iter_errors(tables(name))) == []


def test_everything_that_is_installed_is_in_it() -> None:
    """As a whole table too: every field of every component with its default."""
    definitions = recipe_schema(OURS)["definitions"]
    for component in OURS:
        whole = definitions[f"any-{component.kind}"]
        check = jsonschema.Draft4Validator({**whole, "definitions": definitions})
        try:
            made = component.config.model_validate({"type": component.name})
        except ValueError:  # it has a field without a default
            assert not check.is_valid(component.name)
            continue
        assert check.is_valid(component.name), component.name
        assert check.is_valid({"type": component.name}), component.name
        assert check.is_valid(json.loads(json.dumps(made.as_tables()))), component.name
        assert not check.is_valid({"type": component.name, "no_such_field": 1}), component.name


EDITS: dict[str, tuple[str, Any]] = {
    "a field's name": ("stages.0.batchs", 4),
    "a table's name": ("evaluations", {}),
    "an unknown objective": ("stages.0.objective", "flow_matchin"),
    "an unknown objective in a table": ("stages.0.objective.type", "flow_matchin"),
    "a field of another objective": ("stages.0.objective.tangent", {}),
    "a word that is none of an enumeration": ("compute.precision", "bf8"),
    "a number below": ("stages.0.optimizer.lr", 0.0),
    "a number at its open end": ("stages.0.optimizer.betas", [0.9, 1.0]),
    "a number at its closed end": ("stages.0.optimizer.decay", 1.0),
    "a number above": ("stages.0.batch", 2**20 + 1),
    "the largest": ("stages.0.batch", 2**20),
    "zero or from here on, zero": ("stages.0.clip", 0.0),
    "zero or from here on, between": ("stages.0.clip", 1e-12),
    "zero or from here on": ("stages.0.clip", 1e-9),
    "a fraction for a whole number": ("stages.0.steps", 10.0),
    "a whole number for a fraction": ("stages.0.clip", 2),
    "text for a number": ("stages.0.steps", "10"),
    "true for a number": ("stages.0.steps", True),
    "a number for text": ("name", 3),
    "no name": ("name", "a b"),
    "a long name": ("name", "n" * 101),
    "an empty list": ("seeds", []),
    "one for a list": ("seeds", 1),
    "a list of a wrong length": ("stages.0.optimizer.betas", [0.9]),
    "a list that is too long": ("stages.0.optimizer.betas", [0.9, 0.9, 0.9]),
    "a role that starts elsewhere": ("stages.0.roles", {"student": {"from": "base"}}),
    "a role's field": ("stages.0.roles", {"student": {"form": "base"}}),
    "a component as a table": ("data", {"type": "digits"}),
    "a component without a type": ("data", {}),
    "a component that needs a field": ("data", "video_shards"),
    "a component with that field": ("data", {"type": "digits", "path": "x"}),
    "a component of another kind": ("data", "mlp"),
    "a number for a component": ("data", 3),
    "a tracker": ("compute.trackers", ["tensorboard"]),
    "another tracker": ("compute.trackers", ["wandb"]),
    "a component in a component": ("stages.3.objective.forward", "flow_map"),
    "a wrong one in a component": ("stages.3.objective.forward", "flowmap"),
    "a table in a component": ("stages.1.objective.tangent.method", "jvp"),
    "a wrong word in a table in a component": ("stages.1.objective.tangent.method", "jpv"),
    "a required field": ("stages.0.steps", None),
    "a required table": ("backbone", None),
    "a required field of the evaluation": ("evaluation.metrics", None),
    "a table that may be left out": ("evaluation", None),
    "a date": ("name", "2026-01-01"),
}


def edited(raw: dict[str, Any], field: str, value: Any) -> dict[str, Any]:
    """`raw` with a field set; None takes it out. A component by its bare name becomes a table where that is needed."""
    raw = copy.deepcopy(raw)
    *path, last = field.split(".")
    node: Any = raw
    for part in path:
        key: Any = int(part) if part.isdecimal() else part
        inner = node[key] if isinstance(node, list) else node.setdefault(key, {})
        if isinstance(inner, str):
            inner = node[key] = {"type": inner}
        node = inner
    if value is None:
        del node[last]
    else:
        node[last] = value
    return raw


@pytest.mark.parametrize("edit", EDITS)
def test_a_schema_and_check_say_the_same_of_a_recipe(tmp_path: Path, edit: str) -> None:
    raw = edited(tables("quickstart"), *EDITS[edit])
    (tmp_path / "edited.toml").write_text(tomli_w.dumps(raw))
    try:
        read(tmp_path / "edited.toml")
        said = True
    except FlowmapError:
        said = False
    assert validator("recipe").is_valid(raw) == said


COMPARED: dict[str, tuple[str, Any]] = {
    "a field's name": ("metrics", "x"),
    "a field of the recipe": ("recipe.datas", "digits"),
    "a name for the recipe": ("recipe.name", "x"),
    "contests": ("recipe.evaluation.contests", []),
    "an unknown component": ("recipe.data", "digit"),
    "a field of a stage": ("stage.batchs", 3),
    "steps of all": ("stage.steps", 3),
    "steps of a stage": ("contestants.1.stages.0.steps", 3),
    "a contestant's field": ("contestants.1.sampler", ["flow_map"]),
    "a contestant's sampler": ("contestants.1.samplers", ["flow_mop"]),
    "a contestant's objective": ("contestants.1.stages.0.objective", "flow_mop"),
    "a share": ("contestants.1.stages.0.share", 0.5),
    "no share": ("contestants.1.stages.0.share", 0.0),
    "what is different for one": ("contestants.1.recipe", {"backbone": {"width": 64}}),
    "a wrong field that is different for one": ("contestants.1.recipe", {"backbone": {"widht": 64}}),
    "another budget": ("budget.by", "hours"),
    "an odd confidence": ("confidence", 0.5),
    "no contestants": ("contestants", []),
}


@pytest.mark.parametrize("edit", COMPARED)
def test_a_schema_and_check_say_the_same_of_a_comparison(tmp_path: Path, edit: str) -> None:
    raw = edited(tables("compare_checkerboard"), *COMPARED[edit])
    (tmp_path / "edited.toml").write_text(tomli_w.dumps(raw))
    try:
        read_comparison([tmp_path / "edited.toml"])
        said = True
    except FlowmapError:
        said = False
    assert validator("comparison").is_valid(raw) == said


class StrangeConfig(SamplerConfig):
    """A stranger's sampler."""

    network = "flow_map"
    calls_per_step = 1
    type: Literal["strange"] = "strange"
    share: float = Field(description="of something")

    def build(self) -> Any:
        raise NotImplementedError


class Unknown:
    """A type that has no schema."""


class BrokenConfig(StrangeConfig):
    """A sampler whose fields cannot be."""

    type: Literal["broken"] = "broken"  # type: ignore[assignment]
    odd: Unknown


def test_a_stranger_s_component_is_in_it_and_one_that_cannot_be_hurts_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = [
        Component("sampler", "strange", StrangeConfig, "theirs 1", "What it is."),
        Component("sampler", "broken", BrokenConfig, "theirs 1", "What it is not."),
    ]
    found = catalogue()
    monkeypatch.setattr(found, "components", [*found.components, *theirs])
    check = jsonschema.Draft4Validator(recipe_schema())
    contests = [{"stage": "teacher", "samplers": [{"type": "strange", "share": 0.5}]}]
    assert check.is_valid(edited(tables("quickstart"), "evaluation.contests", contests))
    for wrong in ("strange", {"type": "strange", "share": "x"}, "broken", {"type": "broken", "share": 0.5, "odd": 1}):
        contests = [{"stage": "teacher", "samplers": [wrong]}]
        assert not check.is_valid(edited(tables("quickstart"), "evaluation.contests", contests)), wrong
