"""docs/objectives.md: every field of every objective, up to date, with a reason for whatever differs."""

from __future__ import annotations

import tomllib
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from flowmap.errors import FlowmapError
from flowmap.plugin.catalogue import catalogue

from .doc_scripts import doc_script

ROOT = Path(__file__).parents[1]

# Defaults that neither are the released value nor have a recipe with it: whoever adds one says so here, too.
DIFFERING = {
    "flow_matching": {"view"},
    "discrete_flow_map": {"branches.diffusion", "branches.consistency", "step", "shift"},
    "mean_flow": {"cfg_scale"},
    "eulerian": {"velocity", "branches.diffusion", "branches.consistency"},
    "lagrangian": {"velocity", "branches.diffusion", "branches.consistency"},
    "semigroup": {"velocity", "branches.diffusion", "branches.consistency"},
    "shortcut": {"cfg_scale"},
    "consistency": {"points", "shift", "distance"},
    "consistency_training": {"huber_scale"},
    "tcm": {"huber_scale", "times.distribution", "times.mean", "times.std", "double_every"},
    "scm": {"bins"},
    "rcm": {"forward.cfg_scale", "cfg_scale"},
    "dmd2": {"shift", "cfg_scale"},
    "self_forcing": {"shift", "cfg_scale"},
    "causvid": {"steps", "shift", "cfg_scale"},
    "trajectory": {"trajectory_steps", "steps", "shift", "cfg_scale"},
}


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return doc_script("objectives")


@pytest.fixture(scope="module")
def objectives(script: ModuleType) -> Any:
    return script.load()


def test_the_page_is_up_to_date(script: ModuleType, objectives: Any) -> None:
    page = script.whole(script.PAGES, objectives)
    assert (ROOT / "docs" / "objectives.md").read_text() == page, "run: python docs/objectives.py"


def test_every_objective_has_a_section(script: ModuleType, objectives: Any) -> None:
    assert set(script.PAGES) == set(objectives)


def test_every_field_has_a_row_or_is_said_to_be_ours_alone(script: ModuleType, objectives: Any) -> None:
    for name, page in script.PAGES.items():
        assert not script.missing(page, objectives[name]), name
        rows = [row.name for row in page.rows]
        assert len(set(rows)) == len(rows), name
        assert not set(rows) & set(page.alone), name
        for each in page.alone:
            script.value_at(objectives[name], each)


@pytest.mark.parametrize(("name", "field"), [("dmd2", "new_weight"), ("scm", "tangent.new"), ("rcm", "forward.new")])
def test_a_field_that_the_page_does_not_know_is_refused(
    script: ModuleType, objectives: Any, name: str, field: str
) -> None:
    changed = deepcopy(objectives)
    *path, last = field.split(".")
    table = changed[name]
    for each in path:
        table = table[each]
    table[last] = 1.0
    with pytest.raises(FlowmapError, match=rf"^'{name}': no row for {field}$"):
        script.whole(script.PAGES, changed)


def test_a_field_that_is_gone_is_refused(script: ModuleType, objectives: Any) -> None:
    changed = deepcopy(objectives)
    del changed["transition"]["sigma_d"]
    with pytest.raises(FlowmapError, match=r"^'transition' has no field sigma_d$"):
        script.whole(script.PAGES, changed)


def test_a_default_that_departs_from_the_released_value_is_refused(script: ModuleType, objectives: Any) -> None:
    changed = deepcopy(objectives)
    changed["rcm"]["forward"]["sigma_d"] = 0.5
    with pytest.raises(FlowmapError, match=r"^'rcm', forward.sigma_d: ours is 0.5, and no reason is given$"):
        script.whole(script.PAGES, changed)


def test_a_paper_that_says_something_else_needs_a_reason(script: ModuleType, objectives: Any) -> None:
    page = script.PAGES["transition"]
    row = next(row for row in page.rows if row.name == "power")
    settings = objectives["transition"]
    assert script.verdict("transition", page, row, settings) == "same"
    row = replace(row, published=script.Said(0.0, "section 3"))
    with pytest.raises(FlowmapError, match=r"^'transition', power: ours is 1, and no reason is given$"):
        script.verdict("transition", page, row, settings)
    assert script.verdict("transition", page, replace(row, why="a test"), settings) == "same: a test"
    unreleased = replace(row, released=script.NOTHING, why="a test")
    assert script.verdict("transition", page, unreleased, settings) == "**differs**: a test"
    nothing = replace(unreleased, published=script.UNREAD)
    assert script.verdict("transition", page, nothing, settings) == "not compared: a test"


def test_a_preset_that_departs_is_a_difference(script: ModuleType, objectives: Any) -> None:
    page = script.PAGES["backward_simulation"]
    row = next(row for row in page.rows if row.name == "cfg_scale")
    settings = objectives["backward_simulation"]
    assert script.verdict("backward_simulation", page, row, settings).startswith("same in the preset: ")
    departed = replace(row, released=script.Said(3.0, "yml"))
    assert script.verdict("backward_simulation", page, departed, settings).startswith("**differs**: ")


def test_what_is_printed_as_released_is_a_recipes_and_has_every_released_value(
    script: ModuleType, objectives: Any
) -> None:
    for name, page in script.PAGES.items():
        line = f"objective = {script._inline(script.as_released(name, page, objectives[name]))}"
        config = catalogue().find("objective", name).model_validate(tomllib.loads(line)["objective"])
        settings = config.model_dump(mode="json", by_alias=True)
        for row in page.rows:
            if row.released.value is not script.other("", "").value:
                place = f"{row.name}.type" if row.preset == f"{row.name}.type" else row.name
                assert script._plain(script.value_at(settings, place)) == script._plain(row.released.value), name


def test_what_differs_is_known(script: ModuleType, objectives: Any) -> None:
    found = {name: set(rows) for name, rows in script.differing(script.PAGES, objectives).items()}
    assert found == DIFFERING


def test_every_value_says_where_it_was_read_and_every_reason_is_one(script: ModuleType) -> None:
    for name, page in script.PAGES.items():
        assert page.sources.startswith("Paper"), name
        for row in page.rows:
            for said in (row.published, row.released):
                assert said in (script.UNREAD, script.NOTHING) or said.where, (name, row.name)
            assert not row.why or len(row.why) > 5, (name, row.name)
        assert all(matter.where and len(matter.why) > 5 for matter in page.matters), name
        assert all(setting.where for setting in page.settings), name


def test_the_pages_lead_to_it() -> None:
    for page in ("README.md", "docs/compare.md"):
        assert "objectives.md" in (ROOT / page).read_text(), page
