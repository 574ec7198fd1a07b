"""The documentation says what the code does."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import pytest

from flowmap.recipe.read import read
from flowmap.testing import check_sampler

from .doc_scripts import doc_script

ROOT = Path(__file__).parents[1]


def test_the_recipe_reference_is_up_to_date() -> None:
    assert (ROOT / "docs" / "recipe.md").read_text() == doc_script("reference").page(), "run: python docs/reference.py"


def test_every_field_in_the_reference_has_a_meaning() -> None:
    empty = [line for line in (ROOT / "docs" / "recipe.md").read_text().splitlines() if re.search(r"\|\s+\|$", line)]
    assert not empty


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)


def test_the_readme_s_recipe_is_one(tmp_path: Path) -> None:
    (tmp_path / "my_run.toml").write_text(blocks("README.md", "toml")[0])
    recipe, warnings = read(tmp_path / "my_run.toml")
    assert [stage.name for stage in recipe.stages] == ["teacher", "student"]
    assert not warnings


def test_the_readme_s_error_is_what_one_sees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = re.search(r"```\n(recipes/my_run\.toml:.*?)\n```", (ROOT / "README.md").read_text())
    assert shown is not None
    monkeypatch.chdir(tmp_path)
    Path("recipes").mkdir()
    text = blocks("README.md", "toml")[0].replace("step = 0.03125", 'solver = "huen"')
    Path("recipes/my_run.toml").write_text(text)
    with pytest.raises(Exception, match="huen") as caught:
        read(Path("recipes/my_run.toml"))
    assert str(caught.value) == shown[1]


def test_the_plugin_page_s_sampler_keeps_every_promise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, sampler, suite, plain = blocks("docs/plugins.md", "python")
    package = tmp_path / "my_samplers"
    package.mkdir()
    (package / "__init__.py").write_text(config)
    (package / "sampler.py").write_text(sampler)
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("my_samplers")
    check_sampler(module.OvershootConfig())
    check_sampler(module.OvershootConfig(share=0.0))
    told: dict[str, Any] = {}
    exec(suite, told)
    assert {outcome.status for outcome in told["Overshoot"].examination().outcomes()} == {"passed"}
    exec(plain, told)
    told["test_my_sampler"]()


@pytest.mark.parametrize(
    "page", ["README.md", "CONTRIBUTING.md", *(str(p.relative_to(ROOT)) for p in ROOT.glob("docs/**/*.md"))]
)
def test_every_relative_link_leads_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", (ROOT / page).read_text()):
        if "://" not in target:
            assert ((ROOT / page).parent / target).exists(), target
