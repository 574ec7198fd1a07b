"""Set every parameter of a network, or refuse: no weight is left as it happened to be, and none is left over."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn

from flowmap.errors import FlowmapError
from flowmap.interfaces.held import give
from flowmap.phases import phase
from flowmap.weights.shapes import misfit


def fill(
    own: Mapping[str, Tensor], weights: Mapping[str, Tensor], who: str, may_lack: Collection[str] = frozenset()
) -> None:
    """Set `own` to `weights`, all of them. `who` is whose they are, for messages.

    The names in `may_lack` may all be lacking together, and keep their values. Raises FlowmapError if any other is
    missing, left over or misshapen.
    """
    optional = set(may_lack) if weights.keys().isdisjoint(may_lack) else set()
    wanted = {key: tuple(value.shape) for key, value in own.items() if key not in optional}
    odd = misfit({key: value.shape for key, value in weights.items()}, wanted)
    if odd is not None:
        raise FlowmapError(f"{who}: these weights are not of this backbone: {odd}", code=1)
    size = sum(value.nbytes for value in weights.values())
    with torch.no_grad(), phase(f"reading the weights of {who}", size, "bytes") as doing:
        for key, value in weights.items():
            give(own[key], value)
            doing.advance(value.nbytes)


def take(module: nn.Module, weights: Mapping[str, Tensor], who: str) -> None:
    """Make `weights` the parameters of `module`, which has none yet (they are on the meta device), all of them.

    Raises FlowmapError if any is missing, left over or misshapen.
    """
    wanted = {key: tuple(value.shape) for key, value in module.named_parameters()}
    odd = misfit({key: value.shape for key, value in weights.items()}, wanted)
    if odd is not None:
        raise FlowmapError(f"{who}: these weights are not of this backbone: {odd}", code=1)
    for key, value in weights.items():
        if not value.is_floating_point():
            raise FlowmapError(f"{who}: {key} is of {value.dtype}, and weights are floating-point numbers", code=1)
    # Buffers are not among them: a module makes its own.
    module.load_state_dict(dict(weights), strict=False, assign=True)


def with_copies(weights: Mapping[str, Tensor], wanted: Collection[str], copies: Mapping[str, str]) -> dict[str, Tensor]:
    """`weights`, and what begins as a copy of others: parameters named with a prefix of `copies` as with its other one.

    `copies` maps what the names of the embedder of r begin with to what those of t's begin with: with r in the place of
    t this makes u(x, t, t) exactly the one-time network. Only where none of `weights` has the prefix.
    """
    made = dict(weights)
    for to, of in copies.items():
        if not any(key.startswith(to) for key in weights):
            names = {key: of + key.removeprefix(to) for key in wanted if key.startswith(to)}
            made |= {key: weights[name].clone() for key, name in names.items() if name in weights}
    return made


def finite(value: Tensor) -> bool:
    """Whether all numbers are finite, without a copy of them, and 40 times as fast as `isfinite`."""
    return not value.numel() or all(bool(end.isfinite()) for end in value.aminmax())


def refuse_tied(module: nn.Module, who: str) -> None:
    """Refuse weights that have two names: a role's are set, averaged, adapted and saved by name."""
    names: dict[int, str] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        first = names.setdefault(id(parameter), name)
        if first != name:
            why = f"'{first}' and '{name}' are one (tied weights, or one layer in two places)"
            raise FlowmapError(f"{who}: {why}; give each place a layer of its own")


def refuse_running_statistics(module: nn.Module, who: str) -> None:
    """Refuse layers that gather statistics while they train: roles, averages and checkpoints know parameters only."""
    for path, layer in module.named_modules():
        if getattr(layer, "running_mean", None) is not None:
            raise FlowmapError(
                f"{who}: layer '{path}' ({type(layer).__name__}) keeps running statistics, which no checkpoint has; "
                "use group or layer normalisation"
            )
