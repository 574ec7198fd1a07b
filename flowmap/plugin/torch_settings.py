"""What torch is set to for the whole process, without importing torch."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from operator import attrgetter
from types import ModuleType
from typing import Any, NamedTuple, final


class _Setting(NamedTuple):
    """How one thing is read of torch and set to what was read."""

    read: Callable[[Any], Any]
    put: Callable[[Any, Any], object]


def _call(read: str, put: str) -> _Setting:
    return _Setting(lambda torch: attrgetter(read)(torch)(), lambda torch, value: attrgetter(put)(torch)(value))


def _flag(name: str) -> _Setting:
    module, _, attribute = name.rpartition(".")
    return _Setting(attrgetter(name), lambda torch, value: setattr(attrgetter(module)(torch), attribute, value))


_FLAGS = (
    # Those that set others, and must agree with them, come first.
    "backends.cuda.matmul.allow_tf32",
    "backends.cudnn.allow_tf32",
    "backends.fp32_precision",
    "backends.mkldnn.enabled",
    "backends.mkldnn.deterministic",
    "backends.mkldnn.fp32_precision",
    "backends.mkldnn.matmul.fp32_precision",
    "backends.mkldnn.conv.fp32_precision",
    "backends.cuda.matmul.fp32_precision",
    "backends.cuda.matmul.allow_fp16_reduced_precision_reduction",
    "backends.cuda.matmul.allow_bf16_reduced_precision_reduction",
    "backends.cudnn.enabled",
    "backends.cudnn.benchmark",
    "backends.cudnn.deterministic",
    "backends.cudnn.fp32_precision",
    "backends.cudnn.conv.fp32_precision",
    "backends.cudnn.rnn.fp32_precision",
    "utils.deterministic.fill_uninitialized_memory",
)
_ATTENTION = ("flash", "math", "mem_efficient", "cudnn")


def _put_device(torch: Any, device: Any) -> None:
    # To name the CPU costs each call of a constructor; no device at all is the CPU, too.
    torch.set_default_device(None if device.type == "cpu" else device)


_left: list[Any] = []


def _put_inference(torch: Any, on: bool) -> None:
    mode = torch.inference_mode(on)
    mode.__enter__()
    _left.append(mode)  # it ends with this object


def _put_algorithms(torch: Any, value: tuple[bool, bool]) -> None:
    torch.use_deterministic_algorithms(value[0], warn_only=value[1])


_SETTINGS: dict[str, _Setting] = {
    # In this order: what is made to put others back is made where tensors are usually made.
    "default device": _Setting(lambda torch: torch.get_default_device(), _put_device),
    "inference mode": _Setting(lambda torch: torch.is_inference_mode_enabled(), _put_inference),
    "gradients": _call("is_grad_enabled", "set_grad_enabled"),
    "default type": _call("get_default_dtype", "set_default_dtype"),
    "threads": _call("get_num_threads", "set_num_threads"),
    "denormal numbers": _Setting(
        lambda _: sys.float_info.min / 2 == 0, lambda torch, value: torch.set_flush_denormal(value)
    ),
    "deterministic algorithms": _Setting(
        lambda torch: (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
        ),
        _put_algorithms,
    ),
    "anomalies": _call("is_anomaly_enabled", "autograd.set_detect_anomaly"),
    # It sets some of the flags, which are put back after it.
    "precision of float32 products": _call("get_float32_matmul_precision", "set_float32_matmul_precision"),
    **{name: _flag(name) for name in _FLAGS},
    **{
        f"{name} attention": _call(f"backends.cuda.{name}_sdp_enabled", f"backends.cuda.enable_{name}_sdp")
        for name in _ATTENTION
    },
    "random numbers": _Setting(
        lambda torch: torch.get_rng_state().numpy().tobytes(),
        lambda torch, value: torch.set_rng_state(torch.frombuffer(bytearray(value), dtype=torch.uint8)),
    ),
}


def settings() -> dict[str, Any]:
    """What torch is set to, by what is set; nothing where torch is not here, and of a part of it what can be read."""
    torch = sys.modules.get("torch")
    found = {}
    for name, setting in _SETTINGS.items() if torch else ():
        with suppress(Exception):  # another version lacks it
            found[name] = setting.read(torch)
    return found


def put(before: Mapping[str, Any]) -> None:
    """Set what differs to what it was `before`."""
    torch = sys.modules["torch"]
    for name, value in [*before.items()] * 2:  # what sets one thing may set another
        now = settings()
        if name not in now or now[name] != value:
            with suppress(Exception):
                _SETTINGS[name].put(torch, value)


@final
class Arrival(MetaPathFinder):
    """Has `then` called when torch has just been imported, before whoever imports it can set anything."""

    def __init__(self, then: Callable[[], None]) -> None:
        self._then = then

    def begin(self) -> None:
        """Look out for it, if it is not here yet."""
        if "torch" not in sys.modules:
            sys.meta_path.insert(0, self)

    def end(self) -> None:
        """Look out no more."""
        with suppress(ValueError):  # it came, or somebody has thrown the others out
            sys.meta_path.remove(self)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Torch as the others find it; nothing else."""
        if fullname != "torch":
            return None
        self.end()
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module

            def run_then(module: ModuleType) -> None:
                run(module)
                self._then()

            spec.loader.exec_module = run_then  # type: ignore[method-assign]
        return spec
