"""What does not fit in the configuration of a Wan backbone, as `flowmap check` says it. Torch-free."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from flowmap.errors import FlowmapError
from flowmap.plugin import Finding, SampleSpec, unknown_word
from flowmap_wan.settings import LAYERS, NEGATIVE_PROMPT, ArchitectureConfig, LoraConfig

Sizes = Mapping[str, Any]
"""Those of a transformer, by diffusers' names."""


def null_problem(file: str, text_length: int, sizes: Sizes | None) -> str | None:
    """What is wrong with the file of the null condition, for a network of such `sizes` (None: not known)."""
    from flowmap_wan.null import finite, shape_of

    try:
        tokens, width = shape_of(Path(file))
    except FlowmapError as error:
        return str(error)
    if sizes is not None and width != sizes["text_dim"]:
        return f"{file} has {width} dimensions, and the text embeddings of these weights have {sizes['text_dim']}"
    if tokens > text_length:
        return f"{file} has {tokens} tokens, more than text_length = {text_length}; set that to {tokens}"
    try:
        return None if finite(Path(file)) else f"{file}: not all of its numbers are finite"
    except FlowmapError as error:
        return str(error)


def null_findings(null_embedding: str | None, negative_prompt: str, random_base: bool) -> Iterable[Finding]:
    """Two null conditions, or one that nothing reads."""
    if null_embedding is None:
        return
    if random_base:
        why = "has no effect: with random weights the data bring the null condition; leave this out"
        yield Finding("error", ("null_embedding",), why)
    elif negative_prompt != NEGATIVE_PROMPT:
        why = "null_embedding takes the place of negative_prompt; leave one of them out"
        yield Finding("error", ("negative_prompt",), why)


def lora_findings(lora: LoraConfig, sizes: Sizes | None) -> Iterable[Finding]:
    """Adapters of no layer, or larger than it."""
    where = ("lora", "layers")
    if not lora.layers:
        yield Finding("error", where, f"name at least one layer; there are {', '.join(LAYERS)}")
    for index, layer in enumerate(lora.layers):
        if layer not in LAYERS:
            yield Finding("error", (*where, index), unknown_word("layer", layer, LAYERS))
        elif layer in lora.layers[:index]:
            yield Finding("error", (*where, index), f"'{layer}' is listed twice")
    if sizes is None:
        return
    width = sizes["num_attention_heads"] * sizes["attention_head_dim"]
    hidden = any(layer.startswith("ffn.") for layer in lora.layers)
    smallest = min(width, sizes["ffn_dim"]) if hidden else width
    if lora.rank > smallest:
        why = f"{lora.rank} is more than the smallest side of an adapted layer, {smallest}, and gains nothing"
        yield Finding("warning", ("lora", "rank"), why)


def checkpoint_findings(weights: str, sizes: Sizes | None, gate: float | None) -> Iterable[Finding]:
    """What the configuration of a checkpoint on this machine tells beforehand; `gate` is None if none was set."""
    from flowmap_wan.pretrained import complete, problem

    why = problem(weights)
    if why is None and sizes is not None and sizes["attention_head_dim"] % 2:
        why = f"its heads have {sizes['attention_head_dim']} dimensions; rotary positions turn pairs of them"
    if why is not None:
        yield Finding("error", ("weights",), why)
        return
    checkpoint = complete(weights)
    if checkpoint is not None and checkpoint.kind != "wan" and gate is not None:
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
