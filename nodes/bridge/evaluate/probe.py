"""Layer Probe: what the blocks of a user's own video model give for a picture at a noise level, as pictures."""

from __future__ import annotations

import contextlib
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import cast

import comfy.model_management
import comfy.utils
import torch
from torch import Tensor, nn

from ....engine.compute.half import HalfPrecisionError, Scales
from ....engine.contact_sheet import labelled
from ....engine.conversions import in_colour
from ....engine.draws import placed, stream
from ....engine.observation import Features, Observation, WorkingSize
from ....engine.picture import check_finite
from ....engine.probe import principal_picture
from ....engine.surrogates.denoiser import Tap
from ....engine.surrogates.video_setup import VideoSetup
from ..autograd import autograd_session, ordinary
from ..memory.devices import whole
from ..memory.room import Room
from ..progress import PREVIEW_SIDE, RUN_IN_FP32, preview_picture, show_text
from ..surrogates.checks import blocks_by_hand
from ..surrogates.clip_vision import DifferentiableCLIPVision, clip_vision_view
from ..surrogates.run_surrogates import Surrogates
from ..surrogates.taps import tapped_blocks
from ..surrogates.vae import DifferentiableVAE, vae_view
from ..video.model import DifferentiableVideoModel, VideoSurrogate, video_pass, video_setup

ALL = "all"


@dataclass(frozen=True)
class ProbeSettings:
    """level: noise, from 0 (clean) to 1 of the schedule. blocks: ALL, or indices with commas between them. frame: of the latents, from 0.

    together: components are those of all frames, else of this one. longest: at which the models see the photo. side: the longer one of
    the pictures, without their labels. seed: of the noise.
    """

    level: float
    blocks: str
    frame: int
    together: bool
    longest: int
    side: int
    seed: int


@dataclass(frozen=True)
class BlockPicture:
    """picture: [3,H,W] with its label, of the same size for all blocks. grid: frames, height and width of the block's features."""

    block: int
    grid: tuple[int, int, int]
    shares: tuple[float, ...]
    picture: Tensor


def probe_blocks(image: Tensor, surrogate: VideoSurrogate, settings: ProbeSettings, *, node_id: str | None) -> list[BlockPicture]:
    """Of IMAGE [1,H,W,C]. The model is asked once, without gradients: about the surrogate's video or a still one of the picture, noised.

    Raises ValueError for what the user can mend, ComfyUI's interruption when cancelled.
    """
    if image.shape[0] != 1:
        raise ValueError(f"`image` holds {image.shape[0]} pictures, and one is probed at a time: choose one with Get Image from Batch.")
    if not 0 <= settings.level <= 1:
        raise ValueError(f"`level` is {settings.level:g}, and noise goes from 0 (none) to 1 (nothing but noise): choose a number between.")
    check_finite(image)
    blocks = _chosen(surrogate, settings.blocks)
    in_fp32: set[object] = set()
    with autograd_session(), torch.no_grad():
        photo = in_colour(ordinary(image).movedim(-1, 1))
        while True:
            found = _probed(photo, surrogate, blocks, settings, in_fp32, node_id)
            if isinstance(found, list):
                return found
            in_fp32.add(found)


def _chosen(surrogate: VideoSurrogate, text: str) -> tuple[int, ...]:
    try:
        count = len(tapped_blocks(surrogate.model.model.diffusion_model, "output"))
    except ValueError:
        raise ValueError("This model's blocks cannot be found, so that there is nothing to probe: connect another I2V Surrogate.") from None
    chosen = None if text.strip().lower() == ALL else blocks_by_hand(text, count, "blocks")
    return tuple(range(count)) if chosen is None else chosen


def _probed(
    photo: Tensor, surrogate: VideoSurrogate, blocks: Sequence[int], settings: ProbeSettings, in_fp32: set[object], node_id: str | None
) -> list[BlockPicture] | Hashable:
    """The pictures; or the key of the network that has to be in fp32, whose copy in fp16 is gone when this function has ended."""
    surrogates = Surrogates(in_fp32)
    setup = video_setup(surrogates, surrogate, (settings.level,))
    setup.listen([Tap("output", block) for block in blocks])
    setup.use_estimate()
    model = cast(DifferentiableVideoModel, setup.model)
    seen = WorkingSize(settings.longest, surrogates.multiple)(photo.to(comfy.model_management.get_torch_device()))
    progress = _Progress(model.denoiser.network, len(blocks), node_id)
    try:
        # Once, and in fp16 with a look at whether all of it is finite.
        (shape, features), _ = Scales().repeated(lambda: (_asked(surrogates, surrogate, setup, seen, settings, progress), [seen.sum()]))
    except HalfPrecisionError as error:
        key, name = surrogates.key_of(error.network)
        show_text(RUN_IN_FP32.format(name), node_id=node_id)
        return key
    surrogates.keep_copies()
    return _pictured(blocks, features, shape, settings, progress)


