"""The surrogates of one run: one view of each socket, resident together or taking turns."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

import comfy.clip_vision
import comfy.model_management
import comfy.sd
import torch
from comfy.model_patcher import ModelPatcher
from torch import nn

from ....engine.animators.pose_animator import PoseAnimator
from ....engine.compute.tiling import Tiled
from ....engine.losses.i2vguard import VideoSetup
from ....engine.residency import one_at_a_time
from ....engine.surrogates.perceptual import PerceptualNetwork, load_perceptual_network
from ....engine.surrogates.reference_net import ReferenceNet
from ..autograd import make_ordinary
from ..memory.devices import patched, whole
from ..memory.precision import working_dtype
from ..memory.room import Pass, Room, Warn, animator_pass, clip_vision_pass, perceptual_pass, reference_pass, vae_pass, video_pass
from ..video.conditioner import Conditioner
from ..video.model import DifferentiableVideoModel
from ..video.stand_ins import StandInCLIPVision, StandInVAE
from .animators import LoadedPoseAnimator, LoadedReferenceNet
from .views import DifferentiableCLIPVision, DifferentiableVAE, Preparation

if TYPE_CHECKING:
    from ...i2v_specs import I2VSurrogateSpec


log = logging.getLogger("stillguard")


class _Unet(Protocol):
    """A view of a denoiser: these take turns, and recompute where they can."""

    unet: nn.Module


@dataclass(frozen=True)
class _Resident:
    view: object
    patcher: ModelPatcher
    once: Pass


class Surrogates:
    """The differentiable views of one run: one for each socket however many losses use it.

    in_single: sockets, by what `socket_of` gave for them in an earlier run, whose networks are run in fp32.
    """

    def __init__(self, in_single: Collection[object] = ()) -> None:
        self._in_single = in_single
        self._residents: dict[object, _Resident] = {}
        self._derived: dict[object, object] = {}
        self._frames = 1

    def vae(self, vae: comfy.sd.VAE) -> DifferentiableVAE:
        def make() -> _Resident:
            view = DifferentiableVAE(vae, single=id(vae) in self._in_single)
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

    def perceptual(self, backbone: Path, *, measuring: bool = False) -> PerceptualNetwork:
        """measuring: for figures that are compared with others', in fp32 everywhere."""

        def make() -> _Resident:
            single = measuring or backbone in self._in_single
            view = load_perceptual_network(backbone, dtype=working_dtype("fp32" if single else "auto"))
            return _Resident(view, patched(view), perceptual_pass(view))

        return cast(PerceptualNetwork, self._once(backbone, make))

    def reference_net(self, loaded: LoadedReferenceNet) -> ReferenceNet:
        def make() -> _Resident:
            used = loaded.in_single() if id(loaded) in self._in_single else loaded
            return _Resident(used.net, used.patcher, reference_pass(used.net))

        return cast(ReferenceNet, self._once(id(loaded), make))

    def animator(self, loaded: LoadedPoseAnimator, *, frames: int) -> PoseAnimator:
        self._frames = max(self._frames, frames)

        def make() -> _Resident:
            used = loaded.in_single() if id(loaded) in self._in_single else loaded
            return _Resident(used.animator, used.patcher, animator_pass(used.animator, frames=frames))

        view = cast(PoseAnimator, self._once(id(loaded), make))
        self._residents[id(loaded)] = replace(self._residents[id(loaded)], once=animator_pass(view, frames=self._frames))
        return view

    def video_setup(self, spec: I2VSurrogateSpec) -> VideoSetup:
        """One for each surrogate, so that losses share what the model is asked."""

        def make() -> _Resident:
            vae, clip = self.vae(spec.vae), None if spec.clip_vision is None else self.clip_vision(spec.clip_vision)
            seen = None if clip is None else StandInCLIPVision(clip)
            conditioner = Conditioner(spec.family, StandInVAE(vae), seen, spec.positive, spec.negative, spec.size)
            view = DifferentiableVideoModel(
                spec.model,
                spec.family,
                conditioner,
                blocks=spec.blocks,
                sampling=spec.sampling,
                video=spec.video,
                single=id(spec) in self._in_single,
            )
            return _Resident(view, view.patcher, video_pass(view, [vae] if clip is None else [vae, clip]))

        view = cast(DifferentiableVideoModel, self._once(id(spec), make))
        return cast(VideoSetup, self._derived.setdefault((id(spec), "setup"), VideoSetup(view)))

    def _once(self, key: object, make: Callable[[], _Resident]) -> object:
        if key not in self._residents:
            self._residents[key] = make()
        return self._residents[key].view

    def socket_of(self, view: object) -> object:
        """What stands for the socket of a view in later runs too, as long as the socket lives."""
        return next(key for key, resident in self._residents.items() if resident.view is view)

    def keep_copies(self) -> None:
        """Leave the copies of the user's models for the next run, which then begins at once. This one is over."""
        for resident in self._residents.values():
            if isinstance(resident.view, (DifferentiableVAE, DifferentiableCLIPVision, DifferentiableVideoModel)):
                resident.view.keep()

    @property
    def multiple(self) -> int:
        """Working sizes must be a multiple of it."""
        views = [resident.view for resident in self._residents.values()]
        return math.lcm(8, *(view.multiple for view in views if isinstance(view, DifferentiableVAE)))

    @contextlib.contextmanager
    def resident(self, *, height: int, width: int, low_memory: bool, warn: Warn = log.warning) -> Iterator[None]:
        """While it lasts, all are on the device with room for the largest: loading one later could evict another that autograd needs.

        With low_memory the denoisers take turns on it instead, and recompute their activations in the backward pass; beside a video
        model, whose conditioning needs them together, the encoders take a turn too. warn: is told when they may not fit.
        """
        residents = list(self._residents.values())
        turns = low_memory and takes_turns()
        room = self._room(height, width, low_memory=low_memory, warn=warn)
        moving, together = self._moving() if turns else ([], [])
        if turns:
            # Whatever an earlier run left there: weights that take turns have to start in the host's memory.
            comfy.model_management.unload_all_models()
            for resident in (*moving, *together):
                resident.patcher.model.to("cpu")
            room += sum(sorted(resident.patcher.model_size() for resident in moving)[-2:])
        staying = [resident.patcher for resident in residents if resident not in (*moving, *together)]
        with contextlib.ExitStack() as stack:
            stack.enter_context(whole(staying, room=room))
            for resident in residents:
                if isinstance(resident.view, (PoseAnimator, DifferentiableVideoModel)):
                    stack.enter_context(_checkpointing(resident.view, low_memory))
            if turns:
                stack.enter_context(_taking_turns(moving, together))
            yield

    def _moving(self) -> tuple[list[_Resident], list[_Resident]]:
        """Denoisers that take turns on ComfyUI's device, and encoders that take one together. What computes elsewhere stays there."""
        device = comfy.model_management.get_torch_device()
        here = [resident for resident in self._residents.values() if resident.patcher.load_device == device]
        unets = [r for r in here if isinstance(r.view, (ReferenceNet, PoseAnimator, DifferentiableVideoModel))]
        if not any(isinstance(resident.view, DifferentiableVideoModel) for resident in unets):
            return unets, []
        return unets, [resident for resident in here if isinstance(resident.view, (DifferentiableVAE, DifferentiableCLIPVision))]

    def step(self) -> contextlib.AbstractContextManager[object]:
        """Around each step: core's video models change tensors in place that the backward pass needs.

        Not around a whole run, since what keeps their old values keeps a note of every one until it ends.
        """
        videos = any(isinstance(resident.view, DifferentiableVideoModel) for resident in self._residents.values())
        return torch.autograd.graph.allow_mutation_on_saved_tensors() if videos else contextlib.nullcontext()

    def _room(self, height: int, width: int, *, low_memory: bool, warn: Warn) -> float:
        """Bytes for activations. Raises ValueError where they and the weights cannot fit the device."""
        room = Room([resident.once for resident in self._residents.values()], self._weights)
        return room.claim(height, width, low_memory=low_memory, multiple=self.multiple, warn=warn)

    def _weights(self, low_memory: bool) -> float:
        """Bytes of weights that are on the device together: with low memory, of what takes turns the one at work and the next."""
        sizes = {id(resident): float(resident.patcher.model_size()) for resident in self._residents.values()}
        if not (low_memory and takes_turns()):
            return sum(sizes.values())
        moving, together = self._moving()
        turning = [*(sizes[id(resident)] for resident in moving), sum(sizes[id(resident)] for resident in together)]
        return sum(sizes.values()) - sum(sorted(turning)[:-2])


