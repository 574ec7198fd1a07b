"""Features of networks that others trained: FID's Inception, any vision model of transformers. Torch-free."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field

from flowmap.plugin import FeaturesConfig, Finding, SampleSpec
from flowmap.schema.bounds import PathText
from flowmap_metrics import inception_files, vision_files

if TYPE_CHECKING:
    from flowmap.interfaces import Features, References

Resize = Literal["tensorflow", "clean"]
Layer = Literal["embedding", "pooled", "mean"]


def image_findings(spec: SampleSpec, what: str) -> Iterable[Finding]:
    """Why samples of `spec` are no single images of one or three channels, which is what `what` sees."""
    if len(spec.shape) != 4 or spec.shape[1] not in (1, 3):
        why = f"{what} see images [1, C, H, W] of 1 or 3 channels, and samples of these data are {list(spec.shape)}"
        yield Finding("error", ("type",), f"{why}; use features of their raw numbers (pixels), or your own")
    elif spec.shape[0] != 1:
        why = f"{what} see single images, and these data are videos of {spec.shape[0]} frames"
        how = "use features of whole samples (pixels, or a classifier where the data are labelled), or your own"
        yield Finding("error", ("type",), f"{why}; {how}")


class InceptionConfig(FeaturesConfig):
    """The last pool of TensorFlow's Inception network of 2015: what FID, KID and precision are defined in.

    Images are rounded to 8 bits first, as if they had been saved; grey ones become three equal channels.
    """

    type: Literal["inception"] = "inception"
    weights: PathText | None = Field(
        None,
        description="a file with the network's weights, as torch-fidelity and pytorch-fid publish them; if left out, "
        "it is looked for where these keep it",
    )
    resize: Resize = Field(
        "tensorflow",
        description="how images come to 299 x 299: as TensorFlow's graph does it and most papers with it (bilinear, "
        "aliased), or as clean-fid does (arXiv 2104.11222: bicubic, antialiased)",
    )

    def missing(self) -> Iterable[Finding]:
        """The file."""
        if inception_files.find(self.weights) is None:
            yield Finding("error", ("weights",), inception_files.absence(self.weights))

    def rehearsed(self, folder: Path) -> Self:
        """With random weights, and of the same size: no other network has its names."""
        from flowmap_metrics.inception_weights import write_random

        return self.model_copy(update={"weights": str(write_random(folder / "inception.pth"))})

    def findings(self, spec: SampleSpec) -> Iterable[Finding]:
        """It sees single images."""
        return image_findings(spec, "Inception features")

    def remarks(self, spec: SampleSpec) -> Iterable[str]:
        """Another resize, other weights, grey images."""
        if self.resize == "clean":
            yield "resized as clean-fid does, so only numbers of clean-fid compare"
        file = inception_files.find(self.weights)
        if file is not None and not inception_files.is_published(file):
            yield f"{file} is not the file of weights that others use (its SHA-256 does not begin with 6726825d)"
        if spec.shape[1] == 1:
            yield "the images are grey, and Inception was trained on colour"

    def build(self, references: References) -> Features:
        """Read the network."""
        from flowmap_metrics.inception_weights import inception_features

        return inception_features(self, references)


class VisionModelConfig(FeaturesConfig):
    """Any vision network in transformers' layout: the embedding of CLIP, the pooled output of DINOv2, ..."""

    type: Literal["vision_model"] = "vision_model"
    weights: PathText = Field(description="a folder that transformers wrote, or a hub id in the hub's cache")
    layer: Layer | None = Field(
        None,
        description="embedding (CLIP's, of image and text in one space), pooled (the network's own pooled output), or "
        "mean (of its last layer, over patches); if left out, the first of them that it has",
    )

    def label(self) -> str:
        """With the name of the weights, so that two networks have two names."""
        return f"{self.type}-{Path(self.weights).name}"

    def missing(self) -> Iterable[Finding]:
        """The folder, or files of it."""
        for problem in vision_files.missing(self.weights, vision_files.SEES):
            yield Finding("error", ("weights",), problem)

    def rehearsed(self, folder: Path) -> Self:
        """A tiny random CLIP, which has every layer."""
        from flowmap_metrics.vision_twin import write_clip

        return self.model_copy(update={"weights": str(write_clip(folder / "clip"))})

    def findings(self, spec: SampleSpec) -> Iterable[Finding]:
        """It sees single images."""
        return image_findings(spec, "features of a vision model")

    def build(self, references: References) -> Features:
        """Read the network."""
        from flowmap_metrics.vision import vision_features

        return vision_features(self, references)
