"""Which measures a user's weights and sockets allow, and for the others the reason why not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from torch import nn
from torch.utils.hooks import RemovableHandle

from ...engine.metrics.frechet import fid_measure, kid_measure
from ...engine.metrics.image import l1_measure, lpips_measure, psnr_measure, ssim_measure
from ...engine.metrics.landmarks import landmark_measures
from ...engine.metrics.measure import Measure, Unavailable
from ...engine.metrics.networks.dino import load_dino
from ...engine.metrics.networks.i3d import load_i3d
from ...engine.metrics.networks.inception import load_inception
from ...engine.metrics.networks.musiq import load_musiq
from ...engine.metrics.networks.resnet3d import load_resnet3d
from ...engine.metrics.obedience import face_obedience_measures, obedience_measure
from ...engine.metrics.optical_flow import flow_measure
from ...engine.metrics.similarity import clip_i_measure, dino_measure, faces_found_measure, identity_measure, subject_consistency_measure
from ...engine.metrics.vbench import aesthetic_measure, imaging_quality_measure, load_aesthetic_head, motion_smoothness_measure
from ...engine.metrics.video_sets import fid_vid_measure, fvd_measure
from ...engine.packages import PackageError
from ...engine.surrogates.perceptual import load_perceptual_network
from ...engine.weights.catalogue import Entry, catalogue
from ..bridge.evaluate.compare import aesthetic_embedder, clip_embedder, interpolator, on_device
from ..bridge.evaluate.identity import face_embedder, landmark_finder
from ..bridge.model_files import find_file

Network = TypeVar("Network", bound=nn.Module)

GROUPS = {
    "pixels": "Obedience (how much of the driving reaches the frames), PSNR, SSIM and mean difference of pixels.",
    "lpips": "LPIPS, the perceived difference; needs lpips_backbone.",
    "semantics": "CLIP-I (needs clip_vision) and DINO: what the frames show.",
    "consistency": "Optical flow, and beside it subject consistency and motion smoothness (needs interpolation_model).",
    "quality": "Aesthetic quality (needs clip_vision) and imaging quality.",
    "faces": "Identity (needs insightface); obedience of mouth, eyes and head, and landmark distances (need face_detection_model).",
    "fid": "FID and KID: all frames of two videos as two sets.",
    "fvd": "FVD and FID-VID: runs of 16 frames as two sets. Slow without a GPU.",
}
"""What can be chosen, with what it holds."""


_WEIGHTS = ("dino_vits16", "dino_vitb16", "aesthetic_head", "musiq_spaq", "inception_fid", "i3d_kinetics400", "resnet50_kinetics3d")


def weights_of(lpips_backbone: str | None) -> list[tuple[Entry, str | None]]:
    """Catalogue's entries and file names of all that any measure may read."""
    entries = [catalogue()[name] for name in _WEIGHTS]
    return [(catalogue()["lpips_vgg16"], lpips_backbone), *((entry, entry.file) for entry in entries)]


@dataclass
class MeasureSources:
    """What the measures are taken with: sockets, None where nothing is connected, and the name of LPIPS's backbone, None for none.

    files: filled with the weights that were read, by measure.
    """

    lpips_backbone: str | None
    paper_conventions: bool
    clip_vision: Any = None
    interpolation_model: Any = None
    insightface: Any = None
    face_detection_model: Any = None
    files: dict[str, str] = field(default_factory=dict)
    _hooks: list[RemovableHandle] = field(default_factory=list)

    @property
    def conventions(self) -> tuple[bool, ...]:
        """Whether as DisCo's evaluation does it: no, and where asked for also yes."""
        return (False, True) if self.paper_conventions else (False,)

    def network(self, load: Callable[[Path], Network], entry: str, file: str | None = None) -> Network:
        """From the catalogue's file, on ComfyUI's device until `close`.

        Raises FileNotFoundError where it is missing, ValueError where it is another.
        """
        path = find_file(catalogue()[entry], file or catalogue()[entry].file)
        loaded = load(path)
        self.files[entry] = path.name
        self._hooks += on_device(loaded)
        return loaded

    def close(self) -> None:
        """What was measured with is not needed any more."""
        for hook in self._hooks:
            hook.remove()


Make = Callable[[MeasureSources], Sequence[Measure]]


def measures_of(groups: Sequence[str], sources: MeasureSources) -> list[Measure | Unavailable]:
    """All measures of these groups; what is missing for one becomes its Unavailable's sentence."""
    return [measure for group in groups for names, make in _OFFERS[group] for measure in _made(names, make, sources)]


