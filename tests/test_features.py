"""Features that a stranger's plugin brings are compared by `frechet`, as our own are."""

from __future__ import annotations

import html
import itertools
import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, final

import numpy as np
import pytest
import tomli_w
import torch
from flowmap_datasets.configs import CheckerboardConfig, DigitsConfig
from flowmap_metrics.configs import (
    FrechetConfig,
    FrechetFeaturesConfig,
    FrechetPixelsConfig,
    FrechetTeacherConfig,
)
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from flowmap.interfaces import Data, Evidence, Features, References, Samples
from flowmap.launch.twin import twin_of
from flowmap.maths.draw import Draw
from flowmap.plugin import DataConfig, FeaturesConfig, Finding, SampleSpec
from flowmap.recipe.read import read
from flowmap.report.page import write_report
from flowmap.report.rendering import described
from flowmap.testing import check_features
from flowmap.use.evaluate import evaluate
from flowmap.video.pictures import scatter
from tests.small_runs import EVALUATION, HEAD, TEACHER, planned, train_all

pytestmark = pytest.mark.usefixtures("one_thread")

LENGTH = 16


class WavesConfig(DataConfig):
    """Waves of one channel: a 1D signal each, of any phase."""

    type: Literal["waves"] = "waves"

    def spec(self) -> SampleSpec:
        return SampleSpec((1, 1, LENGTH))

    def build(self) -> Data:
        return Waves()


@final
class Waves(Data):
    def batch(self, draw: Draw) -> Samples:
        phase = 2 * torch.pi * draw.uniform("phase")[:, None, None, None]
        return Samples(torch.sin(torch.arange(LENGTH) * torch.pi / 4 + phase) + 0.1 * draw.normal("n", (1, 1, LENGTH)))

    def reference(self, split: Literal["train", "held_out"], count: int) -> Samples:
        return self.batch(Draw.whole(0, "reference", 0, split, count))

    def prompts(self, draw: Draw) -> Any:
        return None

    def picture(self, x: Tensor) -> NDArray[np.uint8]:
        return scatter(x.flatten(1)[:, :2].cpu().numpy())


class SpectrumConfig(FeaturesConfig):
    """How loud each frequency of a 1D signal is, whatever its phase."""

    type: Literal["spectrum"] = "spectrum"
    lowest: int = Field(0, ge=0, le=1000, description="the first frequency that counts")
    weights: str | None = Field(None, description="a file that a machine may lack")

    def missing(self) -> Iterable[Finding]:
        if self.weights and not Path(self.weights).exists():
            yield Finding("error", ("weights",), "no such file")

    def rehearsed(self, folder: Path) -> SpectrumConfig:
        return self.model_copy(update={"weights": None})

    def findings(self, spec: SampleSpec) -> Iterable[Finding]:
        if len(spec.shape) != 3:
            yield Finding("error", ("type",), f"a spectrum is of signals [F, C, L], not {list(spec.shape)}")
        elif self.lowest > spec.shape[-1] // 2:
            yield Finding("error", ("lowest",), "no frequency is left")

    def build(self, references: References) -> Features:
        return Spectrum(self.lowest)


@final
class Spectrum(Features):
    def __init__(self, lowest: int) -> None:
        self._lowest = lowest

    def of(self, samples: Tensor) -> Tensor:
        loud: Tensor = torch.fft.rfft(samples, dim=-1).abs()[..., self._lowest :]
        return loud.flatten(1)


SPECTRUM = '{ type = "spectrum", lowest = 1 }'
METRICS = f"""metrics = [
    {{ type = "frechet", features = {SPECTRUM} }},
    {{ type = "frechet", features = {SPECTRUM}, to = "teacher" }},
    {{ type = "frechet", features = "pixels" }},
    "frechet_pixels",
]
"""


@pytest.fixture
def strangers(install: Callable[..., None]) -> None:
    install(WavesConfig, SpectrumConfig)


def recipe(metrics: str = METRICS, data: str = "waves") -> str:
    lines = EVALUATION.replace(
        'metrics = ["frechet_pixels", { type = "frechet_teacher", space = "pixels" }, "semigroup"]', metrics
    )
    lines = lines.replace('    { stage = "forward", samplers = ["flow_map", "consistency"] },\n', "")
    return (HEAD + TEACHER + lines).replace("checkerboard", data)


def references(count: int = 60) -> References:
    data = Waves()
    train, held_out = data.reference("train", count), data.reference("held_out", 2 * count)
    again = data.batch(Draw.whole(0, "teacher", 0, "again", count)).x
    return References(train, held_out, held_out.x, again)


