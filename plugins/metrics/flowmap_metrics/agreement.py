"""Whether samples show what they were asked to show: texts by CLIP (arXiv 2104.08718), classes by a classifier."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, final

import torch
from torch import Tensor
from torch.nn import functional as F

from flowmap.errors import FlowmapError
from flowmap.interfaces import Evidence, Metric, References, Samples
from flowmap_metrics.classifier import train_classifier
from flowmap_metrics.images import seen
from flowmap_metrics.parts import halves
from flowmap_metrics.vision import embedded, preparing, read_network, reading
from flowmap_metrics.vision_files import NAMES, READS, opened


@final
class ClipScore(Metric):
    """The mean over samples of 100 times the cosine of the embeddings of image and text; of 0, where that is below."""

    def __init__(self, weights: str, references: References) -> None:
        self._real, self._device = references.held_out, references.device
        folder = opened(weights, READS, tokenizer=True)
        self._network = read_network(folder).to(self._device)
        if not hasattr(self._network, "get_text_features"):
            why = f"{folder}: {type(self._network).__name__} reads no texts; clip_score needs a CLIP"
            raise FlowmapError(f"{why}, such as {READS}", code=1)
        self._prepared, self._read = preparing(folder), reading(folder, self._network)

    def score(self, evidence: Evidence) -> float:
        """The mean over the samples and the texts that they were made from."""
        return self._agreement(evidence.samples, evidence.prompts)

    def floor(self, size: int) -> float:
        """The ceiling: the mean over real held-out images and their own captions."""
        return self._agreement(self._real.x, self._real.prompts)

    def _agreement(self, samples: Tensor, prompts: Any) -> float:
        if not isinstance(prompts, Sequence) or not all(isinstance(text, str) for text in prompts):
            kind = type(prompts).__name__
            raise FlowmapError(
                f"clip_score needs prompts as texts, and those of these data are {kind}; measure by data that were not "
                "encoded (evaluation.data)",
                code=1,
            )

        def see(images: Tensor) -> Tensor:
            return embedded(self._network.get_image_features(pixel_values=self._prepared(images).to(self._device)))

        shown = seen(see, samples, self._device, "CLIP looks at images")
        asked = torch.cat([self._read(prompts[i : i + 64]).float().cpu() for i in range(0, len(prompts), 64)])
        cosines = F.cosine_similarity(shown.double(), asked.double())
        return float((100 * cosines).clamp(min=0).mean())


@final
class ClassAccuracy(Metric):
    """The share of samples that `classify` (samples to scores `[N, K]`) takes for the class they were asked to show.

    `perfect` are real samples that nothing in it was trained on.
    """

    def __init__(self, classify: Callable[[Tensor], Tensor], perfect: Samples) -> None:
        self._classify, self._perfect = classify, perfect

    def score(self, evidence: Evidence) -> float:
        """The share of the samples."""
        return self._accuracy(evidence.samples, evidence.prompts)

    def floor(self, size: int) -> float:
        """The ceiling: the share of all real ones."""
        return self._accuracy(self._perfect.x, self._perfect.labels)

    def _accuracy(self, samples: Tensor, labels: Any) -> float:
        if not isinstance(labels, Tensor):
            raise FlowmapError("class_accuracy needs samples that were asked for by class labels", code=1)
        return float((self._classify(samples).argmax(1).cpu() == labels.cpu()).double().mean())


def class_accuracy(weights: str | None, references: References) -> ClassAccuracy:
    """By the classifier in the folder `weights`, or by one that is trained on one half of the training samples."""
    if weights is not None:
        return ClassAccuracy(_classifier_in(weights, references), references.held_out)
    seen_ones, others = halves(references.train)
    trained = train_classifier(seen_ones, references.shelf)

    @torch.no_grad()
    def classify(samples: Tensor) -> Tensor:
        return torch.cat([trained(part.cpu()) for part in samples.split(2048)])

    return ClassAccuracy(classify, others)


def _classifier_in(weights: str, references: References) -> Callable[[Tensor], Tensor]:
    """The classifier in a folder of transformers, whose outputs are the classes of the data.

    Raises FlowmapError if the folder is not complete, or if it is none.
    """
    device, folder = references.device, opened(weights, NAMES)
    network = read_network(folder).to(device)
    if not type(network).__name__.endswith("ForImageClassification"):
        why = f"{folder}: {type(network).__name__} names no classes"
        raise FlowmapError(f"{why}; class_accuracy needs a class that ends in ForImageClassification", code=1)
    prepared = preparing(folder)

    def classify(samples: Tensor) -> Tensor:
        def see(images: Tensor) -> Tensor:
            found: Tensor = network(pixel_values=prepared(images).to(device)).logits
            return found

        return seen(see, samples, device, "a classifier looks at images")

    return classify
