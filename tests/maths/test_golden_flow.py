"""Released MeanFlow, AYF and TiM: their numbers from our flow-map objectives (tests/golden/objectives), to 1e-5."""

from __future__ import annotations

from typing import Any, final

import pytest
import torch
from flowmap_flow.derivative_configs import EulerianConfig, MeanFlowConfig, TransitionConfig
from torch import Tensor

from flowmap.interfaces import Cond, FlowMap, Role, as_flow_map
from flowmap.schema.settings import BranchesConfig, TangentConfig, TimesConfig

from .released import Released

MEAN_FLOW: dict[str, dict[str, Any]] = {
    "meanflow_data": {},
    "meanflow_power": {},
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
    """To 1e-8: what a difference is off the derivative is less than 1e-5 here."""
    golden = Released(case)
    weight = {"power": golden.number("power"), "constant": golden.number("norm_const")}
    fields = {"drop_condition": 0.0, "branches": resting(golden), **weight, **MEAN_FLOW[case]}
    config = MeanFlowConfig(**fields)
    assert config.cfg_scale == float(golden.about.get("guidance", 1))
    numbers = pair(golden, config.times)
    if config.drop_condition:
        numbers["drop"] = golden.n["drop"]
        assert 0 < int((golden.n["drop"] < config.drop_condition).sum()) < golden.count
    (loss,) = golden.losses(config, numbers, {"branches": (0.5,)}, places=range(golden.count))
    golden.assert_agrees(loss.value, golden.elements, tolerance=1e-8)


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


PLAIN = {"interval": "angle", "power": 0.0, "cosine": False}
TRANSITION: dict[str, dict[str, Any]] = {
    "tim_plain": PLAIN,
    "tim_plain_sigma": PLAIN,
    "tim_guided": PLAIN,
    "tim_tangent": {"power": 0.0, "cosine": False},
    "tim_released": {"cosine": False},
    "tim_cosine": {},
}


@final
class Across(FlowMap):
    """`inner` on samples of which frames and channels have changed places."""

    def __init__(self, inner: FlowMap) -> None:
        self.inner = inner

    def mean_velocity(self, x: Tensor, t: Tensor, r: Tensor, cond: Cond) -> Tensor:
        return self.inner.mean_velocity(x.transpose(1, 2), t, r, cond).transpose(1, 2)


def across(role: Role) -> Role:
    return Role(role.name, Across(as_flow_map(role.network)), role.module, role.own)


CASES = {*MEAN_FLOW, *TRANSITION, "eulerian_normalized"}


def test_the_cases_of_transition_are_their_settings() -> None:
    """What the defaults are for, and what a case takes from them."""
    for case, fields in TRANSITION.items():
        about, config = Released(case).about, TransitionConfig(**fields)
        assert about["time"] == {"angle": "t / (1 - t)", "time": "tan(t)"}[config.interval]
        assert about["adaptive"] == str(config.power == 1)
        assert about["cosine_loss"] == str(config.cosine)
        assert about["guidance"] == ("2.0" if case == "tim_guided" else "1.0")


@pytest.mark.parametrize("case", TRANSITION)
def test_transition_is_the_released_one(case: str) -> None:
    """Its cosine was taken over dimension 1 of what is `[B, F, C, H, W]` here, and so over frames."""
    golden = Released(case)
    if case == "tim_cosine":
        golden.samples = golden.samples.transpose(1, 2)
        golden.n["noise"] = golden.n["noise"].transpose(1, 2)
        golden.roles["student"] = across(golden.roles["student"])
    config = TransitionConfig(
        sigma_d=golden.number("sigma_d"),
        cfg_scale=golden.number("guidance"),
        drop_condition=0.0,
        **TRANSITION[case],
    )
    law = config.times.distribution, config.times.mean, config.times.std
    assert law == ("logit_normal", golden.number("P_mean"), golden.number("P_std"))
    assert config.branches.diffusion == golden.number("diffusion")
    assert config.branches.consistency == golden.number("consistency")
    assert (config.tangent.method, config.tangent.step) == ("central", golden.number("step"))
    # Of ten samples the first five have r = t, the last has r = 0.
    places = [0, 1, 2, 3, 4, 6, 7, 8, 9, 5]
    drawn = {"pair": torch.stack([golden.n["normal1"], golden.n["normal2"]], dim=1), "noise": golden.n["noise"]}
    (loss,) = golden.losses(config, drawn, {"branches": (0.0,)}, places=places)
    golden.assert_agrees(loss.value, 1.0)
