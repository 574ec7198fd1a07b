"""Gradients are measured where they are."""

from __future__ import annotations

import torch
from torch import nn

from flowmap.training.reduction import clip


def test_a_role_without_gradients_has_the_norm_0_on_its_device() -> None:
    norm = clip([nn.Parameter(torch.zeros(2, device="meta"))], 1.0)
    assert (norm.device.type, norm.shape) == ("meta", ())


def test_what_has_no_gradient_is_left_out() -> None:
    parameters = [nn.Parameter(torch.zeros(2)) for _ in range(3)]
    parameters[0].grad, parameters[2].grad = torch.tensor([3.0, 0.0]), torch.tensor([0.0, 4.0])
    assert float(clip(parameters, 1.0)) == 5
    assert torch.cat([p.grad for p in parameters if p.grad is not None]).norm() <= 1
