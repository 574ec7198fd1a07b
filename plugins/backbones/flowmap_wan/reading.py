"""Read weights whole: every parameter of a part, all of them finite numbers, or one sentence that names the file."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from flowmap.errors import FlowmapError
from flowmap.phases import phase
from flowmap.workshop.reading import read_tensors
from flowmap_wan.checkpoint import EMBEDDING, SHARED, Checkpoint
from flowmap_wan.layout import TextEncoderFields, VaeFields
from flowmap_wan.names import how_to_get
from flowmap_wan.parts import SETTINGS, fields_of


def tensors(checkpoint: Checkpoint, part: str, weights: str | None = None) -> dict[str, Tensor]:
    """The weights of `part`, on the CPU; `weights` is what the recipe calls the checkpoint (see `read_tensors`)."""
    return read_tensors(checkpoint.files(part), part, how_to_get(weights or str(checkpoint.folder)))


def text_encoder(checkpoint: Checkpoint, precision: torch.dtype) -> Any:
    """The UMT5 encoder, on the CPU in `precision`, without gradient."""
    from transformers import UMT5Config, UMT5EncoderModel

    fields = fields_of(checkpoint.folder / "text_encoder", TextEncoderFields)
    with phase("making the text encoder"), torch.device("meta"):
        model = UMT5EncoderModel(UMT5Config(**fields.model_dump(exclude={"model_type"})))
    state = tensors(checkpoint, "text_encoder")
    # One embedding, of which a file has either name or both.
    shared = state.get(SHARED, state.get(EMBEDDING))
    assert shared is not None, "its shapes fit"
    if not torch.equal(shared, state.get(EMBEDDING, shared)):
        why = f"{SHARED} and {EMBEDDING} are one embedding, and differ; the weights are damaged"
        raise FlowmapError(f"{checkpoint.folder / 'text_encoder'}: {why}{how_to_get(str(checkpoint.folder))}")
    state[SHARED] = state[EMBEDDING] = shared
    _fill(model, state, precision)
    model.tie_weights()
    return model


def vae(checkpoint: Checkpoint, precision: torch.dtype) -> Any:
    """The Wan VAE, on the CPU in `precision`, without gradient."""
    from diffusers import AutoencoderKLWan

    fields = fields_of(checkpoint.folder / "vae", VaeFields).model_dump(exclude={"class_name"}, exclude_none=True)
    with torch.device("meta"):
        # diffusers joins these to lists.
        model = AutoencoderKLWan(**{k: list(v) if isinstance(v, tuple) else v for k, v in fields.items()})
    _fill(model, tensors(checkpoint, "vae"), precision)
    return model


def _fill(model: nn.Module, state: dict[str, Tensor], precision: torch.dtype) -> None:
    # Strict, though the shapes are known to fit: whatever the libraries add to their models must be in the files.
    model.load_state_dict({key: value.to(precision) for key, value in state.items()}, strict=True, assign=True)
    model.eval().requires_grad_(False)


def tokenizer(checkpoint: Checkpoint) -> Any:
    """The tokenizer; raises FlowmapError if it cannot be read, or has tokens that the text encoder has not."""
    from transformers import AutoTokenizer

    folder = checkpoint.folder / "tokenizer"
    try:
        with phase("reading the tokenizer"):
            made = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        highest = max(made.get_vocab().values())
    except Exception as error:
        # Its files say which class reads them, and what these raise is their own.
        first = next(iter(str(error).splitlines()), "")
        why = f"{folder} cannot be read as a tokenizer ({type(error).__name__}: {first}); look at its {SETTINGS}"
        raise FlowmapError(f"{why}, or fetch it again{how_to_get(str(checkpoint.folder))}") from None
    known = fields_of(checkpoint.folder / "text_encoder", TextEncoderFields).vocab_size
    if highest >= known:
        why = f"has tokens up to {highest}, and the text encoder {known} of them; they do not belong together"
        raise FlowmapError(f"{folder} {why}")
    return made
