"""What an exported file is made to say of itself, in its metadata and in times.json: see flowmap_wan.told."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from flowmap.interfaces import SamplingGrid
from flowmap.plugin import NetworkKind, SampleSpec
from flowmap.version import __version__
from flowmap_wan.plain import FPS
from flowmap_wan.told import BEGIN, DECIDING

if TYPE_CHECKING:
    from flowmap_wan.common_config import CommonConfig


def about(config: CommonConfig, spec: SampleSpec, kind: NetworkKind, grid: SamplingGrid, head: int) -> dict[str, str]:
    """The metadata of a network of `kind` that `config` trained on samples of `spec`, and that is sampled on `grid`.

    A head of it has `head` dimensions.
    """
    jumps = jumping(kind, grid)
    fields = rules_of(config)
    if jumps and "one_time_weights" in type(config).model_fields:
        fields["one_time_weights"] = "jump"
    frames, _, height, width = spec.shape
    video = {"frames": frames, "height": height, "width": width, "fps": spec.fps or FPS}
    video |= {"fit": spec.fit, "frame_choice": spec.frame_choice}
    said = {
        "version": __version__,
        "network": "velocity" if kind == "velocity" else "jump" if jumps else "list",
        "backbone": json.dumps({"type": config.type, **fields, "head_dim": head}),
        "shift": f"{grid.shift:.15g}",
        "video": json.dumps(video),
    }
    if kind == "flow_map":
        sampler, own = sampling(grid)
        said |= {
            "sampler": sampler,
            "guidance": "1",
            "steps": str(grid.calls),
            "timesteps": json.dumps([round(1000 * t, 4) for t in grid.times()[:-1]]),
            "sigmas": json.dumps(grid.times()),
        }
        said |= {"sampler_fields": json.dumps(own)} if own else {}
    return {BEGIN + name: value for name, value in said.items()}


def rules_of(config: CommonConfig) -> dict[str, Any]:
    """The fields of `config` that decide what its networks compute, beside their sizes; those that are set."""
    return {name: value for name in DECIDING if (value := getattr(config, name, None)) is not None}


def words(fields: Mapping[str, Any]) -> str:
    """Fields as the inside of a recipe's table; JSON's numbers, words, truths and lists are TOML's too."""
    return ", ".join(f"{name} = {json.dumps(value)}" for name, value in fields.items() if value is not None)


def jumping(kind: NetworkKind, grid: SamplingGrid) -> bool:
    """Whether a network of `kind` that is sampled on `grid` jumps to data, and knows no map between two times."""
    return kind == "flow_map" and bool(grid.sampler)


def sampling(grid: SamplingGrid) -> tuple[str, dict[str, Any]]:
    """The sampler that goes along `grid.times()` as the run's own does, and its fields.

    To jump and add noise again on a grid (consistency models) is what `lcm` does along the grid's times.
    """
    if not grid.sampler:
        return "euler", {}
    if grid.listed:
        return str(grid.sampler["type"]), {name: value for name, value in grid.sampler.items() if name != "type"}
    return "lcm", {"times": [1000 * t for t in grid.times()[:-1]], "warped": False}
