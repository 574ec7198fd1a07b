"""What does not fit in a table `lora` of a backbone: adapters of no layer, or larger than it. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from flowmap.schema.config import Finding
from flowmap.schema.words import unknown_word


def lora_findings(layers: Sequence[str], known: Sequence[str], rank: int, smallest: int | None) -> Iterator[Finding]:
    """Adapters of `rank` on the `layers` that a recipe names, of those `known`.

    `smallest` is the smallest side of a layer that is adapted; None: nobody knows.
    """
    where = ("lora", "layers")
    if not layers:
        yield Finding("error", where, f"name at least one layer; there are {', '.join(known)}")
    for index, layer in enumerate(layers):
        if layer not in known:
            yield Finding("error", (*where, index), unknown_word("layer", layer, known))
        elif layer in layers[:index]:
            yield Finding("error", (*where, index), f"'{layer}' is listed twice")
    if smallest is not None and rank > smallest:
        why = f"{rank} is more than the smallest side of an adapted layer, {smallest}, and gains nothing"
        yield Finding("warning", ("lora", "rank"), why)


def trained_in_full(precision: str, adapted: bool) -> Iterator[Finding]:
    """Refuse to train weights that are held in less than float32; with adapters the base is not trained."""
    if not adapted and precision != "float32":
        why = "weights that are trained are held in float32; use it, or train adapters: backbone.lora"
        yield Finding("error", ("base_precision",), why)
