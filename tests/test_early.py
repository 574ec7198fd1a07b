"""What a run needs only at its end and cannot be built is said before its first step, and costs no second reading."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from flowmap_datasets.configs import DigitsConfig
from flowmap_metrics.image_configs import (
    ClassAccuracyConfig,
    ClipScoreConfig,
    FidConfig,
    KidConfig,
    PrecisionConfig,
)
from flowmap_metrics.network_configs import InceptionConfig, VisionModelConfig

from flowmap.errors import FlowmapError
from flowmap.launch.early import build_early
from flowmap.plugin import ComponentConfig, MetricConfig
from flowmap.plugin.answers import guard
from flowmap.recipe.read import read
from flowmap.recipe.recipe import Recipe

from .conftest import TINY, edited
from .installing import flowmap, installed

FAULTY = """
from typing import ClassVar, Literal
from flowmap.plugin import (
    DataConfig, FeaturesConfig, MetricConfig, ObjectiveConfig, RoleSpec, SampleSpec, SamplerConfig, hookimpl
)

class Faulty:
    fault: Literal["raises", "nothing", "reads"] = "raises"
    def made(self, references=None):
        import flowmap.interfaces
        if self.fault == "raises":
            import no_such_module
        if self.fault == "reads":
            try:
                assert isinstance(references, flowmap.interfaces.References)
                references.train.x.mean()
            except Exception:
                raise RuntimeError("references that are none")
            raise RuntimeError("it went on")

class WrongSampler(Faulty, SamplerConfig):
    type: Literal["wrong"] = "wrong"
    network: ClassVar[str] = "velocity"
    calls_per_step: ClassVar[int] = 1
    extra: dict[str, int] = {}
    def build(self):
        return self.made()

class WrongMetric(Faulty, MetricConfig):
    type: Literal["wrong"] = "wrong"
    def findings(self, spec):
        return ()
    def build(self, references):
        return self.made(references)

class WrongFeatures(Faulty, FeaturesConfig):
    type: Literal["wrong"] = "wrong"
    def findings(self, spec):
        return ()
    def build(self, references):
        return self.made(references)

class WrongData(Faulty, DataConfig):
    type: Literal["wrong"] = "wrong"
    def spec(self):
        return SampleSpec((1, 1, 8, 8), labelled=True)
    def build(self):
        return self.made()

class WrongObjective(Faulty, ObjectiveConfig):
    type: Literal["wrong"] = "wrong"
    def roles(self):
        return {"student": RoleSpec("flow_map", True, "learns")}
    def findings(self, facts):
        return ()
    def build(self):
        return self.made()

WRONG = [WrongSampler, WrongMetric, WrongFeatures, WrongData, WrongObjective]

@hookimpl
def flowmap_components():
    return WRONG
"""
PLACES = {
    "sampler": ('samplers = ["flow_map"]', "samplers = [{}]"),
    "teacher_sampler": ('teacher = "teacher"', 'teacher_sampler = {}\nteacher = "teacher"'),
    "metric": ('"semigroup"', "{}"),
    "features": ('"semigroup"', '{{ type = "frechet", features = {} }}'),
    "data": ('metrics = ["', 'data = {}\nmetrics = ["'),
    "objective": ('{ type = "flow_map" }', "{}"),
}


@pytest.fixture(scope="module")
def configs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[type[ComponentConfig]]]:
    """The stranger's, guarded as those that are installed."""
    folder = tmp_path_factory.mktemp("site-packages")
    (folder / "faulty_early.py").write_text(FAULTY)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        found = importlib.import_module("faulty_early").WRONG
        for config in found:
            guard(config, f"{config.kind} 'wrong' from faulty 1.0")
        yield found
        del sys.modules["faulty_early"]


@pytest.fixture
def recipe(
    configs: list[type[ComponentConfig]], here: Path, install: Callable[..., None]
) -> Callable[[str, str], Recipe]:
    """The tiny recipe with the stranger's component, which has that fault, in one place."""
    install(*configs)

    def make(place: str, fault: str) -> Recipe:
        old, new = PLACES[place]
        (here / "r.toml").write_text(edited((old, new.format(f'{{ type = "wrong", fault = "{fault}" }}'))))
        return read(Path("r.toml"))[0]

    return make


