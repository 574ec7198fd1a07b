"""Roles as adapters on one base: low-rank ones (LoRA, arXiv 2106.09685) on linear layers, whole copies of others.

A layer asks one `Chosen` object which role computes, and backward recomputes under the role of the forward.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from flowmap.errors import FlowmapError
from flowmap.interfaces.held import held
from flowmap.workshop.precision import is_mixed

_WHOLE = "modules_to_save"  # as PEFT calls what is trained whole
_A, _B = "lora_A", "lora_B"


@final
class Chosen:
    """Which role computes in the layers that share it; None: the base alone."""

    def __init__(self) -> None:
        self.role: str | None = None

    @contextmanager
    def to(self, role: str | None) -> Iterator[None]:
        """Within this context `role` computes."""
        before, self.role = self.role, role
        try:
            yield
        finally:
            self.role = before

    def checkpointed(self, function: Callable[..., Any], *args: Any, **named: Any) -> Any:
        """`function(*args, **named)`, computed again in backward, for what is given a function to recompute by."""
        return checkpoint(self.pinned(function), *args, use_reentrant=False, **named)

    def pinned(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function` under the role that computes now, whenever it is called."""
        return partial(self._under, self.role, function)

    def _under(self, role: str | None, function: Callable[..., Any], *args: Any, **named: Any) -> Any:
        with self.to(role):
            return function(*args, **named)


@final
class AdaptedLinear(nn.Linear):
    """The linear layer that it takes the place of, and for each role that has one W x + b + (alpha / rank) B A x."""

    def __init__(self, base: nn.Linear, chosen: Chosen) -> None:
        super().__init__(base.in_features, base.out_features, base.bias is not None, device="meta")
        self.weight, self.bias = base.weight, base.bias
        self.chosen = chosen
        self.roles = nn.ModuleDict()
        self.scales: dict[str, float] = {}

    def forward(self, x: Tensor) -> Tensor:
        """`[..., in]` to `[..., out]`."""
        out = F.linear(x, self.weight, self.bias)
        role = self.chosen.role
        if role is None or _key(role) not in self.roles:
            return out
        a, b = self._parts(role)
        # Mixed precision casts what it multiplies by itself; a second cast would be a copy of every input.
        low = x if is_mixed(x.device) else x.to(a.weight.dtype)
        change: Tensor = b(a(low)) * self.scales[role]
        return (out + change).to(out.dtype)

    def _parts(self, role: str) -> tuple[nn.Linear, nn.Linear]:
        """A and B."""
        parts = [layer for layer in self.roles[_key(role)].children() if isinstance(layer, nn.Linear)]
        return parts[0], parts[1]

    def add(self, role: str, rank: int, alpha: float, drawn: bool) -> None:
        """Add an adapter of zero effect, from torch's generator; unless it is `drawn` its numbers are anything."""
        made, device = {}, self.weight.device
        for name, inside, outside in ((_A, self.in_features, rank), (_B, rank, self.out_features)):
            # A linear layer draws its weight as the authors of LoRA draw A.
            layer = nn.Linear(inside, outside, False, device if drawn else torch.device("meta"), torch.float32)
            made[name] = layer if drawn else layer.to_empty(device=device)
        if drawn:
            nn.init.zeros_(made[_B].weight)
        self.roles[_key(role)] = nn.ModuleDict(made)
        self.scales[role] = alpha / rank

    def drop(self, role: str) -> None:
        """Take the adapter of `role` away, if it has one."""
        if _key(role) in self.roles:
            del self.roles[_key(role)]

    def merged(self, role: str | None) -> Tensor:
        """The weight `[out, in]` of a plain layer that computes what this one does for `role`."""
        weight = self.weight.detach()
        if role is None or _key(role) not in self.roles:
            return weight
        a, b = (layer.weight.detach().float() for layer in self._parts(role))
        change: Tensor = b @ a * self.scales[role]
        return (weight.float() + change).to(weight.dtype)


@final
class Copied(nn.Module):
    """The module `base`, and for each role that has one a whole copy, which computes in its place."""

    def __init__(self, base: nn.Module, chosen: Chosen) -> None:
        super().__init__()
        self.base = base
        self.chosen = chosen
        self.roles = nn.ModuleDict()

    @property
    def current(self) -> nn.Module:
        """What computes now."""
        role = self.chosen.role
        return self.base if role is None or _key(role) not in self.roles else self.roles[_key(role)]

    def forward(self, *args: Any, **named: Any) -> Any:
        """What `current` makes of it."""
        return self.current(*args, **named)

    def add(self, role: str) -> None:
        """Add a copy of the base in float32."""
        made = {id(p): nn.Parameter(p.detach().to(held(p)).clone().float()) for p in self.base.parameters()}
        self.roles[_key(role)] = copy.deepcopy(self.base, made)


