"""Short names for weights, to tell them apart: of a finished stage, or of weights from outside."""

from __future__ import annotations

import hashlib

from flowmap.files.manifest import MANIFEST, checkpoints
from flowmap.phases import phase
from flowmap.recipe.layout import StagePlan
from flowmap.recipe.outside import Outside
from flowmap.weights.fingerprints import fingerprint


def stage_identity(plan: StagePlan) -> str:
    """A short name for the weights of a finished stage."""
    newest = checkpoints(plan.folder)[-1:]
    manifest = newest[0].path / MANIFEST if newest else plan.folder / "nothing"
    return hashlib.blake2b(manifest.read_bytes(), digest_size=6).hexdigest() if manifest.is_file() else ""


def weights_identity(found: Outside) -> str:
    """A short name for weights and for what a backbone makes of them."""
    with phase(f"looking at the weights of {found.name}"):
        text = f"{found.backbone.model_dump_json()} {fingerprint(found.pretrained.files)}"
    return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()
