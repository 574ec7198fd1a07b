"""The contract of data sources."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from flowmap.configs import DataConfig, SampleSpec
from flowmap.interfaces import Data, Samples
from flowmap.testing.contract import (
    build_quietly,
    check_config,
    halves,
    own_randomness_only,
    require,
    require_like,
    whole,
)

_COUNT = 11
_Split = Literal["train", "held_out"]


def check_data(config: DataConfig) -> None:
    """Check the data source that `config` builds; raises AssertionError with what is broken.

    Samples are float32 of the shape that `spec()` says, with labels and prompts where it says so. Batches and
    prompts are functions of the draw alone, independent of how processes share it. References are at most as
    many as asked for, the same at every call, and those held out are not those trained on. Pictures are uint8.
    """
    check_config(config)
    data = build_quietly(config, config.build)
    for check in (_check_batch, _check_draw, _check_references, _check_prompts, _check_picture):
        with own_randomness_only(f"'{config.type}'"):
            check(config, data)


def _check_batch(config: DataConfig, data: Data) -> None:
    _check_samples(data.batch(whole(_COUNT)), config.spec(), _COUNT, f"a batch of '{config.type}'")


def _check_samples(samples: Samples, spec: SampleSpec, count: int, who: str) -> None:
    require_like(samples.x, (count, *spec.shape), f"x of {who}")
    if spec.labelled:
        labels = samples.labels
        good = labels is not None and labels.shape == (count,) and labels.dtype == torch.int64
        require(good, f"{who} must have labels [{count}] in int64: its spec says labelled")
        require(labels is not None and bool((labels >= 0).all()), f"the labels of {who} must not be negative")
    else:
        require(samples.labels is None, f"{who} has labels, but its spec does not say so")
    conditional = samples.prompts is not None
    require(conditional == (spec.classes > 0), f"{who} must have prompts if and only if its spec has classes")


def _check_draw(config: DataConfig, data: Data) -> None:
    batch = data.batch(whole(_COUNT))
    _same(batch, data.batch(whole(_COUNT)), f"'{config.type}' must return the same batch for the same draw")
    other = data.batch(whole(_COUNT, step=1))
    require(not torch.equal(batch.x, other.x), f"'{config.type}' must return another batch for another step")
    contract = f"the batch of '{config.type}' must not depend on how many processes share it"
    for part in halves(_COUNT):
        _same(data.batch(part), _rows(batch, part.first, part.count), contract)


def _rows(samples: Samples, first: int, count: int) -> Samples:
    labels = None if samples.labels is None else samples.labels[first : first + count]
    prompts = samples.prompts[first : first + count] if isinstance(samples.prompts, Tensor | list | tuple) else None
    return Samples(samples.x[first : first + count], labels, prompts)


def _same(a: Samples, b: Samples, contract: str) -> None:
    require(torch.equal(a.x, b.x), contract)
    require(all(torch.equal(x, y) for x, y in _both(a.labels, b.labels)), contract)
    require(all(torch.equal(x, y) for x, y in _both(a.prompts, b.prompts)), contract)


def _both(a: Any, b: Any) -> Iterator[tuple[Tensor, Tensor]]:
    """The pair, if both are tensors; prompts may be anything else, which only their backbone can compare."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        yield a, b


def _check_references(config: DataConfig, data: Data) -> None:
    found: dict[_Split, Samples] = {}
    for split in get_args(_Split):
        for count in (3, 64):
            samples = found[split] = data.reference(split, count)
            who = f"the {split} reference of '{config.type}'"
            require(0 < len(samples.x) <= count, f"{who} must have from 1 to {count} samples, not {len(samples.x)}")
            _check_samples(samples, config.spec(), len(samples.x), who)
            _same(samples, data.reference(split, count), f"{who} must be the same at every call")
    train, held_out = found["train"].x.flatten(1), found["held_out"].x.flatten(1)
    shared = (train[:, None] == held_out[None]).all(dim=2).any(dim=0).double().mean()
    require(float(shared) < 0.5, f"the held-out reference of '{config.type}' must not be what it trains on")


def _check_prompts(config: DataConfig, data: Data) -> None:
    prompts = data.prompts(whole(_COUNT))
    conditional = prompts is not None
    require(
        conditional == (config.spec().classes > 0),
        f"'{config.type}' must give prompts if and only if its spec has classes",
    )
    for x, y in _both(prompts, data.prompts(whole(_COUNT))):
        require(torch.equal(x, y), f"the prompts of '{config.type}' must be the same for the same draw")
    for part in halves(_COUNT):
        for x, y in _both(prompts, data.prompts(part)):
            contract = f"the prompts of '{config.type}' must not depend on how many processes share them"
            require(torch.equal(x[part.first : part.first + part.count], y), contract)


def _check_picture(config: DataConfig, data: Data) -> None:
    picture = data.picture(data.batch(whole(_COUNT)).x)
    good = picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[2] == 3
    shown = f"{picture.dtype} {list(picture.shape)}"
    require(good, f"a picture of '{config.type}' must be uint8 [H, W, 3], not {shown}")
