"""What Wan networks start from: random weights, a checkpoint, or the student of a run of ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast, final

from torch import Tensor

from flowmap.errors import FlowmapError
from flowmap.weights.runs import run_in
from flowmap.workshop.adapters import plain_state
from flowmap.workshop.lineage import config_of_run, student_of_run
from flowmap.workshop.parts import transformer_weights
from flowmap_wan.checkpoint import Checkpoint
from flowmap_wan.common_config import CommonConfig
from flowmap_wan.configs import FarWan21Config
from flowmap_wan.image_layout import is_unused
from flowmap_wan.opening import open_checkpoint
from flowmap_wan.transformer import WanConfig, completed


@final
@dataclass(frozen=True)
class Start:
    """The sizes of networks (a diffusers configuration), and what reads their weights; None: they are random."""

    architecture: Mapping[str, Any]
    read: Callable[[], dict[str, Tensor]] | None


def start_of(config: WanConfig) -> Start:
    """What the networks of `config` start from; raises FlowmapError, with what to do, if that is not whole."""
    if config.random_base:
        assert config.architecture is not None, "findings ask for it"
        return Start(config.architecture.diffusers() | {"gate_value": config.gate}, None)
    run = run_in(config.weights)
    if run is None:
        return _of_checkpoint(config, open_checkpoint(config.weights, config.pictures))
    there = _config_of(run)
    if there.type != config.type:
        raise FlowmapError(f"{run} is a run of backbone '{there.type}', and this recipe's is '{config.type}'")
    return Start(start_of(there).architecture, partial(_of_run, config, there, run))


def source_of(config: WanConfig) -> Checkpoint:
    """The checkpoint with the encoders: that of `config`, or of the runs it goes back to."""
    run = run_in(config.weights)
    return open_checkpoint(config.weights, config.pictures) if run is None else source_of(_config_of(run))


def _config_of(run: Path) -> WanConfig:
    backbone = config_of_run(run)
    if not isinstance(backbone, CommonConfig):
        raise FlowmapError(f"{run} is a run with backbone '{backbone.type}'; its weights are not Wan's")
    return cast(WanConfig, backbone)


def _of_checkpoint(config: WanConfig, checkpoint: Checkpoint) -> Start:
    kind, found = checkpoint.kind, checkpoint.transformer
    causal = isinstance(config, FarWan21Config)
    if kind == "far" and not causal:
        raise FlowmapError(f"{checkpoint.folder} is a causal checkpoint; use backbone type 'far_wan21'")
    limit = found.full_chunk_limit
    if kind == "far" and isinstance(config, FarWan21Config) and limit is not None and limit != config.full_chunks:
        raise FlowmapError(
            f"{checkpoint.folder} was trained with {limit} chunks at full resolution, and backbone.full_chunks is "
            f"{config.full_chunks}; set it to {limit}"
        )
    contradiction = checkpoint.contradiction(checkpoint.pipeline.shapes("transformer"))
    if contradiction is not None:
        raise FlowmapError(contradiction)
    architecture = found.model_dump()
    if not checkpoint.two_times:
        architecture |= {"gate_value": config.gate, "deltatime_type": "r"}

    def read() -> dict[str, Tensor]:
        found = transformer_weights(checkpoint.pipeline, config.weights)
        return completed(config, {key: value for key, value in found.items() if not is_unused(key)})

    return Start(architecture, read)


def _of_run(config: WanConfig, there: WanConfig, run: Path) -> dict[str, Tensor]:
    """The weights of the student of `run`, its adapter merged in."""
    transformer: Any = student_of_run(run).module.transformer
    # No copies: the model that these are of is not kept.
    return completed(config, plain_state(transformer, "student" if there.lora else None))
