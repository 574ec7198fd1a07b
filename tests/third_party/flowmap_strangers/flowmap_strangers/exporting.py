"""A network in a file: its weights without adapters, by the names of its class."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import save_file
from torch import nn

from flowmap.errors import FlowmapError
from flowmap.interfaces import SamplingGrid
from flowmap.plugin import NetworkKind
from flowmap.workshop import merged as weights_of


def export(
    module: nn.Module, role: str | None, kind: NetworkKind, folder: Path, form: str, merged: bool, grid: SamplingGrid
) -> str:
    """As `flowmap.workshop.Architecture.export` says."""
    if role is not None and not merged:
        raise FlowmapError("--keep-lora: this form has whole weights only")
    weights = {key: make().cpu().contiguous() for key, make in weights_of(module, role).items()}
    save_file(weights, folder / "model.safetensors")
    return f"state = safetensors.torch.load_file('FOLDER/model.safetensors')  # of a {type(module).__name__}, a {kind}"
