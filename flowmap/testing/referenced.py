"""Components that are built with real samples, and what they are built with if nobody gives any."""

from __future__ import annotations

from abc import ABC
from collections.abc import Iterable
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from flowmap.interfaces import EncodedText, References, Samples
from flowmap.maths.draw import Draw
from flowmap.plugin.kinds import DataConfig, FeaturesConfig, MetricConfig
from flowmap.schema.config import Finding
from flowmap.schema.specs import SampleSpec
from flowmap.testing.capabilities import Capabilities
from flowmap.testing.contract import require_no_errors, whole
from flowmap.testing.examination import Subject

_SHAPE = (1, 1, 8, 8)
_COUNT = 128


class ReferencedSubject(Subject, ABC):
    """What `config` builds with `references`: images `[128, 1, 1, 8, 8]` of two labelled classes if not given."""

    def __init__(
        self,
        config: MetricConfig | FeaturesConfig,
        references: References | None = None,
        capabilities: Capabilities = Capabilities(),  # noqa: B008  # it cannot be changed
    ) -> None:
        super().__init__(config, capabilities)
        self._given = references

    @cached_property
    def references(self) -> References:
        """What it is built with."""
        return self._given or two_classes()

    def require_taken(self, findings: Iterable[Finding]) -> None:
        """Require that `findings`, about the references, have no error."""
        shape = list(self.references.train.x.shape[1:])
        others = f" (they are the kit's own, {shape}; a test class with `data`, a source of them, has others)"
        require_no_errors(findings, self.who, "" if self._given else others)


def two_classes() -> References:
    """Images `[128, 1, 1, 8, 8]` of two labelled classes, bright to one side or to the other; 256 are held out."""

    def images(draw: Draw) -> Samples:
        side = 2 * (draw.uniform("side") < 0.5).float() - 1
        bright = torch.linspace(-1, 1, 8).expand(_SHAPE) * side.reshape(-1, 1, 1, 1, 1)
        # Some labels are wrong: a classifier that could be perfect would be trained into denormal numbers.
        labels = ((side > 0) ^ (draw.uniform("mistake") < 0.15)).long()
        return Samples(bright + 0.25 * draw.normal("pixels", _SHAPE), labels)

    # Half of the held-out ones are kept from a metric.
    train, held_out, teacher, again = (images(whole(_COUNT * (1 + (step == 1)), step)) for step in range(4))
    return References(train, held_out, teacher.x, again.x)


def asked_of(samples: Samples) -> Any:
    """What samples are asked for by: their prompts, or else their labels; None if they have neither."""
    return samples.labels if samples.prompts is None else samples.prompts


def references_of(source: DataConfig) -> References:
    """Real samples of a source, 128 of each split or as many as there are; also in place of a teacher's."""
    data = source.build()
    train, held_out = data.reference("train", _COUNT), data.reference("held_out", _COUNT)
    teacher, again = (data.batch(whole(len(held_out.x), step)).x for step in (1, 2))
    return References(train, held_out, teacher, again)


def spec_of(samples: Samples) -> SampleSpec:
    """What samples are, by what they are asked for by."""
    asked, shape, labelled = asked_of(samples), tuple(samples.x.shape[1:]), samples.labels is not None
    if isinstance(asked, Tensor):
        return SampleSpec(shape, int(asked.max()) + 1, labelled=labelled)
    dim = asked.text.shape[-1] if isinstance(asked, EncodedText) else 0
    return SampleSpec(shape, labelled=labelled, text=asked is not None, text_dim=dim)
