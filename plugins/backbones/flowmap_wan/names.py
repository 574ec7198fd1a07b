"""The names that published Wan checkpoints have, and how to get them. Torch-free."""

from __future__ import annotations

from pathlib import Path

from flowmap.recipe.hub import is_hub_id

KNOWN = {
    "Wan2.1-T2V-1.3B-Diffusers": "Wan-AI",
    "Wan2.1-T2V-14B-Diffusers": "Wan-AI",
    "AnyFlow-Wan2.1-T2V-1.3B-Diffusers": "nvidia",
    "AnyFlow-Wan2.1-T2V-14B-Diffusers": "nvidia",
    "AnyFlow-FAR-Wan2.1-1.3B-Diffusers": "nvidia",
    "AnyFlow-FAR-Wan2.1-14B-Diffusers": "nvidia",
}
"""Whose each is on the hub."""


def hub_id(weights: str) -> str | None:
    """The hub's name of `weights`, if it has one that we know."""
    if is_hub_id(weights):
        return weights
    owner = KNOWN.get(Path(weights).name)
    return f"{owner}/{Path(weights).name}" if owner else None


def how_to_get(weights: str) -> str:
    """The command that fetches `weights`, if it is a name we know."""
    name = Path(weights).name
    owner = KNOWN.get(name)
    if Path(weights).parts[:-1] == (owner,):
        return (
            f".\n  Get them: hf download {owner}/{name}   (into that cache; or add --local-dir FOLDER, "
            "and name the folder here)"
        )
    if owner:
        return f".\n  Get them: hf download {owner}/{name} --local-dir {weights}"
    if is_hub_id(weights):
        return f".\n  Get them, if that is a hub id: hf download {weights}"
    return (
        ".\n  A folder that diffusers wrote has transformer/, text_encoder/, tokenizer/ and vae/. "
        f"Known: {', '.join(f'{owner}/{name}' for name, owner in KNOWN.items())}; "
        f"get one: hf download ID --local-dir {weights}"
    )
