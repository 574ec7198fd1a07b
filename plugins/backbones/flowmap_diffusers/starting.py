"""What image networks start from: random weights, a folder, or the student of a run of ours."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn

from flowmap.errors import FlowmapError
from flowmap.weights.runs import run_in
from flowmap.workshop.adapters import plain_state
from flowmap.workshop.lineage import config_of_run, student_of_run
from flowmap.workshop.parts import transformer_weights
from flowmap_diffusers.checkpoint import Checkpoint, open_checkpoint
from flowmap_diffusers.encoders import quiet
from flowmap_diffusers.exported import apart
from flowmap_diffusers.family import Sizes
from flowmap_diffusers.two_times import DELTA

if TYPE_CHECKING:
    from flowmap_diffusers.image_config import ImageConfig


def source_of(config: ImageConfig) -> Checkpoint:
    """The folder with the encoders: that of `config`, or of the runs it goes back to."""
    run = run_in(config.weights)
    return open_checkpoint(config.weights, config.family) if run is None else source_of(_config_of(run, config))


def base_weights(config: ImageConfig, sizes: Sizes) -> dict[str, Tensor] | None:
    """The base weights, each in the precision in which it is stored; None if they are random."""
    if config.random_base:
        return None
    run = run_in(config.weights)
    if run is not None:
        there = _config_of(run, config)
        module: Any = student_of_run(run).module
        found = dict(plain_state(module.transformer, "student" if there.lora else None))
    else:
        checkpoint = open_checkpoint(config.weights, config.family)
        found = transformer_weights(checkpoint.pipeline, config.weights)
        if checkpoint.two_times:
            found = apart(found, config.family.embedders(sizes))
    return _parameters(config, sizes, found)


def _parameters(config: ImageConfig, sizes: Sizes, found: dict[str, Tensor]) -> dict[str, Tensor]:
    """`found` without what the configuration decides (tables of positions), which has to be what is in `found`."""
    with init_empty_weights(include_buffers=False):
        model = new(config, sizes)
    for name, made in model.named_buffers():
        stored = found.get(name)
        # Stored, it may be rounded to half a precision.
        if stored is not None and (stored.shape != made.shape or not torch.allclose(stored.float(), made, atol=4e-3)):
            raise FlowmapError(f"{config.weights}: {name} is not what the transformer's config.json makes of it")
    buffers = {name for name, _ in model.named_buffers()}
    return {key: value for key, value in found.items() if key not in buffers}


def held(config: ImageConfig, key: str) -> torch.dtype:
    """The precision in which the base weight called `key` is held, and exported: times are embedded in float32."""
    if f".{DELTA}." in f".{key}" or config.family.embedder.rpartition(".")[2] in key:
        return torch.float32
    precision: torch.dtype = getattr(torch, config.base_precision)
    return precision


def new(config: ImageConfig, sizes: Sizes) -> nn.Module:
    """A transformer of these sizes with torch's random weights, each in the precision in which it is held."""
    import diffusers

    told = {key: list(value) if isinstance(value, tuple) else value for key, value in sizes.items()}
    with quiet():
        # Fields that the class does not know, it leaves out, as where it reads the folder itself.
        kind = getattr(diffusers, config.family.model)
        try:
            made: nn.Module = kind.from_config(told)
        except (ValueError, TypeError, AssertionError, NotImplementedError, RuntimeError, ZeroDivisionError) as error:
            # Which sizes go together is the class's to say.
            first = next(iter(str(error).splitlines()), type(error).__name__)
            whose = (
                "backbone.architecture" if config.random_base else f"the transformer/config.json of {config.weights}"
            )
            raise FlowmapError(f"{whose}: no {config.family.model} can have these sizes: {first}") from None
    for key, parameter in made.named_parameters():
        parameter.data = parameter.data.to(held(config, key))
    return made


def _config_of(run: Path, config: ImageConfig) -> ImageConfig:
    there = config_of_run(run)
    if there.type != config.type:
        raise FlowmapError(f"{run} is a run of backbone '{there.type}', and this recipe's is '{config.type}'")
    assert type(there) is type(config)
    return there
