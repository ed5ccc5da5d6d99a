"""DiffPure, DDSPure and GrIDPure inside ComfyUI: with any MODEL and its VAE through core's sampling, or with ADM in pixels."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import comfy.model_base
import comfy.model_management
import comfy.sample
import comfy.samplers
import comfy.sd
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ....engine.draws import following
from ....engine.purify.diffusion import STEPS, Denoised, Denoiser, dds_one_shot, diffpure, normal_draws, timesteps_for
from ....engine.purify.gridpure import WINDOW, gridpure, in_windows, number_of_windows
from ..autograd import ordinary
from ..memory.devices import whole
from .adm import LoadedADM
from .purify import Purify, Watch, padded, purify_images, sampler_seed


@dataclass(frozen=True, eq=False)
class LatentForm:
    """A MODEL, the VAE that belongs to it and a prompt's CONDITIONING: purification is img2img with little noise."""

    model: ModelPatcher
    vae: comfy.sd.VAE
    prompt: list[Any]

    def denoised(self, image: Tensor, sigmas: Tensor, sampler: str, *, seed: int, calls: _Calls) -> Tensor:
        """[1,3,H,W] in [0,1], noised to the first sigma and sampled to the last, of the same shape."""
        return self.decoded(self.sampled(self.encoded(image), sigmas, sampler, seed=seed, calls=calls), image)

    def encoded(self, image: Tensor) -> Tensor:
        """[1,3,H,W] in [0,1] -> latent [1,C,h,w], of a video VAE too. Raises ValueError where the model reads another."""
        latent: Tensor = self.vae.encode(padded(image, self.vae.spacial_compression_encode()).movedim(1, -1).contiguous())
        wanted = self.model.get_model_object("latent_format").latent_channels
        if latent.shape[1] != wanted:
            raise ValueError(
                f"The VAE makes latents of {latent.shape[1]} channels and the model reads {wanted}: "
                "connect the VAE that belongs to the model."
            )
        return latent[:, :, 0] if latent.ndim == 5 else latent

    def sampled(self, latent: Tensor, sigmas: Tensor, sampler: str, *, seed: int, calls: _Calls) -> Tensor:
        """Latent [1,C,h,w], noised to the first sigma and sampled to the last."""
        latent = comfy.sample.fix_empty_latent_channels(self.model, latent)
        sampled: Tensor = comfy.sample.sample_custom(
            self.model,
            comfy.sample.prepare_noise(latent, seed),
            1.0,
            comfy.samplers.sampler_object(sampler),
            sigmas,
            self.prompt,
            self.prompt,
            latent,
            callback=lambda step, estimate, noisy, total: calls.count(),
            disable_pbar=True,
            seed=sampler_seed(seed),
        )
        return sampled[:, :, 0] if sampled.ndim == 5 else sampled

    def decoded(self, latent: Tensor, like: Tensor) -> Tensor:
        """Latent [1,C,h,w] -> [1,3,H,W] in [0,1], of the size that `like` has."""
        pixels = self.vae.decode(latent.unsqueeze(2) if self.vae.latent_dim == 3 else latent)
        # A video VAE's single picture has a time axis.
        image = pixels.reshape(-1, *pixels.shape[-3:])[:1].movedim(-1, 1)
        return image[:, :3, : like.shape[-2], : like.shape[-1]]

    def descent(self, timesteps: int, steps: int) -> Tensor:
        """Sigmas of KSampler at denoise timesteps/1000."""
        sampler = comfy.samplers.KSampler(
            self.model, steps, self.model.load_device, "euler_ancestral", "normal", timesteps / STEPS, self.model.model_options
        )
        sigmas: Tensor = sampler.sigmas
        return sigmas

    def once(self, timesteps: int) -> Tensor:
        """Sigmas of a single step from there to the clean latent."""
        sigma = self.model.get_model_object("model_sampling").percent_to_sigma(1 - timesteps / STEPS)
        return torch.tensor([float(sigma), 0.0], device=self.model.load_device)


@dataclass
class _Calls:
    """Counts a denoiser's calls for the progress bar."""

    watch: Watch
    total: int
    done: int = field(default=0)

    def count(self, image: Tensor | None = None) -> None:
        self.done += 1
        self.watch.report(self.done, self.total, image)


def diffusion_form(
    model: ModelPatcher | None, vae: comfy.sd.VAE | None, clip: comfy.sd.CLIP | None, positive: list[Any] | None, adm: LoadedADM | None
) -> LatentForm | LoadedADM:
    """What the sockets of a purifier make up; ADM where it is connected. Raises ValueError saying what is missing."""
    if adm is not None:
        return adm
    if model is None or vae is None:
        raise ValueError("There is no diffusion model to purify with: connect a `model` with its `vae`, or `adm`.")
    if isinstance(model.model, comfy.model_base.SD_X4Upscaler):
        raise ValueError("This model is an upscaler: connect it to Noisy Upscaling or DiffShortcut, and a text-to-image model here.")
    if positive is None and clip is None:
        raise ValueError("The model needs a prompt: connect its text encoder to `clip` for the empty prompt, or a prompt to `positive`.")
    prompt = positive if positive is not None or clip is None else clip.encode_from_tokens_scheduled(clip.tokenize(""))
    return LatentForm(model, vae, prompt or [])


