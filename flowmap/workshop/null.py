"""The null condition of guidance beside texts: the embedding of a negative prompt, or the one that a file has."""

from __future__ import annotations

from collections.abc import Callable
from typing import final

import torch
from torch import Tensor
from torch.nn.functional import pad

from flowmap.errors import FlowmapError
from flowmap.interfaces import EncodedText
from flowmap.weights.null import NullFile


@final
class NullText:
    """An embedding `[length, D]`, made once: that in `file`, or else what `embed` makes of the negative prompt.

    `embed(device)` reads that prompt with the text encoder on a device. `who()` is whose that is, for messages.
    """

    def __init__(
        self, file: NullFile | None, length: int, embed: Callable[[torch.device], Tensor], who: Callable[[], object]
    ) -> None:
        self._file, self._length, self._embed, self._who = file, length, embed, who
        self._made: Tensor | None = None

    def on(self, device: torch.device) -> Tensor:
        """The embedding, on `device` or on the CPU."""
        if self._made is None:
            self._made = self._prompt(device) if self._file is None else _read(self._file, self._length)
        return self._made

    def _prompt(self, device: torch.device) -> Tensor:
        embedding = self._embed(device)
        if not bool(embedding.isfinite().all()):
            raise FlowmapError(f"{self._who()}: its embedding of the negative prompt is not finite")
        return embedding

    def beside(self, prompts: EncodedText) -> Tensor:
        """What stands for no prompt beside `prompts`, `[L, D]`: the embedding in the file, if there is one."""
        if self._file is None:
            return prompts.null
        found = self.on(prompts.null.device).to(prompts.null)
        if found.shape != prompts.null.shape:
            raise FlowmapError(
                f"{self._file.path}: makes a null condition of {list(found.shape)}, and the prompts were "
                f"encoded to {list(prompts.null.shape)}; set backbone.text_length to {len(prompts.null)}",
                code=1,
            )
        return found


def _read(file: NullFile, length: int) -> Tensor:
    """The embedding in `file` as float32 `[length, D]`, zeros behind its last token, as prompts have them.

    Raises FlowmapError as `NullFile.shape` does, if it is longer than `length`, or if a number is not finite.
    """
    tokens, width = file.shape()
    if tokens > length:
        raise FlowmapError(
            f"{file.path}: has {tokens} tokens, more than backbone.text_length = {length}; set it to {tokens}"
        )
    embedding: Tensor = file.tensor().to(torch.float32).reshape(tokens, width)
    if not bool(embedding.isfinite().all()):
        raise FlowmapError(f"{file.path}: not all of its numbers are finite")
    return pad(embedding, (0, 0, 0, length - tokens))
