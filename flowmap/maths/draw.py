"""Counter-based randomness: every random number of a run is a pure function of where it is used.

A number's address is (seed, stage, step, turn, name, kind and shape of the numbers, global index of the sample,
position in the sample). So there is no generator state to save, a resumed run draws what an uninterrupted one draws,
and the draws do not depend on how many processes share the batch, nor in how many parts they take it. The generator is
Philox (Salmon et al., 2011), from numpy; the numbers are made on the CPU and are the same on every device.
"""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flowmap.maths.devices import sent
from flowmap.maths.philox import WORDS_PER_BLOCK, Key, generator, stream

_HALF = np.uint64(32)
_MOST_WASTE = 2  # numbers of other samples that are made rather than skipped, per number that is wanted


class Noise(ABC):
    """Noise that was made before it is asked for."""

    @abstractmethod
    def take(self, draw: Draw, name: str, shape: Sequence[int]) -> Tensor | None:
        """`draw.normal(name, shape)` on the CPU, which nobody else has; None if it was not made."""


@final
@dataclass(frozen=True)
class Draw:
    """The randomness of one turn of one step, for some of the `total` samples of the global batch.

    Asked again under one name it gives the same numbers: what is drawn for two things has two names.

    `rows` are the samples of the global batch that this process holds now, `peers` those that all processes hold
    now. They differ where processes share a batch, and are a part of it where gradients are accumulated. Samples
    0 ... `group` - 1 of the global batch are a group, and so on: whoever holds one of a group holds all of it, in order
    and side by side. `noise` is what was made ahead of the normal numbers. `watch` is called for each stream that is
    read, with the draw and the stream's name within the turn; `order` and `split` read theirs unseen.
    """

    seed: int
    stage: str
    step: int
    turn: str
    total: int
    rows: Sequence[int]
    peers: Sequence[int]
    device: torch.device
    group: int = field(default=1, kw_only=True)
    noise: Noise | None = field(default=None, kw_only=True, repr=False, compare=False)
    watch: Callable[[Draw, str], object] | None = field(default=None, kw_only=True, repr=False, compare=False)

    @classmethod
    def whole(
        cls,
        seed: int,
        stage: str,
        step: int,
        turn: str,
        total: int,
        device: torch.device | None = None,
        *,
        group: int = 1,
    ) -> Draw:
        """The draw of a process that holds the whole batch of `total` samples, in groups of `group`.

        Raises ValueError if these are not whole groups.
        """
        if total % group:
            raise ValueError(f"{total} samples are not whole groups of {group}")
        everything, cpu = range(total), torch.device("cpu")
        return cls(seed, stage, step, turn, total, everything, everything, device or cpu, group=group)

    @property
    def here(self) -> Draw:
        """The same draw, whose numbers stay on the CPU: for what the program decides by them."""
        return self if self.device.type == "cpu" else replace(self, device=torch.device("cpu"))

    @property
    def count(self) -> int:
        """How many samples this process holds now."""
        return len(self.rows)

    def part(self, first: int, count: int) -> Draw:
        """The draw of a process that holds `count` of these samples, from the `first` on."""
        return replace(self, rows=self.rows[first : first + count])

    def order(self) -> NDArray[np.int64]:
        """The place `[total]` of every sample in a random order, one for all processes and children of the turn.

        Samples of a group have places side by side.
        """
        groups: NDArray[np.int64] = self._common("order").permutation(self.total // self.group)
        if self.group == 1:
            return groups
        return (groups[:, None] * self.group + np.arange(self.group)).reshape(-1)

    def split(self, processes: int, process: int, micro_batch: int) -> list[Draw]:
        """What `process` of `processes` takes of this whole batch, one draw per micro-batch.

        Groups of `order` are dealt out in turn, and which process gets the first is drawn anew at every step: whatever
        goes by that order (branches of times) is spread evenly over the processes and tied to none. The first groups
        are in the first micro-batch of all processes. Raises ValueError if the batch cannot be split so.
        """
        together = processes * micro_batch
        if self.total % together:
            raise ValueError(f"{self.total} samples are not whole micro-batches of {processes} x {micro_batch}")
        if micro_batch % self.group:
            raise ValueError(f"micro-batches of {micro_batch} samples cut groups of {self.group}")
        if together == self.total and processes == 1:
            return [self]
        samples = np.argsort(self.order()).reshape(-1, self.group)
        start = int(self._common("processes").integers(processes))
        parts = []
        for first in range(0, len(samples), together // self.group):
            peers = samples[first : first + together // self.group]
            # Within a group samples ascend, so that sorting leaves groups whole.
            mine = np.sort(peers[(process + start) % processes :: processes].reshape(-1))
            parts.append(replace(self, rows=tuple(mine.tolist()), peers=tuple(peers.reshape(-1).tolist())))
        return parts

    def groups(self, size: int) -> Draw:
        """The draw that gives all samples of a group of `size` the same numbers, independent of any sample's own.

        It is made of the numbers of the groups, in place of those of samples, so that what it draws depends neither on
        the micro-batch nor on the processes; what goes by `order`, the branch of times too, is one for a group.
        `size` is that of the objective's configuration (ObjectiveConfig.group) or divides it. Raises ValueError if this
        process does not hold whole groups of `size`, one after the other.
        """
        rows, peers = (np.asarray(part, dtype=np.int64) for part in (self.rows, self.peers))
        first = np.repeat(rows[::size], size)[: len(rows)]
        whole = self.group % size == 0 and len(rows) % size == 0 and not (first % size).any()
        if not whole or (rows != first + np.arange(len(rows)) % size).any():
            raise ValueError(f"these samples are not whole groups of {size}: ObjectiveConfig.group must say that")
        return replace(
            self,
            turn=f"{self.turn}/groups of {size}",
            total=self.total // size,
            rows=tuple((rows // size).tolist()),
            peers=tuple((peers // size).tolist()),
            group=self.group // size,
        )

    def _common(self, name: str) -> np.random.Generator:
        """A generator that all children of the turn have in common, each of which may read the same of it."""
        return generator(replace(self, turn=self.turn.split("/")[0])._key(name))

    def child(self, name: str) -> Draw:
        """The same samples under another name: an independent draw for a part of the turn."""
        return replace(self, turn=f"{self.turn}/{name}")

    def shared(self, name: str) -> np.random.Generator:
        """A generator that is the same in every process."""
        self._seen(name)
        return generator(self._key(name))

    def uniform(self, name: str, shape: Sequence[int] = ()) -> Tensor:
        """Uniform numbers strictly inside (0, 1), float32, `[count, *shape]`, one stream per sample."""
        bits = self._bits(_of_kind(name, "uniform", shape), math.prod(shape))
        # 23 bits and a half: every value is exact in float32, so neither 0 nor 1 is reached.
        values = ((bits >> 9).astype(np.float32) + np.float32(0.5)) * np.float32(2**-23)
        return sent(torch.from_numpy(values.reshape(self.count, *shape)), self.device)

    def below(self, name: str, bounds: Sequence[int]) -> list[int]:
        """For each of these samples an integer from 0 to its bound - 1, all with the same chance (to bound / 2^64).

        `uniform` has 2^23 values: of a million samples it would draw some a sixth more often than others, and of ten
        million some never.
        """
        words = self._bits(f"{name}/below", 2).astype(np.uint64)
        # High words of products are spread as evenly as the words (Lemire, arXiv 1805.10941). A product of 64 bits and
        # a bound is longer than numpy's integers: of a small bound it is taken in halves, of others in Python's.
        if max(bounds, default=0) >> 32:
            drawn = ((words[:, 0] << _HALF) | words[:, 1]).tolist()
            return [word * bound >> 64 for word, bound in zip(drawn, bounds, strict=True)]
        if len(bounds) != self.count:
            raise ValueError(f"{self.count} samples need as many bounds, not {len(bounds)}")
        small = np.array(bounds, dtype=np.uint64)
        found: list[int] = ((words[:, 0] * small + (words[:, 1] * small >> _HALF)) >> _HALF).tolist()
        return found

    def normal(self, name: str, shape: Sequence[int] = ()) -> Tensor:
        """Standard normal numbers, float32, `[count, *shape]`, one stream per sample (Box-Muller)."""
        made = None if self.noise is None else self.noise.take(self, name, shape)
        if made is None:
            return sent(self._normal(name, shape), self.device)
        self._seen(_of_kind(name, "normal", shape))
        return sent(made, self.device)

    def _normal(self, name: str, shape: Sequence[int]) -> Tensor:
        size = math.prod(shape)
        half = (size + 1) // 2
        units = self._bits(_of_kind(name, "normal", shape), 2 * half).astype(np.float32)
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
        return torch.from_numpy(np.ascontiguousarray(values[:, :size]).reshape(self.count, *shape))

    def _bits(self, name: str, size: int) -> NDArray[np.uint32]:
        """`[count, size]` random 32-bit words; sample i owns a fixed range of the stream's counters."""
        self._seen(name)
        key, blocks = self._key(name), -(-size // WORDS_PER_BLOCK)
        if not self.rows or not blocks:
            return np.zeros((self.count, size), dtype=np.uint32)
        first, last = min(self.rows), max(self.rows)
        if last - first < _MOST_WASTE * self.count:
            words = stream(key, first, last + 1 - first, blocks)
            if not isinstance(self.rows, range):
                words = words[np.asarray(self.rows) - first]
        else:
            words = np.concatenate([stream(key, row, 1, blocks) for row in self.rows])
        return words[:, :size]

    def _seen(self, name: str) -> None:
        if self.watch is not None:
            self.watch(self, name)

    def _key(self, name: str) -> Key:
        address = "\0".join((str(self.seed), self.stage, str(self.step), self.turn, name))
        digest = hashlib.blake2b(address.encode(), digest_size=16).digest()
        return int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little")


def _of_kind(name: str, kind: str, shape: Sequence[int]) -> str:
    """The name of a stream: without kind and shape, different numbers of one name would be made of the same words."""
    return "\0".join((name, kind, *map(str, shape)))
