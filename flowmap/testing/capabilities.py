"""What a component can do, as far as it decides which laws apply to it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import final


@final
@dataclass(frozen=True)
class Capabilities:
    """What a component says of itself: True, False, or None for what flowmap finds out.

    Of backbones:

    - `conditional`: there are conditions (found: the samples have prompts);
    - `causal`: frames are made in several chunks (found: its configuration);
    - `context`: frames can be given (found: its configuration);
    - `pictured`: given frames are a part of conditions (found: its configuration);
    - `has_jvp`: there is a forward-mode derivative (found: its configuration has nothing against it);
    - `adapters`: roles stand on one frozen base (found: a role's module has parameters that it does not own);
    - `sharded`: there are parts that are gathered one at a time (found: a role has units);
    - `text`: prompts are read as texts (found: its configuration);
    - `lossless`: decoding is the inverse of encoding (found: model space has the shape of data space);
    - `footprint`: it says what it takes (found: its configuration);
    - `time_parameters`: what a flow map has beyond a velocity reads r, and the rest reads t (found: it has more).

    Of objectives:

    - `plain_mean`: the loss of a batch is the mean of its parts' (found: it asks the World for nothing);
    - `guided`: `cfg_scale` is how strongly frozen networks guide (found: it is a field);
    - `follows_the_flow`: the exact flow map is what it leads to (found: taken to be so).

    Of metrics: `own_floor`: real samples show what a perfect model scores (found: it looks at samples).

    Of data: `classes`: prompts are class labels; `labels`: samples are labelled (found: their specification).
    """

    conditional: bool | None = None
    causal: bool | None = None
    context: bool | None = None
    pictured: bool | None = None
    has_jvp: bool | None = None
    adapters: bool | None = None
    sharded: bool | None = None
    text: bool | None = None
    lossless: bool | None = None
    footprint: bool | None = None
    time_parameters: bool | None = None
    plain_mean: bool | None = None
    guided: bool | None = None
    follows_the_flow: bool | None = None
    own_floor: bool | None = None
    classes: bool | None = None
    labels: bool | None = None

    def told(self, name: str) -> bool | None:
        """What is said of the capability `name`."""
        found: bool | None = getattr(self, name)
        return found


NAMES = tuple(field.name for field in fields(Capabilities))