def whose(place: str) -> str:
    return place.removeprefix("teacher_")


@pytest.mark.parametrize("place", PLACES)
def test_what_cannot_be_built_is_found(place: str, recipe: Callable[[str, str], Recipe]) -> None:
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        build_early([recipe(place, "raises")])
    with pytest.raises(FlowmapError) as caught:
        build_early([recipe(place, "nothing")])
    told = f"is at fault: build() returned None, and must be a flowmap.interfaces.{whose(place).capitalize()}"
    assert str(caught.value) == f"{whose(place)} 'wrong' from faulty 1.0 {told}"


@pytest.mark.parametrize("place", ["metric", "features"])
def test_what_looks_at_references_is_left_to_the_evaluation(place: str, recipe: Callable[[str, str], Recipe]) -> None:
    """Even where it would catch any error: there are no samples yet that it could be built with."""
    build_early([recipe(place, "reads")])


def test_data_of_another_time_are_opened_once_and_the_first_not_at_all(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[int] = []
    build = DigitsConfig.build
    monkeypatch.setattr(DigitsConfig, "build", lambda config: (opened.append(config.quarter_turns), build(config))[1])
    turned = edited(('metrics = ["', 'data = { type = "digits", quarter_turns = 1 }\nmetrics = ["'))
    for text, wanted in ((TINY, []), (turned, [1])):
        (here / "r.toml").write_text(text)
        build_early([read(Path("r.toml"))[0]] * 2)
        assert opened == wanted


NETWORKS = [
    FidConfig(features=InceptionConfig(weights="nowhere")),
    KidConfig(features=VisionModelConfig(weights="./nowhere")),
    PrecisionConfig(features=VisionModelConfig(weights="./nowhere")),
    ClipScoreConfig(weights="./nowhere"),
    ClassAccuracyConfig(weights="./nowhere"),
]


@pytest.mark.parametrize("metric", NETWORKS, ids=lambda metric: metric.type)
def test_no_network_of_a_metric_is_read(metric: MetricConfig, here: Path) -> None:
    """There is none, as each would say."""
    build_early([measured_by(metric, here)])


def measured_by(metric: MetricConfig, here: Path) -> Recipe:
    (here / "r.toml").write_text(TINY)
    recipe = read(Path("r.toml"))[0]
    assert recipe.evaluation is not None
    evaluation = recipe.evaluation.model_copy(update={"metrics": (metric,)})
    return recipe.model_copy(update={"evaluation": evaluation})


COMPARED = """
name = "both"
seeds = [0]

[recipe]
data = "digits"
backbone = "mlp"

[recipe.evaluation]
teacher = "teacher"
metrics = ["frechet_pixels"]

[[recipe.stages]]
name = "teacher"
steps = 4
batch = 8
objective = "flow_matching"

[[contestants]]
name = "good"
stage = "teacher"
samplers = ["euler"]

[[contestants]]
name = "bad"
stage = "teacher"
samplers = [{ type = "wrong", fault = "nothing" }]
"""


@pytest.mark.slow
def test_nothing_is_trained_by_the_commands(tmp_path: Path, here: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    installed(site, "faulty", FAULTY)
    (here / "r.toml").write_text(edited(('"semigroup"', '"wrong"')))
    done = flowmap(site, here, "run", "r.toml", "--set", "compute.device='cpu'", TMPDIR=str(here))
    line = 1 + next(n for n, text in enumerate(FAULTY.splitlines()) if "import no_such_module" in text)
    why = f"ModuleNotFoundError: No module named 'no_such_module' (faulty.py:{line}, in Faulty.made)"
    assert f"error: metric 'wrong' from faulty 1.0 failed: {why}; its traceback is in " in done.stderr
    assert (done.returncode, (here / "runs").exists()) == (1, False)
    (here / "c.toml").write_text(COMPARED)
    done = flowmap(site, here, "compare", "c.toml", "--set", "recipe.compute.device='cpu'")
    told = "build() returned None, and must be a flowmap.interfaces.Sampler"
    assert f"error: sampler 'wrong' from faulty 1.0 is at fault: {told}" in done.stderr
    assert (done.returncode, (here / "runs").exists()) == (1, False)
