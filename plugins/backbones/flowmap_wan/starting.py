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
from flowmap_wan.causal_files import head_dim_of, opened_encoders
from flowmap_wan.checkpoint import Checkpoint
from flowmap_wan.common_config import CommonConfig
from flowmap_wan.configs import FarWan21Config
from flowmap_wan.foreign import transformer_in
from flowmap_wan.image_layout import is_unused
from flowmap_wan.one_time import jumping
from flowmap_wan.opening import open_checkpoint
from flowmap_wan.places import is_single
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
    if is_single(config.weights):
        return _of_file(config)
    if run is None:
        return _of_checkpoint(config, open_checkpoint(config.weights, config.pictures))
    there = _config_of(run)
    if there.type != config.type:
        raise FlowmapError(f"{run} is a run of backbone '{there.type}', and this recipe's is '{config.type}'")
    return Start(start_of(there).architecture, partial(_of_run, config, there, run))


def source_of(config: WanConfig) -> Checkpoint:
    """The checkpoint with the encoders: that of `config`, or of the runs it goes back to."""
    if is_single(config.weights):
        return opened_encoders(config)
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

    def read() -> dict[str, Tensor]:
        found = transformer_weights(checkpoint.pipeline, config.weights)
        return {key: value for key, value in found.items() if not is_unused(key)}

    if not checkpoint.two_times:
        architecture |= {"gate_value": config.gate, "deltatime_type": "r"}
        return Start(architecture, lambda: _of_one_time(config, read()))
    return Start(architecture, lambda: completed(config, read()))


def _of_file(config: WanConfig) -> Start:
    """That of a file of another project."""
    found, head_dim = transformer_in(config.weights, "transformer", config.pictures), head_dim_of(config)
    if found is None:
        raise FlowmapError("\n".join(finding.message for finding in config.missing()))
    if (flaw := found.flaw(head_dim)) is not None:
        raise FlowmapError(flaw)
    architecture = {**found.sizes(head_dim), "gate_value": config.gate, "deltatime_type": "r"}
    return Start(architecture, lambda: _of_one_time(config, found.read(head_dim)))


def _of_one_time(config: WanConfig, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`completed`, of the weights of a network of one time, which compute a velocity or jump to data."""
    made = completed(config, state)
    return made | jumping(made, config.gate) if config.one_time_weights == "jump" else made


def _of_run(config: WanConfig, there: WanConfig, run: Path) -> dict[str, Tensor]:
    """The weights of the student of `run`, its adapter merged in."""
    transformer: Any = student_of_run(run).module.transformer
    # No copies: the model that these are of is not kept.
    return completed(config, plain_state(transformer, "student" if there.lora else None))