def takes_turns() -> bool:
    """Whether networks have to be copied to where they compute. Not where its memory is the host's: a copy would take more of it."""
    return bool(comfy.model_management.get_torch_device().type not in ("cpu", "mps"))


@contextlib.contextmanager
def _taking_turns(moving: Sequence[_Resident], together: Sequence[_Resident]) -> Iterator[None]:
    device = comfy.model_management.get_torch_device()
    with contextlib.ExitStack() as stack:
        networks = [cast(_Unet, resident.view).unet for resident in moving]
        for resident, unet in zip(moving, networks, strict=True):
            make_ordinary(resident.patcher.model)
            # A LoRA's or another node's own tensors among the options, as core moves them when it loads a model.
            resident.patcher.model_patches_to(device)
            stack.enter_context(_beside(resident.patcher.model, unet, device))
        if together:
            for resident in together:
                make_ordinary(resident.patcher.model)
            networks.append(stack.enter_context(_together(together)))
        stack.enter_context(one_at_a_time(networks, device))
        yield


@contextlib.contextmanager
def _beside(model: nn.Module, unet: nn.Module, device: torch.device) -> Iterator[None]:
    """What belongs to a denoiser and takes no turns, such as a pose guider or a noise schedule, is small and stays on the device."""
    others = [part for part in model.children() if part is not unet]
    try:
        for part in others:
            part.to(device)
        yield
    finally:
        for part in others:
            part.to("cpu")


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
