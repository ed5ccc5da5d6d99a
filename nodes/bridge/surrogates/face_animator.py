"""The face animator under ComfyUI's memory management."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from comfy.model_patcher import ModelPatcher

from ....engine.animators.face.animator import SIDE, FaceAnimator, load_face_animator
from ....engine.animators.face.networks import CHANNELS, POSE
from ....engine.compute.memory import META, footprint, weightless
from ....engine.observation import Features, Observation
from ....engine.weights.reading import SAFETENSORS, WeightsError
from ..memory.devices import patched
from ..memory.room import Pass
from .resident import Resident
from .run_surrogates import Surrogates


@dataclass(frozen=True, eq=False)
class LoadedFaceAnimator:
    """What a STILLGUARD_FACE_ANIMATOR carries. Always in fp32."""

    animator: FaceAnimator
    patcher: ModelPatcher
    name: str

    def memory_required(self) -> float:
        """Bytes beside the weights that one frame takes without gradients."""
        with weightless((self.animator,)), torch.no_grad():
            portrait, poses = torch.empty(1, CHANNELS, SIDE, SIDE, device=META), torch.empty(1, POSE, device=META)
            return float(footprint(lambda: (self.animator(portrait, poses),), lambda frames: None).peak)


def face_animator_from(path: Path) -> LoadedFaceAnimator:
    """From the one file of all networks, or from any of the five beside each other. Raises WeightsError, one sentence, for other files."""
    # Nodes run under inference mode, whose tensors autograd refuses later.
    with torch.inference_mode(False):
        animator = load_face_animator(path if path.suffix.lower() in SAFETENSORS else _five(path))
        return LoadedFaceAnimator(animator, patched(animator), path.name)


def _five(path: Path) -> dict[str, Path]:
    names = [name for name, _ in _networks()]
    if path.stem not in names:
        raise WeightsError(
            f"{path.name} is none of the face animator's files: choose its safetensors file, or {', '.join(names[:-1])} or {names[-1]} "
            f"({path.suffix}) of separable_float."
        )
    files = {name: path.with_stem(name) for name in names}
    missing = [file.name for file in files.values() if not file.is_file()]
    if missing:
        raise WeightsError(f"{' and '.join(missing)} must lie beside {path.name}: put all five files of separable_float into one folder.")
    return files


def _networks() -> list[tuple[str, torch.nn.Module]]:
    with torch.device(META):
        return list(FaceAnimator().named_children())


def face_animator_view(surrogates: Surrogates, loaded: LoadedFaceAnimator, *, poses: int = 1) -> FaceAnimator:
    """poses: that a loss asks `stages` for in one call."""

    def make(in_fp32: bool) -> Resident[FaceAnimator]:
        # No turns: next to what it computes its weights are small, and a loss calls its stages, not the whole.
        return Resident("The face animator", loaded.animator, loaded.patcher)

    resident = surrogates.get(id(loaded), make)
    resident.passes["stages", poses] = stages_pass(resident.view, poses=poses)
    return resident.view


def stages_pass(animator: FaceAnimator, *, poses: int) -> Pass:
    """Of the framed portrait, which has one size whatever the photo's, at some poses, without the editor."""

    def ask(seen: Observation) -> Features:
        portrait = torch.empty(1, CHANNELS, SIDE, SIDE, device=META).requires_grad_()
        made = animator.stages(portrait, torch.empty(poses, POSE, device=META))
        face, rotation = made.face, made.rotation
        return made.eyebrows, face.picture, face.opacity, made.posed, rotation.direct, rotation.warped, rotation.field

    return Pass("face animator", (animator,), ask)
