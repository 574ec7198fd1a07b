"""Numbers at any place of the streams of Philox (Salmon et al., 2011), from numpy, without what its making costs.

A stream is known by its key. Making a generator takes numpy some 10 to 30 microseconds, most of it for a seed that no
key needs: a small step would spend more on that than on its numbers.
"""

from __future__ import annotations

import threading
from typing import Any, cast, final

import numpy as np
from numpy.random.bit_generator import ISeedSequence
from numpy.typing import NDArray

Key = tuple[int, int]
"""Both words of 64 bits of a stream's key, the low one first."""

WORDS_PER_BLOCK = 8
"""Words of 32 bits at each place of a stream (its counter)."""

_WORD = 2**64 - 1
_NOTHING_LEFT = {"buffer": (0, 0, 0, 0), "buffer_pos": 4, "has_uint32": 0, "uinteger": 0}


@final
class _Seed(ISeedSequence):
    """The key of a generator, in the place of a seed: beside a key numpy would ask the system for entropy."""

    def __init__(self, key: Key) -> None:
        self._key = key

    def generate_state(self, n_words: int, dtype: Any = np.uint32) -> NDArray[Any]:
        """The key itself."""
        return np.array(self._key, dtype=dtype)


@final
class _Generator(threading.local):
    """Each thread's own generator, to be set to a place: to make one takes thirty times as long."""

    def __init__(self) -> None:
        self.philox = np.random.Philox(key=0)

    def at(self, key: Key, counter: int) -> np.random.Philox:
        place: dict[str, Any] = {"counter": (counter & _WORD, counter >> 64, 0, 0), "key": key}
        state: Any = {"bit_generator": "Philox", "state": place, **_NOTHING_LEFT}
        self.philox.state = state
        return self.philox


_generator = _Generator()


def generator(key: Key) -> np.random.Generator:
    """A new generator at the beginning of the stream `key`."""
    return np.random.Generator(np.random.Philox(cast(Any, _Seed(key))))


def stream(key: Key, first: int, count: int, blocks: int) -> NDArray[np.uint32]:
    """The words `[count, 8 blocks]` of samples `first ... first + count - 1`, which own `blocks` counters each."""
    words = _generator.at(key, first * blocks).random_raw(count * blocks * WORDS_PER_BLOCK // 2)
    return words.view(np.uint32).reshape(count, blocks * WORDS_PER_BLOCK)
