"""A tiny CLIP for which images of two classes agree with a text of each, and with no other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from flowmap_metrics.images import as_images
from flowmap_metrics.vision import embedded, preparing, read_network, reading
from flowmap_metrics.vision_twin import write_clip
from safetensors.torch import load_file, save_file
from torch import Tensor

from flowmap.interfaces import References, Samples
from flowmap.testing.contract import whole
from flowmap.testing.referenced import two_classes

TEXTS = ("to the left", "to the right")
WEIGHTS, PROJECTION = "model.safetensors", "text_projection.weight"


def captioned() -> References:
    """The images that metrics are examined with, asked for by texts."""
    found = two_classes()
    return replace(found, train=_said(found.train), held_out=_said(found.held_out))


def _said(samples: Samples) -> Samples:
    # What an image shows, and not its label, of which some are wrong.
    right = (samples.x[..., -1].mean((1, 2, 3)) > 0).long()
    return Samples(samples.x, prompts=[TEXTS[row] for row in right.tolist()])


def agreeing_clip(folder: Path) -> Path:
    """Written into `folder`: the projection of texts is such that each has the direction of its class alone.

    With u the direction of a class, u . (mean image of the class) = 1, and 0 of the other and of noise.
    """
    write_clip(folder)
    real = captioned().train
    noise = whole(256).normal("noise", tuple(real.x.shape[1:]))
    parts = [real.x[[text == asked for asked in real.prompts]] for text in TEXTS]
    network, prepare = read_network(folder), preparing(folder)

    def mean(images: Tensor) -> Tensor:
        shown = embedded(network.get_image_features(pixel_values=prepare(as_images(images)))).double()
        return torch.nn.functional.normalize(shown, dim=1).mean(0)

    with torch.no_grad():
        means = torch.stack([mean(part) for part in (*parts, noise)])
        state = load_file(folder / WEIGHTS)
        texts = torch.linalg.lstsq(state[PROJECTION].double(), reading(folder, network)(TEXTS).double().T).solution
        wanted = torch.linalg.pinv(means)[:, : len(TEXTS)]
        state[PROJECTION] = (wanted @ torch.linalg.pinv(texts)).float().contiguous()
    save_file(state, folder / WEIGHTS, metadata={"format": "pt"})
    return folder