@final
@dataclass(frozen=True)
class Adapters:
    """Which layers of a base have adapters, and of what size.

    `layers` and `timed` are patterns (regular expressions) for whole names of linear layers: those that every role
    adapts, and those that a two-time network (`flow_map`) adapts besides. `whole` are names of modules of which every
    role has a copy of its own. An adapter's output is scaled by `alpha` / `rank`.
    """

    rank: int
    alpha: float
    layers: str
    timed: str = ""
    whole: tuple[str, ...] = ()

    def prepare(self, model: nn.Module, chosen: Chosen) -> None:
        """Put layers that can have adapters into `model`, whose weights are frozen. Names of its weights stay.

        Raises FlowmapError if no layer is called as `layers` or as `timed` says, if one is no plain linear layer or
        list of layers, or if a module in `whole` is not there or lies in another of them.
        """
        model.requires_grad_(False)
        paths = [path for path, layer in model.named_modules() if isinstance(layer, nn.Linear)]
        for pattern in filter(None, (self.layers, self.timed)):
            if not any(re.fullmatch(pattern, path) for path in paths):
                raise FlowmapError(f"no layer of a {type(model).__name__} is called as adapters ask: {pattern}")
        for name in self.whole:
            if name not in dict(model.named_modules()):
                raise FlowmapError(f"a {type(model).__name__} has no module '{name}', to be copied for each role")
            if any(name.startswith(f"{other}.") for other in self.whole):
                raise FlowmapError(f"module '{name}' lies in another of which each role has a copy; name that alone")
        inside = tuple(f"{name}." for name in self.whole)
        for path, layer in list(model.named_modules()):
            if path in self.whole:
                _put(model, path, Copied(layer, chosen))
            elif self._adapts(path, True) and not (path.startswith(inside) or isinstance(layer, nn.ModuleList)):
                if type(layer) is not nn.Linear:
                    raise FlowmapError(f"layer {path} is a {type(layer).__name__}; adapters go on plain linear layers")
                _put(model, path, AdaptedLinear(layer, chosen))

    def add(self, model: nn.Module, role: str, two_times: bool, drawn: bool = True) -> dict[str, nn.Parameter]:
        """Give `role` an adapter on the prepared `model`; returns its parameters, by the names of checkpoints.

        An adapter of that role that was there before is replaced. Unless it is `drawn`, its low-rank part holds
        anything, for whoever sets all of it: at 14B drawing takes longer than reading the base.
        """
        for path, layer in model.named_modules():
            if isinstance(layer, Copied):
                layer.add(role)
            elif isinstance(layer, AdaptedLinear):
                layer.drop(role)
                if self._adapts(path, two_times):
                    layer.add(role, self.rank, self.alpha, drawn)
        return own_of(model, role)

    def lacking(self, name: str) -> bool:
        """Whether the parameter `name` is of layers that only two-time networks adapt."""
        layer = re.sub(rf"\.({_A}|{_B})\..*", "", name)
        return not self._adapts(layer, False) and self._adapts(layer, True)

    def _adapts(self, path: str, two_times: bool) -> bool:
        timed = bool(two_times and self.timed and re.fullmatch(self.timed, path))
        return timed or re.fullmatch(self.layers, path) is not None


def own_of(model: nn.Module, role: str) -> dict[str, nn.Parameter]:
    """The parameters of the adapter of `role`, by the names of checkpoints: those of PEFT, without the adapter's."""
    own: dict[str, nn.Parameter] = {}
    for path, layer in model.named_modules():
        if isinstance(layer, AdaptedLinear | Copied) and _key(role) in layer.roles:
            inside = f"{path}.{_WHOLE}" if isinstance(layer, Copied) else path
            own |= {f"{inside}.{name}": p for name, p in layer.roles[_key(role)].named_parameters()}
    return own


def merged(model: nn.Module, role: str | None) -> dict[str, Callable[[], Tensor]]:
    """The weights of `model` for `role` (None: the base alone), as those of a model without adapters.

    Each is made when it is called for: merged, a layer is a tensor of its own, and all of them would be a whole model.
    """
    makes: dict[str, Callable[[], Tensor]] = {}
    adapted: list[str] = []
    for path, layer in model.named_modules():
        if isinstance(layer, AdaptedLinear):
            makes[f"{path}.weight"] = partial(layer.merged, role)
            if layer.bias is not None:
                makes[f"{path}.bias"] = layer.bias.detach
            adapted.append(f"{path}.")
        elif isinstance(layer, Copied):
            with layer.chosen.to(role):
                chosen = layer.current
            makes |= {f"{path}.{key}": value.detach for key, value in chosen.state_dict().items()}
            adapted.append(f"{path}.")
    rest = {k: v.detach for k, v in model.state_dict().items() if not (adapted and k.startswith(tuple(adapted)))}
    return rest | makes


def plain_state(model: nn.Module, role: str | None) -> Mapping[str, Tensor]:
    """All of `merged` at once."""
    return {key: make() for key, make in merged(model, role).items()}


def _key(role: str) -> str:
    """What the adapter of `role` is called in a module: like no attribute of one, whatever roles are called."""
    return f"role_{role}".replace(".", "-")


def _put(model: nn.Module, path: str, layer: nn.Module) -> None:
    """Put `layer` in the place of the one at `path`."""
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, layer)