def diffpure_images(images: Tensor, form: LatentForm | LoadedADM, *, timesteps: int, steps: int, seed: int, node_id: str | None) -> Tensor:
    """DiffPure over IMAGE [B,H,W,C]. timesteps: noise, of 1000. steps: of the sampler, in the latent form."""
    if isinstance(form, LatentForm):
        sigmas = form.descent(timesteps, steps)

        def latent(picture: Tensor, seed: int, watch: Watch) -> Tensor:
            return form.denoised(picture, sigmas, "euler_ancestral", seed=seed, calls=_Calls(watch, len(sigmas) - 1))

        return purify_images(images, latent, seed=seed, node_id=node_id)

    def pixels(picture: Tensor, seed: int, watch: Watch, denoiser: Denoiser) -> Tensor:
        calls = _Calls(watch, timesteps * number_of_windows(picture.shape[-2], picture.shape[-1]))
        return in_windows(picture, _chain(denoiser, timesteps, seed, calls))

    return _with_adm(images, form, pixels, seed=seed, node_id=node_id)


def dds_images(images: Tensor, form: LatentForm | LoadedADM, *, radius: float, seed: int, node_id: str | None) -> Tensor:
    """DDSPure over IMAGE [B,H,W,C]. radius: of the perturbation, in levels."""
    # Levels lie on [0,1], the schedule's noise on [-1,1].
    timesteps = timesteps_for(2 * radius / 255)
    if isinstance(form, LatentForm):

        def latent(picture: Tensor, seed: int, watch: Watch) -> Tensor:
            return form.denoised(picture, form.once(timesteps), "euler", seed=seed, calls=_Calls(watch, 1))

        return purify_images(images, latent, seed=seed, node_id=node_id)

    def pixels(picture: Tensor, seed: int, watch: Watch, denoiser: Denoiser) -> Tensor:
        calls, draws = _Calls(watch, number_of_windows(picture.shape[-2], picture.shape[-1])), normal_draws((1, 3, WINDOW, WINDOW), seed)

        def purify(window: Tensor) -> Tensor:
            calls.count()
            return dds_one_shot(window, denoiser, timesteps=timesteps, noise=next(draws))

        return in_windows(picture, purify)

    return _with_adm(images, form, pixels, seed=seed, node_id=node_id)


@dataclass(frozen=True)
class GridSettings:
    """See engine.purify.gridpure. window: in pixels, in the latent form."""

    timesteps: int
    steps: int
    iterations: int
    gamma: float
    window: int


def gridpure_images(images: Tensor, form: LatentForm | LoadedADM, settings: GridSettings, *, seed: int, node_id: str | None) -> Tensor:
    """GrIDPure over IMAGE [B,H,W,C]."""

    def gridded(picture: Tensor, purify: Callable[[Tensor], Tensor], window: int) -> Tensor:
        steps = gridpure(picture, purify, iterations=settings.iterations, gamma=settings.gamma, window=window)
        return deque(steps, maxlen=1)[0].image

    def calls(picture: Tensor, watch: Watch, window: int, steps: int) -> _Calls:
        return _Calls(watch, settings.iterations * (number_of_windows(picture.shape[-2], picture.shape[-1], window=window) + 1) * steps)

    if isinstance(form, LatentForm):
        sigmas = form.descent(settings.timesteps, settings.steps)
        window = settings.window // form.vae.spacial_compression_encode()

        def latent(picture: Tensor, seed: int, watch: Watch) -> Tensor:
            # The windows are cut from the latent, so that the picture passes the VAE once and not in every iteration.
            encoded = form.encoded(picture)
            counted = calls(encoded, watch, window, len(sigmas) - 1)

            def purify(part: Tensor) -> Tensor:
                # Fresh noise for every window.
                return form.sampled(part, sigmas, "euler_ancestral", seed=following(seed, counted.done), calls=counted)

            return form.decoded(gridded(encoded, purify, window), picture)

        return purify_images(images, latent, seed=seed, node_id=node_id)

    def pixels(picture: Tensor, seed: int, watch: Watch, denoiser: Denoiser) -> Tensor:
        counted = calls(picture, watch, WINDOW, settings.timesteps)
        return gridded(picture, _chain(denoiser, settings.timesteps, seed, counted), WINDOW)

    return _with_adm(images, form, pixels, seed=seed, node_id=node_id)


def _chain(denoiser: Denoiser, timesteps: int, seed: int, calls: _Calls) -> Callable[[Tensor], Tensor]:
    """DiffPure of one window after the other, each with noise of its own."""
    draws = normal_draws((1, 3, WINDOW, WINDOW), seed)

    def purify(window: Tensor) -> Tensor:
        step: Denoised | None = None
        for step in diffpure(window, denoiser, timesteps=timesteps, noises=draws):
            calls.count(step.estimate)
        assert step is not None
        return step.image

    return purify


def _with_adm(
    images: Tensor, adm: LoadedADM, purify: Callable[[Tensor, int, Watch, Denoiser], Tensor], *, seed: int, node_id: str | None
) -> Tensor:
    device = comfy.model_management.get_torch_device()

    def on_device(picture: Tensor, seed: int, watch: Watch) -> Tensor:
        return purify(picture.to(device), seed, watch, adm.network)

    run: Purify = on_device
    # Out of inference mode: weights that are moved in it could not be differentiated through later.
    with torch.inference_mode(False), torch.no_grad(), whole([adm.patcher], room=adm.memory_required(WINDOW, WINDOW)):
        return purify_images(ordinary(images), run, seed=seed, node_id=node_id)
