"""Scikit-learn's digits: real images that need no download."""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits

from flowmap_datasets.configs import DigitsConfig
from flowmap_datasets.shipped import ShippedImages

_ALL = 10**6


def digits(config: DigitsConfig) -> ShippedImages:
    """Two thirds of the images for training, one third held out."""
    images, labels = load_digits(return_X_y=True)
    pixels = torch.from_numpy(images).float().reshape(-1, 1, 1, 8, 8) / 8 - 1
    pixels = pixels.rot90(config.quarter_turns, dims=(3, 4))
    told = torch.from_numpy(labels).long()
    return ShippedImages(pixels, told, 1 / 3, lambda asked: asked if config.conditional else None, scale=6, most=_ALL)
