"""The Inception network that FID is defined by: that of TensorFlow, with its weights of 2015-12-05.

A port of the network in torch-fidelity (Apache-2.0), which is that of pytorch-fid (Apache-2.0) and was translated from
TensorFlow's graph; parameters are named as there. It differs from torchvision's in its average pools, which count no
padding, in a max pool in the place of the last of them, and in its 1008 outputs. torch-fidelity itself needs
torchvision, which cannot be imported beside every build of torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SIDE = 299
"""Of an image that it sees, in pixels."""
FEATURES = 2048
OUTPUTS = 1008
"""Classes of the last layer, which nobody asks here; files of its weights have it."""

Kernel = int | tuple[int, int]
Conv = tuple[str, int, Kernel] | tuple[str, int, Kernel, int]
"""Name, channels, kernel, stride (1 if left out). With a stride of 1 a block's sides stay as they are."""
Pool = str
Step = Conv | list[Conv] | Pool
"""A convolution, several that each see the same, or a pool: `avg`, `max`, or `down`, which halves the sides."""


@final
class _Convolution(nn.Module):
    """A convolution, its normalisation and a ReLU."""

    def __init__(self, channels: int, out: int, kernel: Kernel, stride: int = 1, padding: Kernel = 0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(out, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)), inplace=True)


def _pooled(x: Tensor, pool: Pool) -> Tensor:
    if pool == "avg":
        return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
    return F.max_pool2d(x, 3, 2) if pool == "down" else F.max_pool2d(x, 3, 1, 1)


@final
class _Block(nn.Module):
    """Branches that all see the same, each a chain of steps; what they make is joined."""

    def __init__(self, channels: int, branches: Sequence[Sequence[Step]]) -> None:
        super().__init__()
        self.branches, self.out = branches, 0
        for branch in branches:
            width = channels
            for step in branch:
                if isinstance(step, str):
                    continue
                several = step if isinstance(step, list) else [step]
                for name, out, kernel, *stride in several:
                    high, wide = (kernel, kernel) if isinstance(kernel, int) else kernel
                    padding = 0 if stride else (high // 2, wide // 2)
                    self.add_module(f"branch{name}", _Convolution(width, out, kernel, *stride, padding=padding))
                width = sum(out for _, out, *_ in several)
            self.out += width

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self._along(branch, x) for branch in self.branches], dim=1)

    def _along(self, branch: Sequence[Step], x: Tensor) -> Tensor:
        for step in branch:
            if isinstance(step, str):
                x = _pooled(x, step)
            elif isinstance(step, list):
                x = torch.cat([self.get_submodule(f"branch{name}")(x) for name, *_ in step], dim=1)
            else:
                x = self.get_submodule(f"branch{step[0]}")(x)
        return x


def _a(pool: int) -> list[list[Step]]:
    double: list[Step] = [("3x3dbl_1", 64, 1), ("3x3dbl_2", 96, 3), ("3x3dbl_3", 96, 3)]
    return [[("1x1", 64, 1)], [("5x5_1", 48, 1), ("5x5_2", 64, 5)], double, ["avg", ("_pool", pool, 1)]]


def _b() -> list[list[Step]]:
    double: list[Step] = [("3x3dbl_1", 64, 1), ("3x3dbl_2", 96, 3), ("3x3dbl_3", 96, 3, 2)]
    return [[("3x3", 384, 3, 2)], double, ["down"]]


def _c(inner: int) -> list[list[Step]]:
    flat, high = (1, 7), (7, 1)
    single: list[Step] = [("7x7_1", inner, 1), ("7x7_2", inner, flat), ("7x7_3", 192, high)]
    double: list[Step] = [("7x7dbl_1", inner, 1), ("7x7dbl_2", inner, high), ("7x7dbl_3", inner, flat)]
    double += [("7x7dbl_4", inner, high), ("7x7dbl_5", 192, flat)]
    return [[("1x1", 192, 1)], single, double, ["avg", ("_pool", 192, 1)]]


def _d() -> list[list[Step]]:
    long: list[Step] = [("7x7x3_1", 192, 1), ("7x7x3_2", 192, (1, 7)), ("7x7x3_3", 192, (7, 1)), ("7x7x3_4", 192, 3, 2)]
    return [[("3x3_1", 192, 1), ("3x3_2", 320, 3, 2)], long, ["down"]]


def _e(pool: Pool) -> list[list[Step]]:
    flat, high = (1, 3), (3, 1)
    single: list[Step] = [("3x3_1", 384, 1), [("3x3_2a", 384, flat), ("3x3_2b", 384, high)]]
    double: list[Step] = [("3x3dbl_1", 448, 1), ("3x3dbl_2", 384, 3)]
    double.append([("3x3dbl_3a", 384, flat), ("3x3dbl_3b", 384, high)])
    return [[("1x1", 320, 1)], single, double, [pool, ("_pool", 192, 1)]]


_BLOCKS = {"5b": _a(32), "5c": _a(64), "5d": _a(64), "6a": _b(), "6b": _c(128), "6c": _c(160), "6d": _c(160)}
_BLOCKS |= {"6e": _c(192), "7a": _d(), "7b": _e("avg"), "7c": _e("max")}


@final
class Inception(nn.Module):
    """Images `[N, 3, 299, 299]` with values from 0 to 255 to the 2048 features of its last pool `[N, 2048]`."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = _Convolution(3, 32, 3, 2)
        self.Conv2d_2a_3x3 = _Convolution(32, 32, 3)
        self.Conv2d_2b_3x3 = _Convolution(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1 = _Convolution(64, 80, 1)
        self.Conv2d_4a_3x3 = _Convolution(80, 192, 3)
        width = 192
        for name, branches in _BLOCKS.items():
            block = _Block(width, branches)
            self.add_module(f"Mixed_{name}", block)
            width = block.out
        self.fc = nn.Linear(FEATURES, OUTPUTS)

    def forward(self, x: Tensor) -> Tensor:
        """The features."""
        x = (x - 128) / 128
        x = _pooled(self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x))), "down")
        x = _pooled(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x)), "down")
        for name in _BLOCKS:
            x = self.get_submodule(f"Mixed_{name}")(x)
        return x.mean((2, 3))
