"""Released MeanFlow, AYF and TiM: their numbers from our flow-map objectives (tests/golden/objectives), to 1e-5."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from flowmap_flow import EulerianConfig, MeanFlowConfig, TransitionConfig
from torch import Tensor

from flowmap.blocks import BranchesConfig, TangentConfig, TimesConfig

from .released import Released

MEAN_FLOW: dict[str, dict[str, Any]] = {
    "meanflow_data": {},
    "meanflow_power": {"power": 0.5, "constant": 0.01},
    "meanflow_guided": {"cfg_scale": 2.5, "drop_condition": 0.1},
    "meanflow_teacher": {"velocity": "teacher", "cfg_scale": 2.5},
    "meanflow_difference": {"tangent": TangentConfig(step=0.005)},
}


def pair(golden: Released, law: TimesConfig) -> dict[str, Tensor]:
    """What `law` makes the file's t and r of, and its noise. The file has times, and not the numbers they come from."""
    r, t = (golden.n[name] for name in ("r", "t"))
    if law.distribution == "logit_normal":
        r, t = ((torch.logit(times) - law.mean) / law.std for times in (r, t))
    return {"pair": torch.stack([r, t], dim=1), "noise": golden.n["noise"]}


def resting(golden: Released) -> BranchesConfig:
    """The file's share of samples with r = t, which come first in it."""
    rests = golden.n["r"] == golden.n["t"]
    assert rests.sort(descending=True, stable=True).values.equal(rests)
    assert 0 < int(rests.sum()) < golden.count
    return BranchesConfig(diffusion=float(rests.double().mean()), consistency=0.0)


@pytest.mark.parametrize("case", MEAN_FLOW)
def test_mean_flow_is_the_released_one(case: str) -> None:
    golden = Released(case)
    fields = {"drop_condition": 0.0, "branches": resting(golden), **MEAN_FLOW[case]}
    config = MeanFlowConfig(**fields)
    assert config.power == golden.number("power")
    assert config.constant == golden.number("norm_const")
    assert config.cfg_scale == float(golden.about.get("guidance", 1))
    numbers = pair(golden, config.times)
    if config.drop_condition:
        numbers["drop"] = golden.n["drop"]
        assert 0 < int((golden.n["drop"] < config.drop_condition).sum()) < golden.count
    (loss,) = golden.losses(config, numbers, {"branches": (0.5,)}, places=range(golden.count))
    golden.assert_agrees(loss.value, golden.elements)


def test_normalized_eulerian_distillation_is_the_released_one_in_the_warm_up() -> None:
    golden = Released("eulerian_normalized")
    config = EulerianConfig(
        cfg_scale=golden.number("guidance"),
        normalize=True,
        constant=golden.number("norm_const"),
        warmup=int(golden.about["warmup"]),
        branches=resting(golden),
    )
    numbers = pair(golden, config.times)
    (loss,) = golden.losses(
        config,
        numbers,
        {"branches": (0.5,)},
        places=range(golden.count),
        step=int(golden.about["iteration"]),
    )
    golden.assert_agrees(loss.value, golden.elements)


TRANSITION: dict[str, dict[str, Any]] = {
    "tim_plain": {},
}


@pytest.mark.parametrize("case", TRANSITION)
def test_transition_is_the_released_one(case: str) -> None:
    golden = Released(case)
    law = TimesConfig(mean=golden.number("P_mean"), std=golden.number("P_std"))
    config = TransitionConfig(
        times=law,
        sigma_d=golden.number("sigma_d"),
        cfg_scale=golden.number("guidance"),
        drop_condition=0.0,
        tangent=TangentConfig(step=golden.number("step")),
        **TRANSITION[case],
    )
    assert config.branches.diffusion == golden.number("diffusion")
    assert config.branches.consistency == golden.number("consistency")
    # Of ten samples the first five have r = t, the last has r = 0.
    places = [0, 1, 2, 3, 4, 6, 7, 8, 9, 5]
    drawn = {"pair": torch.stack([golden.n["normal1"], golden.n["normal2"]], dim=1), "noise": golden.n["noise"]}
    (loss,) = golden.losses(config, drawn, {"branches": (0.0,)}, places=places)
    golden.assert_agrees(loss.value, 1.0)
