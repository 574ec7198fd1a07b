"""Attention on the device against the CPU: flash, causal with a dense mask, in parts, by flex; forward and, where it
can, back."""

from __future__ import annotations

import sys
from contextlib import nullcontext

import torch
from flowmap_wan.chunking import Causal
from flowmap_wan.condition import VideoCond
from torch import Tensor

from flowmap.interfaces import Batch, Window
from flowmap.workshop.backbone import ModuleBackbone
from tests.wan.support import CHANNELS, architecture, bidirectional, causal, noise, student, text

CHUNKS, FRAMES, SIZE = (1, 2, 2, 2), 7, (6, 10)
_MASKED = {"dense mask": "dense", "parts": "parts", "flex": "flex"}


def pass_over(backbone: ModuleBackbone, device: str, mixed: bool, graded: bool) -> tuple[Tensor, Tensor]:
    """The output of a pass, of a causal model a teacher-forced one, and the gradient of all that is trained."""
    role, network = student(backbone)
    role.module.to(device)
    prompts = VideoCond(text(2).text.to(device))
    batch = Batch(noise(2, FRAMES, CHANNELS, *SIZE).to(device), prompts, prompts)
    chunking = backbone.chunking()
    if isinstance(chunking, Causal):
        batch = chunking.forced(batch, Window(1, FRAMES))
    t, r = (torch.tensor(times, device=device) for times in ([0.8, 0.3], [0.2, 0.0]))
    with torch.autocast(device, torch.bfloat16, enabled=mixed), nullcontext() if graded else torch.no_grad():
        out = network.mean_velocity(batch.x0, t, r, batch.cond).float()
    if graded:
        out.square().sum().backward()
    found = [p.grad.flatten().float().cpu() for p in role.own.values() if p.grad is not None]
    return out.detach().cpu(), torch.cat(found) if found else torch.zeros(0)


def off(ours: Tensor, theirs: Tensor) -> str:
    """How far off, relative to the size of the whole; words where there is nothing to compare."""
    return f"{float((ours - theirs).norm() / theirs.norm()):.2g}" if len(ours) else "not on a CPU"


def main() -> None:
    """Print how far off each kernel is from the CPU's, in float32 and in bfloat16."""
    device = "cuda" if torch.cuda.is_available() and "--small" not in sys.argv else "cpu"
    sizes = architecture(head_dim=16)
    kinds = {"no mask": bidirectional(FRAMES, SIZE, architecture=sizes)}
    kinds |= {name: causal(CHUNKS, SIZE, architecture=sizes, attention=kind) for name, kind in _MASKED.items()}
    exact = {"no mask": pass_over(kinds["no mask"], "cpu", False, True)}
    exact |= dict.fromkeys(_MASKED, pass_over(kinds["dense mask"], "cpu", False, True))
    for name, backbone in kinds.items():
        graded = device != "cpu" or name != "flex"
        for mixed in (False, True):
            out, gradient = pass_over(backbone, device, mixed, graded)
            words = f"{name}, {'bf16' if mixed else 'float32'}"
            print(f"  {words}: output off by  {off(out, exact[name][0])}")
            print(f"  {words}: gradient off by  {off(gradient, exact[name][1])}", flush=True)


if __name__ == "__main__":
    main()