def _asked(
    surrogates: Surrogates, surrogate: VideoSurrogate, setup: VideoSetup, seen: Tensor, settings: ProbeSettings, progress: _Progress
) -> tuple[tuple[int, ...], list[Tensor]]:
    """Shape of the latents, and what every tapped block gives. Without gradients the encoders may have gone when the model runs."""
    model = cast(DifferentiableVideoModel, setup.model)
    encoders: list[DifferentiableVAE | DifferentiableCLIPVision] = [vae_view(surrogates, surrogate.vae)]
    if surrogate.clip_vision is not None:
        encoders.append(clip_vision_view(surrogates, surrogate.clip_vision))
    room = _room(setup, encoders, seen)
    with whole([encoder.patcher for encoder in encoders], room=room):
        prepared = model.conditioner.prepare(seen)
        latents = model.still(seen) if surrogate.video is None else model.prior(seen)
    # Before the model runs, which may take minutes.
    _check_frame(settings.frame, latents.shape)
    comfy.model_management.throw_exception_if_processing_interrupted()
    denoiser = model.denoiser
    with whole([denoiser.patcher], room=room):
        noise = torch.randn(latents.shape, generator=stream(settings.seed, "probe"))
        noisy = denoiser.noised(latents, placed(noise, latents), settings.level)
        told = denoiser.conditioned(prepared.positive, prepared.samples, prepared.mask)
        with progress.watching():
            _, *features = denoiser.estimate(noisy, settings.level, told, setup.taps)
    return tuple(noisy.shape), features


def _room(setup: VideoSetup, encoders: Sequence[DifferentiableVAE | DifferentiableCLIPVision], seen: Tensor) -> float:
    """Bytes beside the weights; on the CPU nothing is counted."""
    if seen.device.type == "cpu":
        return 0.0
    whole_pass = video_pass(setup, encoders)

    def ask(observed: Observation) -> Features:
        # Of a picture without grad, for which no graph is kept.
        bare = Observation(observed.image.detach())
        return (*whole_pass.ask(bare), setup.model.still(bare.image))

    height, width = seen.shape[-2:]
    return Room([replace(whole_pass, ask=ask)], lambda _: 0.0).need(height, width, low_memory=False).most


def _frames(latents: Sequence[int]) -> int:
    """Of latents [1,C,F,h,w], or [F,C,h,w] of a UNet."""
    return latents[2] if len(latents) == 5 else latents[0]


def _check_frame(frame: int, latents: Sequence[int]) -> None:
    last = _frames(latents) - 1
    if not 0 <= frame <= last:
        raise ValueError(f"`frame` is {frame}, and the model's latents have the frames 0 to {last}: choose one of these.")


def grid_of(places: int, latents: Sequence[int]) -> tuple[int, int, int]:
    """On which grid (frames, h, w) a block's features lie, from how many places they have in all.

    latents: shape of what the model is given. Patches of transformers and levels of UNets halve both sides once or more, rounding up.
    Raises ValueError where no such grid has so many places.
    """
    frames, (height, width) = _frames(latents), latents[-2:]
    while frames * height * width > places and max(height, width) > 1:
        height, width = -(-height // 2), -(-width // 2)
    if frames * height * width != places:
        raise ValueError(
            f"A block of this model has {places} places, which are no grid of {frames} frames of {latents[-1]}x{latents[-2]} latents: "
            "choose other blocks."
        )
    return frames, height, width


def _pictured(
    blocks: Sequence[int], features: list[Tensor], latents: Sequence[int], settings: ProbeSettings, progress: _Progress
) -> list[BlockPicture]:
    height, width = latents[-2:]
    scale = settings.side / max(height, width)
    size = max(1, round(height * scale)), max(1, round(width * scale))
    found = []
    for block in blocks:
        # Taken away one by one: of a large model they fill gigabytes.
        given = features.pop(0).flatten(0, -2)
        grid = grid_of(len(given), latents)
        if not bool(torch.isfinite(given).all()):
            raise ValueError(f"Block {block} gives numbers that are not finite at noise level {settings.level:g}: choose another `level`.")
        seen = principal_picture(given, grid, frame=None if settings.together else settings.frame)
        picture = labelled(seen.picture[settings.frame], f"block {block}: {sum(seen.shares):.0%}", size)
        found.append(BlockPicture(block, grid, seen.shares, picture))
        progress.show(picture)
    return found


class _Progress:
    """Of a node: a step for each block that runs and one for each picture. Raises ComfyUI's interruption when the user has cancelled."""

    def __init__(self, network: nn.Module, pictures: int, node_id: str | None) -> None:
        self._blocks = tapped_blocks(network, "output")
        self._done, self._bar = 0, comfy.utils.ProgressBar(len(self._blocks) + pictures, node_id=node_id)

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """While it lasts, blocks that run are counted."""
        with contextlib.ExitStack() as stack:
            for block in self._blocks:
                stack.callback(block.register_forward_hook(lambda *_: self.show(None)).remove)
            yield

    def show(self, picture: Tensor | None) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        self._done += 1
        preview = None if picture is None else ("JPEG", preview_picture(picture[None]), PREVIEW_SIDE)
        self._bar.update_absolute(self._done, preview=preview)
