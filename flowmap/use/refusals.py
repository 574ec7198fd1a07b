"""Wishes (flowmap.use.wish) that cannot be fulfilled, refused before anything is computed."""

from __future__ import annotations

import math
from collections.abc import Sequence

from flowmap.console.options import option
from flowmap.errors import FlowmapError
from flowmap.plugin.kinds import BackboneConfig, SamplerConfig
from flowmap.recipe.published import lists_of
from flowmap.schema.bounds import MOST_HELD
from flowmap.schema.specs import SampleSpec
from flowmap.use.start import refuse_given
from flowmap.use.wish import Wish


def refuse(
    wish: Wish, spec: SampleSpec, sampler: SamplerConfig, backbone: BackboneConfig, *lower: str, guidable: bool
) -> None:
    """Raise FlowmapError for wishes that these data, this sampler, this backbone or no machine can fulfil.

    `lower` are the options that say how much is made; with another sampler the network is `guidable`, or it is not.
    """
    number = (wish.number or 1) * max(1, wish.asked)
    held = number * math.prod(spec.shape)
    if held > MOST_HELD:
        raise FlowmapError(
            f"{number:,} samples of {' x '.join(map(str, spec.shape))} have {held:,} numbers, and at most "
            f"{MOST_HELD:,} fit in memory; lower {' or '.join(map(option, lower))}"
        )
    if wish.cfg_scale not in (None, 1) and sampler.network == "flow_map":
        how = f", or take {option('sampler', 'euler')}" if guidable else ""
        raise FlowmapError(
            f"{option('guidance', wish.cfg_scale)}: sampler '{sampler.type}' follows the flow map, which "
            f"cannot be guided (the guidance of training is in it); leave it out{how}"
        )
    if wish.cfg_scale not in (None, 1) and not spec.conditional:
        raise FlowmapError(
            f"{option('guidance', wish.cfg_scale)}: guidance needs a condition, and the data have none; leave it out"
        )
    if wish.prompts and wish.classes:
        raise FlowmapError(f"{option('prompt')} and {option('class')}: give one of them")
    if wish.classes and not spec.classes:
        raise FlowmapError(f"{option('class')}: the data of this run are not conditioned on a class")
    wrong = [number for number in wish.classes if not 0 <= number < spec.classes]
    if wrong:
        raise FlowmapError(f"{option('class', wrong[0])}: classes are 0 to {spec.classes - 1}")
    if wish.prompts and not spec.text:
        raise FlowmapError(f"{option('prompt')}: the data of this run have no captions, so its model takes no prompts")
    if wish.prompts and not backbone.reads_text():
        raise FlowmapError(
            f"{option('prompt')}: the backbone of this run has no text encoder; its data bring the conditions"
        )
    if wish.image and wish.video:
        raise FlowmapError(f"{option('image')} and {option('video')}: give one of them")
    if (wish.image or wish.video) and spec.fps is None:
        raise FlowmapError(f"{option('image')} and {option('video')}: this model does not make videos")
    if wish.frames is not None and wish.video is None:
        raise FlowmapError(f"{option('frames')}: says how much of {option('video')} is given; there is none")
    refuse_given(wish, backbone, spec)


def refuse_calls(wish: Wish, sampler: SamplerConfig, known: Sequence[SamplerConfig]) -> None:
    """Raise FlowmapError for a number of calls that `sampler` has no list for; weights come with the `known` ones."""
    if wish.calls is None or sampler.own_times() is None or sampler.steps(wish.calls) is not None:
        return
    recipe = f"samplers = [{{ type = '{sampler.type}', times = [...] }}]"
    raise FlowmapError(
        f"{option('nfe', wish.calls)}: these weights come with lists of times for {lists_of(known)} calls; leave it "
        f"out, or name another list in a recipe that measures them: {recipe}"
    )


def refuse_nothing(wish: Wish, spec: SampleSpec) -> None:
    """Raise FlowmapError where samples come from prompts alone, and nobody says which."""
    if spec.text and not wish.prompts:
        raise FlowmapError(f"{option('prompt')}: say what to show; there are no data whose prompts could be taken")
