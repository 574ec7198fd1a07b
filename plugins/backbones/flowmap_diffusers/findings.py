"""What does not fit in the configuration of an image backbone, as `flowmap check` says it. Torch-free."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from flowmap.plugin import Finding, SampleSpec
from flowmap.schema.words import unknown_word
from flowmap_diffusers.checkpoint import SPACES, at_hand
from flowmap_diffusers.family import Sizes

_MOST = 100_000

if TYPE_CHECKING:
    from flowmap_diffusers.image_config import ImageConfig


def image_findings(config: ImageConfig, spec: SampleSpec) -> Iterable[Finding]:
    """What does not fit in `config`, or between it and samples of `spec`."""
    yield from _own(config)
    sizes = config.sizes()
    if len(spec.shape) != 4 or spec.shape[0] != 1:
        what = f"'{config.type}' takes images [1, C, H, W]; these data are {list(spec.shape)}"
        yield Finding("error", ("type",), what)
        return
    yield from _conditions(config, spec, sizes)
    yield from _shapes(config, spec, sizes)


def _own(config: ImageConfig) -> Iterable[Finding]:
    if not config.random_base and config.architecture is not None:
        yield Finding("error", ("architecture",), "the weights decide the sizes; leave this out")
    for name, value in (config.architecture or {}).items():
        if name not in config.family.small:
            yield Finding("error", ("architecture", name), unknown_word("size", name, config.family.small))
        elif (why := _odd(value, config.family.small[name])) is not None:
            yield Finding("error", ("architecture", name), why)
    if config.lora is None and config.base_precision != "float32":
        why = "weights that are trained are held in float32; use it, or train adapters: backbone.lora"
        yield Finding("error", ("base_precision",), why)
    checkpoint = None if config.random_base else at_hand(config.weights, config.family)
    if checkpoint is not None and (flaw := checkpoint.flaw()) is not None:
        yield Finding("error", ("weights",), flaw)


def _odd(value: Any, usual: Any) -> str | None:
    """Why `value` can be no size where `usual` is one; None if it can."""
    if isinstance(usual, tuple):
        fits = isinstance(value, tuple) and all(type(one) is int and 0 <= one <= _MOST for one in value)
        return None if fits else f"is a list of whole numbers from 0 to {_MOST:,}, such as {list(usual)}"
    if type(usual) is int:
        fits = type(value) is int and 1 <= value <= _MOST
        return None if fits else f"is a whole number from 1 to {_MOST:,}; here it is {value!r}"
    fits = usual is None or isinstance(value, type(usual))
    return None if fits else f"is of the kind of {usual!r}; here it is {value!r}"


def _conditions(config: ImageConfig, spec: SampleSpec, sizes: Sizes | None) -> Iterable[Finding]:
    family = config.family
    if not family.parts:
        if spec.text:
            yield Finding("error", ("type",), f"'{config.type}' takes class labels, and these data bring texts")
        known = spec.classes if sizes is None else family.classes(sizes)
        if spec.classes > known:
            what = f"the transformer has labels for {known} classes, and these data have {spec.classes}"
            yield Finding("error", ("architecture" if config.random_base else "weights",), what)
        return
    if spec.classes:
        what = f"'{config.type}' takes texts, and these data are conditioned on class labels; 'dit' takes those"
        yield Finding("error", ("type",), what)
    width = None if sizes is None else sizes.get(family.width)
    most = None if sizes is None else family.longest(sizes)
    if config.reads_text() and most is not None and config.text_length > most:
        yield Finding("error", ("text_length",), f"the transformer has places for {most} tokens at most")
    if config.random_base and spec.text and spec.text_dim not in (0, width):
        why = f"the data bring text embeddings of {spec.text_dim} dimensions; set it to that"
        yield Finding("error", ("architecture", family.width), why)
    if config.random_base and spec.text and family.pooled and sizes and sizes.get(family.pooled) != width:
        why = f"the data bring no vector of a whole text, so it is the mean of its tokens; set it to {width}"
        yield Finding("error", ("architecture", family.pooled), why)


def _shapes(config: ImageConfig, spec: SampleSpec, sizes: Sizes | None) -> Iterable[Finding]:
    """Images that the transformer or its autoencoder cannot take."""
    _, channels, *sides = spec.shape
    family, space = config.family, SPACES[config.family.vae]
    patch = family.patch(sizes) if sizes else 1
    if config.random_base:
        assert sizes is not None, "random weights have sizes"
        if channels != family.channels(sizes):
            why = f"the data have {channels} channels, and the transformer takes {family.channels(sizes)}"
            yield Finding("error", ("architecture",), why)
        step = patch
    else:
        if channels != 3:
            yield Finding("error", ("type",), f"the autoencoder takes 3 colours, and these data have {channels}")
        checkpoint = at_hand(config.weights, family)
        step = patch * (space.side * space.cells if checkpoint is None else checkpoint.side())
    if family.square and sides[0] != sides[1]:
        what = f"'{config.type}' takes square images, and these are {sides[0]} x {sides[1]}"
        yield Finding("error", ("type",), what)
    if any(side % step for side in sides):
        near = " x ".join(str(max(step, step * round(side / step))) for side in sides)
        given = " x ".join(map(str, sides))
        yield Finding("error", ("type",), f"images of {given} are not multiples of {step}; nearest: {near}")
