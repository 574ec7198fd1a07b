"""What the configurations of Wan backbones have that read files as other projects lay them out. Torch-free."""

from __future__ import annotations

from pydantic import Field

from flowmap.schema.bounds import HeadDim, PathText
from flowmap_wan.common_config import CommonConfig


class FilesConfig(CommonConfig):
    """What backbones have whose weights may be files of other projects."""

    encoders_from: PathText | None = Field(
        None,
        min_length=1,
        description="a folder or a hub id in diffusers' layout with text_encoder, tokenizer and vae; if left out that "
        "of the weights, or else Wan-AI's of the same size",
    )
    head_dim: HeadDim | None = Field(
        None,
        description="dimensions of a head, which no shape tells; if left out as in transformer/config.json, or 128",
    )

    def parts(self) -> tuple[str, ...]:
        """The folders with a transformer each, in diffusers' layout."""
        return ("transformer",)
