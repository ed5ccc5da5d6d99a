"""Small image-to-video models as core loads them, with what conditions them."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from bench import video_files
from stillguard.engine import Objective, Observation, Term
from stillguard.engine.draws import SeededDraws
from torch import Tensor

if TYPE_CHECKING:
    import comfy.clip_vision
    import comfy.sd
    from comfy.model_patcher import ModelPatcher
    from stillguard.nodes.bridge.protect.loss_spec import LossSpec
    from stillguard.nodes.bridge.surrogates.denoiser import Conditioning
    from stillguard.nodes.bridge.video.families import Family
    from stillguard.nodes.bridge.video.model import VideoSurrogate

# Family -> the model's file, the VAE's, width of the image encoder's hidden states and of its embedding.
FILES: dict[str, tuple[str, str, int, int]] = {
    "SVD": ("svd", "svd", 64, video_files.SVD_WIDTH),
    "Wan": ("wan", "wan_vae", video_files.WAN_CLIP_WIDTH, 32),
    "Wan Animate": ("wan_animate", "wan_vae", video_files.WAN_CLIP_WIDTH, 32),
    "CogVideoX": ("cogvideox", "wan_vae", 0, 0),
    "LTX": ("ltx", "ltx_vae", 0, 0),
    "Hunyuan (concat)": ("hunyuan", "wan_vae", 0, 0),
    "Hunyuan (replace)": ("hunyuan", "wan_vae", 0, 0),
}
# Frames: few, so that the tests are quick.
LENGTHS = {"SVD": 3, "LTX": 9}


@dataclass(frozen=True, eq=False)
class Loaded:
    """What loader nodes give, inference tensors and all."""

    family: Family
    model: ModelPatcher
    vae: comfy.sd.VAE
    clip_vision: comfy.clip_vision.ClipVisionModel | None
    positive: Conditioning

    def spec(self, *, side: int = 64, length: int | None = None, **changes: object) -> VideoSurrogate:
        from stillguard.nodes.bridge.surrogates.taps import i2vguards_blocks
        from stillguard.nodes.bridge.video.conditioner import VideoSize
        from stillguard.nodes.bridge.video.model import Sampling, VideoSurrogate

        fields: dict[str, object] = {
            "model": self.model,
            "family": self.family,
            "vae": self.vae,
            "clip_vision": self.clip_vision,
            "positive": self.positive,
            "negative": self.positive,
            "size": VideoSize(side, side, length or LENGTHS.get(self.family.name, 5)),
            "sampling": Sampling(2, 1.5),
            "video": None,
            "blocks": i2vguards_blocks(self.model.model.diffusion_model),
        }
        return VideoSurrogate(**{**fields, **changes})  # type: ignore[arg-type]


def load(family: str, folder: Path) -> Loaded:
    """As the loader nodes do, under inference mode."""
    import comfy.sd
    from stillguard.nodes.bridge.video.families import FAMILIES
    from testkit import tiny_clip_vision

    network, vae_name, hidden, projection = FILES[family]
    path = _file(network, folder)
    with torch.inference_mode():
        if network == "svd":
            model, _, vae, _ = comfy.sd.load_checkpoint_guess_config(str(path), output_clip=False)
        else:
            model, vae = comfy.sd.load_diffusion_model(str(path)), load_vae(_file(vae_name, folder))
        clip = tiny_clip_vision(hidden, projection) if hidden else None
        text = [[randn(1, 7, video_files.TEXT, seed=0), {"pooled_output": randn(1, 768, seed=1)}]]
        if family == "LTX":
            text[0][1]["attention_mask"] = torch.ones(1, 7, dtype=torch.long)
    return Loaded(next(entry for entry in FAMILIES if entry.name == family), model, vae, clip, [] if family == "SVD" else text)


def in_dtype(loaded: Loaded, dtype: torch.dtype) -> Loaded:
    """The same model as core loads it where the device is fast with that dtype."""
    import comfy.sd

    path, options = loaded.model.cached_patcher_init[1][0], {"model_options": {"dtype": dtype}}
    with torch.inference_mode():
        if loaded.family.name == "SVD":
            model, *_ = comfy.sd.load_checkpoint_guess_config(path, output_clip=False, output_vae=False, **options)
        else:
            model = comfy.sd.load_diffusion_model(path, **options)
    return replace(loaded, model=model)


def _file(name: str, folder: Path) -> Path:
    """A copy of the test's own."""
    kept = video_files.cached(name)
    path = folder / kept.name
    return path if path.exists() else Path(shutil.copy(kept, path))


def load_vae(path: Path) -> comfy.sd.VAE:
    import comfy.sd
    import comfy.utils

    state, metadata = comfy.utils.load_torch_file(str(path), return_metadata=True)
    return comfy.sd.VAE(sd=state, metadata=metadata)


def randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def gradients(
    losses: dict[str, LossSpec], photo: Tensor, *, low_memory: bool = False, differences: float | None = None
) -> tuple[dict[str, Tensor], dict[str, tuple[float, float]]]:
    """Each loss's gradient, and along its sign, with which no part of the picture is missed, its slope and what differences say.

    differences: their half width.
    """
    from stillguard.nodes.bridge.autograd import autograd_session
    from stillguard.nodes.bridge.surrogates.run_surrogates import Surrogates

    found, slopes = {}, {}
    with autograd_session():
        surrogates = Surrogates()
        built = {name: spec.make(surrogates) for name, spec in losses.items()}
        with surrogates.on_device(height=photo.shape[-2], width=photo.shape[-1], low_memory=low_memory):
            clean, changed = Observation(photo.clone()), (photo + 0.02 * randn(*photo.shape, seed=4)).clamp(0.01, 0.99)

            def look(picture: Tensor) -> Observation:
                return Observation(picture, draws=SeededDraws(5), low_memory=low_memory)

            for name, loss in built.items():
                leaf = changed.clone().requires_grad_()
                with surrogates.step():
                    Objective((Term(name, 1.0, loss),)).backward(clean, look(leaf))
                found[name] = leaf.grad
                if differences is not None:
                    direction = leaf.grad.sign()
                    with torch.no_grad():
                        up, down = (float(loss(clean, look(changed + width * direction))) for width in (differences, -differences))
                    slopes[name] = float((leaf.grad * direction).sum()), (up - down) / (2 * differences)
    return found, slopes
