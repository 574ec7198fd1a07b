"""Released Self-Forcing, DMD2 and rCM: their numbers from our objectives (tests/golden/objectives), to 1e-5."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import pytest
import torch
from flowmap_distribution.configs import CausVidConfig, Dmd2Config, RcmConfig, SelfForcingConfig
from torch import Tensor, nn

from flowmap.interfaces import Batch, Chunking, Cond, FlowMap, Role, Velocity, Window
from flowmap.maths.draw import Draw
from flowmap.maths.path import like, shifted

from .released import GOLDEN, Released
from .test_golden_consistency import CASES as CONSISTENCY
from .test_golden_flow import CASES as FLOW

STUDENT, CRITIC = 0, 1  # turns
EXITS = ("self_forcing_exit0", "self_forcing_exit2")
SELF_FORCING = {"self_forcing": SelfForcingConfig, "dmd2": Dmd2Config}
DISTRIBUTION = {*EXITS, "dmd2_on_data", "dmd2_edm", "rcm_scm_k1", "rcm_scm_warm", "rcm_dmd", "rcm_critic"}


class Apart(Chunking):
    """Chunks of `size` frames that know nothing of each other, as the golden network has no memory."""

    def __init__(self, size: int) -> None:
        self.size = size

    def sizes(self, frames: int, given: int = 0) -> tuple[int, ...]:
        return (self.size,) * ((frames - given) // self.size)

    def window(self, frames: int, draw: Draw) -> Window:
        return Window(0, frames)

    def forced(self, batch: Batch, window: Window) -> Batch:
        return batch

    def whole(self, batch: Batch) -> Batch:
        return batch

    def given(self, network: Velocity, cond: Cond, frames: Tensor) -> Cond:
        return cond

    def remember(self, network: Velocity, cond: Cond, chunk: Tensor) -> Cond:
        return cond


def renoise(parts: Sequence[Tensor], exit_step: int) -> dict[str, Tensor]:
    """What a rollout that exits at `exit_step` draws in each of its chunks, of which `parts` `[steps, B, F, ...]`.

    The last jump ends at 0, where its noise is multiplied by nothing.
    """
    drawn = {}
    for index, noise in enumerate(parts):
        chunk = f"rollout/chunk-{index}"
        drawn |= {f"{chunk}/renoise-{step}": noise[step] for step in range(exit_step)}
        drawn[f"{chunk}/last/renoise-0"] = torch.full_like(noise[0], 1e3)
    return drawn


def test_every_released_case_is_tested() -> None:
    here = {path.stem for path in GOLDEN.glob("*.safetensors")}
    assert here == FLOW | CONSISTENCY | DISTRIBUTION


@pytest.mark.parametrize("case", EXITS)
@pytest.mark.parametrize("name", SELF_FORCING)
@pytest.mark.parametrize("turn", [STUDENT, CRITIC], ids=["student", "critic"])
def test_self_forcing_is_the_released_one(case: str, name: str, turn: int) -> None:
    golden = Released(case)
    exit_step, frames = int(golden.about["exit_step"]), int(golden.about["chunk_frames"])
    config = SELF_FORCING[name](
        shift=golden.number("shift"),
        steps=int(golden.about["steps"]),
        cfg_scale=golden.number("cfg_scale"),
        score_times=SelfForcingConfig().score_times.model_dump(),
    )
    parts = golden.n["renoise"].split(frames, dim=2)
    drawn = {"start noise": golden.n["start_noise"], **renoise(parts, exit_step)}
    of_turn = ("score", "score_step") if turn == STUDENT else ("critic", "critic_step")
    kind, step = of_turn
    drawn |= {f"{kind} time": golden.n[step].double() / 1000, f"{kind} noise": golden.n[f"{kind}_noise"]}
    (loss,) = golden.losses(config, drawn, {"exit": (exit_step,)}, turn=turn, chunking=Apart(frames))
    if turn == STUDENT:
        golden.assert_agrees(loss.value, 1.0)
    else:
        golden.assert_agrees(loss.value, 1.0, "critic", "out_critic_")


@pytest.mark.parametrize("turn", [STUDENT, CRITIC], ids=["student", "critic"])
def test_dmd2_on_noised_data_is_the_released_one(turn: int) -> None:
    """Critic and student take the same noise and times there."""
    golden = Released("dmd2_on_data")
    config = CausVidConfig(
        shift=golden.number("shift"),
        steps=int(golden.about["steps"]),
        cfg_scale=golden.number("guidance"),
        score_times=Dmd2Config().score_times.model_dump(),
    )
    kind = "score" if turn == STUDENT else "critic"
    drawn = {
        "chunk time": golden.n["chunk_uniform"],
        "start noise": golden.n["start_noise"],
        f"{kind} time": golden.n["score_uniform"],
        f"{kind} noise": golden.n["score_noise"],
    }
    (loss,) = golden.losses(config, drawn, turn=turn)
    if turn == STUDENT:
        golden.assert_agrees(loss.value, 1.0, tolerance=2e-5)
    else:
        golden.assert_agrees(loss.value, 1.0, "critic", "out_critic_", tolerance=2e-5)


def rcm_rollout(golden: Released) -> tuple[dict[str, Tensor], dict[str, Sequence[Any]]]:
    """What a rollout draws at the file's times, the same for all samples: the law of scores, a shift, takes them so."""
    steps, times = int(golden.about["steps"]), Released("rcm_dmd").n["out_times"]
    drawn = {"start noise": golden.n["start_noise"], **renoise([golden.n["renoise"]], steps - 1)}
    for index in range(1, steps):
        uniform = shifted(times[index].double(), 1 / golden.number("shift"))
        drawn[f"rollout time {index}"] = uniform.expand(golden.count)
    return drawn, {"exit": (steps,)}


