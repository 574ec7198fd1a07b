"""What is one family's own among diffusers' image transformers; all else is the same for every family. Torch-free."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, final

from flowmap.weights.names import Published

if TYPE_CHECKING:
    from torch import Tensor

Sizes = Mapping[str, Any]
"""The configuration of a transformer, by the names of diffusers."""


@final
@dataclass(frozen=True)
class Usual:
    """How a family's authors sample it: images of `side` pixels, `calls` of a solver, guided, on a shifted grid."""

    side: int
    calls: int
    cfg_scale: float
    shift: float


class Family(ABC):
    """One family of image transformers: its classes, its published sizes, and how its transformer is called.

    A subclass is a page. Nothing in one imports torch: what its methods do is done by the tensors they are given.
    """

    model: ClassVar[str]
    """diffusers' class of the transformer."""
    also: ClassVar[tuple[str, ...]] = ()
    """Other classes that configurations of such weights name, published before diffusers had that one."""
    pipeline: ClassVar[str]
    """diffusers' class of the pipeline, whose `encode_prompt` reads texts."""
    owners: ClassVar[Mapping[str, str]]
    """The names of published weights on the hub, and whose they are."""
    gated: ClassVar[frozenset[str]] = frozenset()
    """Those of them whose licence has to be accepted first."""
    parts: ClassVar[Mapping[str, str]]
    """Text encoders and tokenizers: transformers' class of each part of the folder; none for class labels."""
    vae: ClassVar[str] = "AutoencoderKL"
    """diffusers' class of the autoencoder; see flowmap_diffusers.vae."""
    common: ClassVar[Sizes]
    """The sizes that published weights share, as their transformer/config.json has them."""
    published: ClassVar[Mapping[str, Sizes]]
    """The others, by a part of the name of the weights; of several that fit the first counts."""
    small: ClassVar[Sizes]
    """All sizes that a recipe may set for random weights, at values for tests and rehearsals."""
    width: ClassVar[str]
    """What the dimensions of a text embedding are called among the sizes."""
    pooled: ClassVar[str | None] = None
    """What those of the vector of a whole text are called, where there is one."""
    masked: ClassVar[bool] = False
    """Whether the transformer is told which tokens of a text count."""
    blocks: ClassVar[tuple[str, ...]] = ("transformer_blocks",)
    """The lists of transformer blocks."""
    depth: ClassVar[tuple[str, ...]] = ("num_layers",)
    """What their lengths are called among the sizes."""
    uneven: ClassVar[tuple[str, ...]] = ()
    """The sizes by which some blocks differ from the others, if they say anything."""
    embedder: ClassVar[str] = "time_text_embed.timestep_embedder"
    """Where the layers stand that embed a time's sinusoids."""
    adapted: ClassVar[tuple[str, ...]] = ("to_q", "to_k", "to_v", "to_out.0")
    """The linear layers of a block that adapters are put on, unless a recipe says otherwise."""
    scale: ClassVar[float] = 1000.0
    """What a time in [0, 1] is multiplied by before its sinusoids are taken."""
    frequency: ClassVar[float | None] = None
    """The highest angular frequency with which a time in [0, 1] is seen, in radians; None: `scale`."""
    backwards: ClassVar[bool] = False
    """Whether the transformer counts time from noise to data."""
    is_velocity: ClassVar[bool] = True
    """Whether the transformer makes a velocity, up to its sign; others are converted, which no pipeline does."""
    square: ClassVar[bool] = False
    """Whether images must be as high as they are wide."""
    linear: ClassVar[bool] = False
    """Whether self-attention goes without a score for every two tokens."""
    unguided: ClassVar[str] = "guidance_scale=1.0"
    """What a call of the pipeline says for a student to be asked as it was trained: `{told}` is the guidance that a
    guidance-distilled transformer is told, and no other guides."""
    texts_at_once: ClassVar[int] = 8
    usual: ClassVar[Usual]

    def published_as(self) -> Published:
        """Whose the known names are, and which parts a folder of such weights has."""
        return Published(dict(self.owners), ("transformer", *self.parts, "vae"), self.gated)

    def channels(self, sizes: Sizes) -> int:
        """Channels of an image in model space."""
        return int(sizes["in_channels"])

    def patch(self, sizes: Sizes) -> int:
        """The side of a token, in cells of model space."""
        return int(sizes["patch_size"])

    def heads(self, sizes: Sizes) -> int:
        """Heads of self-attention that have a score for every two tokens; 0 if its attention is linear."""
        return 0 if self.linear else int(sizes.get("num_attention_heads") or sizes["n_heads"])

    def tokens(self, length: int) -> int:
        """Tokens of what `texts` makes of texts of at most `length`."""
        return length

    def longest(self, sizes: Sizes) -> int | None:
        """The tokens of a text that it has places for; None if it can take any number."""
        return None

    def classes(self, sizes: Sizes) -> int:
        """How many classes it has labels for, where it takes labels; that many is the null label."""
        return 0

    def embedders(self, sizes: Sizes) -> tuple[str, ...]:
        """Where all embedders of the time stand, of a transformer of such sizes."""
        return (self.embedder,)

    def flaw(self, sizes: Sizes) -> str | None:
        """Why a transformer of these sizes is none that this family has two times for; None if it is."""
        return None

    def settle(self, transformer: Any) -> Any:
        """A transformer that was made, so that it draws nothing by itself: the same call makes the same."""
        return transformer

    def time(self, t: Tensor) -> Tensor:
        """What the sinusoids see of a time `[B]` in [0, 1], 1 = noise; float32."""
        return self.scale * (1 - t if self.backwards else t)

    @abstractmethod
    def velocity(self, transformer: Any, x: Tensor, t: Tensor, cond: Mapping[str, Tensor], guidance: float) -> Tensor:
        """What `transformer` says of `x` `[B, C, h, w]` at `t` `[B]`, as the velocity noise - data.

        `cond` has what `texts` made, by its names ("labels" of class labels). `guidance` is what a guidance-distilled
        transformer is told.
        """

    def texts(self, pipe: Any, prompts: Sequence[str], length: int, device: Any, null: bool) -> Mapping[str, Any]:
        """What the text encoders in the pipeline `pipe` make of `prompts`: "text" `[B, L, D]`, and what they add.

        A "mask" may be None, which is all, and "text" a list of `[l, D]`; either is filled up to `tokens(length)`.
        `null`: they are negative prompts, which some pipelines read otherwise.
        """
        raise NotImplementedError("a family with text encoders says how they are asked")
