"""The released code's own numbers (facts/anyflow.md, "Golden numbers"), to 1e-5 relative."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from flowmap_distribution.backward_simulation import BackwardSimulation, segments
from flowmap_distribution.configs import BackwardSimulationConfig
from flowmap_distribution.matching import dmd_gradient
from flowmap_flow.configs import FlowMapConfig
from flowmap_flow.forward import ForwardFlowMap
from flowmap_samplers.configs import FlowMapConfig as FlowMapSamplerConfig
from safetensors import safe_open
from torch import Tensor

from flowmap.interfaces import Loss, Role, Scene
from flowmap.maths.pairs import Pairs
from flowmap.maths.path import like, noised, shifted
from flowmap.networks.rollout import rollout
from flowmap.networks.tangent import tangent
from flowmap.schema.settings import BranchesConfig, TangentConfig

from .support import Rows, analytic_role, make_scene, whole

GOLDEN = Path(__file__).parents[1] / "golden"
TOLERANCE = 1e-5


def load(name: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    with safe_open(GOLDEN / f"{name}.safetensors", "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118


def assert_agrees(ours: Tensor, golden: Tensor) -> None:
    """To 1e-5 of the largest golden value, everywhere."""
    assert ours.shape == golden.shape
    assert float((ours.detach() - golden).abs().max() / golden.abs().max()) < TOLERANCE


@dataclass
class Forward:
    """One golden file of the forward loss, and our objective with its settings."""

    golden: dict[str, Tensor]
    config: FlowMapConfig
    student: Role
    scene: Scene
    pairs: Pairs

    def loss(self, pairs: Pairs) -> Loss:
        objective = self.config.build()
        assert isinstance(objective, ForwardFlowMap)
        return objective.loss(self.scene, self.golden["noise"], pairs)

    def tangent(self, t: Tensor, r: Tensor, batched: bool) -> Tensor:
        """du/dt per 1/1000 of t, as the file has it."""
        v, cond = self.golden["noise"] - self.scene.batch.x0, self.scene.batch.cond
        config = TangentConfig(step=self.config.tangent.step, batched=batched)
        return tangent(self.scene.flow_map("student"), self.golden["noisy"], t, r, v, cond, config) / 1000


@pytest.fixture(params=["fwd_uniform", "fwd_beta08_s5", "fwd_fused3_beta08_s5"])
def forward(request: pytest.FixtureRequest) -> Forward:
    golden, settings = load(request.param)
    config = FlowMapConfig(
        shift=float(settings["shift"]),
        weight=settings["weight"],
        rebalance=True,
        cfg_scale=1.0 if settings["fuse"] == "None" else float(settings["fuse"]),
        branches=BranchesConfig(diffusion=float(settings["dr"]), consistency=float(settings["cr"])),
        tangent=TangentConfig(method="central", step=float(settings["eps"]) / 1000),
    )
    student = analytic_role("student", golden["W"], golden["b"])
    x0 = golden["x0"].transpose(1, 2)  # the file has [B, C, F, H, W]
    cond, null = Rows(golden["cond"]), Rows(golden["uncond"].expand(len(x0), 1))
    # The file has u_r after the branches were applied: exactly t, or exactly 0, or free.
    u_t, u_r = golden["u_t"], golden["u_r"]
    branch = torch.where(golden["is_diffusion"], 0, torch.where(u_r == 0, 1, 2))
    pairs = Pairs(shifted(u_t, config.shift), shifted(u_r, config.shift), branch)
    return Forward(golden, config, student, make_scene([student], x0, whole(len(x0)), cond, null), pairs)


def per_frame(pairs: Pairs, frames: int) -> Pairs:
    """The same times, once per frame."""
    t, r = (times[:, None].expand(-1, frames).contiguous() for times in (pairs.t, pairs.r))
    return Pairs(t, r, pairs.branch)


def test_the_shifted_times_are_the_golden_ones(forward: Forward) -> None:
    frames = forward.golden["t"].shape[1]
    for times, name in ((forward.pairs.t, "t"), (forward.pairs.r, "r")):
        assert_agrees(times[:, None].expand(-1, frames), forward.golden[name] / 1000)


def test_the_golden_branches_have_the_configured_shares(forward: Forward) -> None:
    counts = torch.bincount(forward.pairs.branch, minlength=3) / len(forward.pairs.branch)
    shares = forward.config.branches
    assert counts.tolist() == [
        shares.diffusion,
        shares.consistency,
        1 - shares.diffusion - shares.consistency,
    ]


def test_the_point_on_the_path_is_the_golden_one(forward: Forward) -> None:
    assert_agrees(noised(forward.scene.batch.x0, forward.golden["noise"], forward.pairs.t), forward.golden["noisy"])


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("frames", [False, True], ids=["per sample", "per frame"])
def test_the_derivative_is_the_golden_one(forward: Forward, batched: bool, frames: bool) -> None:
    inside = forward.pairs.t + forward.config.tangent.step <= 1
    assert inside[forward.pairs.branch > 0].all()
    pairs = per_frame(forward.pairs, 3) if frames else forward.pairs
    # The released code divides its derivative by the guidance.
    ours = forward.tangent(pairs.t, pairs.r, batched) / forward.config.cfg_scale
    assert_agrees(ours[inside], forward.golden["dF_dt"][inside])


def test_the_released_code_differs_where_its_step_leaves_the_unit_interval() -> None:
    """Our difference is one-sided there: 0.3% off the golden one, which evaluates the network at t > 1."""
    golden, _ = load("fwd_beta08_s5")
    t, r = golden["t"][:, 0] / 1000, golden["r"][:, 0] / 1000
    outside = t + 0.005 > 1
    assert outside.any()
    role, x0 = analytic_role("student", golden["W"], golden["b"]), golden["x0"].transpose(1, 2)
    ours = tangent(role.network, golden["noisy"], t, r, golden["noise"] - x0, Rows(golden["cond"]), TangentConfig())
    off = (ours / 1000 - golden["dF_dt"])[outside].norm() / golden["dF_dt"][outside].norm()
    assert 1e-3 < off < 1e-2


@pytest.mark.parametrize("frames", [False, True], ids=["per sample", "per frame"])
def test_the_forward_loss_and_its_gradients_are_the_golden_ones(forward: Forward, frames: bool) -> None:
    loss = forward.loss(per_frame(forward.pairs, 3) if frames else forward.pairs)
    loss.value.backward()
    assert_agrees(loss.value.double(), forward.golden["loss"])
    assert_agrees(forward.student.own["W"].grad, forward.golden["gW"])
    assert_agrees(forward.student.own["b"].grad, forward.golden["gb"])


def test_the_forward_loss_takes_more_frames_than_samples(forward: Forward) -> None:
    """Two samples of three frames, times per frame: the same loss as with times per sample."""
    rows = torch.tensor([0, 6])  # one r = t, one free
    cond = forward.scene.batch.cond.take(rows)
    scene = make_scene([forward.student], forward.scene.batch.x0[rows], whole(2), cond, cond)
    small = Forward(
        {"noise": forward.golden["noise"][rows]},
        forward.config,
        forward.student,
        scene,
        Pairs(forward.pairs.t[rows], forward.pairs.r[rows], forward.pairs.branch[rows]),
    )
    torch.testing.assert_close(small.loss(per_frame(small.pairs, 3)).value, small.loss(small.pairs).value)


@dataclass
class Backward:
    """The golden rollout and DMD loss, and our objective with its settings."""

    golden: dict[str, Tensor]
    settings: dict[str, str]
    student: Role
    scene: Scene
    objective: BackwardSimulation

    def roll(self) -> Tensor:
        """Our rollout of the student from the golden noise."""
        times = segments(int(self.settings["n"]), int(self.settings["g"]), float(self.settings["shift"]))
        sampler, scene = FlowMapSamplerConfig().build(), self.scene
        return rollout(
            sampler,
            self.student.network,
            self.golden["z"],
            times,
            scene.batch.cond,
            scene.chunking,
            scene.draw,
        )

    def loss(self, x: Tensor) -> Loss:
        made = replace(self.scene.batch, x0=x)
        return self.objective.distribution_loss(self.scene, made, self.golden["dmd_t"] / 1000, self.golden["dmd_noise"])


@pytest.fixture
def backward() -> Backward:
    golden, settings = load("bwd_n4_g2")
    suffixes = {"student": "", "teacher": "_real", "critic": "_fake"}
    roles = [analytic_role(name, golden[f"W{end}"], golden[f"b{end}"]) for name, end in suffixes.items()]
    cond, null = Rows(golden["cond"]), Rows(golden["uncond"].expand(len(golden["z"]), 1))
    scene = make_scene(roles, torch.zeros_like(golden["z"]), whole(len(golden["z"])), cond, null)
    shift, w = float(settings["shift"]), float(settings["real_guidance"])
    config = BackwardSimulationConfig(shift=shift, cfg_scale=w + 1, sampler="flow_map")
    objective = config.build()
    assert isinstance(objective, BackwardSimulation)
    return Backward(golden, settings, roles[0], scene, objective)


def test_the_rollout_has_three_segments_around_the_fine_step(backward: Backward) -> None:
    n, g, s = int(backward.settings["n"]), int(backward.settings["g"]), float(backward.settings["shift"])
    a, b = 1 - g / n, 1 - (g + 1) / n
    expected = torch.tensor([1, s * a / (1 + (s - 1) * a), s * b / (1 + (s - 1) * b), 0])
    torch.testing.assert_close(segments(n, g, s), expected)


def test_the_rollout_is_the_golden_one(backward: Backward) -> None:
    assert_agrees(backward.roll(), backward.golden["out"])


def test_the_dmd_gradient_is_the_golden_one(backward: Backward) -> None:
    golden, scene = backward.golden, backward.scene
    tau, cond, null, w = golden["dmd_t"] / 1000, scene.batch.cond, scene.batch.null, 3.0
    y = noised(golden["out"], golden["dmd_noise"], tau)
    with torch.no_grad():
        fake = y - like(tau, y) * scene.velocity("critic").velocity(y, tau, cond)
        with_cond, without = (scene.velocity("teacher").velocity(y, tau, c) for c in (cond, null))
    real = y - like(tau, y) * (with_cond + w * (with_cond - without))
    assert_agrees(dmd_gradient(golden["out"], fake, real), golden["dmd_grad"])


def test_the_dmd_loss_and_its_gradients_are_the_golden_ones(backward: Backward) -> None:
    loss = backward.loss(backward.roll())
    loss.value.backward()
    assert loss.value.dtype == torch.float64
    assert_agrees(loss.value, backward.golden["loss"])
    assert_agrees(loss.raw["gradient_rms"], backward.golden["dmd_grad"].square().flatten(1).mean(1).sqrt())
    assert_agrees(backward.student.own["W"].grad, backward.golden["gW"])
    assert_agrees(backward.student.own["b"].grad, backward.golden["gb"])


def test_the_dmd_loss_trains_the_student_alone(backward: Backward) -> None:
    backward.loss(backward.roll()).value.backward()
    for name in ("teacher", "critic"):
        assert all(p.grad is None for p in backward.scene.roles[name].own.values())
