"""Samples of a kind that flowmap has never seen, in tars: what a plugin has to say of them, and all that it gets."""

from __future__ import annotations

import io
import json
import logging
import tarfile
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from flowmap.errors import ClipError
from flowmap.interfaces import Archive, Samples
from flowmap.plugin import SampleSpec
from flowmap.shards.archive import ShardArchive
from flowmap.shards.configs import ShardsConfig
from flowmap.shards.entries import ABOUT, Entry, Members
from flowmap.shards.kind import Kind
from flowmap.shards.writing import add_file
from flowmap.testing import check_data
from flowmap.video.pictures import scatter


class SignalsConfig(ShardsConfig):
    """Signals in tars: `NAME.npy`, float32 `[length]`, with the class in `NAME.json`."""

    type: Literal["signals"] = "signals"
    length: int = Field(16, ge=1, le=4096, description="numbers of a signal")

    def spec(self) -> SampleSpec:
        return SampleSpec((1, 1, self.length), classes=3, labelled=True)

    def made_from(self) -> dict[str, Any]:
        return {"length": self.length}

    def how_to_get(self) -> str:
        return "Signals are NAME.npy with NAME.json"

    def build(self) -> Archive:
        return ShardArchive(self, Signals(self))


class Signals(Kind):
    def __init__(self, config: SignalsConfig) -> None:
        self._length = config.length

    def members(self) -> Members:
        return Members({".npy": 2**20}, {ABOUT: 2**10})

    def load(self, entry: Entry) -> Tensor:
        x = torch.from_numpy(np.load(io.BytesIO(entry.read(".npy"))))
        if x.shape != (self._length,):
            raise ClipError(f"it has {len(x)} numbers, {self._length} are needed")
        return x[None, None]

    def label(self, entry: Entry) -> int:
        return int(json.loads(entry.read(ABOUT))["class"])

    def about(self, entry: Entry) -> bytes:
        return entry.read(ABOUT)

    def picture(self, x: Tensor) -> NDArray[np.uint8]:
        return scatter(x.flatten(1).numpy())


def signal(number: int, length: int = 16) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.sin(np.arange(length) * number).astype(np.float32))
    return buffer.getvalue()


def test_a_kind_of_samples_of_one_s_own(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = {f"{i:02d}.npy": signal(i) for i in range(1, 13)}
    files |= {f"{i:02d}.json": b'{"class": %d}' % (i % 3) for i in range(13)} | {"00.npy": signal(0, 9)}
    (tmp_path / "raw").mkdir()
    with tarfile.open(tmp_path / "raw" / "0.tar", "w") as tar:
        for name, content in files.items():
            add_file(tar, name, content)
    source = SignalsConfig(path=str(tmp_path / "raw"), held_out=0.4)
    with caplog.at_level(logging.WARNING, "flowmap.data"):
        check_data(source)
    assert {record.getMessage().rsplit("0.tar: ", 1)[1] for record in caplog.records} == {
        "00: it has 9 numbers, 16 are needed"
    }
    archive = source.build()
    halved = lambda samples: Samples(samples.x[..., ::2], samples.labels, samples.prompts, encoded=True)  # noqa: E731
    assert sum(archive.encode("0.tar", halved, tmp_path / "latents")) == 13
    encoded = SignalsConfig(path=str(tmp_path / "latents"), held_out=0.4)
    check_data(encoded)
    for split in ("train", "held_out"):
        before, after = archive.reference(split, 99), encoded.build().reference(split, 99)
        assert torch.equal(before.x[..., ::2], after.x)
        assert before.labels is not None
        assert torch.equal(before.labels, after.labels)
