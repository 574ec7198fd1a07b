"""`flowmap plugins check`: a table, sentences, what to do next, and an exit code."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from flowmap_datasets.configs import CheckerboardConfig
from flowmap_metrics.configs import SlicedWassersteinConfig
from typer.testing import CliRunner

from flowmap.cli.main import app
from flowmap.errors import FlowmapError
from flowmap.plugin import Finding, SampleSpec
from flowmap.testing.installed import asked_for
from flowmap.testing.kit import checks_of
from flowmap.testing.suite import Requirements

from .test_other_mutants import euler, even

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")


def said(*words: str) -> tuple[Any, str]:
    done = CliRunner().invoke(app, ["plugins", *words])
    return done.exception, " ".join(done.output.split())


def test_the_list_is_what_it_was() -> None:
    error, text = said()
    assert error is None
    assert "kind name from what it is" in text


def test_a_component_that_keeps_all_laws() -> None:
    error, text = said("check", "euler")
    assert error is None
    assert "follows_the_grid passed basic The network is asked where the grid says." in text
    assert f"{len(checks_of('sampler'))} passed All laws that apply are kept. Next: name 'euler' in a recipe" in text


def test_a_component_that_breaks_one(install: Any) -> None:
    class EvenConfig(type(euler(even))):  # type: ignore[misc]
        """Even steps."""

        type: Any = "even"

    install(EvenConfig)
    error, text = said("check", "even")
    assert isinstance(error, FlowmapError)
    assert error.code == 1
    assert "1 law is broken" in str(error)
    assert "follows_the_grid failed" in text
    assert "'even' must follow the grid that it is given" in text
    assert "(laws.md#sampler-follows-the-grid)" in text


class PointsOnlyConfig(SlicedWassersteinConfig):
    """Of points."""

    type: Any = "points_only"

    def findings(self, spec: SampleSpec) -> Iterable[Finding]:
        if spec.shape != (1, 2):
            yield Finding("error", ("type",), "it compares points")


def test_a_metric_of_other_samples_is_told_how_to_name_them(install: Any, tmp_path: Path) -> None:
    install(PointsOnlyConfig)
    error, _ = said("check", "points_only")
    assert str(error) == (
        "'points_only' does not take the samples that the kit has by itself, [1, 1, 8, 8] of two classes (it compares "
        "points); name a source of such as it takes, --data moving_digits, say"
    )
    (asked,) = asked_for("points_only", None, [], "checkerboard", tmp_path)
    assert asked.examination is not None
    assert asked.examination.outcome("draws_from_its_draw").status == "passed"


def test_and_so_is_its_own_test() -> None:
    class Mine(Requirements):
        config = PointsOnlyConfig()

    class OnPoints(Mine):
        data = CheckerboardConfig()

    mine, others = ({o.check.name: o for o in one.examination().outcomes()} for one in (Mine, OnPoints))
    assert mine["draws_from_its_draw"].sentence == (
        "'points_only' refuses what it is checked with: it compares points (they are the kit's own, [1, 1, 8, 8]; a "
        "test class with `data`, a source of them, has others)"
    )
    assert others["draws_from_its_draw"].status == "passed"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("wan21",), "backbone 'wan21' needs --set weights=... (a folder or a hub id"),
        (("images",), "data 'images' needs --set path=..."),
        (("gaussian",), "several are called 'gaussian' (backbone, data); give --kind backbone"),
        (("eulre",), "Did you mean 'euler'?"),
        (("mlp", "--set", "width=2"), "width"),
        (("euler", "--set", "step"), "must look like"),
        (("mlp", "--data", "moving_digits"), "'mlp' takes single frames"),
        (("flowmap_samplers", "--set", "a=1"), "--set is for one component; 'flowmap_samplers' has 8"),
        (("class_accuracy", "--data", "checkerboard"), "'class_accuracy' does not take the samples of that source: "),
        (("euler", "--kind", "metric"), "unknown metric 'euler'"),
    ],
)
def test_what_is_wrong_with_a_question_is_said(words: tuple[str, ...], message: str) -> None:
    error, text = said("check", *words)
    assert isinstance(error, FlowmapError)
    assert message in f"{error} {text}"


def test_a_package_is_all_that_it_registers(tmp_path: Path) -> None:
    found = list(asked_for("flowmap_wan", None, [], None, tmp_path))
    assert {asked.component.name for asked in found} >= {"wan21", "far_wan21"}
    assert all("needs --set weights=..." in asked.why for asked in found)
    names = {asked.component.name for asked in asked_for("flowmap_samplers", None, [], None, tmp_path)}
    assert {"euler", "heun", "unipc"} <= names


def test_samples_of_a_source_are_what_a_backbone_is_examined_on(tmp_path: Path) -> None:
    (asked,) = asked_for("mlp", None, ["width=8", "depth=1"], "digits", tmp_path)
    assert asked.examination is not None
    assert asked.examination.outcome("encodes_into_model_space").status == "passed"
    assert asked.examination.subject.config.width == 8  # type: ignore[attr-defined]
