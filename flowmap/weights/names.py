"""Find weights by their name: a folder, or a hub id in the hub's cache. Nothing is downloaded; how to, is said.

Torch-free.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import final

RANDOM = "random"
OF_TORCH = (".pt", ".pth", ".ckpt", ".bin")
"""How the names of files of torch.save end, which are not read here."""
"""The name of no weights: a network begins at random ones."""

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@final
@dataclass(frozen=True)
class Published:
    """A family of weights in diffusers' layout: whose each is on the hub, by its name, and the parts that each has.

    `gated` are the names of those whose licence has to be accepted on the hub before anybody can fetch them.
    """

    owners: Mapping[str, str]
    parts: tuple[str, ...]
    gated: frozenset[str] = frozenset()

    def hub_id(self, weights: str) -> str | None:
        """The hub's name of `weights`, if it has one that is known."""
        if is_hub_id(weights):
            return weights
        owner = self.owners.get(Path(weights).name)
        return f"{owner}/{Path(weights).name}" if owner else None

    def how_to_get(self, weights: str) -> str:
        """The command that fetches `weights`, if that is a known name: the end of a sentence on what is wrong."""
        name = Path(weights).name
        owner, gate = self.owners.get(name), self._gate(name)
        if Path(weights).parts[:-1] == (owner,):
            return (
                f".\n  Get them: hf download {owner}/{name}   (into that cache; or add --local-dir FOLDER, "
                f"and name the folder here){gate}"
            )
        if owner:
            return f".\n  Get them: hf download {owner}/{name} --local-dir {weights}{gate}"
        if is_hub_id(weights):
            return f".\n  Get them, if that is a hub id: hf download {weights}"
        *first, last = (f"{part}/" for part in self.parts)
        return (
            f".\n  A folder that diffusers wrote has {', '.join(first)} and {last}. "
            f"Known: {', '.join(f'{owner}/{name}' for name, owner in self.owners.items())}; "
            f"get one: hf download ID --local-dir {weights}"
        )

    def _gate(self, name: str) -> str:
        """What has to be done before weights of that name can be fetched; nothing for most."""
        if name not in self.gated:
            return ""
        return ".\n  They are gated: accept their licence on that page of the hub, then say once: hf auth login"


def is_hub_id(weights: str) -> bool:
    """Whether `weights` can be a hub id, and no folder is called so."""
    return _HUB_ID.fullmatch(weights) is not None and not os.path.exists(weights)


def find(weights: str) -> Path | None:
    """The folder of `weights`: a folder, or a hub id that is in the hub's cache. None if it is neither."""
    # os.path, unlike Path, takes names that cannot be any for those of nothing.
    if os.path.isdir(os.path.expanduser(weights)):
        return Path(os.path.expanduser(weights))
    return _cached(weights) if is_hub_id(weights) else None


def is_file(weights: str) -> bool:
    """Whether `weights` name a file, which only some backbones read."""
    return os.path.isfile(os.path.expanduser(weights))


def absence(weights: str) -> str:
    """Where `weights` were looked for and not found."""
    cached = f", and no {weights} in the hub's cache {cache_folder()}" if is_hub_id(weights) else ""
    place = Path(os.path.expanduser(weights)).absolute()
    if place.suffix in OF_TORCH and os.path.isfile(place):
        return (
            f"{place} is by its name a file of torch.save, which can run code when it is read, so it is not; "
            "`flowmap docs rivals` has what makes it safetensors"
        )
    if os.path.isfile(place):
        return (
            f"{place} is a file whose name says no backbone; name it in a recipe, as backbone.weights beside "
            "backbone.type, or give a folder that has it and what belongs to it"
        )
    return f"the weights are not on this machine: there is no folder {place}{cached}"


def cache_folder() -> Path:
    """Where the hub's cache is, without importing the hub's client."""
    cache = _variable("XDG_CACHE_HOME", os.path.join("~", ".cache"))
    home = _variable("HF_HOME", os.path.join(cache, "huggingface"))
    return Path(_variable("HF_HUB_CACHE", os.path.join(home, "hub")))


def _variable(name: str, otherwise: str) -> str:
    """An environment variable that names a folder, `~` in it resolved; an empty one counts as none."""
    return os.path.expanduser(os.environ.get(name) or otherwise)


def _cached(hub_id: str) -> Path | None:
    """The newest snapshot of `hub_id` in the cache."""
    folder = cache_folder() / f"models--{hub_id.replace('/', '--')}"
    try:
        commit = (folder / "refs" / "main").read_text("utf-8").strip()
    except (OSError, ValueError):
        return None
    # A commit, and no way out of the folder.
    known = re.fullmatch(r"\w+", commit) is not None and (folder / "snapshots" / commit).is_dir()
    return folder / "snapshots" / commit if known else None
