"""Data `video_shards`: captioned videos in tar shards, raw or encoded ahead of training."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

from flowmap.files.names import printable
from flowmap.plugin import ArchiveConfig, Finding, Fit, FrameChoice, SampleSpec
from flowmap.schema.bounds import MOST_NAME, Faults, Frames, Rate, Side, SomeShare, refuse_large
from flowmap_video.places import is_tar, named, nothing_at, why_not

if TYPE_CHECKING:
    from flowmap.interfaces import Archive

_ENCODED = "encoded.json"  # flowmap_video.facts.ENCODED; that module imports torch
_TINY = 32
_SHOWN = 3  # of what is left out; the run names all of it


class VideoShardsConfig(ArchiveConfig):
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
    held_out: SomeShare = Field(
        0.01, description="share of the samples kept from training, by a hash of the key; at least one"
    )
    faults: Faults = Field(100, description="unusable samples that are skipped before the run stops")
    caption: str = Field(
        "captions", min_length=1, max_length=MOST_NAME, description="field of the json: a caption, or a list of them"
    )
    caption_choice: Literal["random", "first"] = Field(
        "random",
        description="which of a list of captions a sample is trained with; in AnyFlow's released runs the first",
    )

    @model_validator(mode="after")
    def _of_a_possible_size(self) -> Self:
        refuse_large([("colours", 3), ("frames", self.frames), ("height", self.height), ("width", self.width)])
        return self

    def spec(self) -> SampleSpec:
        """So many frames of three colours, with a caption."""
        shape = (self.frames, 3, self.height, self.width)
        return SampleSpec(shape, text=True, fps=self.fps, frame_choice=self.frame_choice, fit=self.fit)

    def missing(self) -> Iterable[Finding]:
        """An error where no shard matches the path; a warning for what lies there and should be one."""
        if not self.shards():
            yield Finding("error", ("path",), self.no_shards())
            return
        for path, why in self.passed_over()[:_SHOWN]:
            yield Finding("warning", ("path",), f"{printable(path.name)} is left out: {why}")

    def shards(self) -> list[Path]:
        """The tars that `path` names, sorted; unfinished ones are not among them."""
        return [path for path in named(self.path) if is_tar(path) and path.is_file()]

    def passed_over(self) -> list[tuple[Path, str]]:
        """What `path` names and is not read although it should be a tar, and why."""
        return [(path, why) for path in named(self.path) if (why := why_not(path))]

    def encoded_in(self) -> Path | None:
        """The folder with the file that says what encoded shards have in common."""
        found = (tar.parent for tar in self.shards() if (tar.parent / _ENCODED).exists())
        return next(found, None)

    def no_shards(self) -> str:
        """What was looked for, where, and how to get it."""
        return (
            f"{nothing_at(self.path)}. Encoded shards are made from raw ones by: "
            "flowmap encode RECIPE --from RAW_FOLDER; raw shards are tars in the WebDataset layout, "
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
        from flowmap_video.videos import VideoShards

        return VideoShards(self)
