"""What does not fit in the configuration of an image backbone, as `flowmap check` says it. Torch-free."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from flowmap.errors import FlowmapError
from flowmap.plugin import Finding, SampleSpec
from flowmap.schema.words import unknown_word
from flowmap_diffusers.checkpoint import SPACES, at_hand, foreign
from flowmap_diffusers.family import Sizes
from flowmap_diffusers.size_rules import odd_size

if TYPE_CHECKING:
    from flowmap_diffusers.image_config import ImageConfig


def image_findings(config: ImageConfig, spec: SampleSpec) -> Iterable[Finding]:
    """What does not fit in `config`, or between it and samples of `spec`."""
    own = list(_own(config))
    yield from own
    if any(finding.field[0] in ("weights", "architecture") for finding in own):
        # What is wrong with the sizes says nothing of what fits them.
        return
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
        elif (why := odd_size(value, config.family.small[name])) is not None:
            yield Finding("error", ("architecture", name), why)
    flaw = None if config.random_base else _flaw_of_weights(config)
    if flaw is not None:
        yield Finding("error", ("weights",), flaw)
    elif "gate" in config.model_fields_set and config.share() != config.gate:
        yield Finding("warning", ("gate",), f"has no effect: the weights have a gate of their own, {config.share():g}")


def _flaw_of_weights(config: ImageConfig) -> str | None:
    """What is wrong with weights that are here, as far as configurations and headers tell."""
    from flowmap_diffusers.configs import backbone_of

    try:
        why = foreign(config.weights, config.family)
    except FlowmapError as error:
        return str(error)
    if why is not None:
        right = backbone_of(config.weights)
        return why + (f"; backbone '{right}' is of those" if right else "")
    checkpoint = at_hand(config.weights, config.family)
    return None if checkpoint is None else checkpoint.flaw()


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
    if config.random_base and spec.text and not spec.text_dim:
        what = "random weights come without text encoders, and these data bring texts without embeddings; name weights"
        yield Finding("error", ("weights",), what)
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
    most = None if sizes is None else sizes.get("pos_embed_max_size")
    if isinstance(most, int) and max(sides) > most * step:
        given = " x ".join(map(str, sides))
        what = f"images of {given} are larger than the transformer's positions reach, {most * step} x {most * step}"
        yield Finding("error", ("type",), what)
    if any(side % step for side in sides):
        near = " x ".join(str(max(step, step * round(side / step))) for side in sides)
        given = " x ".join(map(str, sides))
        yield Finding("error", ("type",), f"images of {given} are not multiples of {step}; nearest: {near}")
