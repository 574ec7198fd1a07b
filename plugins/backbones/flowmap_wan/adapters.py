"""LoRA adapters on one base: which is active is decided per call, and pinned for what backward recomputes.

PEFT's `set_adapter` flips `requires_grad`, which drops gradients of an adapter that is not active at backward, and a
recomputed block would run under whatever adapter is active then. Here a call names its adapter and nothing else
changes.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, final

from torch import Tensor, nn

from flowmap_wan.settings import PUBLISHED_LAYERS


@final
class Switch:
    """Chooses the adapter that the layers of a model compute with."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._layers: list[Any] = []
        self._current: str | None = None

    def refresh(self) -> None:
        """Look again for layers that have adapters; none is active until a call names one."""
        from peft.tuners.tuners_utils import BaseTunerLayer
        from peft.utils.other import AuxiliaryTrainingWrapper

        kinds = (BaseTunerLayer, AuxiliaryTrainingWrapper)
        self._layers = [layer for layer in self._model.modules() if isinstance(layer, kinds)]
        # PEFT has left some adapter active in new layers.
        self._activate(None)

    @contextmanager
    def to(self, adapter: str | None) -> Iterator[None]:
        """Compute with `adapter` (None: the base alone) in this context."""
        before = self._current
        self._set(adapter)
        try:
            yield
        finally:
            self._set(before)

    def pinned(self, function: Callable[..., Any], adapter: str | None) -> Callable[..., Any]:
        """`function`, always run under `adapter`."""

        def run(*args: Any) -> Any:
            with self.to(adapter):
                return function(*args)

        return run

    def _set(self, adapter: str | None) -> None:
        if adapter != self._current:
            self._activate(adapter)

    def _activate(self, adapter: str | None) -> None:
        for layer in self._layers:
            # Not set_adapter: that would change requires_grad.
            layer._active_adapter = [] if adapter is None else [_inside(adapter)]
        self._current = adapter


def _inside(name: str) -> str:
    """What PEFT calls the adapter `name`: like no layer, whatever roles are called."""
    return f"role_{name}"


_TIMES = r"condition_embedder\.(time_embedder|delta_embedder)\.linear_[12]"
_WHOLE = "far_patch_embedding"


def add_adapter(
    model: nn.Module,
    name: str,
    rank: int,
    alpha: float,
    two_times: bool,
    layers: Sequence[str] = PUBLISHED_LAYERS,
    drawn: bool = True,
) -> dict[str, nn.Parameter]:
    """Add the trainable adapter `name` to the frozen `model`; returns its parameters by names without the adapter's.

    LoRA on the linear `layers` of every block, of a two-time network on the time embedders too; the patches of
    compressed frames are trained whole (AnyFlow's published choice). An adapter of that name that was there before
    is replaced. Unless it is `drawn`, LoRA holds whatever was in memory, for whoever sets all of it.
    """
    from peft import LoraConfig, inject_adapter_in_model
    from peft.tuners.lora import LoraLayer

    remove_adapter(model, name)
    wanted = [rf"blocks\.\d+\.({'|'.join(map(re.escape, layers))})"] + ([_TIMES] if two_times else [])
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        target_modules="|".join(wanted),
        modules_to_save=[_WHOLE] if any(key.startswith(_WHOLE) for key, _ in model.named_modules()) else None,
    )
    with warnings.catch_warnings():
        # Several adapters on one model are what we want.
        warnings.filterwarnings("ignore", "Already found a `peft_config` attribute", UserWarning)
        # Without memory nothing is drawn: at 14B that takes longer than reading the base.
        inject_adapter_in_model(config, model, _inside(name), low_cpu_mem_usage=not drawn)
    if not drawn:
        for layer in model.modules():
            # Layers of the times have adapters of two-time networks alone.
            if isinstance(layer, LoraLayer) and _inside(name) in layer.lora_A:
                for part in (layer.lora_A, layer.lora_B):
                    part[_inside(name)].to_empty(device=layer.get_base_layer().weight.device)
    own = parameters_of(model, name)
    for parameter in own.values():
        parameter.data = parameter.data.float()
        parameter.requires_grad_(True)
    return own


def remove_adapter(model: nn.Module, name: str) -> None:
    """Drop the adapter `name` if there is one; the others stay."""
    from peft.tuners.lora import LoraLayer
    from peft.utils.other import ModulesToSaveWrapper

    name = _inside(name)
    for layer in model.modules():
        if isinstance(layer, LoraLayer) and name in layer.lora_A:
            for parts in (layer.lora_A, layer.lora_B, layer.lora_dropout):
                del parts[name]
            for table in (layer.r, layer.lora_alpha, layer.scaling):
                del table[name]
        elif isinstance(layer, ModulesToSaveWrapper) and name in layer.modules_to_save:
            del layer.modules_to_save[name]
        else:
            continue
        # PEFT looks up whatever was active when it adds the next one.
        layer._active_adapter = []


def parameters_of(model: nn.Module, name: str) -> dict[str, nn.Parameter]:
    """The parameters of adapter `name`, by their names without it."""
    mark = f".{_inside(name)}."
    return {key.replace(mark, "."): p for key, p in model.named_parameters() if mark in f"{key}."}


def merged(model: nn.Module, name: str | None) -> dict[str, Callable[[], Tensor]]:
    """The weights of `model` under adapter `name` (None: the base alone), as those of a model without adapters.

    Each is made when it is called for: merged, a layer is a tensor of its own, and all of them would be a whole model.
    """
    from peft.tuners.lora import LoraLayer
    from peft.utils.other import ModulesToSaveWrapper

    name = None if name is None else _inside(name)
    makes: dict[str, Callable[[], Tensor]] = {}
    adapted: list[str] = []
    for path, layer in model.named_modules():
        if isinstance(layer, LoraLayer):
            base = layer.get_base_layer()
            makes[f"{path}.weight"] = partial(_weight, layer, name)
            if base.bias is not None:
                makes[f"{path}.bias"] = base.bias.detach
            adapted.append(f"{path}.")
        elif isinstance(layer, ModulesToSaveWrapper):
            kept = name is not None and name in layer.modules_to_save
            chosen = layer.modules_to_save[name] if kept else layer.original_module
            makes |= {f"{path}.{key}": value.detach for key, value in chosen.state_dict().items()}
            adapted.append(f"{path}.")
    rest = {k: v.detach for k, v in model.state_dict().items() if not (adapted and k.startswith(tuple(adapted)))}
    return rest | makes


def _weight(layer: Any, name: str | None) -> Tensor:
    """The weight of a layer with the adapter called `name` by PEFT merged into it."""
    weight: Tensor = layer.get_base_layer().weight.detach()
    if name is None or name not in layer.lora_A:
        return weight
    return (weight.float() + layer.get_delta_weight(name).detach().float()).to(weight.dtype)


def merged_state(model: nn.Module, name: str | None) -> dict[str, Tensor]:
    """All of `merged` at once."""
    return {key: make() for key, make in merged(model, name).items()}
