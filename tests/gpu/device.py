"""What the device is, and what it does at most: a large product of matrices in bfloat16."""

from __future__ import annotations

import platform
import subprocess
import sys
import time

import torch


def driver() -> str:
    """The driver's version, as nvidia-smi tells it."""
    asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(asked, capture_output=True, text=True, check=True, timeout=30).stdout.splitlines()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        return "unknown"


def product(device: torch.device, size: int, precision: torch.dtype) -> float:
    """TFLOP/s of products of `size` x `size` matrices, the best of some."""
    a, b = (torch.randn(size, size, device=device).to(precision) for _ in range(2))
    best = 0.0
    for _ in range(6):
        finish(device)
        begin = time.perf_counter()
        a @ b
        finish(device)
        best = max(best, 2 * size**3 / (time.perf_counter() - begin) / 1e12)
    return best


def finish(device: torch.device) -> None:
    """Wait until `device` has done all that it was asked."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main() -> None:
    """Print the facts, then the number."""
    there = torch.cuda.is_available()
    device = torch.device("cuda" if there else "cpu")
    print(f"device={torch.cuda.get_device_name() if there else f'CPU ({platform.machine()})'}")
    if there:
        print(f"memory={torch.cuda.get_device_properties(device).total_memory / 2**30:.1f} GiB")
        print(f"driver={driver()}")
        print(f"CUDA={torch.version.cuda}")
    print(f"PyTorch={torch.__version__}")
    print(f"Python={platform.python_version()}")
    if "--facts" not in sys.argv:
        size, precision = (16384, torch.bfloat16) if there else (512, torch.float32)
        print(f"  product of {size} x {size} matrices  {product(device, size, precision):.3g} TFLOP/s")


if __name__ == "__main__":
    main()
