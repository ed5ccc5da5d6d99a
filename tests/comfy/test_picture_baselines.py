"""Protections against models of pictures as nodes: within their budgets, doing what they say, and their mistakes are sentences."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from gpu_cases import clip_vision, execute, photo
from stillguard.engine import Observation
from stillguard.engine.draws import SeededDraws
from stillguard.engine.picture import largest_change
from stillguard.engine.surrogates.tiny_autoencoder import SHIPPED
from torch import Tensor
from video_models import load_vae, randn

SIDE = 128
pytestmark = pytest.mark.usefixtures("comfy")
OURS = {"settings": "recommended", "budget": 8.0, "step": 1.0}
PUBLISHED = {"settings": "as published"}
RUN = {"steps": 3, "seed": 3, "working_size": SIDE, "memory": "fast"}
# By hand, since the tests would otherwise wait for ComfyUI before they are collected.
METHODS = ("AdvDM (+)", "AdvDM (-)", "SDS (+)", "SDS (-)", "SDST (-)", "texture only", "Mist v1", "Mist v2 (ACE)", "Mist v2, fused")
METHODS += ("Anti-DreamBooth (FSMG)",)


def change(protected: Tensor) -> float:
    """In 8-bit levels."""
    return largest_change(photo(SIDE).movedim(-1, 1), protected.movedim(-1, 1))


def made(vae: Any) -> Any:
    from stillguard.nodes.surrogates.diffusion_models import DiffusionSurrogateNode
    from testkit import tiny_image_model

    with torch.inference_mode():
        return DiffusionSurrogateNode.execute(tiny_image_model("sd15"), vae, [[randn(1, 7, 16, seed=0), {}]]).args[0]


@pytest.fixture(scope="module")
def surrogate(comfy: None) -> Any:
    from testkit import eightfold_vae

    return made(eightfold_vae())


def protected(surrogate: Any, **inputs: Any) -> Tensor:
    from stillguard.nodes.protect.baselines import DiffusionBaseline

    with torch.inference_mode():
        return execute(DiffusionBaseline, **{"image": photo(SIDE), "settings": OURS, **RUN, **inputs}, diffusion_surrogate=surrogate)


def test_every_method_is_tried(surrogate: Any) -> None:
    from stillguard.nodes.protect.baselines import METHODS as OFFERED

    assert tuple(OFFERED) == METHODS


@pytest.mark.parametrize("method", METHODS)
def test_every_method_keeps_its_budget_and_low_memory_makes_the_same(surrogate: Any, method: str) -> None:
    from stillguard.nodes.protect.baselines import METHODS as OFFERED

    usual = protected(surrogate, method=method)
    assert 1 <= change(usual) <= 8
    low = protected(surrogate, method=method, memory="low memory")
    assert float(((low - usual).abs() > 1 / 510).float().mean()) < 1e-3
    published = protected(surrogate, method=method, settings=PUBLISHED)
    assert 1 <= change(published) <= OFFERED[method].budget
    assert not torch.equal(published, usual)


@pytest.mark.parametrize(
    ("method", "node", "options"),
    [
        ("AdvDM (+)", "DenoisingErrorLoss", {"direction": "away from it (+)"}),
        ("AdvDM (-)", "DenoisingErrorLoss", {"direction": "toward it (-)"}),
        ("SDS (+)", "ScoreDistillationLoss", {"direction": "away from it (+)"}),
        ("SDS (-)", "ScoreDistillationLoss", {"direction": "toward it (-)"}),
        ("Mist v2 (ACE)", "TargetScoreLoss", {}),
    ],
)
def test_a_method_is_protect_with_its_loss(surrogate: Any, method: str, node: str, options: dict[str, str]) -> None:
    from stillguard.nodes.losses import baselines
    from stillguard.nodes.protect.protect import Protect

    with torch.inference_mode():
        loss = execute(getattr(baselines, node), diffusion_surrogate=surrogate, weight=1.0, **options)
        by_hand = execute(Protect, image=photo(SIDE), loss=loss, budget=8.0, update={"update": "sign", "step": 1.0}, **RUN)
    assert torch.equal(protected(surrogate, method=method), by_hand)


@pytest.mark.parametrize(
    ("method", "loss", "grows"),
    [("AdvDM (+)", "DenoisingError", True), ("AdvDM (-)", "DenoisingError", False), ("texture only", "Texture", False)],
)
def test_the_loss_goes_where_it_is_meant_to(surrogate: Any, method: str, loss: str, grows: bool) -> None:
    """On draws that the run did not have."""
    after = protected(surrogate, method=method, steps=15)
    assert (measured(surrogate, after, loss) > measured(surrogate, photo(SIDE), loss)) == grows


def measured(surrogate: Any, image: Tensor, loss: str) -> float:
    from stillguard.engine.losses import baselines
    from stillguard.nodes.bridge.autograd import autograd_session
    from stillguard.nodes.bridge.surrogates.diffusion import diffusion_setup
    from stillguard.nodes.bridge.surrogates.run_surrogates import Surrogates

    with autograd_session(), torch.no_grad():
        surrogates, clean = Surrogates(), photo(SIDE).movedim(-1, 1).clone()
        setup = diffusion_setup(surrogates, surrogate)
        chosen = baselines.Texture(setup, baselines.pattern()) if loss == "Texture" else baselines.DenoisingError(setup)
        with surrogates.on_device(height=SIDE, width=SIDE, low_memory=False):
            picture = image.movedim(-1, 1).clone()
            values = [chosen(Observation(clean), Observation(picture, draws=SeededDraws(1000 + seed))) for seed in range(12)]
    return float(torch.stack(values).mean())


def test_losses_that_ask_the_model_need_all_of_it(surrogate: Any) -> None:
    """Beside a loss on early blocks of the same model it would be cut."""
    from stillguard.nodes.losses import baselines
    from stillguard.nodes.protect.baselines import METHODS as OFFERED

    every = {spec.name: spec for method in OFFERED.values() for spec in method.losses(surrogate, None, False)}
    assert set(every) == {"Denoising", "Score Distillation", "Target Score", "Noise Alignment", "Texture"}
    for name, spec in every.items():
        assert (spec.reads is not None and spec.reads.model is surrogate.model) == (name != "Texture")
    assert baselines.latent_norm(1.0, surrogate.vae, None).reads is None


def test_mistakes_are_sentences(surrogate: Any) -> None:
    with pytest.raises(ValueError, match=r"AdvDM \(\+\) leads the photo to no target: disconnect `target`, or choose one of SDST"):
        protected(surrogate, method="AdvDM (+)", target=photo(SIDE))
    with pytest.raises(ValueError, match="has no distribution to draw it from"):
        protected(made(load_vae(SHIPPED)), method="AdvDM (+)", settings=PUBLISHED)


@pytest.mark.parametrize("target", [None, "another picture"])
def test_vgmshield_leads_to_a_target_or_away_from_the_photo(
    surrogate: Any, vgg_file: Path, monkeypatch: pytest.MonkeyPatch, target: str | None
) -> None:
    import folder_paths
    from stillguard.nodes.protect.baselines import SHIELD_BUDGET, VGMShield

    monkeypatch.setitem(folder_paths.folder_names_and_paths, "stillguard", ([str(vgg_file.parent)], {".safetensors"}))
    aim = None if target is None else photo(SIDE).flip(1)
    given = {"image": photo(SIDE), "vae": surrogate.vae, "clip_vision": clip_vision(), "lpips_backbone": vgg_file.name}
    with torch.inference_mode():
        changed = execute(VGMShield, **given, settings=OURS, target=aim, **RUN)
        published = execute(VGMShield, **given, settings=PUBLISHED, target=aim, **RUN)
    assert 1 <= change(changed) <= 8
    assert 1 <= change(published) <= SHIELD_BUDGET
