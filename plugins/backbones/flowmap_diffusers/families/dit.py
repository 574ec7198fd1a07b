"""DiT (arXiv 2212.09748). Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

from flowmap_diffusers.family import Family, Sizes, Usual
from flowmap_diffusers.noise_prediction import FREQUENCY, step_of, velocity_of


@final
class Dit(Family):
    """The noise in latents of a class of ImageNet; the time and the class are embedded in every block."""

    model, pipeline, also = "DiTTransformer2DModel", "DiTPipeline", ("Transformer2DModel",)
    owners = {"DiT-XL-2-256": "facebook", "DiT-XL-2-512": "facebook"}
    parts = {}
    common = {"num_attention_heads": 16, "attention_head_dim": 72, "in_channels": 4, "out_channels": 8} | {
        "num_layers": 28, "patch_size": 2, "num_embeds_ada_norm": 1000,
    }  # fmt: skip
    published = {"DiT-XL-2-256": {"sample_size": 32}, "DiT-XL-2-512": {"sample_size": 64}}
    small = {"num_attention_heads": 2, "attention_head_dim": 8, "in_channels": 4, "out_channels": 8} | {
        "num_layers": 2, "patch_size": 2, "num_embeds_ada_norm": 1000, "sample_size": 8,
    }  # fmt: skip
    width, embedder, square, is_velocity = "", "transformer_blocks.0.norm1.emb.timestep_embedder", True, False
    frequency = FREQUENCY
    usual = Usual(256, 50, 4.0, 1.0)  # the pipeline's defaults; nothing shifts its times

    def embedders(self, sizes: Sizes) -> tuple[str, ...]:
        """See Family.embedders."""
        return tuple(self.embedder.replace("0", str(block)) for block in range(int(sizes["num_layers"])))

    def classes(self, sizes: Sizes) -> int:
        """See Family.classes."""
        return int(sizes["num_embeds_ada_norm"])

    def flaw(self, sizes: Sizes) -> str | None:
        """The same class had the sizes of PixArt once."""
        norm = sizes.get("norm_type", "ada_norm_zero")
        return None if norm == "ada_norm_zero" else f"has norm_type {norm!r}, and a DiT has 'ada_norm_zero'"

    def settle(self, transformer: Any) -> Any:
        """See Family.settle: labels are dropped by who trains, not by the embedder."""
        for block in transformer.transformer_blocks:
            block.norm1.emb.class_embedder.dropout_prob = 0.0
        return transformer

    def time(self, t: Any) -> Any:
        """See Family.time: steps of the table of DDPM."""
        return step_of(t)

    def velocity(self, transformer: Any, x: Any, t: Any, cond: Mapping[str, Any], guidance: float) -> Any:
        """See Family.velocity. Without labels it is of no class."""
        null = t.new_full((len(x),), transformer.config.num_embeds_ada_norm).long()
        labels = cond.get("labels", null)
        return velocity_of(lambda z, tau: transformer(z, tau, labels, return_dict=False)[0], x, t)
