"""What only an accelerator can show: compiled flex attention, forward and backward, and a rollout there."""

from __future__ import annotations

import pytest
import torch
from flowmap_samplers.samplers import FlowMapEuler
from flowmap_wan.condition import VideoCond
from torch import Tensor

from flowmap.interfaces import Batch, Window, as_flow_map
from flowmap.maths.draw import Draw
from flowmap.networks.rollout import rollout

from .support import CHANNELS, architecture, causal, chunking, error, gradients, noise, relative, student, text

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no accelerator"),
    # The compiler's own, which it makes errors of where pytest makes errors of warnings.
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning"),
]
CHUNKS, FRAMES = (1, 2, 2, 2), 7


def pass_over(kernel: str, device: str, mixed: bool = False) -> tuple[Tensor, dict[str, Tensor]]:
    """A teacher-forced pass with compressed context, and its gradients."""
    role, network = student(causal(CHUNKS, architecture=architecture(head_dim=16), attention=kernel))
    role.module.to(device)
    prompts = VideoCond(text(2).text.to(device))
    batch = Batch(noise(2, FRAMES, CHANNELS, 6, 10).to(device), prompts, prompts)
    forced = chunking(causal(CHUNKS)).forced(batch, Window(1, FRAMES))
    t, r = (torch.tensor(times, device=device) for times in ([0.8, 0.3], [0.2, 0.0]))
    with torch.autocast(device, torch.bfloat16, enabled=mixed):
        out = network.mean_velocity(forced.x0, t, r, forced.cond)
    out.square().sum().backward()
    return out.detach().cpu(), {key: value.cpu() for key, value in gradients(role).items()}


@pytest.mark.parametrize("kernel", ["flex", "parts", "dense"])
def test_it_is_dense_attention_on_a_cpu(kernel: str) -> None:
    (dense, dense_gradients), (there, gradients_there) = pass_over("dense", "cpu"), pass_over(kernel, "cuda")
    assert error(there, dense) < 1e-4
    assert relative(gradients_there, dense_gradients) < 1e-2


@pytest.mark.parametrize("kernel", ["flex", "parts"])
def test_mixed_precision_is_near(kernel: str) -> None:
    (exact, _), (mixed, _) = pass_over("dense", "cpu"), pass_over(kernel, "cuda", mixed=True)
    assert error(mixed, exact) < 0.05 * float(exact.abs().max())


def test_a_rollout_is_that_of_the_cpu() -> None:
    made = []
    for device in ("cpu", "cuda"):
        backbone = causal(CHUNKS)
        role, _ = student(backbone)
        role.module.to(device)
        start, grid = noise(2, FRAMES, CHANNELS, 6, 10).to(device), torch.tensor([1.0, 0.7, 0.3, 0.0], device=device)
        draw = Draw.whole(0, "wan", 0, "test", 2, torch.device(device))
        with torch.no_grad():
            network = as_flow_map(role.network)
            prompts = VideoCond(text(2).text.to(device))
            made.append(rollout(FlowMapEuler(), network, start, grid, prompts, chunking(backbone), draw).cpu())
    assert error(*made) < 1e-4
