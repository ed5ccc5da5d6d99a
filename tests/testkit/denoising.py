"""A loss that only the tests need, to show what one takes: a class of the engine, a node, and a help page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from comfy_api.latest import io
from stillguard.engine.draws import placed
from stillguard.engine.observation import Observation
from stillguard.engine.surrogates.picture_setup import PictureSetup
from stillguard.nodes.bridge.protect.loss_spec import LossSpec
from stillguard.nodes.bridge.surrogates.diffusion import DiffusionSurrogate, diffusion_setup
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True, eq=False)
class Denoising:
    """The mean squared distance of the picture's latents from a model's estimate of them, noised (as AdvDM, Liang et al. 2023)."""

    setup: PictureSetup
    level: float = 0.5

    @property
    def surrogates(self) -> tuple[object, ...]:
        return self.setup.surrogates

    def __call__(self, clean: Observation, adversarial: Observation) -> Tensor:
        latent = self.setup.latent(adversarial)
        noise = placed(adversarial.draws.normal("denoising", tuple(latent.shape)), latent)
        return F.mse_loss(self.setup.estimate(adversarial, noise, self.level)[0], latent)


class DenoisingLoss(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        inputs = [io.Custom("STILLGUARD_DIFFUSION_SURROGATE").Input("diffusion_surrogate"), io.Float.Input("weight", default=1.0)]
        loss = io.Custom("STILLGUARD_LOSS").Output()
        return io.Schema(node_id="TestkitDenoisingLoss", category="testkit", inputs=inputs, outputs=[loss])

    @classmethod
    def execute(cls, diffusion_surrogate: DiffusionSurrogate, weight: float) -> io.NodeOutput:
        def make(surrogates: Any) -> Denoising:
            return Denoising(diffusion_setup(surrogates, diffusion_surrogate))

        return io.NodeOutput((LossSpec("Denoising", weight, make),))
