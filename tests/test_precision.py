"""Networks compute in the recipe's precision wherever they are called: trained, measured, sampled."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn

from flowmap.comparison.budget import seconds_per_step
from flowmap.interfaces import NoCond, Velocity
from flowmap.plugin import Precision
from flowmap.recipe.tables import ComputeConfig
from flowmap.training.checkpoint import checkpoints, restore
from flowmap.training.precision import compute_in
from flowmap.training.processes import Processes
from flowmap.training.stage import open_stage
from flowmap.use.student import open_contestant
from tests.small_runs import HEAD, TEACHER, planned, train_all

CPU = torch.device("cpu")


def velocities(network: Velocity) -> Tensor:
    """The network's answer to always the same question, without a gradient."""
    x = torch.linspace(-1, 1, 32).reshape(16, 1, 2)
    with torch.no_grad():
        return network.velocity(x, torch.linspace(0, 1, 16), NoCond())


def test_who_is_measured_computes_as_it_was_trained(tmp_path: Path) -> None:
    plan = planned(HEAD + TEACHER, tmp_path, "compute.precision=bf16")
    train_all(plan)
    (stage_plan,) = plan.stages
    stage = open_stage(stage_plan, Processes(plan.recipe.compute))
    restore(checkpoints(stage_plan.folder)[-1], stage.optimizers, stage.roles)
    measured = velocities(open_contestant(stage_plan, "raw", CPU).network)
    assert torch.equal(measured, velocities(stage.roles["student"].network))
    whole = velocities(open_contestant(stage_plan, "raw", CPU, compute=ComputeConfig(precision="no")).network)
    assert not torch.equal(measured, whole)
    torch.testing.assert_close(measured, whole, rtol=0.05, atol=0.05)


class Layers(nn.Module):
    """Two products, and a result in whatever dtype they leave."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor, *, twice: bool = False) -> dict[str, Tensor]:
        return {"x": self.second(torch.tanh(self.first(x))) * (1 + twice)}


def test_it_is_the_mixed_precision_of_accelerate() -> None:
    ours, theirs, x = Layers(), Layers(), torch.randn(4, 8)
    compute_in(ours, "bf16", CPU)
    AcceleratorState._reset_state(reset_partial_state=True)
    try:
        Accelerator(cpu=True, mixed_precision="bf16").prepare_model(theirs, evaluation_mode=True)
        expected = theirs(x, twice=True)["x"]
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
    assert expected.dtype == torch.float32
    assert torch.equal(ours(x, twice=True)["x"], expected)
    ours(x)["x"].sum().backward()
    theirs(x)["x"].sum().backward()
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)


def test_the_last_word_counts() -> None:
    module, x = Layers(), torch.randn(4, 8)
    before = module(x)["x"]
    compute_in(module, "bf16", CPU)
    mixed = module(x)["x"]
    compute_in(module, "bf16", CPU)
    assert torch.equal(module(x)["x"], mixed)
    assert not torch.equal(mixed, before)
    compute_in(module, "no", CPU)
    assert torch.equal(module(x)["x"], before)


@pytest.mark.parametrize("first", ["no", "bf16"])
def test_recipes_of_two_precisions_go_in_one_process(tmp_path: Path, first: Precision) -> None:
    kinds: dict[str, torch.dtype] = {}
    for precision in (first, "bf16" if first == "no" else "no"):
        (tmp_path / precision).mkdir()
        plan = planned(HEAD + TEACHER, tmp_path / precision, f"compute.precision={precision}")
        stage = open_stage(plan.stages[0], Processes(plan.recipe.compute))
        layer = next(m for m in stage.roles["student"].module.modules() if isinstance(m, nn.Linear))
        layer.register_forward_hook(lambda module, inputs, output, name=precision: kinds.update({name: output.dtype}))
        velocities(stage.roles["student"].network)
        assert seconds_per_step(plan.recipe, "teacher") > 0
    assert kinds == {"no": torch.float32, "bf16": torch.bfloat16}
