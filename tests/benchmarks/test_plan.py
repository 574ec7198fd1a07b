"""How long `flowmap plan` of the causal 14B recipe takes, beside the imports that it cannot do without."""

from __future__ import annotations

from typing import Any

from tests.benchmarks.table import interleaved, show
from tests.benchmarks.test_startup import command


def test_plan(benchmark: Any) -> None:
    network = "diffusers.models.transformers.transformer_anyflow_far"
    works = {
        "import torch": command("-c", "import torch"),
        "import the network's class": command("-c", f"import {network}"),
        "flowmap plan, causal 14B": command("-m", "flowmap", "plan", "recipes/anyflow_far_14b.toml", "--json"),
    }
    seconds = interleaved(works, rounds=3)
    benchmark.pedantic(works["flowmap plan, causal 14B"], rounds=1)
    show(benchmark, "plan", seconds, "import torch")
