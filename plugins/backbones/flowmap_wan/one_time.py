r"""A flow map as a network of one time, for tools that know no other: exact on one list of times, and there alone.

Wan's network sees its times through one vector, e(t, r) = (1 - g) E(t) + g D(r) (AnyFlow, arXiv 2605.13724), and E is
a layer after hidden units h(t) that depend on t alone: E(t) = W h(t) + b. On a list t_1 > ... > t_N the step from t_i
always goes to the same r_i, so that all that is asked of a one-time embedder is N vectors:

    W' h(t_i) + b' = e(t_i, r_i),    i = 1 ... N.

With W' = (1 - g) W + V and the means over i taken out of h and of g D, V is the smallest matrix (Frobenius norm) that
meets the N - 1 equations left, by the pseudo-inverse. A plain Euler loop x <- x - (t_i - t_{i+1}) u(x, t_i) on that
list is then the flow map's own sampler. At other times the vector is between those of the list and means nothing.

The other way round, a one-time network that jumps to data is u(x, t, 0) of a flow map. It begins as one with
E' = E / (1 - g) and D = 0 in their last layers: e(t, r) = E(t) whatever r is, and r has a say as soon as D is trained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from flowmap.errors import FlowmapError
from flowmap_wan.checkpoint import DELTA, TIME

_MOST_OFF = 1e-5
"""Of the embedding at the listed times, relative; more hidden units than times make it rounding."""


def baked(
    embedder: Any, weights: Mapping[str, Tensor], times: Sequence[float], jumps: bool = False
) -> dict[str, Tensor]:
    """The second layer of the one-time embedder for steps along `times`, from the first, descending, to the last.

    If it `jumps`, every step goes to 0 (what is then noised again to the next time).

    `embedder` is diffusers' two-time embedder, for its frequencies and its gate; `weights` are the float32 weights of
    both its embedders by diffusers' names after `condition_embedder.`, adapters merged. Returns `linear_2.weight` and
    `linear_2.bias` of `time_embedder`, float32. Raises FlowmapError if no such layer meets the list.
    """
    exact = {key: value.double() for key, value in weights.items()}
    t = torch.tensor(times[:-1], dtype=torch.float64)
    r = torch.zeros_like(t) if jumps else torch.tensor(times[1:], dtype=torch.float64)
    gate = float(embedder.delta_emb_gate)
    hidden = _hidden(embedder, exact, "time_embedder", t)
    second = r if embedder.deltatime_type == "r" else t - r
    added = gate * _layer(exact, "delta_embedder.linear_2", _hidden(embedder, exact, "delta_embedder", second))
    weight = (1 - gate) * exact["time_embedder.linear_2.weight"]
    bias = (1 - gate) * exact["time_embedder.linear_2.bias"]
    wanted = hidden @ weight.T + bias + added
    turned = torch.linalg.pinv(hidden - hidden.mean(0)) @ (added - added.mean(0))
    weight = weight + turned.T
    bias = bias + added.mean(0) - hidden.mean(0) @ turned
    off = float((hidden @ weight.T + bias - wanted).norm() / wanted.norm())
    if not off < _MOST_OFF:
        raise FlowmapError(
            f"no embedder of one time is that of these {len(t)} steps (off by {off:.1g}): two of their times are "
            "the same to the network; take fewer steps"
        )
    return {"linear_2.weight": weight.float(), "linear_2.bias": bias.float()}


def jumping(weights: Mapping[str, Tensor], gate: float) -> dict[str, Tensor]:
    """The embedders of both times, float32 by diffusers' names, of the flow map that jumps as a one-time network does.

    `weights` are that network's. See the module; `gate` is the share of the second time.
    """
    made = {}
    for layer in ("linear_1", "linear_2"):
        for part in ("weight", "bias"):
            value = weights[f"{TIME}{layer}.{part}"].float()
            last = layer == "linear_2"
            made[f"{TIME}{layer}.{part}"] = value / (1 - gate) if last else value
            made[f"{DELTA}{layer}.{part}"] = torch.zeros_like(value) if last else value.clone()
    return made


def _hidden(embedder: Any, weights: Mapping[str, Tensor], name: str, times: Tensor) -> Tensor:
    """What the last layer of the embedder called `name` sees of `times` `[N]`; sinusoids in float32, as in a call."""
    features = embedder.timesteps_proj(1000 * times.float()).double()
    return torch.nn.functional.silu(_layer(weights, f"{name}.linear_1", features))


def _layer(weights: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]
