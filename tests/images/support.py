"""Every family of image transformers at a tiny size, and what tests ask of all of them."""

from __future__ import annotations

from typing import Any, final

import torch
from flowmap_diffusers import configs, tokens
from flowmap_diffusers.image_config import ImageConfig

from flowmap.interfaces import Backbone, EncodedText, Velocity
from flowmap.maths.draw import Draw
from flowmap.networks.guidance import Guided
from flowmap.plugin import SampleSpec
from flowmap.weights.names import RANDOM

CPU = torch.device("cpu")
SIDE = 8  # cells of model space


def abstract(kind: type[ImageConfig]) -> bool:
    return not hasattr(kind, "family")


KINDS: dict[str, type[ImageConfig]] = {
    kind.type_name(): kind
    for kind in vars(configs).values()
    if isinstance(kind, type) and issubclass(kind, ImageConfig) and not abstract(kind)
}
TEXTS = [name for name, kind in KINDS.items() if kind.family.parts]
VELOCITIES = [name for name, kind in KINDS.items() if kind.family.is_velocity]


def spec_of(kind: type[ImageConfig]) -> SampleSpec:
    """Latents for random weights, with texts or labels."""
    family = kind.family
    shape = (1, family.channels(family.small), SIDE, SIDE)
    if not family.parts:
        return SampleSpec(shape, classes=10, labelled=True)
    return SampleSpec(shape, text=True, text_dim=int(family.small[family.width]))


def pictures(kind: type[ImageConfig], side: int) -> SampleSpec:
    """Pictures for a pipeline with its encoders."""
    return SampleSpec((1, 3, side, side), text=bool(kind.family.parts), classes=0 if kind.family.parts else 10)


def draw(count: int = 2, name: str = "x") -> Draw:
    return Draw.whole(0, name, 0, name, count)


def prompts(kind: type[ImageConfig], count: int, seed: int = 0) -> Any:
    """Encoded texts of different lengths, with what else the family's encoders make; or labels."""
    family, generator = kind.family, torch.Generator().manual_seed(seed)
    if not family.parts:
        return torch.randint(0, 10, (count,), generator=generator)
    width, others, nulls = int(family.small[family.width]), {}, {}
    if family.pooled:
        others["pooled"] = torch.randn(count, int(family.small[family.pooled]), generator=generator)
        nulls["pooled"] = torch.zeros(int(family.small[family.pooled]))
    if family.masked:
        others["mask"] = (torch.arange(6) < torch.arange(3, 3 + count).clamp(max=6)[:, None]).long()
        nulls["mask"] = (torch.arange(6) < 2).long()
    return EncodedText(torch.randn(count, 6, width, generator=generator), torch.zeros(6, width), others, nulls)


def call(kind: type[ImageConfig], count: int = 2) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """x `[B, 1, C, h, w]`, t and r < t."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(count, *spec_of(kind).shape, generator=generator)
    return x, torch.tensor([0.7, 0.4])[:count], torch.tensor([0.2, 0.1])[:count]


def conds(kind: type[ImageConfig], backbone: Backbone, count: int = 2) -> Any:
    return backbone.condition(prompts(kind, count), count, CPU)[0]


def asked_as(name: str, words: list[str], scale: float) -> dict[str, Any]:
    """The arguments with which the family's pipeline of diffusers makes such pictures, guided by `scale`."""
    asked = {"prompt": words, "negative_prompt": [""] * len(words), "guidance_scale": scale}
    told = {"guidance_scale": KINDS[name](weights=RANDOM).told()}
    if name == "flux2":
        # It guides in no other way.
        return {"prompt": words} | told
    if name == "qwen_image":
        return {"prompt": words, "negative_prompt": [""] * len(words), "true_cfg_scale": scale}
    return asked | {
        "flux": {"true_cfg_scale": scale, **told},
        # Neither to the sizes that its authors trained.
        "sana": {"use_resolution_binning": False},
        # Nor with the guided velocity as long as the condition's.
        "lumina2": {"cfg_normalization": False},
        # Its scale is what is added to the condition's velocity; the pipeline changes the words in place.
        "z_image": {"guidance_scale": scale - 1, "prompt": list(words)},
    }.get(name, {})


def length_of(name: str) -> int:
    """Tokens of a text in which two prompts differ."""
    return {"lumina2": 192}.get(name, 16)


def guided_by(name: str, scale: float) -> float:
    """What `scale` is as w in null + w (cond - null)."""
    return 1.0 if name == "flux2" else scale


@final
class Renormed(Velocity):
    """Guided by `scale`, each token as long as it is unguided: as Qwen-Image's pipeline guides, and we do not."""

    def __init__(self, network: Velocity, scale: float) -> None:
        self._network, self._guided = network, Guided(network, scale)

    def velocity(self, x: torch.Tensor, t: torch.Tensor, cond: Any) -> torch.Tensor:
        side = x.shape[-1] // 2
        guided = tokens.packed(self._guided.velocity(x, t, cond)[:, 0])
        alone = tokens.packed(self._network.velocity(x, t, cond.cond)[:, 0])
        length = alone.norm(dim=-1, keepdim=True) / guided.norm(dim=-1, keepdim=True)
        return tokens.unpacked(guided * length, side, side)[:, None]


def guided(name: str, network: Velocity, scale: float) -> Velocity:
    """`network` as the family's pipeline guides it."""
    return Renormed(network, scale) if name == "qwen_image" else Guided(network, guided_by(name, scale))


PACKED = ("flux", "qwen_image")


def packed(name: str, latents: torch.Tensor) -> torch.Tensor:
    """Latents `[B, 1, C, h, w]` as the family's pipeline takes them."""
    cells = latents[:, 0].clone()
    return tokens.packed(cells) if name in PACKED else cells
