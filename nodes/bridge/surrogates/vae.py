"""A VAE socket with gradients."""

from __future__ import annotations

import contextlib
from pathlib import Path

import comfy.sd
import comfy.utils
import torch
from comfy.ldm.models.autoencoder import DiagonalGaussianRegularizer
from comfy.ldm.modules.distributions.distributions import DiagonalGaussianDistribution
from comfy.model_patcher import ModelPatcher
from safetensors import safe_open
from torch import Tensor, nn

from ....engine.compute.half import with_scaled_gradient
from ....engine.compute.memory import META
from ....engine.compute.tiling import Tiled
from ....engine.observation import Features, LatentEncoder, Observation
from ..memory.copies import independent_copy, keep
from ..memory.precision import cast, copied_dtype
from ..memory.room import Pass
from .resident import EncoderCall, Resident
from .run_surrogates import Surrogates


def vae_view(surrogates: Surrogates, vae: comfy.sd.VAE) -> DifferentiableVAE:
    """The encoder of a socket."""
    resident = _resident(surrogates, vae)
    resident.passes["latent"] = vae_pass(resident.view)
    return resident.view


def autoencoder_view(surrogates: Surrogates, vae: comfy.sd.VAE) -> DifferentiableVAE:
    """Encoder and decoder of a socket. Raises ValueError for a VAE of anything but pictures."""
    refuse_other_than_pictures(vae)
    view = vae_view(surrogates, vae)
    _resident(surrogates, vae).passes["decoded"] = decoding_pass(view)
    return view


def drawn_vae_view(surrogates: Surrogates, vae: comfy.sd.VAE) -> DifferentiableVAE:
    """The same encoder, whose latents a loss draws. Raises ValueError for a VAE that has but one latent for a picture."""
    resident = _resident(surrogates, vae)
    if not draws_latents(resident.view):
        raise ValueError(
            "This VAE gives a picture one latent and has no distribution to draw it from, as the published protection does: load the VAE "
            "of SD 1.5, or choose the recommended form (of the loss alone, the faithful network)."
        )
    view = resident.view
    resident.passes["posterior"] = Pass(
        "VAE", (view.patcher.model,), lambda seen: seen.features(view, "posterior", lambda: view.posterior(seen.image))
    )
    return view


def draws_latents(view: DifferentiableVAE) -> bool:
    """Whether it has a distribution of latents for a picture, and not but one."""
    return isinstance(getattr(view.patcher.model, "regularization", None), DiagonalGaussianRegularizer)


def staged_vae_view(surrogates: Surrogates, vae: comfy.sd.VAE) -> DifferentiableVAE:
    """The same encoder, of which a loss reads what it has at each resolution."""
    resident = _resident(surrogates, vae)
    view = resident.view
    resident.passes["stages"] = Pass(
        "VAE", (view.patcher.model,), lambda seen: seen.features(view, "stages", lambda: view.stages(seen.image))
    )
    return view


def tiled_vae_view(surrogates: Surrogates, vae: comfy.sd.VAE) -> Tiled:
    """The same encoder in tiles, as Dormant's official code uses it."""
    resident = _resident(surrogates, vae)
    tiled = surrogates.once((id(vae), "tiled"), lambda: Tiled(resident.view, factor=resident.view.multiple))
    resident.passes["tiled latent"] = vae_pass(resident.view, tiled)
    return tiled


def _resident(surrogates: Surrogates, vae: comfy.sd.VAE) -> Resident[DifferentiableVAE]:
    def make(in_fp32: bool) -> Resident[DifferentiableVAE]:
        view = DifferentiableVAE(vae, in_fp32=in_fp32)
        return Resident("The VAE", view, view.patcher, encoder_call=view.encoder_call, multiple=view.multiple, keep=view.keep)

    return surrogates.get(id(vae), make)


def vae_pass(view: DifferentiableVAE, encoder: LatentEncoder | None = None) -> Pass:
    """encoder: through which the view is asked, such as in tiles."""
    return Pass("VAE", (view.patcher.model,), lambda seen: (seen.latent(encoder or view),))


