from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from diffusers import WanTransformer3DModel
from flowmap_wan.twin import make_twin


@pytest.fixture(autouse=True)
def _alone(one_thread: None) -> None:
    pass


@pytest.fixture(scope="session")
def wan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plain Wan checkpoint in diffusers' layout whose weights are nothing special."""
    folder = make_twin(tmp_path_factory.mktemp("wan") / "plain")
    model = WanTransformer3DModel.from_pretrained(folder / "transformer")
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    model.save_pretrained(folder / "transformer")
    return folder


@pytest.fixture
def copy(wan: Path, tmp_path: Path) -> Path:
    """A copy of that checkpoint to change."""
    folder = tmp_path / "copy"
    shutil.copytree(wan, folder)
    return folder
