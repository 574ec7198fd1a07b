"""The contract of features."""

from __future__ import annotations

import torch
from torch import Tensor

from flowmap.interfaces import Features, References
from flowmap.plugin.kinds import FeaturesConfig
from flowmap.schema.specs import SampleSpec
from flowmap.testing.contract import build_quietly, check_config, own_randomness_only, require, require_no_errors, whole
from flowmap.testing.metrics import two_classes

_COUNT = 24
_TOLERANCE = 1e-4  # of the largest number: sums of float32 come out otherwise in batches of another size


def check_features(config: FeaturesConfig, references: References | None = None) -> None:
    """Check the features that `config` builds; raises AssertionError with what is broken.

    They are one finite vector a sample, of that sample alone and the same whenever it is asked for; they tell the
    reference from noise, and change no sample. What they say is unseen are real training samples, a part or all.

    `references` are what to build them with: images `[128, 1, 1, 8, 8]` of two labelled classes if not given.
    """
    check_config(config)
    references = references or two_classes()
    train = references.train
    shape = tuple(train.x.shape[1:])
    require_no_errors(config.findings(SampleSpec(shape, labelled=train.labels is not None)), f"'{config.type}'")
    features = build_quietly(config, lambda: config.build(references))
    with own_randomness_only(f"'{config.type}'"):
        _check_vectors(config, features, references.held_out.x[:_COUNT])
        real, noise = references.teacher, whole(len(references.teacher)).normal("noise", shape)
        apart = (features.of(real).double().mean(0) - features.of(noise).double().mean(0)).norm()
    require(bool(apart > 0), f"'{config.type}' must tell the reference from noise, whose features have the same mean")
    rows = {row.numpy().tobytes() for row in train.x.cpu()}
    unseen = config.unseen(references).x
    known = len(unseen) > 0 and all(row.numpy().tobytes() in rows for row in unseen.cpu())
    require(known, f"what '{config.type}' has not learned from must be some of the training samples, and at least one")


def _check_vectors(config: FeaturesConfig, features: Features, x: Tensor) -> None:
    before = x.clone()
    found = features.of(x)
    require(torch.equal(x, before), f"'{config.type}' must not change the samples")
    good = found.ndim == 2 and len(found) == len(x) and found.is_floating_point()
    require(good, f"'{config.type}' must give vectors [{len(x)}, D], not {found.dtype} {list(found.shape)}")
    require(bool(found.isfinite().all()), f"'{config.type}' must give finite numbers")
    require(torch.equal(features.of(x), found), f"'{config.type}' must give the same vectors for the same samples")
    alone = torch.cat([features.of(part) for part in x.flip(0).split(len(x) // 3)]).flip(0)
    error = float((alone - found).abs().max() / found.abs().max().clamp(min=1e-12))
    require(error < _TOLERANCE, f"the vector of a sample must not depend on the others: '{config.type}'")
