"""Data `images`: pictures with captions or classes, raw or encoded ahead of training."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from flowmap.errors import FlowmapError
from flowmap.plugin import Finding, Fit, SampleSpec
from flowmap.schema.bounds import MOST_NAME, MOST_SIDE, Range, Side, refuse_large
from flowmap.shards.configs import ENCODED, ShardsConfig
from flowmap_images.buckets import bucket_sizes, longest_by_default
from flowmap_images.forms import CLASS, PICTURES, class_folders, description, form_of, problem_of, read_object

if TYPE_CHECKING:
    from flowmap.interfaces import Archive

Classes = Annotated[int, Range(0, 10**6, "fifty times those of ImageNet-21k; each has an embedding of its own")]
"""How many classes there are; 0 where something else says it."""

LongestSide = Annotated[int, Range(0, MOST_SIDE, "a side of a picture, in pixels")]
"""Of any bucket; 0 has a meaning of its own."""

Step = Annotated[int, Range(4, 1024, "networks halve sides twice at least, and of coarser steps there are few sizes")]
"""What the sides of buckets are multiples of, in pixels."""

_TINY, _TINY_CLASSES = 32, 4
_TINY_BUCKETS = 64  # with steps of a half: 32 x 128 to 128 x 32, which coarse autoencoders take too
_MOST_BUCKETS = 256
_NAME = {"min_length": 1, "max_length": MOST_NAME}


class ImagesConfig(ShardsConfig):
    """Pictures (jpg, png, webp) with captions or classes, in tars, in folders, or in a dataset saved by `datasets`.

    What `path` names decides: tars (WebDataset's `NAME.jpg` with `NAME.txt`, `NAME.json` or `NAME.cls`, or encoded by
    `flowmap encode`); a folder of pictures, with captions beside them or in metadata.jsonl or metadata.csv, or with a
    folder for each class; a folder that `save_to_disk` wrote.
    """

    type: Literal["images"] = "images"
    condition: Literal["caption", "class", "none"] = Field(
        "caption", description="what samples are conditioned on; what else is said of a picture is not read"
    )
    classes: Classes = Field(
        0,
        description="how many classes there are, numbered from 0; 0: as many as class folders, or the dataset's",
    )
    height: Side = Field(512, description="pixels; samples are made and compared at this size")
    width: Side = Field(512, description="pixels")
    fit: Fit = Field(
        "crop",
        description="a picture of another shape: scaled to cover (bicubic) and its middle kept, or squashed (bilinear)",
    )
    buckets: bool = Field(
        False,
        description="train at several aspect ratios: sizes of at most height x width pixels, of which a picture goes "
        "to the one nearest in aspect; all samples of a step have one",
    )
    bucket_step: Step = Field(64, description="sides of buckets are multiples of it")
    longest_side: LongestSide = Field(
        0, description="the longest side of a bucket; 0: twice that of a square of as many pixels (aspects to 4 : 1)"
    )
    small: Literal["enlarge", "skip"] = Field(
        "enlarge", description="a picture that has fewer pixels than it comes to: enlarged and counted, or a fault"
    )
    transparent: Literal["refuse", "white", "black"] = Field(
        "refuse", description="what shows through transparent pixels; refused, a picture with such is a fault"
    )
    image: str = Field("image", **_NAME, description="column of a saved dataset that has the pictures")
    caption: str = Field(
        "caption",
        **_NAME,
        description="field of a json, or column, with a caption or several; NAME.txt has none",
    )
    label: str = Field("label", **_NAME, description="field of a json, or column, with the class; NAME.cls has none")

    @model_validator(mode="after")
    def _of_a_possible_size(self) -> Self:
        refuse_large([("colours", 3), ("height", self.height), ("width", self.width)])
        if 0 < self.longest_side < max(self.height, self.width):
            raise ValueError(
                f"longest_side = {self.longest_side} is shorter than a side of height x width = {self.height} x "
                f"{self.width}, which is a bucket itself: take {max(self.height, self.width)} at least, or 0"
            )
        if self.buckets and (number := len(self.sizes())) > _MOST_BUCKETS:
            why = f"makes {number} buckets, more than {_MOST_BUCKETS}: of most there would be hardly a picture"
            raise ValueError(f"bucket_step = {self.bucket_step} {why}; make it larger")
        return self

    def spec(self) -> SampleSpec:
        """One picture of three colours, with a caption or a class. Of a folder the names of its folders are listed."""
        shape = (1, 3, self.height, self.width)
        sizes = tuple((1, 3, *size) for size in self.sizes()) if self.buckets else ()
        if self.condition == "class":
            # There is one at least, wherever the others are counted.
            return SampleSpec(shape, classes=self.known_classes() or 1, labelled=True, fit=self.fit, sizes=sizes)
        return SampleSpec(shape, text=self.condition == "caption", fit=self.fit, sizes=sizes)

    def sizes(self) -> list[tuple[int, int]]:
        """Height and width of each bucket."""
        longest = self.longest_side or longest_by_default(self.height, self.width)
        return bucket_sizes(self.height, self.width, self.bucket_step, max(longest, self.height, self.width))

    def known_classes(self) -> int:
        """How many classes there are; 0 if nothing says so."""
        if self.classes or self.condition != "class":
            return self.classes
        form = form_of(self.path)
        try:
            if form == "folder":
                return len(class_folders(self.path))
            if form == "dataset":
                names = description(self.path).get(self.label, {}).get("names")
                return len(names) if isinstance(names, list) else 0
            encoded = self.encoded_in()
            classes = read_object(encoded / ENCODED).get("classes") if encoded else 0
        except FlowmapError:
            return 0  # whoever opens the data says why
        return classes if isinstance(classes, int) and classes > 0 else 0

    def made_from(self) -> dict[str, Any]:
        """The fields that decide what an encoded shard has in it."""
        fields = {"condition", "height", "width", "fit", "buckets", "small", "transparent"}
        fields |= {"bucket_step", "longest_side"} if self.buckets else set()
        fields |= {"caption": {"caption"}, "class": {"label"}, "none": set()}[self.condition]
        return self.model_dump(include=fields)

    def missing(self) -> Iterable[Finding]:
        """An error where there is nothing to read, or nothing to read it with, and where nobody knows the classes."""
        form = form_of(self.path)
        if wrong := problem_of(self.path):
            yield Finding("error", ("path",), wrong)
            return
        if form is None or form == "tars":
            yield from super().missing()
        if form == "dataset" and importlib.util.find_spec("pyarrow") is None:
            yield Finding("error", ("path",), NEEDS_ARROW)
        if form is not None and self.condition == "class" and not self.known_classes():
            why = "nothing says how many classes there are"
            yield Finding("error", ("classes",), f"{why}; set data.classes, or give each class a folder of its own")

    def passed_over(self) -> list[tuple[Path, str]]:
        """See ShardsConfig.passed_over; what is not read in a folder of pictures, its index says."""
        return super().passed_over() if form_of(self.path) in ("tars", None) else []

    def how_to_get(self) -> str:
        """Which forms are read, and how encoded shards are made."""
        kinds = ", ".join(suffix[1:] for suffix in PICTURES)
        beside = {
            "caption": f", each with its caption in NAME.txt or in the '{self.caption}' of NAME.json",
            "class": f", each with its class in NAME{CLASS} or in the '{self.label}' of NAME.json",
            "none": "",
        }
        return (
            f"Read are pictures ({kinds}) in tars or in folders{beside[self.condition]}, a dataset saved by "
            "`save_to_disk`, and encoded shards, which are made of these by: flowmap encode RECIPE --from RAW"
        )

    def rehearsed(self, folder: Path) -> Self:
        """Two dozen drawn pictures in two raw tars in `folder`, for samples of 32 x 32 pixels (in buckets: 64 x 64)."""
        from flowmap_images.rehearsal import write_pictures

        classes = (self.known_classes() or _TINY_CLASSES) if self.condition == "class" else 0
        side = _TINY_BUCKETS if self.buckets else _TINY
        path = folder / f"{self.type}-{side}-{self.condition}-{classes}-{self.caption}"
        write_pictures(path, side, self.caption, classes)
        tiny = {"path": str(path), "height": side, "width": side, "classes": classes, "held_out": 0.4}
        return self.model_copy(update=tiny | {"bucket_step": side // 2, "longest_side": 0, "small": "enlarge"})

    def build(self) -> Archive:
        """Index the pictures. Raises FlowmapError if there are none, or they are not what the fields here say."""
        from flowmap_images.archive import open_images

        return open_images(self)


NEEDS_ARROW = (
    "a dataset saved by `datasets` is read with pyarrow, which is not installed: pip install 'flowmap[arrow]', or save "
    "its pictures into a folder"
)
