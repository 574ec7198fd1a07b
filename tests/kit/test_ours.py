"""Every component that is installed keeps the laws of its kind: each check of each is a test, as a stranger's are."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from flowmap_datasets.configs import DigitsConfig, MnistConfig
from flowmap_gaussian.configs import GaussianConfig
from flowmap_metrics import inception_weights
from flowmap_metrics.agreement import ClipScore
from flowmap_metrics.image_configs import ClipScoreConfig, FidConfig, KidConfig, PrecisionConfig, RecallConfig
from flowmap_metrics.network_configs import InceptionConfig
from flowmap_mlp.configs import MlpConfig
from flowmap_samplers.configs import LcmConfig
from flowmap_wan.causal_configs import CausalWan21Config, CausalWan22Config
from flowmap_wan.configs import FarWan21Config, Wan21Config

from flowmap.interfaces import EncodedText, Evidence, Samples
from flowmap.plugin import ComponentConfig, SampleSpec
from flowmap.plugin.catalogue import catalogue
from flowmap.testing import Case, Examination, check_metric, examination
from flowmap.testing.suite import parametrize_with_checks, run
from flowmap.weights.names import RANDOM

from ..images.support import KINDS, prompts, spec_of
from ..seeded_inception import inception_shapes, seeded
from ..wan.support import CHANNELS, TEXT, architecture, lora, noise
from .agreeing import TEXTS, agreeing_clip, captioned
from .reference import broken

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    # What torch loads for its first forward-mode derivative uses torch.jit, which it deprecates itself.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

POINT, IMAGE = SampleSpec((1, 2)), SampleSpec((1, 1, 4, 4), classes=3)
VIDEO = SampleSpec((4, CHANNELS, 4, 4))
# Three that differ the most: adapters' usual layers, lists and times that go backwards, labels and noise.
QUICK = ("dit", "sd3", "z_image")
SETTINGS: list[dict[str, Any]] = [
    {"type": "flow_matching", "drop_condition": 0.5},
    {"type": "flow_map", "velocity": "teacher", "rebalance": False, "cfg_scale": 2.0},
    {"type": "flow_map", "cfg_scale": 3.0, "drop_condition": 0.1, "tangent": {"method": "jvp"}},
    {"type": "consistency", "schedule": "improved", "start_stage": 4, "cfg_scale": 2.0},
    {"type": "tcm", "velocity": "teacher", "start_stage": 4},
    {"type": "scm", "velocity": "data"},
    {"type": "scm", "tangent": {"method": "central"}},
    {"type": "mean_flow", "velocity": "teacher", "cfg_scale": 2.0},
    {"type": "eulerian", "velocity": "self", "normalize": True, "warmup": 2},
    {"type": "lagrangian", "velocity": "self", "tangent": {"method": "central"}},
    {"type": "semigroup", "velocity": "data", "middle": "midpoint"},
    {"type": "backward_simulation", "unroll": "full"},
    {"type": "flow_map", "tangent": {"batched": False}, "weight": "beta08", "shift": 5.0},
    {"type": "discrete_flow_map", "cfg_scale": 2.0, "solver": "euler"},
    {"type": "consistency", "cfg_scale": 2.0, "points": 4},
    {"type": "backward_simulation", "forward": "flow_map", "cfg_scale": 4.0},
    {"type": "backward_simulation", "forward": "consistency", "sampler": "consistency"},
]


def plain() -> Iterator[ComponentConfig]:
    """What needs neither settings nor files, but for backbones."""
    for component in catalogue().components:
        needy = any(field.is_required() for field in component.config.model_fields.values())
        if component.kind != "backbone" and not needy:
            config = component.config.model_validate({"type": component.name})
            if not any(config.missing()):
                yield config


AWAY = {
    "flow_map": "as published, the null's part in the derivative of a guided u is left out (derivations.md)",
    "scm": "a difference is not the derivative, and a normalised tangent is as long however small its error",
}


def known_of(fields: dict[str, Any]) -> dict[str, str]:
    """Why an objective with these settings does not stay at the flow map, if it does not."""
    guided = fields["type"] == "flow_map" and fields.get("velocity", "data") == "data" and "cfg_scale" in fields
    differs = fields["type"] == "scm" and "tangent" in fields
    return {"stays_at_the_flow": AWAY[fields["type"]]} if guided or differs else {}


def family(name: str) -> Examination:
    kind, count = KINDS[name], 4
    x = torch.randn(count, *spec_of(kind).shape, generator=torch.Generator().manual_seed(0))
    return examination(kind(weights=RANDOM), spec=spec_of(kind), samples=Samples(x, prompts=prompts(kind, count)))


def wan(adapted: Any) -> Iterator[Examination]:
    fields: dict[str, Any] = {"weights": RANDOM, "architecture": architecture(layers=1), "lora": adapted}
    texts = EncodedText(noise(4, 5, TEXT, seed=3), noise(5, TEXT, seed=4))
    samples = Samples(noise(4, *VIDEO.shape), prompts=texts)
    for config in (
        Wan21Config(**fields, first_frame=0.5),
        FarWan21Config(**fields, chunks=(1, 1, 1, 1), full_chunks=2),
        FarWan21Config(**fields, chunks=(1, 2, 1), full_chunks=3),
    ):
        yield examination(config, spec=VIDEO, samples=samples)
    rivals = {name: value for name, value in fields.items() if name != "lora"}
    yield examination(CausalWan21Config(**fields, chunk=2), spec=VIDEO, samples=samples)
    if adapted is None:
        pair = CausalWan22Config(**rivals, chunk=3)
        yield examination(pair, spec=VIDEO, samples=samples)


OTHERS = [
    *map(examination, plain()),
    examination(DigitsConfig(conditional=True)),
    examination(MnistConfig.model_validate({"condition": "class"})),
    examination(LcmConfig(times=(1000, 750, 500, 250), shift=5, levels="nearest")),
    *(examination(kind.model_validate({"features": "pixels"})) for kind in (KidConfig, PrecisionConfig)),
    # In pixels noise is so far apart that all real images lie among it.
    examination(RecallConfig.model_validate({"features": "classifier"})),
    *(
        examination(catalogue().find("objective", fields["type"]).model_validate(fields), expected=known_of(fields))
        for fields in SETTINGS
    ),
]
BACKBONES = [
    *(examination(MlpConfig(width=8, depth=1), spec=spec) for spec in (POINT, IMAGE)),
    examination(GaussianConfig(), spec=POINT),
    *wan(lora()),
    *wan(None),
    *map(family, QUICK),
]


@parametrize_with_checks(OTHERS)
def test_a_component_keeps_the_law(case: Case) -> None:
    run(case)


@parametrize_with_checks(BACKBONES)
def test_a_backbone_keeps_the_law(case: Case) -> None:
    run(case)


@pytest.mark.slow
@parametrize_with_checks([family(name) for name in sorted(KINDS.keys() - set(QUICK))])
def test_another_family_keeps_the_law(case: Case) -> None:
    run(case)


FILES = {c.name: c for c in catalogue().components if c.name in ("images", "video_shards", "vision_model", "inception")}
WITH_WEIGHTS = {("metric", "fid"), ("metric", "clip_score")}
ELSEWHERE = {
    ("backbone", "wan21_i2v"): "needs a checkpoint with encoders, and is examined in tests/wan/test_pictures.py",
}
"""What is not examined here, and why."""


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_what_reads_files_keeps_the_laws_as_its_tiny_twin(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inception_weights, "SIDE", 75)  # the smallest that it takes, and quick
    needed = {key: "a/b" for key, field in FILES[name].config.model_fields.items() if field.is_required()}
    config = FILES[name].config.model_validate({"type": name, **needed}).rehearsed(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = examination(config).outcomes()
    assert {o.check.name: o.sentence for o in found if o.status in ("failed", "not run")} == {}


@pytest.mark.slow
def test_fid_keeps_the_laws_in_features_that_tell_images_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inception_weights, "SIDE", 75)
    torch.save(seeded(inception_shapes()), tmp_path / "inception.pth")
    check_metric(FidConfig(features=InceptionConfig(weights=str(tmp_path / "inception.pth"))))


def test_the_clip_score_keeps_the_laws_by_a_clip_that_knows_two_texts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = ClipScoreConfig(weights=str(agreeing_clip(tmp_path / "clip")))
    found = examination(config, references=captioned()).outcomes()
    assert {o.check.name: o.sentence for o in found if o.status != "passed"} == {}
    score = ClipScore.score

    def by_the_other_text(self: ClipScore, evidence: Evidence) -> float:
        return score(self, replace(evidence, prompts=[TEXTS[text == TEXTS[0]] for text in evidence.prompts]))

    monkeypatch.setattr(ClipScore, "score", by_the_other_text)
    assert list(broken(config, references=captioned())) == ["better_is_better"]


def test_every_registered_type_is_examined_here() -> None:
    examined = {(one.subject.kind, one.subject.config.type) for one in (*OTHERS, *BACKBONES)}
    slow = {("backbone", name) for name in KINDS} | {(c.kind, c.name) for c in FILES.values()}
    assert {(c.kind, c.name) for c in catalogue().components} == examined | slow | WITH_WEIGHTS | ELSEWHERE.keys()
