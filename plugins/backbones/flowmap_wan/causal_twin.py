"""A tiny random checkpoint of a causal student of others: one file under the original names, or diffusers' folders."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from diffusers import WanTransformer3DModel
from safetensors.torch import save_file

from flowmap.workshop.twin import made_once
from flowmap_wan.original import of_original
from flowmap_wan.twin import TEXT_DIM


def make_causal_twin(folder: Path, parts: tuple[str, ...]) -> Path:
    """Make the checkpoint in `folder` unless it is there; returns it. Random weights, the same every time.

    One part is a file as Self-Forcing names its keys, several are FastVideo's folders.
    """
    known_by = "model.safetensors" if len(parts) == 1 else f"{parts[-1]}/config.json"
    return made_once(folder, partial(_write, parts), known_by)


def _write(parts: tuple[str, ...], folder: Path) -> None:
    folder.mkdir(parents=True)
    for part in parts:
        made = WanTransformer3DModel(
            num_attention_heads=2, attention_head_dim=12, text_dim=TEXT_DIM, freq_dim=32, ffn_dim=32, num_layers=2
        )
        if len(parts) > 1:
            made.save_pretrained(folder / part)
            continue
        state = {f"model.{of_original(key)}": value.contiguous() for key, value in made.state_dict().items()}
        save_file(state, folder / "model.safetensors")
