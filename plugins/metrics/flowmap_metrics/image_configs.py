"""Metrics of images that papers know: FID, KID, precision, recall, CLIP score, class accuracy. Torch-free."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

from pydantic import Field

from flowmap.plugin import Better, Finding, MetricConfig, SampleSpec
from flowmap.schema.bounds import PathText, Range
from flowmap.weights.fields import CONFIG
from flowmap.weights.headers import read_json
from flowmap.weights.names import find
from flowmap_metrics import vision_files
from flowmap_metrics.bases import PublishedConfig, few, sets_of
from flowmap_metrics.configs import ClassifierConfig
from flowmap_metrics.network_configs import InceptionConfig, image_findings

if TYPE_CHECKING:
    from flowmap.interfaces import Metric, References

_FID_SAMPLES = 50_000
_FID_FEATURES = 2048
_MANIFOLD_SAMPLES = 10_000
_KID_SIZE = 1000

Subsets = Annotated[int, Range(1, 10**5, "100 are usual")]
SubsetSize = Annotated[int, Range(2, 10**6, "1000 are usual, and all pairs of so many are compared")]
Neighbours = Annotated[int, Range(1, 1000, "3 are usual")]


class FidConfig(PublishedConfig):
    """Fréchet Inception distance (arXiv 1706.08500), to training images: the floor is of held-out ones."""

    type: Literal["fid"] = "fid"
    features: InceptionConfig = Field(
        default_factory=InceptionConfig, description="those of Inception, with the resize and weights of choice"
    )

    def remarks(self, spec: SampleSpec, samples: int, train: int, held_out: int) -> Iterable[str]:
        """How many samples it is of, too few for its covariance, other images to compare with."""
        yield from super().remarks(spec, samples, train, held_out)
        count = self.compared(samples, train, held_out)
        yield from few(_FID_SAMPLES, count, "it falls as samples grow, and is of")
        if count <= _FID_FEATURES:
            yield f"the covariance of {_FID_FEATURES} features of {count:,} samples is singular"
        if self.to == "train":
            yield from few(_FID_SAMPLES, train, "compared with")

    def build(self, references: References) -> Metric:
        """Measure what samples are compared with."""
        from flowmap_metrics.frechet import FrechetDistance
        from flowmap_metrics.remembered import features_of

        return FrechetDistance(features_of(self.features, references), *sets_of(self.features, self.to, references))


class KidConfig(PublishedConfig):
    """Kernel Inception distance (arXiv 1801.01401), which may be below 0; the floor is what chance makes of 0."""

    type: Literal["kid"] = "kid"
    subsets: Subsets = Field(100, description="pairs of subsets that it is the mean of")
    subset_size: SubsetSize = Field(_KID_SIZE, description="samples of a subset; fewer where there are fewer")

    def remarks(self, spec: SampleSpec, samples: int, train: int, held_out: int) -> Iterable[str]:
        """Subsets of another size, which spread otherwise."""
        yield from super().remarks(spec, samples, train, held_out)
        compared_with = {"train": train, "held_out": held_out, "teacher": 2 * samples}[self.to]
        size = min(self.subset_size, samples, compared_with)
        if size != _KID_SIZE:
            yield f"subsets are of {size:,} samples, where published ones are of {_KID_SIZE:,}"

    def build(self, references: References) -> Metric:
        """Keep what samples are compared with."""
        from flowmap_metrics.kernel import KernelDistance
        from flowmap_metrics.remembered import features_of

        sets = sets_of(self.features, self.to, references)
        return KernelDistance(features_of(self.features, references), *sets, self.subsets, self.subset_size)


class _ManifoldConfig(PublishedConfig):
    better: ClassVar[Better] = "higher"
    neighbours: Neighbours = Field(3, description="nearest neighbours that the ball around a sample reaches to")

    def remarks(self, spec: SampleSpec, samples: int, train: int, held_out: int) -> Iterable[str]:
        """Few samples, other neighbours."""
        yield from super().remarks(spec, samples, train, held_out)
        yield from few(
            _MANIFOLD_SAMPLES, self.compared(samples, train, held_out), "it depends on their number, and is of"
        )
        if self.neighbours != 3:
            yield f"balls reach to {self.neighbours} neighbours, where published ones reach to 3"

    def build(self, references: References) -> Metric:
        """Keep what samples are compared with."""
        from flowmap_metrics.manifolds import ManifoldShare
        from flowmap_metrics.remembered import features_of

        sets = sets_of(self.features, self.to, references)
        features = features_of(self.features, references)
        return ManifoldShare(features, *sets, self.neighbours, recall=self.type == "recall")


class PrecisionConfig(_ManifoldConfig):
    """Precision (arXiv 1904.06991): the share of samples that lie among real ones, by their nearest neighbours."""

    type: Literal["precision"] = "precision"


class RecallConfig(_ManifoldConfig):
    """Recall (arXiv 1904.06991): the share of real samples that lie among those of the model, by nearest neighbours.

    Samples far apart reach far, and noise may have all real ones among it: recall means something beside precision.
    """

    type: Literal["recall"] = "recall"


class ClipScoreConfig(MetricConfig):
    """CLIP score (arXiv 2104.08718): 100 times the cosine of an image and its prompt in CLIP's space, 0 if below."""

    type: Literal["clip_score"] = "clip_score"
    better: ClassVar[Better] = "higher"
    weights: PathText = Field(
        description="a folder with a CLIP that transformers wrote, or a hub id in the hub's cache; most published "
        "scores are of openai/clip-vit-large-patch14 or openai/clip-vit-base-patch16"
    )

    def label(self) -> str:
        """With the name of the CLIP: no two give the same score."""
        return f"{self.type}:{Path(self.weights).name}"

    def missing(self) -> Iterable[Finding]:
        """The folder, or files of it."""
        for problem in vision_files.missing(self.weights, vision_files.READS, tokenizer=True):
            yield Finding("error", ("weights",), problem)

    def rehearsed(self, folder: Path) -> Self:
        """With a tiny random CLIP."""
        from flowmap_metrics.vision_twin import write_clip

        return self.model_copy(update={"weights": str(write_clip(folder / "clip"))})

    def findings(self, spec: SampleSpec) -> Iterable[Finding]:
        """Images with captions."""
        yield from image_findings(spec, "CLIP scores")
        if not spec.text:
            yield Finding("error", ("type",), "clip_score needs prompts in words, and these data have no captions")
        elif spec.text_dim:
            why = f"these data bring embeddings of {spec.text_dim} numbers"
            yield Finding("error", ("type",), f"clip_score needs prompts in words, and {why}")

    def remarks(self, spec: SampleSpec, samples: int, train: int, held_out: int) -> Iterable[str]:
        """The prompts are those of the data."""
        yield "of the prompts of these data; only scores of the same prompts, by the same CLIP, compare"

    def build(self, references: References) -> Metric:
        """Read the network."""
        from flowmap_metrics.agreement import ClipScore

        return ClipScore(self.weights, references)


