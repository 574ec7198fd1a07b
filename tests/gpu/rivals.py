"""Other projects' causal students at their released shapes, random weights: seconds of a video, and memory.

And how far their tiny forms are off on the device in bfloat16 from the CPU's in float32, along the same noise.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from flowmap_samplers.configs import LcmConfig
from flowmap_wan.causal_backbone import of_sizes
from flowmap_wan.causal_configs import CausalConfig, CausalWan21Config, CausalWan22Config
from torch import Tensor

from flowmap.interfaces import EncodedText, Role, Sampler
from flowmap.maths.draw import Draw
from flowmap.networks.rollout import rollout
from flowmap.plugin import Precision, SampleSpec
from flowmap.schema.specs import OwnTimes
from flowmap.training.memory import peak_memory, reset_peak_memory
from flowmap.training.precision import compute_in
from flowmap.workshop.backbone import ModuleBackbone
from tests.benchmarks.wan import SHAPES, Shape
from tests.gpu.sampling import Timed

_EVEN = LcmConfig(times=(1000, 750, 500, 250), shift=5, levels="nearest")


@dataclass(frozen=True)
class Rival:
    """What is sampled: the shape, the fields that its authors use, and the list of times."""

    shape: str
    config: CausalConfig
    sampler: LcmConfig


def _rivals() -> Mapping[str, Rival]:
    held: dict[str, Any] = {"weights": "random", "base_precision": "bfloat16"}
    times = (1000, 850, 700, 550, 350, 275, 200, 125)
    experts = LcmConfig(times=times, shift=12, levels="nearest", boundary=875)
    return {
        "self-forcing 1.3b": Rival("1.3b", CausalWan21Config(**held), _EVEN),
        "krea 14b": Rival(
            "14b",
            CausalWan21Config(context="recomputed", keep_first_frame=True, **held),
            LcmConfig(times=(1000, 666, 333, 0), shift=5, levels="nearest"),
        ),
        "causal wan2.2 14b + 14b": Rival("14b", CausalWan22Config(first_chunk=3, **held), experts),
    }


@contextmanager
def _made(device: torch.device, precision: torch.dtype) -> Iterator[None]:
    """Within this context networks are made on `device` in `precision`: 14B in float32 on a CPU would take minutes."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(precision)
    try:
        with torch.device(device):
            yield
    finally:
        torch.set_default_dtype(before)


def _role(backbone: ModuleBackbone, device: torch.device, precision: Precision) -> Role:
    role = backbone.role("student", "flow_map", None, Draw.whole(0, "rivals", 0, "weights", 1))
    role.freeze()
    role.module.to(device).eval()
    compute_in(role.module, precision, device)
    return role


def _video(
    sampler: Sampler, times: OwnTimes, shape: Shape, device: torch.device, backbone: ModuleBackbone, role: Role
) -> Tensor:
    """Latents of one video, on the CPU."""
    draw = Draw.whole(0, "rivals", 0, "x", 1, device)
    text = torch.randn(1, shape.text, shape.text_dim, generator=torch.Generator().manual_seed(0)).to(device)
    cond = backbone.condition(EncodedText(text, text[0] * 0), 1, device)[0]
    noise, along = draw.normal("noise", shape.latent), torch.tensor(times.times, device=device)
    with torch.no_grad():
        return rollout(sampler, role.network, noise, along, cond, backbone.chunking(), draw).cpu()


def _tiny(name: str, rival: Rival, device: torch.device) -> bool:
    """Whether a tiny form gives numbers on the device; prints how far off they are."""
    shape = replace(SHAPES["tiny"], latent=(6, *SHAPES["tiny"].latent[1:]))
    config, spec = rival.config.model_copy(update={"base_precision": "float32"}), SampleSpec(shape.latent, text=True)
    made = []
    for where, precision in (("cpu", "no"), (device, "bf16")):
        backbone = of_sizes(config, spec, shape.diffusers())
        role = _role(backbone, torch.device(where), precision)
        times = rival.sampler.own_times()
        made.append(_video(rival.sampler.build(), times, shape, torch.device(where), backbone, role))
    off = float((made[1] - made[0]).norm() / made[0].norm())
    print(f"  {name}, tiny: bfloat16 there against float32 on the CPU  {off:.2g} off", flush=True)
    return bool(made[1].isfinite().all())


def _released(name: str, rival: Rival, device: torch.device) -> bool:
    """Whether the released shape gives numbers on the device; prints its seconds and memory."""
    shape = SHAPES[rival.shape]
    spec = SampleSpec(shape.latent, text=True)
    with _made(device, torch.bfloat16):
        backbone = of_sizes(rival.config, spec, shape.diffusers())
        role = _role(backbone, device, "bf16")
    print(f"  {name}: weights  {torch.cuda.memory_allocated() / 2**30:.3f} GiB", flush=True)
    right = True
    for which in ("first", "second"):
        timed = Timed(device, rival.sampler.build())
        reset_peak_memory(device)
        begin = time.perf_counter()
        video = _video(timed, rival.sampler.own_times(), shape, device, backbone, role)
        right &= bool(video.isfinite().all())
        print(f"  {name}: {which} video of 81 frames  {time.perf_counter() - begin:.3f} s", flush=True)
    print(f"  {name}: a call of each chunk  {', '.join(f'{seconds:.3f}' for seconds in timed.seconds)} s")
    print(f"  {name}: peak memory  {peak_memory(device) / 2**30:.3f} GiB", flush=True)
    return right


def main() -> int:
    """Print them; the exit code says whether all samples are numbers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="the tiny forms alone, on the CPU")
    options = parser.parse_args()
    on_cpu = options.small or not torch.cuda.is_available()
    device, right = torch.device("cpu" if on_cpu else "cuda"), []
    for name, rival in _rivals().items():
        right.append(_tiny(name, rival, device))
        if not on_cpu:
            right.append(_released(name, rival, device))
            torch.cuda.empty_cache()
    return int(not all(right))


if __name__ == "__main__":
    raise SystemExit(main())
