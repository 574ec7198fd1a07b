"""Data of several sizes, and the backbone that is to take them. Torch-free."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from flowmap.plugin.kinds import BackboneConfig, DataConfig
from flowmap.recipe.lines import Path as Place
from flowmap.schema.config import Finding


def size_findings(backbone: BackboneConfig, sources: Iterable[tuple[Place, DataConfig]]) -> Iterator[Finding]:
    """Whether `backbone` takes the sizes of the data `sources`, each at its place in the recipe."""
    for place, data in sources:
        spec = data.spec()
        if spec.sizes and not backbone.any_size:
            one = " x ".join(map(str, spec.shape[2:]))
            why = f"its samples have {len(spec.sizes)} sizes, and backbone '{backbone.type}' takes one"
            yield Finding("error", place, f"{why}; bring all to {one}, or choose another backbone")
            continue
        # What is wrong with the first is wrong with most, and is said once.
        said = {(finding.field, finding.message) for finding in backbone.findings(spec)}
        for size in spec.sizes:
            for finding in backbone.findings(replace(spec, shape=size, sizes=())):
                if (finding.field, finding.message) not in said:
                    said.add((finding.field, finding.message))
                    words = f"samples of {size[-2]} x {size[-1]}: {finding.message}"
                    yield Finding(finding.level, ("backbone", *finding.field), words)