class ClassAccuracyConfig(MetricConfig):
    """The share of samples that a classifier takes for the class they were asked to show."""

    type: Literal["class_accuracy"] = "class_accuracy"
    better: ClassVar[Better] = "higher"
    weights: PathText | None = Field(
        None,
        description="a folder of transformers with a classifier whose outputs are the data's classes, or a hub id; if "
        "left out, a small one is trained on one half of the training split",
    )

    def label(self) -> str:
        """With the name of the classifier, if it is another's."""
        return self.type if self.weights is None else f"{self.type}:{Path(self.weights).name}"

    def missing(self) -> Iterable[Finding]:
        """The folder, or files of it."""
        for problem in vision_files.missing(self.weights, vision_files.NAMES) if self.weights else ():
            yield Finding("error", ("weights",), problem)

    def rehearsed(self, folder: Path) -> Self:
        """With the classifier that is trained here: how many classes there are, its data say."""
        return self.model_copy(update={"weights": None})

    def findings(self, spec: SampleSpec) -> Iterable[Finding]:
        """Data of classes, and a classifier of as many."""
        if not spec.classes:
            why = "samples of these data are asked for by no class; use data that are conditioned on one"
            yield Finding("error", ("type",), f"class_accuracy needs a class that was asked for, and {why}")
        if self.weights is None:
            yield from ClassifierConfig().findings(spec)
            return
        yield from image_findings(spec, "classifiers")
        folder = find(self.weights)
        if folder is not None and (folder / CONFIG).is_file() and spec.classes:
            outputs = len(read_json(folder / CONFIG).get("id2label") or "01")
            if outputs != spec.classes:
                why = f"{folder} tells {outputs} classes apart, and these data have {spec.classes}"
                yield Finding("error", ("weights",), f"{why}; its outputs must be their classes, in the same order")

    def remarks(self, spec: SampleSpec, samples: int, train: int, held_out: int) -> Iterable[str]:
        """A classifier of one's own is nobody else's."""
        if self.weights is None:
            yield "by a small classifier that was trained here; numbers of other classifiers do not compare"

    def build(self, references: References) -> Metric:
        """Read or train the classifier."""
        from flowmap_metrics.agreement import class_accuracy

        return class_accuracy(self.weights, references)
