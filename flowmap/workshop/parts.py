"""Parts of a pipeline's folder, of any class: read whole, every number finite, or refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, final

import torch
from torch import Tensor, nn

from flowmap.errors import FlowmapError
from flowmap.phases import phase
from flowmap.weights.pipeline import Pipeline
from flowmap.weights.t5 import EMBEDDING, SHARED
from flowmap.weights.tokenizers import SETTINGS
from flowmap.workshop.adapter_files import merge_into, read_adapter
from flowmap.workshop.reading import read_tensors


@final
class OnDevices:
    """A frozen model that `read` reads to the CPU, when it is first asked for, on each device that asks."""

    def __init__(self, read: Callable[[torch.device], nn.Module]) -> None:
        self._read = read
        self._models: dict[torch.device, nn.Module] = {}
        self._resting: set[torch.device] = set()

    def __call__(self, device: torch.device) -> Any:
        """The model on `device`; `read` is told for which it reads."""
        if device not in self._models:
            self._models[device] = self._read(device).to(device)
        if device in self._resting:
            self._models[device].to(device)
            self._resting.discard(device)
        return self._models[device]

    def release(self) -> None:
        """The models leave their accelerators: they wait in the memory of the CPU for whoever asks again.

        That is a copy of seconds; reading the files again would take longer.
        """
        for device in self._models.keys() - self._resting:
            self._models[device].to("cpu")
            self._resting.add(device)


def weights_of(pipeline: Pipeline, part: str, weights: str | None = None) -> dict[str, Tensor]:
    """The weights of `part`, on the CPU; `weights` is what the recipe calls the folder (see `read_tensors`)."""
    how = pipeline.published.how_to_get(weights or str(pipeline.folder))
    return read_tensors(pipeline.files(part), part, how)


def transformer_weights(pipeline: Pipeline, weights: str) -> dict[str, Tensor]:
    """Those of the transformer, and the adapter beside it merged in, if there is one (`flowmap export --keep-lora`)."""
    state, folder = weights_of(pipeline, "transformer", weights), pipeline.adapter()
    return state if folder is None else merge_into(state, read_adapter(folder), str(folder))


def read_model(what: str, make: Callable[[], nn.Module], state: Mapping[str, Tensor], precision: torch.dtype) -> Any:
    """What `make` makes, with the weights `state` (all of them), on the CPU in `precision`, without gradient.

    `what` it is, the command shows meanwhile. Weights that do not fit are torch's error: compare their shapes
    before.
    """
    with phase(f"making the {what}"), torch.device("meta"):
        model = make()
    # Strict, though the shapes are known to fit: whatever the libraries add to their models must be in the files.
    model.load_state_dict({key: value.to(precision) for key, value in state.items()}, strict=True, assign=True)
    return model.eval().requires_grad_(False)


def with_both_names(pipeline: Pipeline, part: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a T5 encoder with its one embedding under both names, of which a file has either or both.

    Raises FlowmapError if they differ.
    """
    shared = state.get(SHARED, state.get(EMBEDDING))
    assert shared is not None, "its shapes fit"
    if not torch.equal(shared, state.get(EMBEDDING, shared)):
        why = f"{SHARED} and {EMBEDDING} are one embedding, and differ; the weights are damaged"
        how = pipeline.published.how_to_get(str(pipeline.folder))
        raise FlowmapError(f"{pipeline.folder / part}: {why}{how}")
    return {**state, SHARED: shared, EMBEDDING: shared}


def read_tokenizer(pipeline: Pipeline, part: str, vocabulary: int) -> Any:
    """The tokenizer in `part`; raises FlowmapError if it cannot be read, or has tokens above the encoder's last one."""
    from transformers import AutoTokenizer

    folder = pipeline.folder / part
    try:
        with phase("reading the tokenizer"):
            made = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        highest = max(made.get_vocab().values())
    except Exception as error:
        # Its files say which class reads them, and what these raise is their own.
        first = next(iter(str(error).splitlines()), "")
        why = f"{folder} cannot be read as a tokenizer ({type(error).__name__}: {first}); look at its {SETTINGS}"
        how = pipeline.published.how_to_get(str(pipeline.folder))
        raise FlowmapError(f"{why}, or fetch it again{how}") from None
    if highest >= vocabulary:
        why = f"has tokens up to {highest}, and the text encoder {vocabulary} of them; they do not belong together"
        raise FlowmapError(f"{folder} {why}")
    return made