def _made(names: Sequence[str], make: Make, sources: MeasureSources) -> Sequence[Measure | Unavailable]:
    try:
        return make(sources)
    except (FileNotFoundError, ValueError, PackageError) as reason:
        return [Unavailable(name, str(reason)) for name in names]


def _pixels(sources: MeasureSources) -> Sequence[Measure]:
    likeness = [make(disco_compat=one) for one in sources.conventions for make in (psnr_measure, ssim_measure, l1_measure)]
    return [obedience_measure(), *likeness]


def _lpips(sources: MeasureSources) -> Sequence[Measure]:
    if sources.lpips_backbone is None:
        raise ValueError("No backbone is chosen in lpips_backbone.")
    network = sources.network(load_perceptual_network, "lpips_vgg16", sources.lpips_backbone)
    return [lpips_measure(network, disco_compat=one) for one in sources.conventions]


def _clip_i(sources: MeasureSources) -> Sequence[Measure]:
    return [clip_i_measure(clip_embedder(_connected(sources.clip_vision, "Load CLIP Vision", "clip_vision")))]


def _dino(sources: MeasureSources) -> Sequence[Measure]:
    return [dino_measure(sources.network(load_dino, "dino_vits16"))]


def _subject(sources: MeasureSources) -> Sequence[Measure]:
    return [subject_consistency_measure(sources.network(load_dino, "dino_vitb16"))]


def _smoothness(sources: MeasureSources) -> Sequence[Measure]:
    model = _connected(sources.interpolation_model, "Load Frame Interpolation Model", "interpolation_model")
    return [motion_smoothness_measure(interpolator(model))]


def _aesthetic(sources: MeasureSources) -> Sequence[Measure]:
    embed = aesthetic_embedder(_connected(sources.clip_vision, "Load CLIP Vision with CLIP ViT-L/14", "clip_vision"))
    return [aesthetic_measure(embed, sources.network(load_aesthetic_head, "aesthetic_head"))]


def _imaging(sources: MeasureSources) -> Sequence[Measure]:
    return [imaging_quality_measure(sources.network(load_musiq, "musiq_spaq"))]


def _identity(sources: MeasureSources) -> Sequence[Measure]:
    embed = face_embedder(_connected(sources.insightface, "a loader of insightface's FaceAnalysis", "insightface"))
    return [identity_measure(embed), faces_found_measure(embed)]


def _landmarks(sources: MeasureSources) -> Sequence[Measure]:
    detector = _connected(sources.face_detection_model, "Load Face Detection Model", "face_detection_model")
    find = landmark_finder(detector)
    return [*face_obedience_measures(find), *landmark_measures(find)]


def _fid_and_kid(sources: MeasureSources) -> Sequence[Measure]:
    network = sources.network(load_inception, "inception_fid")
    return [fid_measure(network), kid_measure(network)]


def _fvd(sources: MeasureSources) -> Sequence[Measure]:
    return [fvd_measure(sources.network(load_i3d, "i3d_kinetics400"))]


def _fid_vid(sources: MeasureSources) -> Sequence[Measure]:
    return [fid_vid_measure(sources.network(load_resnet3d, "resnet50_kinetics3d"))]


def _connected(socket: Any, loader: str, name: str) -> Any:
    if socket is None:
        raise ValueError(f"Connect {loader} to {name}.")
    return socket


# By group: names, for when the measures cannot be had, and what makes them.
_OFFERS: dict[str, list[tuple[Sequence[str], Make]]] = {
    "pixels": [(("Obedience", "PSNR", "SSIM", "L1"), _pixels)],
    "lpips": [(("LPIPS",), _lpips)],
    "semantics": [(("CLIP-I",), _clip_i), (("DINO",), _dino)],
    "consistency": [
        (("optical flow",), lambda sources: [flow_measure()]),
        (("subject consistency",), _subject),
        (("motion smoothness",), _smoothness),
    ],
    "quality": [(("aesthetic quality",), _aesthetic), (("imaging quality",), _imaging)],
    "faces": [
        (("identity similarity", "frames with a face"), _identity),
        (("Obedience, mouth", "Obedience, eyes", "Obedience, head", "M-LMD", "F-LMD", "M-LVD", "F-LVD"), _landmarks),
    ],
    "fid": [(("FID", "KID"), _fid_and_kid)],
    "fvd": [(("FVD",), _fvd), (("FID-VID",), _fid_vid)],
}
