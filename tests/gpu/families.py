"""A step of every image family on the device, in float32 and in bfloat16, against the CPU's in float32."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from flowmap.interfaces import Samples, Scene, World
from flowmap.plugin.catalogue import catalogue
from flowmap.schema.words import Precision
from flowmap.training.kernels import choose_attention
from flowmap.training.precision import compute_in
from flowmap.weights.names import RANDOM
from tests.images import support

Cudnn = Literal["auto", "yes", "no"]
_WAYS: Mapping[str, tuple[Precision, Cudnn]] = {
    "float32": ("no", "auto"),
    "bf16": ("bf16", "auto"),
    "bf16, with cuDNN's attention": ("bf16", "yes"),
}


def step(name: str, device: torch.device, precision: Precision, cudnn: Cudnn = "auto") -> tuple[Tensor, Tensor]:
    """The losses, and all gradients of the student, of a step of the discrete flow map."""
    kind = support.KINDS[name]
    config = kind(weights=RANDOM)
    choose_attention(cudnn, config.cudnn_attention())
    backbone = config.build(support.spec_of(kind))
    roles = {}
    for role, two_times in (("student", True), ("teacher", False)):
        made = backbone.role(role, "flow_map" if two_times else "velocity", None, support.draw(1))
        made.module.to(device)
        compute_in(made.module, precision, device)
        roles[role] = made
    prompts = support.prompts(kind, 4)
    samples = Samples(support.draw(4).normal("x", support.spec_of(kind).shape), None, prompts, True).to(device)
    draw = replace(support.draw(4), device=device)
    objective = catalogue().find("objective", "discrete_flow_map")(cfg_scale=2.0).build()
    scene = Scene(roles, backbone.encode(samples, draw), draw, backbone.chunking(), World())
    losses = []
    for turn in objective.turns():
        for loss in turn.losses(scene):
            loss.value.backward()
            losses.append(loss.value.detach().float().cpu())
    gradients = [p.grad.flatten().float().cpu() for p in roles["student"].own.values() if p.grad is not None]
    return torch.stack(losses), torch.cat(gradients)


def _off(ours: Tensor, theirs: Tensor) -> str:
    off = float((ours - theirs).norm() / theirs.norm())
    return f"{off:.2g}" if ours.isfinite().all() else f"not finite: {int((~ours.isfinite()).sum())} of {len(ours)}"


def main() -> int:
    """Print how far off each is; the exit code says whether all are numbers, but for kernels that nobody asked for."""
    small = "--small" in sys.argv or not torch.cuda.is_available()
    device, failed = torch.device("cpu" if small else "cuda"), 0
    for name in list(support.KINDS)[:: 4 if small else 1]:
        losses, gradients = step(name, torch.device("cpu"), "no")
        for words, (precision, cudnn) in _WAYS.items():
            mine, slopes = step(name, device, precision, cudnn)
            failed += cudnn == "auto" and not bool(slopes.isfinite().all())
            print(f"  {name}, {words}  losses {_off(mine, losses)}, gradients {_off(slopes, gradients)}", flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
