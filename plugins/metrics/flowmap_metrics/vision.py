"""Vision models in transformers' layout: read whole or refused, and what they make of images."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from torch import Tensor

from flowmap.errors import FlowmapError
from flowmap.interfaces import Features, References
from flowmap.phases import phase
from flowmap.weights.fingerprints import fingerprint
from flowmap.weights.parts import weight_files
from flowmap.workshop.filling import finite
from flowmap.workshop.quiet import no_bars
from flowmap_metrics.images import NetworkFeatures
from flowmap_metrics.vision_files import SEES, architecture, opened

if TYPE_CHECKING:
    from flowmap_metrics.network_configs import Layer, VisionModelConfig

_log = logging.getLogger("flowmap.metrics")


def vision_features(config: VisionModelConfig, references: References) -> Features:
    """The features that `config` names; raises FlowmapError if the folder is not complete, or has no such layer."""
    device, folder = references.device, opened(config.weights, SEES)
    network = read_network(folder).to(device)
    layer = _layer(network, config.layer, folder)
    prepared = preparing(folder)

    def see(images: Tensor) -> Tensor:
        return layer(prepared(images).to(device))

    key = {"network": fingerprint(weight_files(folder)), "layer": config.layer, "folder": str(folder.resolve())}
    return NetworkFeatures(see, key, references)


def read_network(folder: Path) -> Any:
    """The network in `folder`, of the very class that its configuration names, in float32, without gradient.

    Raises FlowmapError if transformers has no such class, if a weight is missing, left over or misshapen, or if a
    number is not finite.
    """
    name = architecture(folder)
    kind = getattr(transformers, name, None)
    if kind is None:
        raise FlowmapError(f"{folder}: its class {name} is none of transformers {transformers.__version__}", code=1)
    with phase(f"reading {folder.name}"), no_bars(), _no_reports(), torch.random.fork_rng(devices=[]):
        try:
            # What does not fit is told, and random in the network: it is refused here, all of it by name.
            network, told = kind.from_pretrained(
                folder,
                local_files_only=True,
                use_safetensors=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                dtype=torch.float32,
            )
        except Exception as error:  # what its class raises of damaged files is its own
            why = str(error).strip().split("\n")[0] or type(error).__name__
            raise FlowmapError(f"{folder} cannot be read as {name}: {why}; fetch it again", code=1) from None
    odd = [
        f"{key if isinstance(key, str) else key[0]} is {word}"
        for word, keys in (("missing", "missing"), ("left over", "unexpected"), ("misshapen", "mismatched"))
        for key in sorted(told.get(f"{keys}_keys") or ())
    ]
    if odd:
        raise FlowmapError(f"{folder}: {len(odd)} weights are not those of {name}, first {odd[0]}", code=1)
    for name, value in network.named_parameters():
        if not finite(value):
            raise FlowmapError(f"{folder}: {name} has numbers that are not finite; the file is damaged", code=1)
    return network.eval().requires_grad_(False)


@contextmanager
def _no_reports() -> Iterator[None]:
    """Within this context transformers reports only what is wrong."""
    logs = transformers.utils.logging
    before = logs.get_verbosity()
    logs.set_verbosity_error()
    try:
        yield
    finally:
        logs.set_verbosity(before)


def preparing(folder: Path) -> Callable[[Tensor], Tensor]:
    """How images `[N, 3, H, W]` of 8 bits become what the network in `folder` sees: resized by Pillow, cropped, scaled.

    transformers has it by torchvision too, where that is installed; numbers would differ a little.
    """
    # By its name before version 5, which has several ways.
    by_pillow = {"backend": "pil"} if int(transformers.__version__.split(".")[0]) >= 5 else {"use_fast": False}
    processor = transformers.AutoImageProcessor.from_pretrained(folder, local_files_only=True, **by_pillow)

    def prepared(images: Tensor) -> Tensor:
        pixels = [image.permute(1, 2, 0).numpy() for image in images.cpu()]
        found: Tensor = processor(pixels, return_tensors="pt", input_data_format="channels_last")["pixel_values"]
        return found

    return prepared


def embedded(found: Any) -> Tensor:
    """The embedding that `get_image_features` or `get_text_features` gives, as such or, from version 5 on, within."""
    return found if isinstance(found, Tensor) else found.pooler_output


def _layer(network: Any, layer: Layer | None, folder: Path) -> Callable[[Tensor], Tensor]:
    """The layer, or of those that the network has the first."""
    body = getattr(network, "vision_model", None) or network.base_model
    has: dict[str, Callable[[Tensor], Tensor]] = {}
    if hasattr(network, "get_image_features"):
        has["embedding"] = lambda x: embedded(network.get_image_features(pixel_values=x))
    if _pools(body):
        has["pooled"] = lambda x: body(pixel_values=x).pooler_output.flatten(1)
    has["mean"] = lambda x: _mean(body(pixel_values=x).last_hidden_state)
    if layer is not None and layer not in has:
        raise FlowmapError(
            f"{folder}: {type(network).__name__} has no layer '{layer}'; it has {', '.join(has)}", code=1
        )
    return has[layer or next(iter(has))]


def _pools(body: Any) -> bool:
    """Whether the network has a pooled output: some of a class are made without."""
    if getattr(body, "pooler", True) is None:
        return False
    size = getattr(body.config, "image_size", 32)
    high, wide = (size, size) if isinstance(size, int) else size
    x = torch.zeros(1, getattr(body.config, "num_channels", 3), high, wide, device=body.device)
    with torch.no_grad():
        return getattr(body(pixel_values=x), "pooler_output", None) is not None


def _mean(hidden: Tensor) -> Tensor:
    """The mean over places, of patches `[N, P, D]` or of a map `[N, D, H, W]`."""
    return hidden.mean(1) if hidden.ndim == 3 else hidden.flatten(2).mean(2)


def reading(folder: Path, network: Any) -> Callable[[Sequence[str]], Tensor]:
    """How texts become embeddings `[N, D]` of the network in `folder`; what is too long is cut, and that is logged."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    most = int(network.config.text_config.max_position_embeddings)

    def read(texts: Sequence[str]) -> Tensor:
        whole = tokenizer(list(texts), verbose=False)["input_ids"]
        if cut := sum(len(tokens) > most for tokens in whole):
            _log.warning(
                "%d of %d prompts are longer than the %d tokens that CLIP reads, and are cut", cut, len(texts), most
            )
        tokens = tokenizer(list(texts), padding=True, truncation=True, max_length=most, return_tensors="pt")
        tokens = {name: value.to(network.device) for name, value in tokens.items() if name != "token_type_ids"}
        with torch.no_grad():
            return embedded(network.get_text_features(**tokens))

    return read