def evidence(x: Tensor) -> Evidence:
    return Evidence(x, None, None, Draw.whole(0, "metric", 0, "test", len(x)))  # type: ignore[arg-type]


def distance(a: Tensor, b: Tensor) -> float:
    """The Fréchet distance of vectors, by the roots of the matrices themselves."""
    means = [part.double().mean(0) for part in (a, b)]
    covs = [torch.cov(part.double().T) for part in (a, b)]
    values, vectors = torch.linalg.eigh(covs[0])
    root = vectors @ torch.diag(values.clamp(min=0).sqrt()) @ vectors.T
    cross = torch.linalg.eigvalsh(root @ covs[1] @ root).clamp(min=0).sqrt().sum()
    return float((means[0] - means[1]).square().sum() + covs[0].trace() + covs[1].trace() - 2 * cross)


def test_the_distance_is_that_of_the_stranger_s_vectors(strangers: None) -> None:
    given, x = references(), torch.randn(60, 1, 1, LENGTH, generator=torch.Generator().manual_seed(0))
    metric = FrechetConfig.model_validate({"features": {"type": "spectrum", "lowest": 1}}).build(given)

    def loud(signal: Tensor) -> Tensor:
        waves = torch.exp(-2j * torch.pi * torch.outer(torch.arange(LENGTH), torch.arange(1, LENGTH // 2 + 1)) / LENGTH)
        return (signal.flatten(1).to(waves.dtype) @ waves).abs()

    expected = distance(loud(x), loud(given.held_out.x))
    assert metric.score(evidence(x)) == pytest.approx(expected, rel=1e-4)
    # Of the phase, which pixels see, nothing is left: waves of one phase alone are perfect.
    same = given.train.x.roll(3, -1)
    assert metric.score(evidence(same)) < 1e-2 * expected


def test_the_floor_is_of_what_the_features_have_not_learned_from(strangers: None) -> None:
    given, asked = references(), []

    class LearnsConfig(SpectrumConfig):
        """Learns from the first half."""

        def unseen(self, references: References) -> Samples:
            asked.append(len(references.train.x))
            return replace(references.train, x=references.train.x[30:])

    metric = FrechetConfig(features=LearnsConfig()).build(given)
    features = Spectrum(0).of
    assert metric.floor(10**6) == pytest.approx(
        distance(features(given.train.x[30:]), features(given.held_out.x)), rel=1e-4
    )
    assert asked == [60]


def test_the_older_metrics_are_frechet_with_features_of_ours() -> None:
    data = DigitsConfig().build()
    train, held_out = data.reference("train", 200), data.reference("held_out", 100)
    given = References(train, held_out, held_out.x, train.x[:80])
    x = evidence(train.x[:90] + 0.2 * torch.randn(90, 1, 1, 8, 8, generator=torch.Generator().manual_seed(0)))
    for old, new in (
        (FrechetPixelsConfig(), {"features": "pixels"}),
        (FrechetFeaturesConfig(), {"features": "classifier"}),
        (FrechetTeacherConfig(), {"features": "classifier", "to": "teacher"}),
        (FrechetTeacherConfig(space="pixels"), {"features": "pixels", "to": "teacher"}),
    ):
        one, other = old.build(given), FrechetConfig.model_validate(new).build(given)
        assert (one.score(x), one.floor(50)) == (other.score(x), other.floor(50))


def test_a_run_is_measured_in_a_stranger_s_features(
    strangers: None, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = planned(recipe(), here)
    train_all(plan)
    evaluate(plan, torch.device("cpu"), lambda text: None)
    lines = [json.loads(line) for line in (plan.folder / "metrics.jsonl").read_text().splitlines()]
    names = ["frechet:spectrum", "frechet:spectrum:teacher", "frechet:pixels", "frechet_pixels"]
    found = {name: [(n["value"], n["floor"]) for n in lines if n["metric"] == name] for name in names}
    assert [len(values) for values in found.values()] == [3] * len(names)
    assert found["frechet:pixels"] == found["frechet_pixels"] != found["frechet:spectrum"]
    assert found["frechet:spectrum"] != found["frechet:spectrum:teacher"]
    monkeypatch.delattr(Spectrum, "of")
    evaluate(plan, torch.device("cpu"), lambda text: None)  # nothing is measured twice
    (plan.folder / "recipe.lock.toml").write_text(tomli_w.dumps(plan.recipe.as_tables()))
    page = html.unescape(write_report(plan.folder).read_text("utf-8"))
    assert all(name in page for name in names)
    assert described("frechet:spectrum") in page
    assert described("frechet:spectrum").startswith("Fréchet distance in any installed features")


@pytest.mark.parametrize(
    ("metrics", "data", "message"),
    [
        (
            '{ type = "frechet", features = "spectrum" }',
            "checkerboard",
            "r.toml:{line}: evaluation.metrics.0.features.type: a spectrum is of signals [F, C, L], not [1, 2]",
        ),
        (
            '{ type = "frechet", features = { type = "spectrum", lowest = 9 } }',
            "waves",
            "r.toml:{line}: evaluation.metrics.0.features.lowest: no frequency is left",
        ),
        (
            '{ type = "frechet", features = "classifier" }',
            "waves",
            "r.toml:{line}: evaluation.metrics.0.features.type: classifier features need labelled data, and "
            "these have no labels",
        ),
        (
            '{ type = "frechet", features = "spectra" }',
            "waves",
            "evaluation.metrics.0.features: unknown features 'spectra'; allowed: classifier, inception, pixels, "
            "spectrum, vision_model. Did you mean 'spectrum'?",
        ),
        ('"frechet", "frechet"', "waves", "metric 'frechet:pixels' is listed twice"),
    ],
)
def test_what_features_cannot_read_is_refused_before_training(
    metrics: str, data: str, message: str, strangers: None, problem: Callable[..., str]
) -> None:
    text = recipe(f"metrics = [{metrics}]", data)
    line = next(number for number, words in enumerate(text.splitlines(), 1) if words.startswith("metrics"))
    assert message.format(line=line) in problem(text)


def test_what_features_read_is_missed_by_check_and_not_by_a_rehearsal(strangers: None, here: Path) -> None:
    metric = '{ type = "frechet", features = { type = "spectrum", weights = "none.pt" } }'
    Path("r.toml").write_text(recipe(f"metrics = [{metric}]"))
    found, _ = read(Path("r.toml"))
    (missing,) = found.missing()
    assert (missing.field, missing.message) == (("evaluation", "metrics", 0, "features", "weights"), "no such file")
    assert list(twin_of(found, Path("parts"), 1).missing()) == []


# The kit


def broken(of: Callable[[Tensor], Any], unseen: Callable[[References], Samples] | None = None) -> FeaturesConfig:
    class Stub(Features):
        def of(self, samples: Tensor) -> Tensor:
            return of(samples)  # type: ignore[no-any-return]

    class BrokenConfig(FeaturesConfig):
        """Broken."""

        type: Literal["broken"] = "broken"

        def findings(self, spec: SampleSpec) -> Iterable[Finding]:
            return []

        def build(self, references: References) -> Features:
            return Stub()

        def unseen(self, references: References) -> Samples:
            return unseen(references) if unseen else references.train

    return BrokenConfig()


def flat(x: Tensor) -> Tensor:
    return x.flatten(1)


COUNTED = itertools.count()

BROKEN: dict[str, tuple[FeaturesConfig, str]] = {
    "no vectors": (broken(lambda x: x), "must give vectors [24, D], not torch.float32 [24, 1, 1, 8, 8]"),
    "integers": (broken(lambda x: flat(x).long()), "must give vectors [24, D], not torch.int64"),
    "not finite": (broken(lambda x: flat(x) / 0), "must give finite numbers"),
    "standardised over the batch": (broken(lambda x: flat(x) - flat(x).mean(0)), "must not depend on the others"),
    "restless": (broken(lambda x: flat(x) + next(COUNTED)), "must give the same vectors for the same samples"),
    "in place": (broken(lambda x: flat(x.mul_(2))), "must not change the samples"),
    "blind": (broken(lambda x: torch.ones(len(x), 3)), "must tell the reference from noise"),
    "nothing unseen": (broken(flat, lambda r: Samples(r.train.x[:0])), "and at least one"),
    "held-out as unseen": (broken(flat, lambda r: r.held_out), "must be some of the training samples"),
}


@pytest.mark.parametrize(("config", "words"), BROKEN.values(), ids=BROKEN.keys())
def test_features_that_break_their_contract(config: FeaturesConfig, words: str) -> None:
    with pytest.raises(AssertionError) as caught:
        check_features(config)
    assert words in str(caught.value)


def test_the_stub_of_these_features_keeps_the_contract(strangers: None) -> None:
    check_features(broken(flat))
    check_features(SpectrumConfig(), references())


def test_a_checkerboard_has_no_classifier() -> None:
    (finding,) = FrechetConfig.model_validate({"features": "classifier"}).findings(CheckerboardConfig().spec())
    assert finding.level == "error"
