"""A small convolutional classifier, trained on labelled samples, whose features are compared."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flowmap.files.shelf import Shelf
from flowmap.interfaces import Features, Samples

_EPOCHS = 20
_BATCH = 32
_FEATURES = 64
_AT_ONCE = 256  # images whose activations a processor's cache holds


@final
class Classifier(nn.Module, Features):
    """Images `[N, 1, C, H, W]` to `_FEATURES` standardised features, and to class scores."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(channels, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(64, 64, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(256, _FEATURES),
        )
        self.head = nn.Linear(_FEATURES, classes)
        self.register_buffer("scale", torch.ones(_FEATURES))

    def forward(self, x: Tensor) -> Tensor:
        """Class scores `[N, K]` of the first frames."""
        return self.head(F.relu(self.convolutions(x[:, 0])))

    @torch.no_grad()
    def of(self, samples: Tensor) -> Tensor:
        """Features `[N, 64]`: the last hidden layer after its ReLU, as FID takes them, scaled to unit variance.

        Of videos, those of the first and of the last frame `[N, 128]`: whether both look right, and fit together.
        """
        frames = [0, -1] if samples.shape[1] > 1 else [0]
        parts = (part[:, frame].cpu() for frame in frames for part in samples.split(_AT_ONCE))
        # The layout in which convolutions on a CPU are twice as fast.
        parts = (part.to(memory_format=torch.channels_last) for part in parts)
        found = torch.cat([F.relu(self.convolutions(part)) / self.scale for part in parts])
        return torch.cat(found.chunk(len(frames)), dim=1)


def train_classifier(train: Samples, shelf: Shelf) -> Classifier:
    """Train on `train`, unless the `shelf` has the classifier of these samples; always the same for the same ones."""
    if train.labels is None:
        raise ValueError("classifier features need labelled samples")
    x, labels = train.x.cpu(), train.labels.cpu()
    key = {"x": x, "labels": labels, "epochs": _EPOCHS, "batch": _BATCH, "features": _FEATURES}
    tensors = shelf.kept("classifier", key, lambda: _trained(x, labels).state_dict())
    with torch.device("meta"):  # first weights, which nobody needs, would be drawn from torch's global generator
        classifier = Classifier(x.shape[2], int(labels.max()) + 1)
    classifier.load_state_dict(tensors, assign=True)
    return classifier.eval()


def _trained(x: Tensor, labels: Tensor) -> Classifier:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return _train(x, labels)


def _train(x: Tensor, labels: Tensor) -> Classifier:
    classifier = Classifier(x.shape[2], int(labels.max()) + 1)
    # Every frame of a video shows its class; a few of each are enough.
    frames = torch.linspace(0, x.shape[1] - 1, min(3, x.shape[1])).long()
    x, labels = x[:, frames].flatten(0, 1)[:, None], labels.repeat_interleave(len(frames))
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=2e-3, weight_decay=1e-2)
    batches = _EPOCHS * -(-len(x) // _BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-3, total_steps=batches)
    for _ in range(_EPOCHS):
        for rows in torch.randperm(len(x)).split(_BATCH):
            optimizer.zero_grad(set_to_none=True)
            F.cross_entropy(classifier(x[rows]), labels[rows]).backward()
            optimizer.step()
            schedule.step()
    classifier.eval()
    spread = classifier.of(x).std(0)
    # A feature that is all but silent on these samples stays so: its own tiny scale would let a few others that wake it
    # decide the whole distance.
    classifier.scale = spread.clamp(min=0.1 * float(spread.max()))
    return classifier
