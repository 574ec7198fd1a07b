"""What there is to compute with: accelerators, the processor, its memory. Imports torch, or says why it cannot."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    import torch

APPLE = (
    "Apple's GPU is not taken: its tensors cannot be float64, which times and logged sums are. All commands work on "
    "the CPU, in float32 and bf16; recipes of pretrained models need a GPU of another kind, but rehearse here"
)

_VARIABLES = (
    "CUDA_VISIBLE_DEVICES",
    "HF_HUB_OFFLINE",
    "OMP_NUM_THREADS",
    "PYTORCH_ALLOC_CONF",
    "PYTORCH_CUDA_ALLOC_CONF",
    "WORLD_SIZE",
)
"""What of the environment changes how a run computes. No other variable is looked at: some are secrets."""


@final
@dataclass(frozen=True)
class Device:
    """One device: bytes of memory (None: not its own), whether it computes in bf16, kernels of attention that ran."""

    name: str
    memory: int | None
    bf16: bool
    attention: tuple[str, ...]


@final
@dataclass(frozen=True)
class Machine:
    """What there is. `taken` is the device that `compute.device = "auto"` stands for, in words.

    `wrong` is what keeps every run from computing, `remarks` what does not.
    """

    taken: str
    accelerated: bool
    devices: tuple[Device, ...]
    cores: int
    threads: int
    memory: int | None
    libraries: Mapping[str, str] = field(default_factory=dict)
    variables: Mapping[str, str] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    wrong: tuple[str, ...] = ()


def machine() -> Machine:
    """Ask torch and the system."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    variables = {name: os.environ[name] for name in _VARIABLES if os.environ.get(name)}
    try:
        import torch
    except (ImportError, OSError) as error:
        why = f"torch cannot be imported: {' '.join(str(error).split())}"
        return Machine("nothing", False, (), cores, 0, _memory(), variables=variables, wrong=(why,))
    from flowmap.training.processes import accelerator

    remarks: list[str] = []
    wrong: list[str] = []
    devices = []
    taken = accelerator()
    present = torch.accelerator.current_accelerator(check_available=True)
    if taken is None and present is not None and present.type == "mps":
        remarks.append(APPLE)
    elif taken is None and torch.version.cuda is None and os.path.exists("/dev/nvidiactl"):
        remarks.append("an NVIDIA GPU seems to be here, and this torch is built without CUDA: install one that is")
    elif taken is None and torch.version.cuda is not None:
        remarks.append("torch is built with CUDA and finds no GPU: nvidia-smi says whether its driver does")
    found = [] if taken is None else [torch.device(taken.type, i) for i in range(torch.accelerator.device_count())]
    for device in found:
        try:
            devices.append(_device(device))
        except Exception as error:  # drivers and builds that do not fit raise anything
            wrong.append(f"{device} does not compute: {next(iter(str(error).splitlines()), error)}")
    processor = _device(torch.device("cpu"))
    return Machine(
        taken="the CPU" if taken is None else str(taken),
        accelerated=taken is not None,
        devices=(*devices, processor),
        cores=cores,
        threads=torch.get_num_threads(),
        memory=_memory(),
        libraries=_libraries(),
        variables=variables,
        remarks=tuple(remarks),
        wrong=tuple(wrong),
    )


def _device(device: torch.device) -> Device:
    import torch

    if device.type != "cuda":
        return Device(str(device), None, _bf16(device), _attention(device))
    told = torch.cuda.get_device_properties(device)
    name = f"{device}, {told.name}, capability {told.major}.{told.minor}"
    return Device(name, int(told.total_memory), _bf16(device), _attention(device))


def _bf16(device: torch.device) -> bool:
    """Whether a product of matrices in bf16 comes out right; raises RuntimeError if that in float32 does not."""
    import torch

    x = torch.ones(8, 8, device=device)
    if float((x @ x)[0, 0]) != 8:
        raise RuntimeError("a product of matrices comes out wrong")
    x = x.bfloat16()
    try:
        return float((x @ x)[0, 0]) == 8 and (device.type != "cuda" or torch.cuda.is_bf16_supported(False))
    except RuntimeError:
        return False


def _attention(device: torch.device) -> tuple[str, ...]:
    """The kernels that have computed attention on `device` in bf16, one by one."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    x = torch.ones(1, 1, 16, 64, dtype=torch.bfloat16, device=device)
    kernels = {
        "flash": SDPBackend.FLASH_ATTENTION,
        "cudnn": SDPBackend.CUDNN_ATTENTION,
        "efficient": SDPBackend.EFFICIENT_ATTENTION,
        "math": SDPBackend.MATH,
    }
    ran = []
    for name, kernel in kernels.items():
        with suppress(RuntimeError), warnings.catch_warnings(), sdpa_kernel(kernel):
            warnings.simplefilter("ignore")  # each says why it is not possible
            torch.nn.functional.scaled_dot_product_attention(x, x, x)
            ran.append(name)
    return tuple(ran)


def _libraries() -> dict[str, str]:
    """The libraries that torch is built with."""
    import torch

    found = {"CUDA": torch.version.cuda, "cuDNN": torch.backends.cudnn.version(), "ROCm": torch.version.hip}
    return {name: str(version) for name, version in found.items() if version is not None}


def _memory() -> int | None:
    """Bytes of this machine's memory, if the system says."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
