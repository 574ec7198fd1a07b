"""Where Wan weights come from: what must be there, how to get it, and what kind of checkpoint it is. Torch-free."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, final

from flowmap.errors import FlowmapError

RUN_LOCK = "recipe.lock.toml"
# As diffusers and as transformers name them.
_WEIGHTS = ("diffusion_pytorch_model.safetensors", "model.safetensors")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_KNOWN = {
    "Wan2.1-T2V-1.3B-Diffusers": "Wan-AI",
    "Wan2.1-T2V-14B-Diffusers": "Wan-AI",
    "AnyFlow-Wan2.1-T2V-1.3B-Diffusers": "nvidia",
    "AnyFlow-Wan2.1-T2V-14B-Diffusers": "nvidia",
    "AnyFlow-FAR-Wan2.1-1.3B-Diffusers": "nvidia",
    "AnyFlow-FAR-Wan2.1-14B-Diffusers": "nvidia",
}
_KINDS: Mapping[str, Literal["wan", "anyflow", "far"]] = {
    "WanTransformer3DModel": "wan",
    "AnyFlowTransformer3DModel": "anyflow",
    "AnyFlowFARTransformer3DModel": "far",
}
# What AnyFlow's checkpoints called both of theirs before diffusers had classes for them.
_FIRST_RELEASE = "FAR_Wan_Transformer3DModel"


@final
@dataclass(frozen=True)
class Checkpoint:
    """A folder laid out as diffusers lays out a pipeline, with everything in it."""

    folder: Path

    @property
    def kind(self) -> Literal["wan", "anyflow", "far"]:
        """What the transformer is: plain Wan2.1, or AnyFlow's two-time one, bidirectional or causal."""
        config = self.config("transformer")
        name = str(config.get("_class_name"))
        if name == _FIRST_RELEASE:
            return "far" if config.get("init_far_model") else "anyflow"
        if name not in _KINDS:
            raise FlowmapError(
                f"{self.folder / 'transformer' / 'config.json'}: holds a {name}; "
                f"weights can be one of {', '.join(_KINDS)}"
            )
        return _KINDS[name]

    def config(self, part: str) -> dict[str, Any]:
        """The configuration of `part`: transformer, vae, text_encoder."""
        return _json(self.folder / part / "config.json")

    def files(self, part: str) -> list[Path]:
        """The safetensors files of `part`; raises FlowmapError naming the first that is missing."""
        missing = list(_missing_weights(self.folder / part))
        if missing:
            raise FlowmapError(f"{self.folder} is not complete: {missing[0]} is missing{how_to_get(str(self.folder))}")
        return _weight_files(self.folder / part)

    def licence(self) -> str:
        """What the model card of the base says; Wan2.1's own licence for a plain Wan checkpoint without a card."""
        card = self.folder / "README.md"
        found = re.search(r"^license:\s*(\S+)", card.read_text("utf-8"), re.MULTILINE) if card.is_file() else None
        return found[1] if found else ("apache-2.0" if self.kind == "wan" else "unknown")


def find(weights: str) -> Path | None:
    """The folder of `weights`: a folder, or a hub id that is in the hub's cache. None if it is neither."""
    if Path(weights).is_dir():
        return Path(weights)
    if _HUB_ID.fullmatch(weights):
        return _cached(weights)
    return None


def hub_id(weights: str) -> str | None:
    """The hub's name of `weights`, if it has one that we know."""
    if _HUB_ID.fullmatch(weights) and not Path(weights).exists():
        return weights
    owner = _KNOWN.get(Path(weights).name)
    return f"{owner}/{Path(weights).name}" if owner else None


def open_checkpoint(weights: str) -> Checkpoint:
    """The complete checkpoint called `weights`; raises FlowmapError with all that is missing, and how to get it."""
    problems = list(missing(weights))
    folder = find(weights)
    if problems or folder is None:
        raise FlowmapError("\n".join(problems))
    return Checkpoint(folder)


def missing(weights: str) -> Iterator[str]:
    """What is not there of the checkpoint `weights`, where it was looked for, and the command that gets it."""
    folder = find(weights)
    if folder is None:
        places = f"no folder {Path(weights).absolute()}"
        if _HUB_ID.fullmatch(weights):
            places += f", and no {weights} in the hub's cache {_cache_folder()}"
        yield f"the weights are not on this machine: there is {places}{how_to_get(weights)}"
        return
    if (folder / RUN_LOCK).is_file():
        return
    gone = []
    for part in ("transformer", "text_encoder", "vae"):
        if not (folder / part / "config.json").is_file():
            gone.append(f"{part}/config.json")
        gone += [str(path.relative_to(folder)) for path in _missing_weights(folder / part)]
    if not (folder / "tokenizer").is_dir() or not any((folder / "tokenizer").iterdir()):
        gone.append("tokenizer/")
    if gone:
        yield f"the weights in {folder} are not complete; missing: {', '.join(gone)}{how_to_get(weights)}"


def _missing_weights(part: Path) -> Iterator[Path]:
    """The weight files that `part` should have and has not."""
    index = _index(part)
    if index is not None:
        for name in sorted(set(_json(index)["weight_map"].values())):
            if not (part / name).is_file():
                yield part / name
    elif not _weight_files(part):
        yield part / _WEIGHTS[part.name == "text_encoder"]


def _index(part: Path) -> Path | None:
    found = (part / f"{name}.index.json" for name in _WEIGHTS)
    return next((path for path in found if path.is_file()), None)


def _weight_files(part: Path) -> list[Path]:
    """The weights of `part`, and no variant of them that may lie beside."""
    index = _index(part)
    if index is not None:
        return [part / name for name in sorted(set(_json(index)["weight_map"].values()))]
    return [part / name for name in _WEIGHTS if (part / name).is_file()][:1]


def _json(path: Path) -> dict[str, Any]:
    try:
        read: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        raise FlowmapError(f"{path} is missing{how_to_get(str(path.parents[1]))}") from None
    except ValueError as error:
        raise FlowmapError(f"{path} is not JSON: {error}; fetch it again") from None
    return read


def how_to_get(weights: str) -> str:
    """The command that fetches `weights`, if it is a name we know."""
    name = Path(weights).name
    owner = _KNOWN.get(name)
    if Path(weights).parts[:-1] == (owner,):
        return (
            f".\n  Get them: hf download {owner}/{name}   (into that cache; or add --local-dir FOLDER, "
            "and name the folder here)"
        )
    if owner:
        return f".\n  Get them: hf download {owner}/{name} --local-dir {weights}"
    if _HUB_ID.fullmatch(weights) and not Path(weights).exists():
        return f".\n  Get them, if that is a hub id: hf download {weights}"
    return (
        ".\n  A folder that diffusers wrote has transformer/, text_encoder/, tokenizer/ and vae/. "
        f"Known: {', '.join(f'{owner}/{name}' for name, owner in _KNOWN.items())}; "
        f"get one: hf download ID --local-dir {weights}"
    )


def _cache_folder() -> Path:
    """Where the hub's cache is, without importing the hub's client."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    home = Path(os.environ.get("HF_HOME", cache / "huggingface"))
    return Path(os.environ.get("HF_HUB_CACHE", home / "hub"))


def _cached(hub_id: str) -> Path | None:
    """The newest snapshot of `hub_id` in the cache."""
    folder = _cache_folder() / f"models--{hub_id.replace('/', '--')}"
    reference = folder / "refs" / "main"
    if reference.is_file() and (snapshot := folder / "snapshots" / reference.read_text().strip()).is_dir():
        return snapshot
    return None
