"""Where Wan weights come from: what must be there, how to get it, and what kind of checkpoint it is. Torch-free."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, final

from flowmap.errors import FlowmapError
from flowmap.hub import RUN_LOCK, absence, find, header, is_hub_id

# As diffusers and as transformers name them.
_WEIGHTS = ("diffusion_pytorch_model.safetensors", "model.safetensors")
_KNOWN = {
    "Wan2.1-T2V-1.3B-Diffusers": "Wan-AI",
    "Wan2.1-T2V-14B-Diffusers": "Wan-AI",
    "AnyFlow-Wan2.1-T2V-1.3B-Diffusers": "nvidia",
    "AnyFlow-Wan2.1-T2V-14B-Diffusers": "nvidia",
    "AnyFlow-FAR-Wan2.1-1.3B-Diffusers": "nvidia",
    "AnyFlow-FAR-Wan2.1-14B-Diffusers": "nvidia",
}
Kind = Literal["wan", "anyflow", "far"]
_KINDS: Mapping[str, Kind] = {
    "WanTransformer3DModel": "wan",
    "AnyFlowTransformer3DModel": "anyflow",
    "AnyFlowFARTransformer3DModel": "far",
}
FIRST_RELEASE = "FAR_Wan_Transformer3DModel"
"""What AnyFlow's checkpoints call both of theirs, which came before diffusers had classes for them."""

# The pipelines of folders whose transformer is not there (yet).
_PIPELINES: Mapping[str, Kind] = {
    "WanPipeline": "wan",
    "AnyFlowPipeline": "anyflow",
    "WanAnyFlowPipeline": "anyflow",
    "AnyFlowFARPipeline": "far",
    "FARWanAnyFlowPipeline": "far",
}
DELTA, FAR = "condition_embedder.delta_embedder.", "far_patch_embedding."
"""What the parameters of the second time, and of the patches of compressed frames, begin with."""

IMAGE_MODEL = (
    "is Wan's separate image-to-video model, with more channels or an image encoder; "
    "use a text-to-video checkpoint: ours are given images as first frames"
)
"""Why a checkpoint of the other task is refused."""

_SCHEDULER = "scheduler/scheduler_config.json"


@final
@dataclass(frozen=True)
class Checkpoint:
    """A folder laid out as diffusers lays out a pipeline, with everything in it."""

    folder: Path

    @property
    def kind(self) -> Kind:
        """What the transformer is: plain Wan2.1, or AnyFlow's two-time one, bidirectional or causal."""
        config = self.config("transformer")
        name = str(config.get("_class_name"))
        if name == FIRST_RELEASE:
            if not config.get("init_flowmap_model"):
                return "wan"
            return "far" if config.get("init_far_model") else "anyflow"
        if name not in _KINDS:
            raise FlowmapError(
                f"{self.folder / 'transformer' / 'config.json'}: holds a {name}; "
                f"weights can be one of {', '.join(_KINDS)}"
            )
        return _KINDS[name]

    def contradiction(self, keys: Collection[str]) -> str | None:
        """Where the configuration and the `keys` of the weights say different things of what the model is; else None.

        The released class leaves parameters out with a warning only; what is left would be another model.
        """
        config, kind = self.config("transformer"), self.kind
        released = config.get("_class_name") == FIRST_RELEASE
        delta = config.get("deltatime_type", "r")
        if kind != "wan" and delta not in ("r", "t-r"):
            return f"{self.folder / 'transformer' / 'config.json'}: deltatime_type is {delta!r}; it is 'r' or 't-r'"
        where = f"{self.folder / 'transformer' / 'config.json'} says"
        for start, has, field in (
            (DELTA, kind != "wan", "init_flowmap_model"),
            (FAR, kind == "far" or bool(config.get("init_far_model")), "init_far_model"),
        ):
            there = any(key.startswith(start) for key in keys)
            if there != has:
                said = f"{field} = {str(has).lower()}" if released else f"_class_name = {config.get('_class_name')}"
                gate = ", with gate_value and deltatime_type as in training" if field == "init_flowmap_model" else ""
                way = f"set {field} = true{gate}" if released and there else "fetch or export them again"
                return f"{where} {said}, and the weights have {'' if there else 'no '}{start}*; {way}"
        if released and config.get("init_far_model") and kind == "wan":
            return f"{where} init_far_model without init_flowmap_model: no backbone here is causal with one time"
        return None

    def keys(self) -> list[str]:
        """The names of the transformer's parameters; no weights are read."""
        return [key for file in self.files("transformer") for key in header(file)]

    def is_image_model(self) -> bool:
        """Whether it is Wan's separate image-to-video model, with more channels or an image encoder."""
        found = self.config("transformer")
        more = found.get("in_channels") != (found.get("out_channels") or found.get("in_channels"))
        return bool(found.get("image_dim") or found.get("added_kv_proj_dim") or more)

    def shift(self) -> float | None:
        """The shift of the grid that the scheduler's configuration names; None if it names none."""
        if not (self.folder / _SCHEDULER).is_file():
            return None
        found = _json(self.folder / _SCHEDULER)
        value = found.get("shift", found.get("flow_shift"))
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise FlowmapError(f"{self.folder / _SCHEDULER}: its shift is {value!r}; it must be a number above 0")
        return float(value)

    def everything(self) -> tuple[Path, ...]:
        """The files that decide what is computed: configurations and weights of all parts."""
        parts = ("transformer", "text_encoder", "vae")
        return tuple(f for p in parts for f in (self.folder / p / "config.json", *self.files(p)))

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


def claimed(weights: str) -> Kind | None:
    """What kind of Wan checkpoint `weights` are, by what is there of them or else by their name; None if of none."""
    folder = find(weights)
    if folder is not None and (folder / RUN_LOCK).is_file():
        return None
    if folder is not None and (folder / "transformer" / "config.json").is_file():
        name = _json(folder / "transformer" / "config.json").get("_class_name")
        return Checkpoint(folder).kind if name in (*_KINDS, FIRST_RELEASE) else None
    if folder is not None and (folder / "model_index.json").is_file():
        return _PIPELINES.get(str(_json(folder / "model_index.json").get("_class_name")))
    name = Path(weights).name
    if name not in _KNOWN:
        return None
    return "far" if "-FAR-" in name else "anyflow" if name.startswith("AnyFlow") else "wan"


def hub_id(weights: str) -> str | None:
    """The hub's name of `weights`, if it has one that we know."""
    if is_hub_id(weights):
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
        yield f"{absence(weights)}{how_to_get(weights)}"
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
        read = json.loads(path.read_text())
    except FileNotFoundError:
        raise FlowmapError(f"{path} is missing{how_to_get(str(path.parents[1]))}") from None
    except ValueError as error:
        raise FlowmapError(f"{path} is not JSON: {error}; fetch it again") from None
    if not isinstance(read, dict):
        raise FlowmapError(f"{path} is no table of settings; fetch it again")
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
    if is_hub_id(weights):
        return f".\n  Get them, if that is a hub id: hf download {weights}"
    return (
        ".\n  A folder that diffusers wrote has transformer/, text_encoder/, tokenizer/ and vae/. "
        f"Known: {', '.join(f'{owner}/{name}' for name, owner in _KNOWN.items())}; "
        f"get one: hf download ID --local-dir {weights}"
    )
