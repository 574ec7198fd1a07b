"""docs/fidelity.md: complete, up to date, with a reason for whatever differs from the published runs."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from flowmap.errors import FlowmapError

from .doc_scripts import doc_script

ROOT = Path(__file__).parents[1]

NOT_PUBLISHED = {
    "name",
    "data.type",
    "data.path",
    "backbone.type",
    "compute.trackers",
    "checkpoints.every",
    "checkpoints.keep",
    # What is measured; the page has one row for all of it.
    "evaluation.teacher",
    "evaluation.teacher_sampler",
    "evaluation.samples",
    "evaluation.repeats",
    "evaluation.real",
}
NOT_PUBLISHED_TABLES = ("evaluation.metrics.", "evaluation.contests.")

DIFFERING_FIELDS = {
    "data.held_out",
    "backbone.base_precision",
    "compute.micro_batch",
    "evaluation.calls",
    "evaluation.teacher_calls",
    "evaluation.teacher_cfg_scale",
    "evaluation.contests.0.cfg_scale",
}


@pytest.fixture(scope="module")
def fidelity() -> ModuleType:
    return doc_script("fidelity")


@pytest.fixture(scope="module")
def recipes(fidelity: ModuleType) -> Any:
    return fidelity.load()


def rows(fidelity: ModuleType) -> list[Any]:
    return [row for section in fidelity.SECTIONS.values() for row in section]


def test_the_page_is_up_to_date(fidelity: ModuleType, recipes: Any) -> None:
    page = fidelity.page(fidelity.SECTIONS, recipes)
    assert (ROOT / "docs" / "fidelity.md").read_text() == page, "run: python docs/fidelity.py"


def test_every_released_value_that_a_field_holds_is_ours(fidelity: ModuleType, recipes: Any) -> None:
    differing = {field for row in rows(fidelity) if not row.same(recipes) for field in row.fields}
    assert differing == DIFFERING_FIELDS


def test_a_row_that_differs_has_a_reason(fidelity: ModuleType, recipes: Any) -> None:
    for row in rows(fidelity):
        assert row.where
        assert row.same(recipes) or len(row.note) > 20, row.what
    mine = next(row for row in rows(fidelity) if row.fields == ("stages.on_policy.optimizer.lr",))
    wrong = replace(mine, published=3e-6)
    reason = "'learning rate, stage 3' differs, and no reason is given: stages.on_policy.optimizer.lr"
    with pytest.raises(FlowmapError, match=f"^{reason}$"):
        fidelity.page({"x": (wrong,)}, recipes)
    line = fidelity.page({"x": (replace(wrong, note="for a test"),)}, recipes).splitlines()[-1]
    assert "| 3e-06 | 2e-06 | **differs**: for a test |" in line


def test_one_recipe_that_departs_is_noticed(fidelity: ModuleType) -> None:
    recipes = fidelity.load()
    recipes["anyflow_far_14b"]["data"]["fit"] = "crop"
    (row,) = (row for row in rows(fidelity) if row.fields == ("data.fit",))
    assert not row.same(recipes)
    with pytest.raises(FlowmapError, match=r"^'fit' differs, and no reason is given: data\.fit$"):
        fidelity.page(fidelity.SECTIONS, recipes)
    recipes["anyflow_far_14b"]["data"]["fit"] = "stretch"
    recipes["anyflow_far_14b"]["stages"][1]["optimizer"]["lr"] = 1e-4
    with pytest.raises(FlowmapError, match=r"give each a row$"):
        fidelity.page(fidelity.SECTIONS, recipes)
    with pytest.raises(FlowmapError, match=r"^anyflow_far_14b has no field data\.fitt$"):
        fidelity.value_at(recipes["anyflow_far_14b"], "data.fitt")


def leaves(value: Any, path: str = "") -> Iterator[str]:
    """Dotted paths to whatever a recipe states; what has a name goes by it."""
    if isinstance(value, dict):
        for key, child in value.items():
            yield from leaves(child, f"{path}.{key}".lstrip("."))
    elif isinstance(value, list) and value and all(isinstance(each, dict) for each in value):
        for number, each in enumerate(value):
            yield from leaves({k: v for k, v in each.items() if k != "name"}, f"{path}.{each.get('name', number)}")
    else:
        yield path


def test_every_field_that_a_recipe_states_is_on_the_page(fidelity: ModuleType) -> None:
    for name in fidelity.RECIPES:
        covered = {field for row in rows(fidelity) if name in row.recipes() for field in row.fields}
        for field in leaves(tomllib.loads((ROOT / "recipes" / f"{name}.toml").read_text())):
            if field not in NOT_PUBLISHED and not field.startswith(NOT_PUBLISHED_TABLES):
                assert field in covered, f"{name}: {field} has no row in docs/fidelity.py"


def test_the_recipes_and_pages_lead_to_it(fidelity: ModuleType) -> None:
    for page in ("README.md", "docs/video.md", *(f"recipes/{name}.toml" for name in fidelity.RECIPES)):
        assert "fidelity.md" in (ROOT / page).read_text(), page
