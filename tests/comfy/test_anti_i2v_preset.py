"""Anti-I2V's preset: its objective is the sum of the loss nodes', its space the Dual Space's, and its mistakes are sentences."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from gpu_cases import execute, photo
from stillguard.engine.picture import largest_change
from torch import Tensor
from video_models import load

SIDE = 64
pytestmark = pytest.mark.usefixtures("comfy")
RECOMMENDED = {"profile": "recommended", "timesteps": "high noise"}


@pytest.fixture(scope="module")
def surrogate(comfy: None, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load("Wan", tmp_path_factory.mktemp("wan")).spec(side=SIDE)


def protected(surrogate: Any, **inputs: Any) -> Tensor:
    from stillguard.nodes.protect.anti_i2v import AntiI2V

    usual = {
        "image": photo(SIDE),
        "profile": RECOMMENDED,
        "budget": 8.0,
        "steps": 2,
        "seed": 3,
        "working_size": SIDE,
        "memory": "fast",
        "layers": "auto",
        "collapse_weight": 0.0,
        "anchor_weight": 1.0,
        "denoising_weight": 1.0,
    }
    with torch.inference_mode():
        return AntiI2V.PREPARE_CLASS_CLONE(None).execute(**{**usual, **inputs}, i2v_surrogate=surrogate).args[0]


def test_it_is_protect_with_its_losses_in_its_space(surrogate: Any) -> None:
    from stillguard.nodes.losses.anti_i2v import DenoisingLoss, RepresentationAnchorLoss
    from stillguard.nodes.protect.dual_space import CHROMA_FIRST, DualSpace
    from stillguard.nodes.protect.protect import Protect

    common = {"i2v_surrogate": surrogate, "weight": 1.0, "scaled": True, "timesteps": "high noise"}
    anchor = execute(RepresentationAnchorLoss, **common, layers="auto", vae=surrogate.vae)
    loss = (*anchor, *execute(DenoisingLoss, **common))
    space = execute(DualSpace, spaces=CHROMA_FIRST, band="triangle", reach=0.25, mean=True, chroma_unit=1.0)
    settings = {"image": photo(SIDE), "budget": 8.0, "steps": 2, "seed": 3, "working_size": SIDE, "memory": "fast"}
    with torch.inference_mode():
        by_hand = (
            Protect.PREPARE_CLASS_CLONE(None).execute(**settings, loss=loss, update={"update": "sign", "step": 1.0}, space=space).args[0]
        )
    made = protected(surrogate)
    assert torch.equal(made, by_hand)
    assert 1 <= largest_change(photo(SIDE).movedim(-1, 1), made.movedim(-1, 1)) <= 8


def test_the_published_form_is_pushed_to_be_seen(surrogate: Any, vgg_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import folder_paths

    monkeypatch.setitem(folder_paths.folder_names_and_paths, "stillguard", ([str(vgg_file.parent)], {".safetensors"}))
    published = {"profile": "reconstructed as published", "timesteps": "whole schedule", "lpips_backbone": vgg_file.name}
    nothing = protected(surrogate, profile={**published, "clip_weight": 0.0, "lpips_weight": 0.0})
    pushed = protected(surrogate, profile={**published, "clip_weight": 1.0, "lpips_weight": 1.0}, clip_vision=surrogate.clip_vision)
    assert not torch.equal(nothing, pushed)
    with pytest.raises(ValueError, match="connect clip_vision, or set clip_weight to 0"):
        protected(surrogate, profile={**published, "clip_weight": 1.0, "lpips_weight": 0.0})


def test_a_small_model_cannot_collapse_by_the_papers_rule(surrogate: Any) -> None:
    with pytest.raises(ValueError, match="needs 8 or more"):
        protected(surrogate, collapse_weight=1.0)
    assert not torch.equal(protected(surrogate), protected(surrogate, collapse_weight=1.0, layers="0, 1"))
    with pytest.raises(ValueError, match="Nothing drives the protection"):
        protected(surrogate, anchor_weight=0.0, denoising_weight=0.0)


def test_the_photo_is_not_taken_for_itself(surrogate: Any) -> None:
    with pytest.raises(ValueError, match="is the photo itself"):
        protected(surrogate, unrelated=photo(SIDE))


def test_an_encoder_that_nothing_reads_is_not_taken_in_silence(surrogate: Any) -> None:
    with pytest.raises(ValueError, match='which "recommended" does not read: disconnect it, or choose "reconstructed as published"'):
        protected(surrogate, clip_vision=surrogate.clip_vision)


def test_a_greyscale_photo_is_refused_by_name(surrogate: Any) -> None:
    with pytest.raises(ValueError, match='connect a Dual Space with "low frequency"'):
        protected(surrogate, image=photo(SIDE)[..., :1])
