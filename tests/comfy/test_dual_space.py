"""Dual Space inside ComfyUI's process: what Protect makes of it is the engine's own run, with the budget of the node that runs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from gpu_cases import execute, photo, vae
from scipy.fft import dctn
from skimage.color import rgb2lab
from stillguard.engine.picture import LEVELS, largest_change
from torch import Tensor

SIDE = 64
pytestmark = pytest.mark.usefixtures("comfy")


def protected(spaces: str, *, image: Tensor | None = None, **inputs: Any) -> tuple[Tensor, float]:
    """Picture and budget from Protect with the VAE Latent loss."""
    from stillguard.nodes.losses.dormant import VAELatentLoss
    from stillguard.nodes.protect.dual_space import DualSpace
    from stillguard.nodes.protect.protect import Protect

    usual = {
        "image": photo(SIDE) if image is None else image,
        "loss": execute(VAELatentLoss, vae=vae(), weight=10.0, latent_scale=0.0),
        "budget": 12.0,
        "steps": 4,
        "update": {"update": "sign", "step": 1.0},
        "seed": 1,
        "working_size": SIDE,
        "memory": "fast",
    }
    space = execute(DualSpace, spaces=spaces, band="triangle", reach=0.25, mean=True, chroma_unit=1.0)
    with torch.inference_mode():
        made, _, budget = Protect.PREPARE_CLASS_CLONE(None).execute(**{**usual, **inputs}, space=space).args
    return made, budget


@pytest.mark.parametrize("update", ["sign", "normalised"])
@pytest.mark.parametrize("spaces", ["chroma, then low frequency", "low frequency, then chroma", "chroma", "low frequency"])
def test_the_budget_of_the_node_holds_and_memory_does_not_matter(spaces: str, update: str) -> None:
    chosen = {"update": update, "step": 1.0}
    made, budget = protected(spaces, update=chosen)
    assert budget == 12
    assert 1 <= largest_change(photo(SIDE).movedim(-1, 1), made.movedim(-1, 1)) <= 12
    assert torch.equal(made, protected(spaces, update=chosen, memory="low memory")[0])


def test_each_space_changes_what_it_is_named_after() -> None:
    # A large budget, a small step and a mild picture, so that nothing is cut; what is left is the random start.
    mild = 0.35 + 0.3 * photo(SIDE)
    mild = (mild * LEVELS).round() / LEVELS
    settings: dict[str, Any] = {"image": mild, "budget": 1.0, "steps": 0}
    start, _ = protected("chroma", **settings)
    assert torch.equal(start, mild)
    made = {name: protected(name, image=mild, budget=40.0, steps=3)[0] for name in ("chroma", "low frequency")}
    # Both began at the same noise; the same seed without steps of size shows it.
    still = protected("low frequency", image=mild, budget=40.0, steps=1, update={"update": "sign", "step": 0.01})[0]
    lightness = [abs(rgb2lab(made[name][0].numpy()) - rgb2lab(still[0].numpy()))[..., 0].mean() for name in ("chroma", "low frequency")]
    assert lightness[0] < 0.4 * lightness[1]
    waves = dctn(((made["low frequency"] - still)[0] * LEVELS).numpy(), axes=(0, 1), norm="ortho") ** 2
    u = torch.arange(SIDE) / SIDE
    inside = (u[:, None] + u < 0.25).numpy()
    assert waves[inside].sum() > 0.6 * waves.sum()


def test_a_greyscale_photo_has_no_colour() -> None:
    grey = photo(SIDE)[..., :1]
    with pytest.raises(ValueError, match='greyscale and has no colour to change: connect a Dual Space with "low frequency"'):
        protected("chroma, then low frequency", image=grey)
    assert protected("low frequency", image=grey)[0].shape == grey.shape
    # As Load Image gives a black-and-white photo, beside one in colour.
    both = torch.cat([photo(SIDE), grey.expand(-1, -1, -1, 3)])
    with pytest.raises(ValueError, match="greyscale and has no colour to change"):
        protected("chroma", image=both)
