"""Freezing in general: what is predicted stays the photo, whatever drives it (Silencer's idea, on models that need no audio)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from ..observation import Features, Observation
from ..surrogates.video_setup import VideoSetup
from .posed import PosedClip


@dataclass(frozen=True, eq=False)
class FrozenClip:
    """mean_i D(E(x), z_i): how far the frames that a pose animator predicts, at poses that are drawn, are from the photo. Minimised."""

    clip: PosedClip

    @property
    def surrogates(self) -> tuple[object, ...]:
        return self.clip.surrogates

    def __call__(self, clean: Observation, adversarial: Observation) -> Tensor:
        return (self.clip.frames_of(clean, adversarial) - self.clip.photo(clean)).square().mean()


@dataclass(frozen=True, eq=False)
class FrozenVideo:
    """|X0_adv - X_still|^2: how far the video that a model foresees is from one that shows the photo in every frame. Minimised.

    The model is asked from the noised video that it makes of the clean photo, so that there is a movement to be lost.
    """

    setup: VideoSetup

    def __post_init__(self) -> None:
        self.setup.use_estimate()

    @property
    def surrogates(self) -> tuple[object, ...]:
        return self.setup.surrogates

    def __call__(self, clean: Observation, adversarial: Observation) -> Tensor:
        def still() -> Features:
            return (self.setup.model.still(clean.image).float(),)

        _, foreseen = self.setup.estimates(clean, adversarial)
        (wanted,) = clean.features(self.setup.model.conditioner, ("still", id(self.setup.model)), still)
        return F.mse_loss(foreseen.float(), wanted)
