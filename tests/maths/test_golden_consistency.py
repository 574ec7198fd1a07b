"""Released sCM, consistency models and TCM: their numbers from our objectives (tests/golden/objectives), to 1e-5."""

from __future__ import annotations

import pytest
import torch
from flowmap_consistency.configs import ConsistencyConfig, ConsistencyTrainingConfig, ScmConfig, TcmConfig

from .released import Released

SCM = {
    "scm_distillation_full": "teacher",
    "scm_distillation_warm": "teacher",
    "scm_training_full": "data",
    "scm_training_warm": "data",
}


@pytest.mark.parametrize("case", SCM)
def test_continuous_time_consistency_is_the_released_one(case: str) -> None:
    """The file has times. They are made of the normal numbers that the default law of angles takes for them."""
    golden = Released(case)
    config = ScmConfig(
        velocity=SCM[case],
        bins=0,
        warmup=int(golden.about["tangent_warmup_steps"]),
        cfg_scale=golden.number("guidance"),
    )
    assert config.sigma_d == golden.number("sigma_data")
    # tan(angle) is t / (1 - t) / sigma_d.
    drawn = {"angle": (torch.logit(golden.n["t"]) - config.mean) / config.std, "noise": golden.n["noise"]}
    (loss,) = golden.losses(config, drawn, step=int(golden.about["iteration"]))
    golden.assert_agrees(loss.value, 1.0)


CM = {
    "cm_distillation": ConsistencyConfig(
        solver="euler",
        schedule="improved",
        start_stage=3,
        distance="pseudo_huber",
        target="student",
        cfg_scale=2.5,
        mapping="time",
    ),
    "cm_training": ConsistencyTrainingConfig(start_stage=3, mapping="time"),
}


@pytest.mark.parametrize("case", CM)
def test_discrete_consistency_is_the_released_one(case: str) -> None:
    golden, config = Released(case), CM[case]
    assert config.start_stage == int(golden.about["stage"])
    assert getattr(config, "cfg_scale", 1.0) == golden.number("guidance")
    law = config.times
    drawn = {"times": (torch.logit(golden.n["t"]) - law.mean) / law.std, "noise": golden.n["noise"]}
    (loss,) = golden.losses(config, drawn)
    golden.assert_agrees(loss.value, golden.elements**0.5)


def test_truncated_consistency_is_the_released_one() -> None:
    golden = Released("tcm")
    config = TcmConfig(start_stage=3, mapping="time")
    settings = config.boundary, config.boundary_share, config.boundary_weight, config.start_stage
    assert settings == tuple(golden.number(key) for key in ("boundary", "boundary_share", "boundary_weight", "stage"))
    edge, law, low = golden.n["edge"], config.times, torch.tensor(config.boundary).double()
    # The share of the law, from the boundary up, below the file's times.
    below = torch.special.ndtr((torch.logit(torch.stack([low, *golden.n["t_drawn"]])) - law.mean) / law.std)
    drawn = {"times": (below[1:] - below[0]) / (1 - below[0]), "noise": golden.n["noise"]}
    places = torch.argsort(torch.argsort(edge.logical_not(), stable=True)).tolist()
    (loss,) = golden.losses(config, drawn, {"boundary": (0.0,)}, places=places)
    assert len(loss.raw["boundary"]) == int(edge.sum())
    golden.assert_agrees(loss.value, golden.elements**0.5)


CASES = {*SCM, *CM, "tcm", "ect"}


def test_easy_consistency_tuning_is_the_released_one() -> None:
    """Its schedule, weight and Huber constant are those of noise levels, by default."""
    golden = Released("ect")
    config = ConsistencyTrainingConfig(
        start_stage=int(golden.about["stage"]), huber_scale=golden.number("c") / golden.elements**0.5
    )
    law = config.times.distribution, config.times.mean, config.times.std
    assert law == ("logit_normal", golden.number("P_mean"), golden.number("P_std"))
    (loss,) = golden.losses(config, {"times": golden.n["normal"], "noise": golden.n["noise"]})
    golden.assert_agrees(loss.value, golden.elements**0.5)
