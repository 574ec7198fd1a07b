"""How far a prediction is from its target, per sample, and the weights that follow from it."""

from __future__ import annotations

import math

from torch import Tensor

from flowmap.maths.path import like


def squared(predicted: Tensor, target: Tensor) -> Tensor:
    """The mean squared error `[B]` of each sample `[B, F, ...]`."""
    return (predicted - target).square().flatten(1).mean(1)


def pseudo_huber(predicted: Tensor, target: Tensor, scale: float) -> Tensor:
    """sqrt(|p - q|^2 / D + scale^2) - scale `[B]`, D the elements of a sample (arXiv 2310.14189, divided by sqrt(D)).

    There the constant is c = scale sqrt(D).
    """
    return (squared(predicted, target) + scale**2).sqrt() - scale


def adaptive(losses: Tensor, size: int, power: float, constant: float) -> Tensor:
    """Weights 1 / (|delta|^2 + c)^p `[B]`, without gradient (MeanFlow, arXiv 2505.13447, equation 22).

    `losses` are mean squared errors `[B]` of samples of `size` elements, so |delta|^2 is `size` times as much.
    """
    return (losses.detach() * size + constant) ** -power


def normalized(g: Tensor, constant: float = 0.1) -> Tensor:
    """g / (|g| + c), |g| over all elements of a sample `[B, F, ...]` (tangent normalisation, arXiv 2410.11081).

    (docs/derivations.md, eq. 33)
    """
    return g / (like(g.flatten(1).norm(dim=1), g) + constant)


def elements(x: Tensor) -> int:
    """The elements of one sample of `x` `[B, F, ...]`."""
    return math.prod(x.shape[1:])
