"""Read the weights of FID's Inception network: all of them, or none."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from flowmap.errors import FlowmapError
from flowmap.interfaces import Features, References
from flowmap.phases import phase
from flowmap.weights.shapes import misfit
from flowmap.workshop.filling import finite
from flowmap_metrics.images import NetworkFeatures, resized_as_clean_fid, resized_as_tensorflow
from flowmap_metrics.inception import SIDE, Inception
from flowmap_metrics.inception_files import absence, find, how_to_get

if TYPE_CHECKING:
    from flowmap_metrics.network_configs import InceptionConfig

_COUNTER = "num_batches_tracked"  # of a normalisation: nothing depends on it, and some files have it


def inception_features(config: InceptionConfig, references: References) -> Features:
    """The features that `config` names; raises FlowmapError if its weights are not here, or of another network."""
    device, file = references.device, find(config.weights)
    if file is None:
        raise FlowmapError(absence(config.weights), code=1)
    network = read_inception(file).to(device)
    resized = resized_as_clean_fid if config.resize == "clean" else resized_as_tensorflow

    def see(images: Tensor) -> Tensor:
        found: Tensor = network(resized(images, SIDE))
        return found

    about = file.stat()
    key = {"network": "inception", "resize": config.resize, "file": str(file.resolve())}
    return NetworkFeatures(see, key | {"time": about.st_mtime_ns, "size": about.st_size}, references)


def read_inception(file: Path) -> Inception:
    """The network with the weights in `file`, which has all of them and no others.

    Others publish them in torch's own form, of which tensors in containers alone are read: no code in it runs. Raises
    FlowmapError if it holds anything else, or weights of another network.
    """
    with phase("reading the Inception network"):
        state = _tensors(file)
        with torch.device("meta"):
            network = Inception().eval().requires_grad_(False)
        wanted = {name: value for name, value in network.state_dict().items() if not name.endswith(_COUNTER)}
        odd = misfit(
            {name: value.shape for name, value in state.items()}, {n: tuple(v.shape) for n, v in wanted.items()}
        )
        if odd is None:
            odd = next((f"{name} has numbers that are not finite" for name, v in state.items() if not finite(v)), None)
        if odd is not None:
            raise FlowmapError(
                f"{file}: these are not the weights of FID's Inception network: {odd}{_again(file)}", code=1
            )
        counters = {name: torch.tensor(0) for name in network.state_dict() if name.endswith(_COUNTER)}
        network.load_state_dict({name: value.float() for name, value in state.items()} | counters, assign=True)
        return network.requires_grad_(False)


def _tensors(file: Path) -> dict[str, Tensor]:
    try:
        found: Any = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # what unpickling damaged files raises is anything
        why = str(error).strip().split("\n")[0] or type(error).__name__
        raise FlowmapError(f"{file} cannot be read as weights: {why}{_again(file)}", code=1) from None
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        raise FlowmapError(f"{file} is no table of weights by name{_again(file)}", code=1)
    return {str(name): value for name, value in found.items() if not str(name).endswith(_COUNTER)}


def _again(file: Path) -> str:
    return how_to_get(file)


def write_random(file: Path) -> Path:
    """Write random weights of the network into `file`, unless it is there; always the same. Returns it."""
    if not file.is_file():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            made = Inception()
        part = file.with_name(f".{file.name}.part")
        torch.save(made.state_dict(), part)
        part.rename(file)
    return file
