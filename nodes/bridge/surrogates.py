"""The surrogates of one run: one view of each socket, resident together or taking turns."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

import comfy.clip_vision
import comfy.model_management
import comfy.sd
import torch
from comfy.model_patcher import ModelPatcher
from torch import nn

from ...engine.losses.i2vguard import VideoSetup
from ...engine.residency import one_at_a_time
from ...engine.surrogates.perceptual import PerceptualNetwork, load_perceptual_network
from ...engine.surrogates.pose_animator import PoseAnimator
from ...engine.surrogates.reference_net import ReferenceNet
from ...engine.surrogates.tiling import Tiled
from .animators import LoadedPoseAnimator, LoadedReferenceNet
from .autograd import make_ordinary
from .room import Pass, Room, animator_pass, clip_vision_pass, perceptual_pass, reference_pass, vae_pass, video_pass
from .video.model import Conditioner, DifferentiableVideoModel
from .video.stand_ins import StandInCLIPVision, StandInVAE
from .views import DifferentiableCLIPVision, DifferentiableVAE, Preparation

if TYPE_CHECKING:
    from ..i2v_specs import I2VSurrogateSpec


class _Unet(Protocol):
    """A view of a denoiser: these take turns, and recompute where they can."""

    unet: nn.Module


@dataclass(frozen=True)
class _Resident:
    view: object
    patcher: ModelPatcher
    once: Pass


class Surrogates:
    """The differentiable views of one run: one for each socket however many losses use it."""

    def __init__(self) -> None:
        self._residents: dict[object, _Resident] = {}
        self._derived: dict[object, object] = {}
        self._frames = 1

    def vae(self, vae: comfy.sd.VAE) -> DifferentiableVAE:
        def make() -> _Resident:
            view = DifferentiableVAE(vae)
            return _Resident(view, view.patcher, vae_pass(view))

        return cast(DifferentiableVAE, self._once(id(vae), make))

    def tiled_vae(self, vae: comfy.sd.VAE) -> Tiled:
        """The same encoder in tiles, as Dormant's official code uses it."""
        view = self.vae(vae)
        tiled = cast(Tiled, self._derived.setdefault((id(vae), "tiled"), Tiled(view, factor=view.multiple)))
        # Tiles overlap, so that their graphs are the larger ones.
        self._residents[id(vae)] = replace(self._residents[id(vae)], once=vae_pass(view, tiled))
        return tiled

    def clip_vision(self, clip_vision: comfy.clip_vision.ClipVisionModel, preparation: Preparation = "crop") -> DifferentiableCLIPVision:
        def make() -> _Resident:
            view = DifferentiableCLIPVision(clip_vision)
            return _Resident(view, view.patcher, clip_vision_pass(view))

        view = cast(DifferentiableCLIPVision, self._once(id(clip_vision), make))
        return cast(DifferentiableCLIPVision, self._derived.setdefault((id(clip_vision), preparation), view.prepared(preparation)))

    def perceptual(self, backbone: Path) -> PerceptualNetwork:
        def make() -> _Resident:
            view = load_perceptual_network(backbone)
            patcher = ModelPatcher(view, comfy.model_management.get_torch_device(), comfy.model_management.unet_offload_device())
            return _Resident(view, patcher, perceptual_pass(view))

        return cast(PerceptualNetwork, self._once(backbone, make))

    def reference_net(self, loaded: LoadedReferenceNet) -> ReferenceNet:
        self._once(id(loaded), lambda: _Resident(loaded.net, loaded.patcher, reference_pass(loaded.net)))
        return loaded.net

    def animator(self, loaded: LoadedPoseAnimator, *, frames: int) -> PoseAnimator:
        self._frames = max(self._frames, frames)
        self._residents[id(loaded)] = _Resident(loaded.animator, loaded.patcher, animator_pass(loaded.animator, frames=self._frames))
        return loaded.animator

    def video_setup(self, spec: I2VSurrogateSpec) -> VideoSetup:
        """One for each surrogate, so that losses share what the model is asked."""

        def make() -> _Resident:
            vae, clip = self.vae(spec.vae), None if spec.clip_vision is None else self.clip_vision(spec.clip_vision)
            seen = None if clip is None else StandInCLIPVision(clip)
            conditioner = Conditioner(spec.family, StandInVAE(vae), seen, spec.positive, spec.negative, spec.size)
            view = DifferentiableVideoModel(
                spec.model, spec.family, conditioner, blocks=spec.blocks, sampling=spec.sampling, video=spec.video
            )
            return _Resident(view, view.patcher, video_pass(view, [vae] if clip is None else [vae, clip]))

        view = cast(DifferentiableVideoModel, self._once(id(spec), make))
        return cast(VideoSetup, self._derived.setdefault((id(spec), "setup"), VideoSetup(view)))

    def _once(self, key: object, make: Callable[[], _Resident]) -> object:
        if key not in self._residents:
            self._residents[key] = make()
        return self._residents[key].view

    @property
    def multiple(self) -> int:
        """Working sizes must be a multiple of it."""
        views = [resident.view for resident in self._residents.values()]
        return math.lcm(8, *(view.multiple for view in views if isinstance(view, DifferentiableVAE)))

    @contextlib.contextmanager
    def resident(self, *, height: int, width: int, low_memory: bool) -> Iterator[None]:
        """While it lasts, all are on the device with room for the largest: loading one later could evict another that autograd needs.

        With low_memory the denoisers take turns on it instead, and recompute their activations in the backward pass; beside a video
        model, whose conditioning needs them together, the encoders take a turn too.
        """
        residents = list(self._residents.values())
        videos = [resident.view for resident in residents if isinstance(resident.view, DifferentiableVideoModel)]
        encoders = [r for r in residents if videos and isinstance(r.view, (DifferentiableVAE, DifferentiableCLIPVision))]
        unets = [r for r in residents if isinstance(r.view, (ReferenceNet, PoseAnimator, DifferentiableVideoModel))]
        turns = low_memory and takes_turns()
        room = self._room(height, width, low_memory=low_memory)
        if turns:
            # Whatever an earlier run left there: the UNets' weights have to start in the host's memory.
            comfy.model_management.unload_all_models()
            for resident in (*unets, *encoders):
                resident.patcher.model.to("cpu")
            room += sum(sorted(resident.patcher.model_size() for resident in unets)[-2:])
        patchers = [resident.patcher for resident in residents if not (turns and resident in (*unets, *encoders))]
        comfy.model_management.load_models_gpu(patchers, memory_required=room, force_full_load=True)
        for resident in residents:
            make_ordinary(resident.patcher.model)
        animators = [resident.view for resident in unets if isinstance(resident.view, PoseAnimator)]
        with contextlib.ExitStack() as stack:
            for animator in animators:
                stack.enter_context(_checkpointing(animator, low_memory))
            for video in videos:
                stack.enter_context(_checkpointing(video, low_memory))
            if turns:
                device = comfy.model_management.get_torch_device()
                for animator in animators:
                    stack.callback(animator.guider.to, "cpu")
                    animator.guider.to(device)
                networks = [cast(_Unet, resident.view).unet for resident in unets]
                if encoders:
                    networks.append(stack.enter_context(_together(encoders)))
                stack.enter_context(one_at_a_time(networks, device))
            yield

    def step(self) -> contextlib.AbstractContextManager[object]:
        """Around each step: core's video models change tensors in place that the backward pass needs.

        Not around a whole run, since what keeps their old values keeps a note of every one until it ends.
        """
        videos = any(isinstance(resident.view, DifferentiableVideoModel) for resident in self._residents.values())
        return torch.autograd.graph.allow_mutation_on_saved_tensors() if videos else contextlib.nullcontext()

    def _room(self, height: int, width: int, *, low_memory: bool) -> float:
        """Bytes for activations. Raises ValueError where they and the weights cannot fit the device."""
        room = Room([resident.once for resident in self._residents.values()], self._weights)
        return room.claim(height, width, low_memory=low_memory, multiple=self.multiple)

    def _weights(self, low_memory: bool) -> float:
        """Bytes of weights that are on the device together: with low memory, of what takes turns the one at work and the next."""
        residents = list(self._residents.values())
        videos = any(isinstance(resident.view, DifferentiableVideoModel) for resident in residents)
        size = {id(resident): float(resident.patcher.model_size()) for resident in residents}
        denoisers = [r for r in residents if isinstance(r.view, (ReferenceNet, PoseAnimator, DifferentiableVideoModel))]
        encoders = [r for r in residents if videos and isinstance(r.view, (DifferentiableVAE, DifferentiableCLIPVision))]
        turning = [*(size[id(denoiser)] for denoiser in denoisers), sum(size[id(encoder)] for encoder in encoders)]
        return sum(size.values()) - (sum(sorted(turning)[:-2]) if low_memory else 0)


def takes_turns() -> bool:
    """Whether UNets have to be copied to where they compute; on the CPU they are there already."""
    return bool(comfy.model_management.get_torch_device().type != "cpu")


class _Together(nn.Module):
    """Networks that take one turn: whichever of them runs, it runs in here."""

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, run: Callable[[], object]) -> object:
        return run()


@contextlib.contextmanager
def _together(encoders: Sequence[_Resident]) -> Iterator[nn.Module]:
    together = _Together([encoder.patcher.model for encoder in encoders])
    turns = [cast(DifferentiableVAE | DifferentiableCLIPVision, encoder.view).turn for encoder in encoders]
    before = [turn.run for turn in turns]
    try:
        for turn in turns:
            turn.run = together
        yield together
    finally:
        for turn, run in zip(turns, before, strict=True):
            turn.run = run


@contextlib.contextmanager
def _checkpointing(denoiser: PoseAnimator | DifferentiableVideoModel, wanted: bool) -> Iterator[None]:
    before, denoiser.checkpointing = denoiser.checkpointing, wanted
    try:
        yield
    finally:
        denoiser.checkpointing = before
