"""The contract of data sources."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from flowmap.interfaces import Data, EncodedText, Samples
from flowmap.plugin.kinds import DataConfig
from flowmap.schema.specs import SampleSpec
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
_CONDITIONS = "classes or text"
_Split = Literal["train", "held_out"]


def check_data(config: DataConfig) -> None:
    """Check the data source that `config` builds; raises AssertionError with what is broken.

    Samples are float32 of the shape that `spec()` says (in model space where they are encoded), batches of one of its
    `sizes` where it has several, with labels and prompts where it says so; captions are strings, or encoded text.
    Batches and prompts are functions of the draw alone, independent of how processes share it. References are at most
    as many as asked for, the same at every call, and those held out are not those trained on. Pictures are uint8.
    """
    check_config(config)
    data = build_quietly(config, config.build)
    for check in (_check_batch, _check_draw, _check_references, _check_prompts, _check_picture):
        with own_randomness_only(f"'{config.type}'"):
            check(config, data)


def _check_batch(config: DataConfig, data: Data) -> None:
    samples, spec, who = data.batch(whole(_COUNT)), config.spec(), f"a batch of '{config.type}'"
    if spec.sizes and not samples.encoded:
        shape = tuple(samples.x.shape[1:])
        require(shape in spec.sizes, f"x of {who} must be of one of the sizes that its spec names, not {list(shape)}")
        require(spec.shape in spec.sizes, f"the sizes of '{config.type}' must have its shape among them")
        spec = replace(spec, shape=shape)
    _check_samples(samples, spec, _COUNT, who)


def _check_samples(samples: Samples, spec: SampleSpec, count: int, who: str) -> None:
    require_like(samples.x, (count, *(samples.x.shape[1:] if samples.encoded else spec.shape)), f"x of {who}")
    if spec.labelled:
        labels = samples.labels
        good = labels is not None and labels.shape == (count,) and labels.dtype == torch.int64
        require(good, f"{who} must have labels [{count}] in int64: its spec says labelled")
        require(labels is not None and bool((labels >= 0).all()), f"the labels of {who} must not be negative")
    else:
        require(samples.labels is None, f"{who} has labels, but its spec does not say so")
    conditional = samples.prompts is not None
    require(conditional == spec.conditional, f"{who} must have prompts if and only if its spec has {_CONDITIONS}")
    if spec.text:
        _check_captions(samples.prompts, samples.encoded, count, f"the prompts of {who}")


def _check_captions(prompts: Any, encoded: bool, count: int, who: str) -> None:
    if encoded:
        require(isinstance(prompts, EncodedText), f"{who} must be EncodedText, not {type(prompts).__name__}")
        require(prompts.text.ndim == 3, f"{who} must have text [{count}, L, D], not {list(prompts.text.shape)}")
        require_like(prompts.text, (count, *prompts.text.shape[1:]), f"text of {who}")
        require_like(prompts.null, tuple(prompts.text.shape[1:]), f"null of {who}")
    else:
        good = isinstance(prompts, list) and len(prompts) == count and all(isinstance(p, str) for p in prompts)
        require(good, f"{who} must be a list of {count} strings: its spec says text")


def _check_draw(config: DataConfig, data: Data) -> None:
    batch = data.batch(whole(_COUNT))
    _same(batch, data.batch(whole(_COUNT)), f"'{config.type}' must return the same batch for the same draw")
    other = data.batch(whole(_COUNT, step=1))
    require(not torch.equal(batch.x, other.x), f"'{config.type}' must return another batch for another step")
    contract = f"the batch of '{config.type}' must not depend on how many processes share it"
    for part in halves(_COUNT):
        _same(data.batch(part), _rows(batch, part.rows), contract)


def _rows(samples: Samples, rows: Sequence[int]) -> Samples:
    index = list(rows)
    labels = None if samples.labels is None else samples.labels[index]
    return Samples(samples.x[index], labels, _some(samples.prompts, rows), samples.encoded)


def _some(prompts: Any, rows: Sequence[int]) -> Any:
    index = list(rows)
    if isinstance(prompts, EncodedText):
        return prompts.take(torch.tensor(index))
    if isinstance(prompts, Tensor):
        return prompts[index]
    return [prompts[row] for row in index] if isinstance(prompts, list | tuple) else None


def _same(a: Samples, b: Samples, contract: str) -> None:
    require(torch.equal(a.x, b.x), contract)
    require(_alike(a.labels, b.labels), contract)
    require(_alike(a.prompts, b.prompts), contract)


def _alike(a: Any, b: Any) -> bool:
    """Whether both are equal; prompts may be of other kinds, which only their backbone can compare."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return torch.equal(a, b)
    if isinstance(a, EncodedText) and isinstance(b, EncodedText):
        pairs = ((a.tensors(), b.tensors()), (a.nulls(), b.nulls()))
        return all(m.keys() == n.keys() and all(torch.equal(m[name], n[name]) for name in m) for m, n in pairs)
    captions = all(isinstance(p, list) and all(isinstance(text, str) for text in p) for p in (a, b))
    return bool(a == b) if captions else True


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
    spec = config.spec()
    require(
        conditional == spec.conditional, f"'{config.type}' must give prompts if and only if its spec has {_CONDITIONS}"
    )
    if spec.text:
        _check_captions(prompts, isinstance(prompts, EncodedText), _COUNT, f"the prompts of '{config.type}'")
    same = _alike(prompts, data.prompts(whole(_COUNT)))
    require(same, f"the prompts of '{config.type}' must be the same for the same draw")
    for part in halves(_COUNT):
        same = _alike(_some(prompts, part.rows), data.prompts(part))
        require(same, f"the prompts of '{config.type}' must not depend on how many processes share them")


def _check_picture(config: DataConfig, data: Data) -> None:
    samples = data.batch(whole(_COUNT))
    # Pictures are of data space, which encoded samples are not in.
    x = torch.zeros(_COUNT, *config.spec().shape) if samples.encoded else samples.x
    picture = data.picture(x)
    good = picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[2] == 3
    shown = f"{picture.dtype} {list(picture.shape)}"
    require(good, f"a picture of '{config.type}' must be uint8 [H, W, 3], not {shown}")
