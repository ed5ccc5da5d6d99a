"""Layer Probe on core's small video models: the right places in the right colours, one sentence for what does not fit, a real server."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from bench.client import Client
from gpu_cases import execute
from PIL import Image
from stillguard.engine.contact_sheet import GAP, strip_height
from stillguard.engine.surrogates.denoiser import Tap
from support import Graph, node
from torch import Tensor
from video_models import Loaded, load

pytestmark = pytest.mark.usefixtures("comfy")
SIDES = (48, 80)


@pytest.fixture(scope="module")
def folder(comfy: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("probe")


@pytest.fixture(scope="module", params=["CogVideoX", "SVD"])
def loaded(request: pytest.FixtureRequest, folder: Path) -> Loaded:
    return load(request.param, folder)


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a folder for previews."""
    from stillguard.nodes.evaluate import layer_probe

    monkeypatch.setattr(layer_probe.ui, "PreviewImage", lambda images: SimpleNamespace(as_dict=lambda: {"images": images}))


def halves() -> Tensor:
    """IMAGE, dark on the left and bright on the right."""
    image = torch.full((1, *SIDES, 3), 0.1)
    image[:, :, SIDES[1] // 2 :] = 0.9
    return image


def probed(surrogate: object, image: Tensor | None = None, **changes: object) -> tuple[Any, ...]:
    from stillguard.nodes.evaluate.layer_probe import ALONE, LayerProbe

    inputs = {"level": 0.5, "blocks": "all", "frame": 0, "size": 80, "working_size": 80, "components": ALONE, "seed": 0, **changes}
    node = LayerProbe.PREPARE_CLASS_CLONE(None)
    with torch.inference_mode():
        return node.execute(image=halves() if image is None else image, i2v_surrogate=surrogate, **inputs).args


def sized(loaded: Loaded, **changes: object) -> Any:
    """Of the picture's size."""
    spec = loaded.spec(**changes)
    return replace(spec, size=replace(spec.size, width=0, height=0))
