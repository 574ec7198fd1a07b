"""What does not fit in the configuration of a Wan backbone, as `flowmap check` says it. Torch-free."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from flowmap.plugin import Finding, SampleSpec
from flowmap_wan.settings import ArchitectureConfig, LoraConfig

Sizes = Mapping[str, Any]
"""Those of a transformer, by diffusers' names."""


def smallest_adapted(lora: LoraConfig, sizes: Sizes | None) -> int | None:
    """The smallest side of the layers that `lora` adapts."""
    if sizes is None:
        return None
    width = int(sizes["num_attention_heads"] * sizes["attention_head_dim"])
    hidden = any(layer.startswith("ffn.") for layer in lora.layers)
    return min(width, int(sizes["ffn_dim"])) if hidden else width


def checkpoint_findings(weights: str, sizes: Sizes | None, gate: float | None, pictures: bool) -> Iterable[Finding]:
    """What the configuration of a checkpoint on this machine tells beforehand; `gate` is None if none was set.

    The backbone begins with `pictures`, or not.
    """
    from flowmap_wan.pretrained import complete, problem

    why = problem(weights, pictures)
    if why is None and sizes is not None and sizes["attention_head_dim"] % 2:
        why = f"its heads have {sizes['attention_head_dim']} dimensions; rotary positions turn pairs of them"
    if why is not None:
        yield Finding("error", ("weights",), why)
        return
    checkpoint = complete(weights, pictures)
    if checkpoint is not None and checkpoint.two_times and gate is not None:
        own = checkpoint.transformer.gate_value
        if own != gate:
            yield Finding("warning", ("gate",), f"has no effect: the weights have a gate of their own, {own:g}")


def shape_findings(architecture: ArchitectureConfig | None, random_base: bool, spec: SampleSpec) -> Iterable[Finding]:
    """Samples that the network or its VAE cannot take."""
    frames, channels, height, width = spec.shape
    if random_base and architecture is not None:
        patch = architecture.patch
        if patch[0] != 1:
            yield Finding("error", ("architecture", "patch"), "a patch has one frame: times are those of a frame")
        if architecture.head_dim % 2:
            why = "rotary positions turn pairs of dimensions; give an even number"
            yield Finding("error", ("architecture", "head_dim"), why)
        if channels != architecture.channels:
            why = f"the data have {channels} channels; set it to that"
            yield Finding("error", ("architecture", "channels"), why)
        if spec.text_dim not in (0, architecture.text_dim):
            why = f"the data bring text embeddings of {spec.text_dim} dimensions; set it to that"
            yield Finding("error", ("architecture", "text_dim"), why)
        if height % patch[1] or width % patch[2]:
            why = f"frames of {height} x {width} are not whole patches of {patch[1]} x {patch[2]}"
            yield Finding("error", ("architecture", "patch"), why)
    elif not random_base:
        if channels != 3:
            yield Finding("error", ("type",), f"the VAE takes 3 colours, and these data have {channels}")
        if (frames - 1) % 4:
            near = 4 * ((frames - 1) // 4) + 1
            why = f"the VAE takes 4 n + 1 frames, not {frames}; nearest: {near} or {near + 4}"
            yield Finding("error", ("type",), why)
        if height % 16 or width % 16:
            near_to = " x ".join(str(max(16, 16 * round(side / 16))) for side in (height, width))
            why = f"frames of {height} x {width} are not multiples of 16 (VAE 8, patches 2); nearest: {near_to}"
            yield Finding("error", ("type",), why)
