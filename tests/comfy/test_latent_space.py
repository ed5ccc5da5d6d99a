"""Latent Space inside ComfyUI's process: what Protect makes of it, in both memories, and the sentences of its mistakes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from gpu_cases import execute, photo, vae
from image_models import image_model, image_prompt
from stillguard.engine.picture import LEVELS, to_levels
from torch import Tensor

SIDE = 64
pytestmark = pytest.mark.usefixtures("comfy")


def face(side: int = SIDE) -> Tensor:
    mask = torch.zeros(1, side, side)
    mask[:, 16:40, 20:44] = 1
    return mask


def setup(**inputs: Any) -> Any:
    from stillguard.nodes.protect.latent_space import AT, KEEP, NEAR, LatentSpace

    start = inputs.pop("start", NEAR)
    assert start in (NEAR, AT)
    usual = {"mode": "decoder", "form": "difference", "trust_region": 0.0, "start": start, "freeze_step": 1, "freeze": KEEP}
    return execute(LatentSpace, **{"vae": vae(), **usual, **inputs})


def protected(space: Any, *, image: Tensor | None = None, **inputs: Any) -> Any:
    """The three outputs of Protect with the VAE Latent loss."""
    from stillguard.nodes.losses.dormant import VAELatentLoss
    from stillguard.nodes.protect.protect import Protect

    usual = {
        "image": photo(SIDE) if image is None else image,
        "loss": execute(VAELatentLoss, vae=inputs.pop("vae", None) or space.vae, weight=10.0, latent_scale=0.0),
        "budget": 8.0,
        "steps": 3,
        "update": {"update": "adamw", "step": 1.0, "weight_decay": 0.01},
        "seed": 1,
        "working_size": SIDE,
        "memory": "fast",
    }
    with torch.inference_mode():
        return Protect.PREPARE_CLASS_CLONE(None).execute(**{**usual, **inputs}, space=space).args


def diffusion(vae: Any) -> Any:
    from stillguard.nodes.surrogates.diffusion_models import DiffusionSurrogateNode

    ((tokens, options),) = image_prompt()
    return execute(
        DiffusionSurrogateNode, model=image_model("SDXL"), vae=vae, positive=image_prompt(), negative=[[tokens.flip(1), options]]
    )


@pytest.mark.parametrize("mode", ["decoder", pytest.param("one step", marks=pytest.mark.slow), "as published"])
def test_both_memories_give_the_same_picture_and_the_mask_holds(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from stillguard.nodes.bridge.surrogates import run_surrogates

    monkeypatch.setattr(run_surrogates, "takes_turns", lambda: True)
    shared = vae()
    space = setup(vae=shared, mode=mode, diffusion_surrogate=None if mode == "decoder" else diffusion(shared))
    mask, image = torch.ones(1, SIDE, SIDE), photo(SIDE)
    mask[:, :16], mask[:, 16:32] = 0, 0.5
    results = [protected(space, mask=mask, memory=memory) for memory in ("fast", "low memory")]
    (fast, shown, measured), (low, *_) = results
    assert float((to_levels(fast) - to_levels(low)).abs().max()) <= 1
    assert torch.equal(fast[:, :16], image[:, :16])
    change = (to_levels(fast) - to_levels(image)).abs()
    assert measured == float(change.max()) >= 1
    assert float((shown - 0.5).abs().max()) == 0.5
    assert torch.equal(torch.where(change == 0, image, to_levels(fast) / LEVELS), fast)
    assert 0 <= float(fast.min()) <= float(fast.max()) <= 1


def test_the_node_says_what_changed_in_place_of_a_budget(monkeypatch: pytest.MonkeyPatch, vgg_file: Path) -> None:
    """Psnr from its definition; LPIPS where its weights are."""
    import folder_paths
    from stillguard.nodes.bridge import progress

    said: list[str] = []
    monkeypatch.setattr(progress, "show_text", lambda text, *, node_id: said.append(text))
    images = torch.cat([photo(SIDE), photo(SIDE).flip(2)])
    result, _, measured = protected(setup(), image=images)
    changes = to_levels(result) - to_levels(images)
    quality = 10 * torch.log10(LEVELS**2 / changes.square().mean((1, 2, 3)))
    assert "budget of the node is ignored" in said[-1]
    for index, (change, psnr) in enumerate(zip(changes, quality, strict=True)):
        assert f"picture {index + 1}: L-infinity {int(change.abs().max())} levels, PSNR {psnr:.2f} dB, LPIPS not measured" in said[-1]
    assert measured == float(changes.abs().max())
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "stillguard", ([str(vgg_file.parent)], {".pth", ".safetensors"}))
    protected(setup())
    assert "LPIPS 0." in said[-1]


def test_the_face_freezes_in_every_photo_of_a_batch_by_its_own_mask() -> None:
    images, masks = torch.cat([photo(SIDE), photo(SIDE).flip(1)]), torch.cat([face(), face().flip(2)])
    begun, further = (protected(setup(freeze_mask=masks), image=images, steps=steps)[0] for steps in (2, 4))
    inside = masks[..., None].expand_as(images) > 0
    once = protected(setup(), image=images, steps=1)[0]
    assert torch.equal(begun[inside], once[inside])
    assert torch.equal(further[inside], once[inside])
    assert not torch.equal(further[~inside], begun[~inside])


def test_methods_take_the_space_too() -> None:
    from stillguard.nodes.protect.dormant import WEIGHTS, Dormant

    weights = dict.fromkeys(WEIGHTS, 0.0) | {"vae_weight": 10.0}
    inputs = {"budget": 8.0, "steps": 2, "seed": 1, "working_size": SIDE, "memory": "fast", "reference_nets": {}, "lpips_backbone": "none"}
    space, clean = setup(), photo(SIDE)

    def run(profile: str, space: Any) -> Tensor:
        with torch.inference_mode():
            return execute(Dormant, image=clean, vae=vae(), profile=profile, space=space, **inputs, **weights)

    assert not torch.equal(run("recommended", space), run("recommended", None))
    with pytest.raises(ValueError, match="The official code changes pixels"):
        run("reference", space)


def test_mistakes_are_told_in_one_sentence() -> None:
    shared = vae()
    with pytest.raises(ValueError, match='"one step" needs a diffusion model: connect a Diffusion Surrogate'):
        setup(mode="one step")
    with pytest.raises(ValueError, match="another VAE than the latent space: connect the same one"):
        setup(vae=vae(), mode="one step", diffusion_surrogate=diffusion(shared))
    with pytest.raises(ValueError, match="freeze mask is 32x32 but the picture is 64x64"):
        protected(setup(freeze_mask=torch.ones(1, 32, 32)))
    with pytest.raises(ValueError, match="There are 2 freeze masks for 1 pictures"):
        protected(setup(freeze_mask=torch.ones(2, SIDE, SIDE)))
    with pytest.raises(ValueError, match="takes effect after step 3 and the run has 3 steps"):
        protected(setup(freeze_mask=face(), freeze_step=3))