def decoding_pass(view: DifferentiableVAE) -> Pass:
    def ask(seen: Observation) -> Features:
        sides = (-(-side // view.multiple) for side in seen.image.shape[-2:])
        latent = torch.empty(1, view.socket.latent_channels, *sides, device=META).requires_grad_()
        return seen.features(view, "decoded", lambda: (view.decode(latent),))

    return Pass("VAE's decoder", (view.patcher.model,), ask, clean=0)


class DifferentiableVAE:
    """A VAE socket's encoder with gradients: what VAE.encode computes, without its tiling fallback and batching.

    Up to rounding where the copy computes in another precision than the socket's, see copied_dtype. in_fp32: in fp32.
    """

    def __init__(self, vae: comfy.sd.VAE, *, in_fp32: bool = False) -> None:
        vae.throw_exception_if_invalid()
        _refuse_missing_encoder(vae)
        self.socket = vae
        self.dtype = torch.float32 if in_fp32 else copied_dtype(vae.vae_dtype, vae.device)
        self.patcher = independent_copy(vae.patcher, change_name=self.dtype, change=self._cast)
        self.encoder_call = EncoderCall()

    def _cast(self, copied: ModelPatcher) -> None:
        if self.dtype != self.socket.vae_dtype:
            cast(copied.model, self.socket.vae_dtype, self.dtype)
            # Core keeps the size that it has seen.
            copied.size = 0

    def keep(self) -> None:
        """Leave the copy for the next run."""
        keep(self.socket.patcher, self.dtype, self.patcher)

    @property
    def multiple(self) -> int:
        """Both sides of the picture must be multiples of it."""
        return int(self.socket.spacial_compression_encode())

    def _encode(self, image: Tensor, *, frames: bool = False) -> Tensor:
        pixels = self.socket.vae_encode_crop_pixels(image.movedim(1, -1)).movedim(-1, 1)
        if self.socket.latent_dim == 3:
            pixels = pixels.movedim(1, 0)[None] if frames and not self.socket.not_video else pixels.unsqueeze(2)
        pixels = self.socket.process_input(pixels).to(self.dtype)
        model = self.patcher.model
        if getattr(model, "comfy_has_chunked_io", False):
            latent = self.encoder_call.run(lambda: model.encode(pixels, device=self.socket.device))
        else:
            latent = self.encoder_call.run(lambda: model.encode(pixels.to(self.socket.device)))
        latent = latent.to(device=image.device, dtype=torch.float32)
        formatted: Tensor = latent if self.socket.format_encoded is None else self.socket.format_encoded(latent)
        return formatted

    def encode(self, image: Tensor) -> Tensor:
        """[B,3,H,W] in [0,1] -> latent as core's VAE Encode returns it, fp32."""
        if self.dtype != torch.float16:
            return self._encode(image)
        (latent,) = with_scaled_gradient(lambda image: (self._encode(image),), image, network=self)
        return latent

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        """What VAE.encode answers to IMAGE [N,H,W,C]: N latents, or [1,C,F,h,w] of one video where the VAE is one of videos."""
        frames = pixels.movedim(-1, 1)
        if self.dtype != torch.float16:
            return self._encode(frames, frames=True)
        (latent,) = with_scaled_gradient(lambda frames: (self._encode(frames, frames=True),), frames, network=self)
        return latent

    def stages(self, image: Tensor) -> Features:
        """[B,3,H,W] in [0,1] -> what the encoder has last at each resolution [B,C,...,h,w], the largest first, fp32."""

        def run(image: Tensor) -> Features:
            found: dict[tuple[int, ...], Tensor] = {}

            def keep(module: nn.Module, inputs: object, output: object) -> None:
                # Padding on the way to the next resolution has a size of its own, and is no stage.
                if isinstance(output, Tensor) and output.ndim >= 4 and not isinstance(module, nn.ConstantPad2d):
                    # A copy: activations that follow work in place.
                    found[tuple(output.shape[-2:])] = output.clone()

            with contextlib.ExitStack() as stack:
                for part in self.patcher.model.modules():
                    stack.callback(part.register_forward_hook(keep).remove)
                self._encode(image)
            return tuple(found[sides].to(image.device, torch.float32) for sides in sorted(found, reverse=True))

        return with_scaled_gradient(run, image, network=self) if self.dtype == torch.float16 else run(image)

    def posterior(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """[B,3,H,W] in [0,1] -> mean and standard deviation of its latent, fp32. Only of the VAEs that `drawn_vae_view` takes."""

        def run(image: Tensor) -> tuple[Tensor, ...]:
            # In place of the mean, what the distribution is made of.
            whole = self.patcher.model.regularization.register_forward_hook(lambda module, inputs, output: (inputs[0], None))
            try:
                distribution = DiagonalGaussianDistribution(self._encode(image))
            finally:
                whole.remove()
            return distribution.mean, distribution.std

        mean, deviation = with_scaled_gradient(run, image, network=self) if self.dtype == torch.float16 else run(image)
        return mean, deviation

    def decode(self, latent: Tensor, *, clamped: bool = True) -> Tensor:
        """Latent [B,C,h,w] of a VAE of pictures -> [B,3,H,W] as core's VAE Decode returns it, fp32: most VAEs clamp to [0,1].

        clamped: False for what the network gives, in the same scale. Raises ValueError for VAEs of videos and of anything but colours.
        """
        refuse_other_than_pictures(self.socket)
        if self.dtype != torch.float16:
            return self._decode(latent, clamped)
        (image,) = with_scaled_gradient(lambda latent: (self._decode(latent, clamped),), latent, network=self)
        return image

    def _decode(self, latent: Tensor, clamped: bool) -> Tensor:
        latents = latent.to(device=self.socket.device, dtype=self.dtype)
        pixels = self.encoder_call.run(lambda: self.patcher.model.decode(latents))
        # A copy, as core makes one: what follows works in place.
        pixels = pixels.to(device=latent.device, dtype=torch.float32, copy=True)
        if not clamped:
            # Which core's formatting is a scale and a shift, where it does not clamp: (x + 1) / 2, or nothing.
            least, most = (float(self.socket.process_output(torch.tensor([value]))) for value in (0.0, 0.5))
            return pixels * ((most - least) / 0.5) + least
        formatted: Tensor = self.socket.process_output(pixels)
        return formatted


def refuse_other_than_pictures(vae: comfy.sd.VAE) -> None:
    """Raises ValueError for a VAE of videos, audio or another number of channels."""
    if vae.latent_dim != 2 or vae.output_channels != 3:
        kind = "videos" if vae.latent_dim == 3 else "something other than pictures"
        raise ValueError(
            f"This VAE is one of {kind}, and here the VAE of an image model is needed: connect Stable Diffusion's, for instance."
        )


def _refuse_missing_encoder(vae: comfy.sd.VAE) -> None:
    """Core loads a decoder-only file without complaint and leaves the encoder's weights uninitialised."""
    reload = vae.patcher.cached_patcher_init
    has_encoder = any("encoder" in name for name in vae.first_stage_model.state_dict())
    if reload is None or not has_encoder or not isinstance(reload[1][0], str):
        return
    path = Path(reload[1][0])
    if path.suffix in (".safetensors", ".sft"):
        with safe_open(path, "pt") as file:
            names = list(file.keys())
    else:
        names = list(comfy.utils.load_torch_file(str(path), safe_load=True))
    # In a whole checkpoint, text encoders have that word in their names too.
    own = [name for name in names if name.startswith(("first_stage_model.", "vae."))] or names
    if not any("encoder" in name for name in own):
        raise ValueError(f"The VAE file {path.name} has a decoder only, and protecting needs the encoder: load the full VAE.")
