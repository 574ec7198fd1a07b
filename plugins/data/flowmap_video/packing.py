"""One encoded sample as bytes, with a digest, and back."""

from __future__ import annotations

from safetensors.torch import load
from torch import Tensor
from torch.nn.functional import pad

from flowmap.errors import ClipError
from flowmap.interfaces import EncodedText, Samples
from flowmap_video.digests import digest_in, digest_of, finite, with_digest
from flowmap_video.facts import ENCODED, Facts
from flowmap_video.shards import LATENT


def unpack(content: bytes, facts: Facts) -> tuple[Tensor, list[Tensor]]:
    """The latent and the texts, padded to `[L, D]`, of one sample. Raises ClipError if it is damaged."""
    try:
        tensors = load(content)
        latent = tensors.pop("latent")
        texts = [tensors[f"text.{i}"] for i in range(len(tensors))]
    except Exception as error:  # safetensors raises anything for files of strangers
        raise ClipError(f"its {LATENT} is damaged ({error})") from None
    length, width = facts.text
    if not all(map(finite, (latent, *texts))):
        raise ClipError(f"its {LATENT} has numbers that are not finite, or integers")
    if list(latent.shape) != facts.latent:
        raise ClipError(f"its latent is {list(latent.shape)}, not {facts.latent} as {ENCODED} says")
    if not texts or any(text.ndim != 2 or len(text) > length or text.shape[1] != width for text in texts):
        raise ClipError(f"its texts are {[list(text.shape) for text in texts]}, not up to {facts.text} each")
    if facts.digests and digest_of(content) != digest_in(content):
        raise ClipError(f"its {LATENT} is damaged (it does not match its digest)")
    return latent, [pad(text, (0, 0, 0, length - len(text))) for text in texts]


def pack(sample: Samples) -> bytes:
    """One encoded sample, with all of its texts, as safetensors. Raises ClipError if a number is not finite."""
    encoded: EncodedText = sample.prompts
    latent = sample.x[0].detach().cpu().contiguous()
    texts = [trimmed(text.detach().cpu()) for text in encoded.text]
    if not all(map(finite, (latent, *texts))):
        raise ClipError("its encoding is not finite")
    tensors = {"latent": latent} | {f"text.{i}": text for i, text in enumerate(texts)}
    return with_digest(tensors)


def trimmed(text: Tensor) -> Tensor:
    """`[L, D]` without the zero rows at its end."""
    used = text.ne(0).any(dim=1).nonzero()
    return text[: int(used.max()) + 1 if len(used) else 0].clone()
