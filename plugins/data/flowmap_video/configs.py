"""Data `video_shards`: captioned videos in tar shards, raw or encoded ahead of training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, model_validator

from flowmap.plugin import Fit, FrameChoice, SampleSpec
from flowmap.schema.bounds import MOST_NAME, Frames, Rate, Side, refuse_large
from flowmap.shards.configs import ShardsConfig
from flowmap.shards.places import nothing_at

if TYPE_CHECKING:
    from flowmap.interfaces import Archive

_TINY = 32


class VideoShardsConfig(ShardsConfig):
    """Captioned videos in .tar shards, raw (mp4 + json, the WebDataset layout) or encoded by `flowmap encode`.

    A sample is what shares a name in a tar: `key.mp4` and `key.json`, or `key.safetensors` and `key.json`. In an
    encoded folder `encoded.json` says what the shards were made from, and it has to agree with the fields here.
    """

    type: Literal["video_shards"] = "video_shards"
    frames: Frames = Field(81, description="frames of a sample; a longer clip gives its first ones")
    height: Side = Field(480, description="pixels; `fit` says how a clip comes to this size")
    width: Side = Field(832, description="pixels")
    fit: Fit = Field(
        "crop",
        description="a clip of another shape: scaled to cover (bicubic) with its middle kept, or squashed (bilinear), "
        "which AnyFlow's released runs do",
    )
    fps: Rate = Field(16.0, description="frames per second; `frame_choice` says what clips of other rates give")
    frame_choice: FrameChoice = Field(
        "nearest",
        description="frames nearest in time; or counted by the clip's declared rate, as AnyFlow's released runs do: at "
        "24 fps the first, third, fifth, sixth, eighth, ninth for 16, and every frame of slower clips, which then move "
        "too fast",
    )
    caption: str = Field(
        "captions", min_length=1, max_length=MOST_NAME, description="field of the json: a caption, or a list of them"
    )

    @model_validator(mode="after")
    def _of_a_possible_size(self) -> Self:
        refuse_large([("colours", 3), ("frames", self.frames), ("height", self.height), ("width", self.width)])
        return self

    def spec(self) -> SampleSpec:
        """So many frames of three colours, with a caption."""
        shape = (self.frames, 3, self.height, self.width)
        return SampleSpec(shape, text=True, fps=self.fps, frame_choice=self.frame_choice, fit=self.fit)

    def made_from(self) -> dict[str, Any]:
        """The fields that decide what an encoded shard has in it."""
        return self.model_dump(include={"frames", "height", "width", "fit", "fps", "frame_choice", "caption"})

    def made_before(self) -> Mapping[str, Any]:
        """Older folders do not name how clips come to their size and rate, and were made with the defaults."""
        return {name: type(self).model_fields[name].default for name in ("fit", "frame_choice")}

    def no_shards(self) -> str:
        """What was looked for, where, and how to get it."""
        return f"{nothing_at(self.path, {'.mp4': 'pack clips and captions into tars'})}. {self.how_to_get()}"

    def how_to_get(self) -> str:
        """How raw and encoded shards are made."""
        return (
            "Encoded shards are made from raw ones by: flowmap encode RECIPE --from RAW_FOLDER; raw shards are tars in "
            "the WebDataset layout, "
            f"with NAME.mp4 and NAME.json for each sample, and its caption in the json's '{self.caption}'"
        )

    def rehearsed(self, folder: Path) -> Self:
        """Eight drawn clips of as many frames, of 32 x 32 pixels, in two raw tars that are written into `folder`."""
        from flowmap_video.rehearsal import write_clips

        path = folder / f"{self.type}-{self.frames}-frames-{self.fps:g}-fps-{self.caption}"
        # One more than is needed: a file may say a rate a hair above `fps`, and by it the second frame is not taken.
        write_clips(path, self.frames + 1, _TINY, self.fps, self.caption)
        # With these keys' hashes, three of the eight.
        return self.model_copy(update={"path": str(path), "height": _TINY, "width": _TINY, "held_out": 0.4})

    def build(self) -> Archive:
        """Index the shards. Raises FlowmapError if there are none, or they are not what the fields here say."""
        from flowmap.shards.archive import ShardArchive
        from flowmap_video.videos import Clips

        return ShardArchive(self, Clips(self))