def test_the_consistency_loss_of_rcm_is_the_released_one() -> None:
    """All of it but the guidance is what `rcm` makes of an scm by itself."""
    golden = Released("rcm_scm_k1")
    config = RcmConfig(forward={"type": "scm", "warmup": 0}, cfg_scale=golden.number("guidance"), start=1)
    assert config.forward_weight == golden.number("loss_scale")
    drawn = {"forward/angle": golden.n["normal"], "forward/noise": golden.n["noise"]}
    (loss,) = golden.losses(config, drawn)
    golden.assert_agrees(loss.value, golden.elements * golden.count)


def test_the_warm_up_of_rcm_is_the_released_one() -> None:
    golden = Released("rcm_scm_warm")
    config = RcmConfig(cfg_scale=golden.number("guidance"))
    drawn = {"forward/angle": golden.n["normal"], "forward/noise": golden.n["noise"]}
    (loss,) = golden.losses(config, drawn, step=int(golden.about["iteration"]))
    golden.assert_agrees(loss.value, golden.elements * golden.count)


def test_the_distribution_loss_of_rcm_is_the_released_one() -> None:
    golden = Released("rcm_dmd")
    config = RcmConfig(cfg_scale=golden.number("guidance"), start=0)
    drawn, shares = rcm_rollout(golden)
    drawn |= {"score time": golden.n["score_uniform"], "score noise": golden.n["score_noise"]}
    loss = next(golden.losses(config, drawn, shares))
    assert loss.branch == "dmd"
    golden.assert_agrees(loss.value, golden.elements * golden.count)


def test_the_critic_of_rcm_is_the_released_one() -> None:
    golden = Released("rcm_critic")
    drawn, shares = rcm_rollout(golden)
    drawn |= {"critic time": golden.n["score_uniform"], "critic noise": golden.n["score_noise"]}
    (loss,) = golden.losses(RcmConfig(), drawn, shares, turn=CRITIC)
    golden.assert_agrees(loss.value, golden.elements * golden.count, "critic")


@final
class Made(FlowMap):
    """A student that makes the samples `x`, which are all that it has of parameters."""

    def __init__(self, module: nn.ParameterDict) -> None:
        self.module = module

    def mean_velocity(self, x: Tensor, t: Tensor, r: Tensor, cond: Cond) -> Tensor:
        return (x - self.module["x"]) / like(t - r, x)


@pytest.mark.parametrize("turn", [STUDENT, CRITIC], ids=["student", "critic"])
def test_dmd2_on_noise_levels_is_the_released_one(turn: int) -> None:
    """Its steps of noise levels are no law of times that flowmap has: the times are given as they are."""
    golden = Released("dmd2_edm")
    module = nn.ParameterDict({"x": golden.n["x"]})
    golden.roles["student"] = Role("student", Made(module), module, dict(module.named_parameters()))
    config = Dmd2Config(
        steps=1,
        cfg_scale=golden.number("guidance"),
        critic_sigma_d=golden.number("sigma_data"),
        score_times={"low": 0.0, "high": 1.0, "shift": 1.0},
    )
    kind, sigma = ("score", "out_sigma") if turn == STUDENT else ("critic", "out_critic_sigma")
    level = golden.n[sigma].double()
    drawn = {"start noise": torch.zeros_like(golden.samples), **renoise([golden.samples[None]], 0)}
    drawn |= {f"{kind} time": level / (1 + level), f"{kind} noise": golden.n[f"{kind}_noise"]}
    (loss,) = golden.losses(config, drawn, {"exit": (0,)}, turn=turn)
    if turn == STUDENT:
        golden.assert_agrees(loss.value, 1.0)
    else:
        golden.assert_agrees(loss.value, 1.0, "critic", "out_critic_")
