"""The surrogates of one run: one view of each socket, resident together or taking turns."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import comfy.clip_vision
import comfy.model_management
import comfy.sd
from comfy.model_patcher import ModelPatcher

from ...engine.residency import one_at_a_time
from ...engine.surrogates.perceptual import PerceptualNetwork, load_perceptual_network
from ...engine.surrogates.pose_animator import PoseAnimator
from ...engine.surrogates.reference_net import ReferenceNet
from ...engine.surrogates.tiling import Tiled
from .animators import LoadedPoseAnimator, LoadedReferenceNet
from .autograd import make_ordinary
from .views import DifferentiableCLIPVision, DifferentiableVAE, Preparation

# Outputs of its thirteen convolutions and rectifiers at the sizes where they lie, in fp32.
_VGG16_BYTES_PER_PIXEL = 2400


@dataclass(frozen=True)
class _Resident:
    view: object
    patcher: ModelPatcher
    memory: Callable[[int, int], float]


class Surrogates:
    """The differentiable views of one run: one for each socket however many losses use it."""

    def __init__(self) -> None:
        self._residents: dict[object, _Resident] = {}
        self._derived: dict[object, object] = {}

    def vae(self, vae: comfy.sd.VAE) -> DifferentiableVAE:
        def make() -> _Resident:
            view = DifferentiableVAE(vae)
            # A forward pass that keeps its graph takes about four times what core estimates for one without.
            return _Resident(view, view.patcher, lambda height, width: 4 * view.memory_required(height, width))

        return cast(DifferentiableVAE, self._once(id(vae), make))

    def tiled_vae(self, vae: comfy.sd.VAE) -> Tiled:
        """The same encoder in tiles, as Dormant's official code uses it."""
        view = self.vae(vae)
        return cast(Tiled, self._derived.setdefault((id(vae), "tiled"), Tiled(view, factor=view.multiple)))

    def clip_vision(self, clip_vision: comfy.clip_vision.ClipVisionModel, preparation: Preparation = "crop") -> DifferentiableCLIPVision:
        def make() -> _Resident:
            view = DifferentiableCLIPVision(clip_vision)
            # Activations of a vision transformer at its one size are of the order of its weights.
            return _Resident(view, view.patcher, lambda height, width: float(view.patcher.model_size()))

        view = cast(DifferentiableCLIPVision, self._once(id(clip_vision), make))
        return cast(DifferentiableCLIPVision, self._derived.setdefault((id(clip_vision), preparation), view.prepared(preparation)))

    def perceptual(self, backbone: Path) -> PerceptualNetwork:
        def make() -> _Resident:
            view = load_perceptual_network(backbone)
            patcher = ModelPatcher(view, comfy.model_management.get_torch_device(), comfy.model_management.unet_offload_device())
            return _Resident(view, patcher, lambda height, width: _VGG16_BYTES_PER_PIXEL * height * width)

        return cast(PerceptualNetwork, self._once(backbone, make))

    def reference_net(self, loaded: LoadedReferenceNet) -> ReferenceNet:
        self._once(id(loaded), lambda: _Resident(loaded.net, loaded.patcher, loaded.memory_required))
        return loaded.net

    def animator(self, loaded: LoadedPoseAnimator) -> PoseAnimator:
        self._once(id(loaded), lambda: _Resident(loaded.animator, loaded.patcher, loaded.memory_required))
        return loaded.animator

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

        With low_memory the UNets take turns on it instead, and recompute their activations in the backward pass.
        """
        residents = list(self._residents.values())
        unets = [r for r in residents if isinstance(r.view, (ReferenceNet, PoseAnimator))]
        device = comfy.model_management.get_torch_device()
        turns = low_memory and device.type != "cpu"
        room = max((resident.memory(height, width) for resident in residents), default=0.0)
        if turns:
            # Whatever an earlier run left there; the UNets' weights have to start where they are kept.
            comfy.model_management.unload_all_models()
            room += 2 * max((resident.patcher.model_size() for resident in unets), default=0)
        staying = [resident for resident in residents if not (turns and resident in unets)]
        patchers = [resident.patcher for resident in staying]
        comfy.model_management.load_models_gpu(patchers, memory_required=room, force_full_load=True)
        for resident in residents:
            make_ordinary(resident.patcher.model)
        networks = [cast(ReferenceNet | PoseAnimator, resident.view) for resident in unets]
        with contextlib.ExitStack() as stack:
            for network in networks:
                stack.enter_context(_checkpointing(network, low_memory))
            if turns:
                for guider in (network.guider for network in networks if isinstance(network, PoseAnimator)):
                    stack.callback(guider.to, next(guider.parameters()).device)
                    guider.to(device)
                stack.enter_context(one_at_a_time([network.unet for network in networks], device))
            yield


@contextlib.contextmanager
def _checkpointing(network: ReferenceNet | PoseAnimator, wanted: bool) -> Iterator[None]:
    before, network.checkpointing = network.checkpointing, wanted
    try:
        yield
    finally:
        network.checkpointing = before
