"""Counter-based randomness: every random number of a run is a pure function of where it is used.

A number's address is (seed, stage, step, turn, name, global index of the sample, position in the sample). So
there is no generator state to save, a resumed run draws what an uninterrupted one draws, and the draws do not
depend on how many processes share the batch. The generator is Philox (Salmon et al., 2011), from numpy; the
numbers are made on the CPU and are the same on every device.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_WORDS_PER_BLOCK = 8  # one Philox counter yields four 64-bit words, used as eight of 32 bits


@final
@dataclass(frozen=True)
class Draw:
    """The randomness of one turn of one step, for samples `first ... first + count - 1` of `total`.

    `first` and `count` say which samples of the global batch this process holds.
    """

    seed: int
    stage: str
    step: int
    turn: str
    total: int
    first: int
    count: int
    device: torch.device

    @classmethod
    def whole(cls, seed: int, stage: str, step: int, turn: str, total: int, device: torch.device | None = None) -> Draw:
        """The draw of a process that holds the whole batch of `total` samples."""
        return cls(seed, stage, step, turn, total, 0, total, device or torch.device("cpu"))

    def child(self, name: str) -> Draw:
        """The same samples under another name: an independent draw for a part of the turn."""
        return replace(self, turn=f"{self.turn}/{name}")

    def shared(self, name: str) -> np.random.Generator:
        """A generator that is the same in every process."""
        return np.random.Generator(np.random.Philox(key=self._key(name)))

    def uniform(self, name: str, shape: Sequence[int] = ()) -> Tensor:
        """Uniform numbers strictly inside (0, 1), float32, `[count, *shape]`, one stream per sample."""
        bits = self._bits(name, math.prod(shape))
        # 23 bits and a half: every value is exact in float32, so neither 0 nor 1 is reached.
        values = ((bits >> 9).astype(np.float32) + np.float32(0.5)) * np.float32(2**-23)
        return torch.from_numpy(values.reshape(self.count, *shape)).to(self.device)

    def normal(self, name: str, shape: Sequence[int] = ()) -> Tensor:
        """Standard normal numbers, float32, `[count, *shape]`, one stream per sample (Box-Muller)."""
        size = math.prod(shape)
        half = (size + 1) // 2
        units = self._bits(name, 2 * half).astype(np.float32)
        # (k + 1/2) / 2^32 lies in (0, 1]: its logarithm is finite. In place: this runs at every step.
        radius, angle = units[:, :half], units[:, half:]
        radius += np.float32(0.5)
        radius *= np.float32(2**-32)
        np.log(radius, out=radius)
        radius *= np.float32(-2)
        np.sqrt(radius, out=radius)
        angle *= np.float32(2**-32 * 2 * math.pi)
        values = np.empty_like(units)
        np.cos(angle, out=values[:, :half])
        np.sin(angle, out=values[:, half:])
        values[:, :half] *= radius
        values[:, half:] *= radius
        return torch.from_numpy(np.ascontiguousarray(values[:, :size]).reshape(self.count, *shape)).to(self.device)

    def _bits(self, name: str, size: int) -> NDArray[np.uint32]:
        """`[count, size]` random 32-bit words; sample i owns a fixed range of the stream's counters."""
        blocks = -(-size // _WORDS_PER_BLOCK)
        stream = np.random.Philox(key=self._key(name), counter=self.first * blocks)
        words = stream.random_raw(self.count * blocks * _WORDS_PER_BLOCK // 2).view(np.uint32)
        return words.reshape(self.count, blocks * _WORDS_PER_BLOCK)[:, :size]

    def _key(self, name: str) -> int:
        address = "\0".join((str(self.seed), self.stage, str(self.step), self.turn, name))
        return int.from_bytes(hashlib.blake2b(address.encode(), digest_size=16).digest(), "little")
