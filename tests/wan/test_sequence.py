"""The tokens of a sample shared among processes: the same numbers as in one, forward and backward, with memories."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.process_runs import shared

BODY = """
import os

import torch
from torch import distributed

from flowmap.interfaces import Batch, TokenGroup, Window
from flowmap.maths.draw import Draw
from flowmap.networks.rollout import rollout
from flowmap.recipe.tables import ComputeConfig
from flowmap.training.processes import Processes
from flowmap_samplers.samplers import FlowMapEuler
from tests.wan.support import CHANNELS, architecture, bidirectional, causal, chunking, gradients, lora, noise, relative
from tests.wan.support import student, text

torch.set_num_threads(1)
processes = Processes(ComputeConfig(device="cpu", sequence={number}))
CHUNKS, FRAMES = (1, 2, 1, 2), 6
# 4 heads, and 15 tokens a frame, of compressed ones 1: neither 2 nor 4 divides those.
FIELDS = dict(architecture=architecture(heads=4), lora=lora())
X, T, R = noise(2, FRAMES, CHANNELS, 6, 10), torch.tensor([0.8, 0.3]), torch.tensor([0.2, 0.0])


def whole(checkpointing):
    backbone = bidirectional(FRAMES, gradient_checkpointing=checkpointing, **FIELDS)
    return backbone, lambda network, x: network.mean_velocity(x, T, R, text(2))


def forced(checkpointing):
    backbone = causal(CHUNKS, gradient_checkpointing=checkpointing, full_chunks=2, **FIELDS)

    def call(network, x):
        batch = chunking(backbone).forced(Batch(x, text(2), text(2)), Window(1, FRAMES))
        return network.mean_velocity(batch.x0, T, R, batch.cond)

    return backbone, call


def rolled(checkpointing, replay=True):
    backbone = causal(CHUNKS, gradient_checkpointing=checkpointing, full_chunks=2, **FIELDS)

    def call(network, x):
        grid = torch.tensor([1.0, 0.5, 0.0])
        layout, draw = chunking(backbone), Draw.whole(0, "wan", 0, "test", 2)
        return rollout(FlowMapEuler(), network, x, grid, text(2), layout, draw, replay=replay)

    return backbone, call


def results(kind, alone):
    backbone, call = kind
    role, network = student(backbone)
    if not alone:
        role.module.share(processes.tokens())
    x, kept = X.clone().requires_grad_(), dict()

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = call(network, x)
    size = sum(storage.nbytes() for storage in kept.values())
    kept.clear()
    (out * noise(*out.shape, seed=9)).sum().backward()
    found = gradients(role)
    if not alone:
        for gradient in found.values():
            # As FSDP reduces gradients: by their mean.
            distributed.all_reduce(gradient)
            gradient /= {number}
    return dict(found, input=x.grad, output=out.detach()), size


for name, kind in dict(whole=whole, forced=forced, rolled=rolled, held=lambda c: rolled(c, replay=False)).items():
    for checkpointing in (False, True):
        (one, held), (several, held_by_each) = (results(kind(checkpointing), alone) for alone in (True, False))
        assert all(float(value.abs().max()) > 1e-4 for key, value in one.items() if key in ("input", "output"))
        error = relative(several, one)
        assert error < 1e-5, (name, checkpointing, error)
        # Texts, times and rotations are whole in each, and large beside such tiny videos.
        assert checkpointing or held_by_each <= (1 / {number} + 0.2) * held, (name, checkpointing, held_by_each / held)
print(f"equal in {{processes.index}}", flush=True)
processes.wait()
os._exit(0)
"""


@pytest.mark.parametrize("number", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_shared_tokens_are_those_of_one_process(number: int, tmp_path: Path) -> None:
    code, said = shared(tmp_path, number=number, patch=BODY.format(number=number))
    assert code == 0, said
    assert all(f"equal in {index}" in said for index in range(number))
